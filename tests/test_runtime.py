"""util/runtime.py: what is set before paddle is imported, how scripts end, and that nothing of them stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import paddle
import pytest

from conftest import ROOT, TINY_RUN, words
from util import runtime
from util.data.transforms import TrainTransform
from util.errors import UserError
from util.runtime import Parser, worker_count
from util.train.loss import TokenLabelLoss

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def prepared(tmp_path):
    """prepared(vendor, flags, **environment) -> what runtime says and sets, in a fresh process.

    A stand-in for paddle shows the environment at the moment of its import; the real one takes 2 s to load.
    """
    (tmp_path / 'paddle.py').write_text(
        'import os, sys\n'
        "print('OMP', os.environ.get('OMP_NUM_THREADS'))\n"
        "print('MKL', os.environ.get('MKL_DEBUG_CPU_TYPE'))\n"
        "def is_compiled_with_cuda(): return 'GPU_WHEEL' in os.environ\n"
        "def set_flags(flags): print('FLAGS', flags)\n"
        "print('a note on OMP_NUM_THREADS', file=sys.stderr)\n"
        "print('a warning of another kind', file=sys.stderr)\n"
    )

    def call(vendor='AuthenticAMD', flags='sse2 avx2', machine='x86_64', **environment):
        (tmp_path / 'cpuinfo').write_text(f'vendor_id : {vendor}\nflags : {flags}\n')
        code = f"""
