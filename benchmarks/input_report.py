"""The results of benchmarks/input.py as Markdown and as a picture."""

from util.errors import UserError

BACKENDS = ('pil', 'cv2')
STAGES = ('decode', 'augment, crop', 'label map', 'targets', 'erase', 'batch', 'normalise')


def table(result):
    lines = ['| one core | images/s | ms an image |', '|---|--:|--:|']
    for name, rate in result['one core, images/s'].items():
        lines.append(f'| {name} | {rate:.0f} | {1000 / rate:.2f} |')
    lines += ['', '| ratio of speeds | |', '|---|--:|']
    lines += [f'| {name} | {ratio:.2f} |' for name, ratio in result['ratios'].items()]
    lines += ['', f'| ms an image | {" | ".join(BACKENDS)} |', '|---|--:|--:|']
    for stage in STAGES:
        lines.append(f'| {stage} | ' + ' | '.join(f'{result["stages, ms"][b][stage]:.2f}' for b in BACKENDS) + ' |')
    head = (
        'images/s in the main process | over one core alone | main process, ms an image | nothing handed over: images/s'
    )
    lines += ['', f'| loader processes | {head} | over one core alone |', '|---|--:|--:|--:|--:|--:|']
    for name, rate in result['processes, images/s'].items():
        alone = result['one core, images/s'][f'training, {name.split(",")[0]}']
        cost = result['main process, ms of processor time an image'][name]
        apart = result['processes that hand nothing over, images/s'][name]
        lines.append(f'| {name} | {rate:.0f} | {rate / alone:.2f} | {cost:.2f} | {apart:.0f} | {apart / alone:.2f} |')
    disk = result['slow disk']
    step, waits, without = (f'{1000 * disk[name]:.1f} ms' for name in ('step', 'waits', 'waits without'))
    more = f'{1000 * disk["delay"]:.0f} ms'
    text = f'Two processes: a step of {step} waits {waits} for its batch if each image takes {more} more to read'
    lines += ['', f'{text}, else {without}.']
    lines += ['', f'Medians of {result["rounds"]} rounds of {result["images"]} images.']
    return '\n'.join(lines)


def draw(result, path):
    """Bars by stage for each backend, and speed by the number of processes."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(f'{path}: not drawn, matplotlib is not installed: pip install matplotlib')
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    start = dict.fromkeys(BACKENDS, 0.0)
    for stage in STAGES:
        widths = [result['stages, ms'][backend][stage] for backend in BACKENDS]
        left.barh(BACKENDS, widths, left=[start[backend] for backend in BACKENDS], label=stage)
        for backend, width in zip(BACKENDS, widths):
            start[backend] += width
    left.invert_yaxis()
    left.set(title='a training sample by stage', xlabel='ms an image, one core')
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=len(STAGES), loc='outside lower left')
    for backend in BACKENDS:
        points = {0: result['one core, images/s'][f'training, {backend}']}
        for name, rate in result['processes, images/s'].items():
            if name.startswith(backend):
                points[int(name.split(',')[1])] = rate
        right.plot(list(points), list(points.values()), 'o-', label=backend)
    for name, rate in result['one core, images/s'].items():
        if name == 'training, tlt, floats':
            right.axhline(rate, ls=':', color='grey')
            right.text(2, rate, 'tlt, floats, one core', va='top', ha='right', fontsize=8, color='grey')
    right.set(title='training samples in the main process', xlabel='loader processes (0: none)', ylabel='images/s')
    right.set(ylim=(0, None), xticks=sorted({0, *map(int, (n.split(',')[1] for n in result['processes, images/s']))}))
    right.legend()
    figure.savefig(path, dpi=110)
