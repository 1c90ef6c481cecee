"""The results of benchmarks/inference.py as Markdown and as a picture.

rows: dicts with model, threads, batch, engine, p50 and p95 (ms an image), ratio, memory (MB), difference and n.
"""

import sys

FEATURES = ('avx2', 'avx512f', 'avx_vnni', 'avx512_vnni', 'avx512_bf16', 'amx_int8', 'amx_bf16')


def processor():
    """Name of this processor, and which of the instructions it has that the engines use."""
    from util.runtime import cpu_fields

    fields = cpu_fields()
    flags = fields.get('flags', '').split()
    found = [name for name in FEATURES if name in flags]
    return f'{fields.get("model name", "unknown processor")}; {", ".join(found) or "none"} of {", ".join(FEATURES)}'


def table(rows):
    """A table for each model and number of threads."""
    lines = [f'Processor: {processor()}. n = {min(row["n"] for row in rows)}.']
    for model, threads in dict.fromkeys((row['model'], row['threads']) for row in rows):
        lines += ['', f'### {model}, {threads} thread{"s" if threads > 1 else ""}', '']
        lines.append('| batch | engine | ms an image: p50 | p95 | ratio to ONNX Runtime | memory, MB | difference |')
        lines.append('|--:|---|--:|--:|--:|--:|--:|')
        for row in rows:
            if (row['model'], row['threads']) == (model, threads):
                lines.append(
                    f'| {row["batch"]} | {row["engine"]} | {row["p50"]:.1f} | {row["p95"]:.1f} | {row["ratio"]:.2f} '
                    f'| {row["memory"]:.0f} | {row["difference"]:.0e} |'
                )
    return '\n'.join(lines)


def draw(rows, path):
    """Bars of the ratios with the fewest threads: a plot for each model, a bar for each engine and batch size."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit(f'{path}: not drawn, matplotlib is not installed: pip install matplotlib')
    threads = min(row['threads'] for row in rows)
    rows = [row for row in rows if row['threads'] == threads]
    models, batches, engines = (list(dict.fromkeys(row[key] for row in rows)) for key in ('model', 'batch', 'engine'))
    figure = Figure(figsize=(5.5 * len(models), 5), layout='constrained')
    plots = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    height, plural = 0.8 / len(batches), 's' if threads > 1 else ''
    for plot, model in zip(plots, models):
        for i, batch in enumerate(batches):
            ratios = {row['engine']: row['ratio'] for row in rows if (row['model'], row['batch']) == (model, batch)}
            places = [engines.index(engine) + i * height for engine in ratios]
            bars = plot.barh(places, ratios.values(), 0.9 * height, label=f'batch {batch}')
            plot.bar_label(bars, fmt='%.2f', padding=2, fontsize=8)
        plot.axvline(1, color='grey', lw=0.8, ls=':')
        plot.set_yticks([i + 0.4 - height / 2 for i in range(len(engines))], engines)
        plot.set(title=f'{model}, {threads} thread{plural}', xlabel='time; ONNX Runtime in fp32 = 1')
        plot.margins(x=0.1)
    plots[0].invert_yaxis()
    plots[-1].legend(loc='lower right')
    figure.savefig(path, dpi=110)
