"""Checks of training on one card: mixed precision, host and device, exact resume."""

import sys

import outcome
from bed import EPOCHS, PRINT_FREQ, ROOT
from outcome import ROUNDOFF, demand

sys.path.insert(0, str(ROOT / 'tests' / 'faults'))
from bench import content, differences

FIRST = 5  # steps whose losses must agree
FINISHED = r'Training time \d'


def amp_flags(dtype, level):
    return ['--use_amp', '--amp_dtype', dtype, '--amp_level', level] if dtype != 'float32' else []


def trained(bed, dtype='float32', level='O1'):
    """The training in this precision; shared by the checks."""
    name = dtype if dtype == 'float32' else f'{dtype}-{level}'
    return bed.train(name, *amp_flags(dtype, level))


def speed(bed, run):
    """'812 images/s, 4.1 GB' of a training."""
    images = outcome.images_a_second(run.notes[0]['flushes'], bed.batch, warm_up=bed.steps // 2)
    memory = '' if run.notes[0]['mb'] is None else f', {run.notes[0]["mb"] / 1e3:.1f} GB'
    return f'{images:.0f} images/s{memory}'


def float32(bed):
    """The run that the others are held against: it trains, to the end."""
    run = trained(bed)
    run.said(FINISHED)
    first, last = outcome.fall(run.losses)
    demand(len(run.losses) == bed.steps * EPOCHS, f'{len(run.losses)} steps')
    return f'loss {first:.3f}, at the end {last:.3f}; {speed(bed, run)}'


def mixed(dtype, level):
    """Check of mixed precision: it is on, its first losses are float32's within ten roundings, and the loss falls."""

    def check(bed):
        run, reference = trained(bed, dtype, level), trained(bed)
        if bed.on_gpu:
            demand(run.notes[0]['dtypes'] == [dtype], f'token scores are {run.notes[0]["dtypes"]}, not {dtype}')
        worst = outcome.apart(run.losses, reference.losses, FIRST)
        allowed = 10 * ROUNDOFF[dtype]
        demand(worst <= allowed, f'the first {FIRST} losses differ by {worst:.1e} from float32, allowed {allowed:.1e}')
        first, last = outcome.fall(run.losses)
        scale = run.notes[0]['scale']
        scaled = '' if scale is None else f', loss scale {scale:g}'
        again = evaluated_again(bed, run, dtype, level)
        bed.forget(run.out.name)
        fell = f'loss {first:.3f}, then {last:.3f}{scaled}'
        return f'first losses {worst:.1e} from float32; {fell}; {again}; {speed(bed, run)}'

    return check


def evaluated_again(bed, run, dtype, level):
    """What was trained, saved and read again evaluates to the loss of log.txt."""
    was = run.log()[-1]['test_loss']
    weights = ['--resume', run.out / 'checkpoint-latest.pd']
    console = bed.call('eval.py', *bed.of_model(), *bed.of_data(), *weights, *amp_flags(dtype, level))
    now = float(console.rpartition(' loss ')[2].split()[0])
    worst = abs(now - was) / was
    demand(worst <= 10 * ROUNDOFF[dtype] + 5e-4 / was, f'eval.py says loss {now}, training had {was}')  # 3 decimals
    return f'eval.py on its checkpoint {worst:.1e} from training'


def no_waiting(bed):
    """Between logged steps Python reads nothing from the device. In float16 Paddle's own scaler does, once a step."""
    found, scaler = [], 'paddle/amp/grad_scaler.py'
    # on a CPU numpy normalises the batch, which is in the host's memory anyway
    others = (scaler,) if bed.on_gpu else (scaler, 'util/data/transforms.py')
    for dtype in ('float32', 'bfloat16', 'float16'):
        if dtype != 'float32' and not bed.on_gpu:
            continue  # nothing of it is on
        reads = trained(bed, dtype).notes[0]['reads']
        ours = {place: count for place, count in reads.items() if not place.startswith(others)}
        demand(not ours, f'{dtype}: read between logged steps: {ours}')
        scaled = sum(count for place, count in reads.items() if place.startswith(scaler))
        found.append(f'{dtype}: 0' + (f" of ours, {scaled} by Paddle's loss scaler" if scaled else ''))
    return f'reads in {bed.steps * EPOCHS} steps, a line every {PRINT_FREQ}: ' + '; '.join(found)


def resumed(dtype, level='O1'):
    """Check: stopped by SIGTERM after the step at hand and continued, a run ends with the same bits (--debug)."""

    def check(bed):
        name = f'debug-{dtype}'
        flags = [
            '--debug',
            '--mix_token',
            '--drop_path',
            '0.1',
            '--model_ema',
            '--model_ema_decay',
            '0.9',
            *amp_flags(dtype, level),
        ]
        whole, twin = bed.train(f'{name}-a', *flags), bed.train(f'{name}-b', *flags)
        stop = bed.steps + bed.steps // 2 + 1  # in the second epoch, after a step that is not logged
        stopped = bed.train(f'{name}-c', *flags, own=['--stop_after', stop])
        said = stopped.said(r'stopped by SIGTERM in epoch (\d+) after (\d+) of (\d+) steps')
        demand((int(said[1]), int(said[2])) == divmod(stop, bed.steps), f'{said[0]}, but it was told to after {stop}')
        continued = bed.train(f'{name}-c', *flags, again=True)
        continued.said(FINISHED)
        end = content(whole.out / 'checkpoint-latest.pd')
        kernels = differences(end, content(twin.out / 'checkpoint-latest.pd'))
        demand(not kernels, f'two undisturbed runs differ already, in {len(kernels)} tensors ({kernels[:2]}): kernels')
        lost = differences(end, content(continued.out / 'checkpoint-latest.pd'))
        demand(not lost, f'the continued run ends with {len(lost)} other tensors, {lost[:3]}')
        bed.forget(whole.out.name, twin.out.name, stopped.out.name)
        return f'stopped after step {stop} of {EPOCHS * bed.steps}, continued: all bits the same'

    return check


CHECKS = {
    'training in float32': float32,
    'mixed precision float16 O1': mixed('float16', 'O1'),
    'mixed precision float16 O2': mixed('float16', 'O2'),
    'mixed precision bfloat16 O1': mixed('bfloat16', 'O1'),
    'mixed precision bfloat16 O2': mixed('bfloat16', 'O2'),
    'no host synchronisation between logged steps': no_waiting,
    'stop and exact resume, float32': resumed('float32'),
    'stop and exact resume, float16 O1': resumed('float16', 'O1'),
    'stop and exact resume, bfloat16 O2': resumed('bfloat16', 'O2'),
}