import builtins, platform
real_open = builtins.open
builtins.open = lambda path, *args: real_open('{tmp_path}/cpuinfo' if path == '/proc/cpuinfo' else path, *args)
platform.machine = lambda: '{machine}'
from util import runtime
print('SAID', runtime.CPU)
"""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'MKL_', 'PADDLE_'))}
        env = {**clean, 'PYTHONPATH': str(tmp_path), **environment}
        done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stderr == 'a warning of another kind\n', 'only the note on threads is dropped'
        lines = dict(line.split(' ', 1) for line in done.stdout.splitlines())
        assert set(lines) - {'FLAGS'} == {'OMP', 'MKL', 'SAID'} and lines['SAID'].startswith('CPU: ')
        return lines

    return call


# ---- before the import


def test_threads_are_the_cores_unless_set(prepared):
    lines = prepared()
    assert lines['OMP'] == str(CORES) and f'{CORES} thread(s) per process' in lines['SAID']
    lines = prepared(OMP_NUM_THREADS='3')
    assert lines['OMP'] == '3' and '3 thread(s) per process (OMP_NUM_THREADS as set)' in lines['SAID']
    for name in ('PADDLE_LOCAL_SIZE', 'PADDLE_TRAINERS_NUM'):  # processes of one machine share its cores
        assert [prepared(**{name: n})['OMP'] for n in ('2', '64')] == [str(max(1, CORES // 2)), '1']


def test_a_1_under_paddles_launcher_is_the_launchers(prepared):
    assert prepared(OMP_NUM_THREADS='1', PADDLE_TRAINER_ID='0')['OMP'] == str(CORES)
    assert prepared(OMP_NUM_THREADS='1', PADDLE_TRAINER_ID='0', PADDLE_LOCAL_SIZE='64')['OMP'] == '1'
    assert prepared(OMP_NUM_THREADS='3', PADDLE_TRAINER_ID='0')['OMP'] == '3', 'as set by the user'
    assert prepared(OMP_NUM_THREADS='1')['OMP'] == '1', 'without the launcher it is the user who set it'


def test_mkl_takes_its_avx2_path_on_amd_only_where_there_is_avx2_and_never_against_the_user(prepared):
    lines = prepared('AuthenticAMD', 'sse2 avx2')
    assert lines['MKL'] == '5' and 'MKL on AVX2 (AMD)' in lines['SAID']
    for other in [dict(flags='sse2 avx'), dict(vendor='GenuineIntel'), dict(vendor='', flags=''), dict(machine='arm')]:
        lines = prepared(**other)
        assert lines['MKL'] == 'None' and 'MKL' not in lines['SAID']
    for vendor in ('AuthenticAMD', 'GenuineIntel'):
        lines = prepared(vendor, MKL_DEBUG_CPU_TYPE='4')
        assert lines['MKL'] == '4' and 'MKL_DEBUG_CPU_TYPE=4 as set' in lines['SAID']


def test_tensors_are_copies_where_there_are_no_gpus_and_never_against_the_user(prepared):
    assert prepared()['FLAGS'] == "{'FLAGS_use_stride_kernel': False}"
    assert 'FLAGS' not in prepared(GPU_WHEEL='yes')
    assert 'FLAGS' not in prepared(FLAGS_use_stride_kernel='1')


def test_a_transpose_on_a_cpu_is_contiguous():
    if paddle.is_compiled_with_cuda() or 'FLAGS_use_stride_kernel' in os.environ:
        pytest.skip('views are left as Paddle has them')
    assert paddle.randn([2, 3, 4]).transpose([0, 2, 1]).is_contiguous()


def test_loader_processes_are_capped_by_the_machine(monkeypatch):
    monkeypatch.setattr(runtime.os, 'cpu_count', lambda: 4)
    assert [worker_count(n) for n in (-1, 0, 1, 4, 5, 100)] == [0, 0, 1, 4, 4, 4]
    monkeypatch.setattr(runtime.os, 'cpu_count', lambda: None)
    assert worker_count(10) == 1


# ---- how a script ends


def fails(error):
    """A script whose main raises this."""

    def main(_):
        raise error

    return types.SimpleNamespace(parser=lambda: Parser('script.py'), main=main)


def test_how_a_script_ends(run):
    assert run(fails(UserError('a  b.yml: not YAML (while\n  in line 1)'))) == (
        1,
        '',
        'script.py: error: a  b.yml: not YAML (while in line 1)\n',
    )
    assert run(fails(KeyboardInterrupt())) == (130, '', '')
    line = 'script.py: error: unrecognized arguments: --no_such (see script.py --help)\n'
    assert run(fails(None), '--no_such') == (2, '', line)
    with pytest.raises(ZeroDivisionError):
        run(fails(ZeroDivisionError()))


@pytest.mark.cross_version
@pytest.mark.parametrize('number', ['SIGKILL', 'SIGSEGV'])
def test_a_loader_process_that_dies_is_one_line_that_says_of_what_whatever_paddle_calls_it(
    train, tiny, monkeypatch, number
):
    monkeypatch.setattr(TrainTransform, 'load', lambda *_: os.kill(os.getpid(), getattr(signal, number)))
    result = train('--num_workers 1')
    line = f'main.py: error: a loader process has died ({number}); '
    assert result.code == 1 and line in result.err and 'Traceback' not in result.err, result.err


@pytest.mark.parametrize('error', [RuntimeError, SystemError])
def test_an_error_that_only_speaks_of_a_loader_is_a_defect(run, error):
    with pytest.raises(error):
        run(fails(error('DataLoader worker(s) exited unexpectedly: Blocking queue is killed')))


# ---- what stays behind


def children(pid):
    """Ids of the children of a process."""
    return [int(child) for path in Path(f'/proc/{pid}/task').glob('*/children') for child in path.read_text().split()]


def gone(pids):
    """Whether all of these end within 10 seconds; a zombie has ended."""
    end = time.time() + 10
    while time.time() < end:
        if not any(is_running(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def is_running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.parametrize('error', [UserError('disk full'), KeyboardInterrupt(), RuntimeError('a defect')], ids=repr)
def test_a_main_that_fails_in_the_middle_of_an_epoch_leaves_no_loader_process(train, tiny, monkeypatch, error):
    seen, before = [], set(children(os.getpid()))

    def breaks(*args, **kwargs):
        seen.extend(children(os.getpid()))
        raise error

    monkeypatch.setattr(TokenLabelLoss, 'forward', breaks)
    with contextlib.suppress(RuntimeError):
        train('--batch_size 2 --num_workers 2')
    workers = set(seen) - before
    assert len(workers) >= min(2, os.cpu_count()) and gone(workers)


@pytest.mark.parametrize('how, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_script_that_is_stopped_from_outside_takes_its_loader_processes_along(scenes, how, code):
    flags = words(TINY_RUN, '--batch_size 2 --num_workers 2 --epochs 100000 --data_path', scenes)
    command = [sys.executable, os.path.join(ROOT, 'main.py'), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            for line in process.stdout:
                if 'Epoch: [0]  [ 0/20]' in line:
                    break
            workers = children(process.pid)
            process.send_signal(how)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert workers and gone(workers)
    assert process.returncode == code and 'Traceback' not in err
