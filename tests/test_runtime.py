"""util/runtime.py and util/paddle_fixes.py: what is set before paddle is imported, how scripts end, and that no loader
process stays behind."""

import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import paddle
import pytest

from conftest import ROOT, STILL, execute
from util import logger, paddle_fixes, runtime
from util.args import Parser
from util.data.transforms import EvalTransform, TrainTransform
from util.errors import UserError
from util.train.loss import TokenLabelLoss

CORES = len(os.sched_getaffinity(0))
PADDLE = """
import os, sys
print('OMP', os.environ.get('OMP_NUM_THREADS'))
print('MKL', os.environ.get('MKL_DEBUG_CPU_TYPE'))
print('a note on OMP_NUM_THREADS', file=sys.stderr)
print('a warning of another kind', file=sys.stderr)
def is_compiled_with_cuda(): return 'GPU_WHEEL' in os.environ
def set_flags(flags): print('FLAGS', flags)
"""
SCRIPT = """
import builtins, platform
real_open = builtins.open
builtins.open = lambda path, *args: real_open('cpuinfo' if path == '/proc/cpuinfo' else path, *args)
platform.machine = lambda: '{machine}'
from util import paddle_fixes, runtime
print('SAID', runtime.CPU)
"""


@pytest.fixture
def prepared(tmp_path):
    """prepared(vendor, flags, **environment) -> what a new process sets and prints when it imports util.runtime.

    A stand-in for paddle prints the environment at the moment of its import.
    """
    (tmp_path / 'paddle.py').write_text(PADDLE)

    def call(vendor='AuthenticAMD', flags='sse2 avx2', machine='x86_64', **environment):
        (tmp_path / 'cpuinfo').write_text(f'vendor_id : {vendor}\nflags : {flags}\n')
        env = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'MKL_', 'PADDLE_'))}
        env.update(PYTHONPATH=f'{tmp_path}:{ROOT}', **environment)
        command = [sys.executable, '-c', SCRIPT.format(machine=machine)]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, env=env)
        assert done.stderr == 'a warning of another kind\n', 'only the note on threads is dropped'
        return dict(line.split(' ', 1) for line in done.stdout.splitlines())

    return call


# ---- before the import


def test_threads_are_the_cores_shared_by_the_processes_unless_set(prepared):
    lines = prepared()
    assert lines['OMP'] == str(CORES) and lines['SAID'].startswith(f'CPU: {CORES} thread(s) per process')
    lines = prepared(OMP_NUM_THREADS='3')
    assert lines['OMP'] == '3' and '3 thread(s) per process (OMP_NUM_THREADS as set)' in lines['SAID']
    for name in ('PADDLE_LOCAL_SIZE', 'PADDLE_TRAINERS_NUM'):
        assert [prepared(**{name: n})['OMP'] for n in ('2', '64')] == [str(max(1, CORES // 2)), '1']
    assert prepared(PADDLE_LOCAL_SIZE='1', PADDLE_TRAINERS_NUM='64')['OMP'] == str(CORES), 'those of this machine'


def test_under_paddles_launcher_a_1_is_not_taken_as_set_by_the_user(prepared):
    assert prepared(OMP_NUM_THREADS='1')['OMP'] == '1'
    assert prepared(OMP_NUM_THREADS='1', PADDLE_TRAINER_ID='0')['OMP'] == str(CORES)
    assert prepared(OMP_NUM_THREADS='3', PADDLE_TRAINER_ID='0')['OMP'] == '3'


def test_mkl_takes_its_avx2_path_on_amd_processors_with_avx2_unless_set(prepared):
    lines = prepared('AuthenticAMD', 'sse2 avx2')
    assert lines['MKL'] == '5' and 'MKL on AVX2 (AMD)' in lines['SAID']
    for other in [dict(flags='sse2 avx'), dict(vendor='GenuineIntel'), dict(vendor='', flags=''), dict(machine='arm')]:
        lines = prepared(**other)
        assert lines['MKL'] == 'None' and 'MKL' not in lines['SAID']
    for vendor in ('AuthenticAMD', 'GenuineIntel'):
        lines = prepared(vendor, MKL_DEBUG_CPU_TYPE='4')
        assert lines['MKL'] == '4' and 'MKL_DEBUG_CPU_TYPE=4 as set' in lines['SAID']


def test_transposes_are_copies_without_gpus_unless_set(prepared):
    assert prepared()['FLAGS'] == "{'FLAGS_use_stride_kernel': False}"
    assert 'FLAGS' not in prepared(GPU_WHEEL='yes')
    assert 'FLAGS' not in prepared(FLAGS_use_stride_kernel='1')
    assert paddle.is_compiled_with_cuda() or paddle.randn([2, 3, 4]).transpose([0, 2, 1]).is_contiguous()


def test_there_are_at_most_as_many_loader_processes_as_cores(monkeypatch):
    monkeypatch.setattr(runtime.os, 'cpu_count', lambda: 4)
    assert [runtime.worker_count(n) for n in (0, 1, 4, 5, 100)] == [0, 1, 4, 4, 4]
    monkeypatch.setattr(runtime.os, 'cpu_count', lambda: None)
    assert runtime.worker_count(10) == 1


# ---- how a script ends


def failing(error):
    """A script whose main raises this."""

    def main(_):
        raise error

    return types.SimpleNamespace(parser=lambda: Parser('script.py'), main=main)


def test_how_a_script_ends(run):
    line = 'script.py: error: a  b\\n\\x1b[2J猫\\udce9.yml: not YAML\n'
    assert run(failing(UserError('a  b\n\x1b[2J猫\udce9.yml: not YAML'))) == (1, '', line)
    assert run(failing(KeyboardInterrupt())) == (130, '', '')
    stopped = failing(None)
    stopped.main = lambda _: [os.kill(os.getpid(), signal.SIGTERM), time.sleep(10)]
    assert run(stopped) == (143, '', '')
    line = 'script.py: error: unrecognized arguments: --no\\n_such (see script.py --help)\n'
    assert run(failing(None), '--no\n_such') == (2, '', line)
    for error in (ZeroDivisionError, RuntimeError, SystemError):
        with pytest.raises(error):
            run(failing(error('DataLoader worker(s) exited unexpectedly')))


def test_the_log_file_ends_with_the_error_that_ended_the_run(run, tmp_path):
    path = tmp_path / 'train.log'
    for error in UserError('cat.jpg: is damaged'), MemoryError('32 GB'), ZeroDivisionError('a bug'):
        logger.log_to(str(path))
        with contextlib.suppress(ZeroDivisionError):
            run(failing(error))
    first, second, *traceback = path.read_text().splitlines()
    assert first == 'script.py: error: cat.jpg: is damaged' and second.startswith('script.py: error: not enough memory')
    assert traceback[0].startswith('Traceback') and traceback[-1] == 'ZeroDivisionError: a bug'


def test_memory_that_runs_out_is_one_line(run):
    result = run(failing(MemoryError('(ResourceExhausted) Fail to alloc memory\n  [Hint: …]')))
    assert result.code == 1 and result.err.count('\n') == 1 and '--batch_size' in result.err
    assert 'not enough memory ((ResourceExhausted) Fail to alloc memory [Hint' in result.err


@pytest.mark.parametrize('encoding, shown', [('ascii', r'\u732b \udce9'), ('utf-8', r'猫 \udce9')])
def test_a_character_that_the_terminal_cannot_show_is_an_escape(monkeypatch, encoding, shown):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, 'stdout', terminal)
    script = failing(None)
    script.main = lambda _: print('猫', os.fsdecode(b'\xe9'))
    assert execute(script) == 0
    terminal.flush()
    assert terminal.buffer.getvalue().decode(encoding) == shown + '\n'


@pytest.mark.parametrize('name, value', [('PADDLE_TRAINERS_NUM', '2'), ('PADDLE_TRAINER_ID', '1')])
def test_a_variable_of_the_launcher_without_the_launcher_is_refused(refused, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    line = refused(failing(AssertionError('main began')))
    assert f'{name}={value}' in line and f'unset {name}' in line


@pytest.mark.cross_version
def test_a_loader_process_that_dies_is_one_line_with_its_signal(train, tiny, monkeypatch):
    monkeypatch.setattr(TrainTransform, 'load', lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
    result = train('--num_workers 1')
    assert result.code == 1 and 'main.py: error: a loader process has died (SIGSEGV); ' in result.err
    assert '--num_workers' in result.err and 'Traceback' not in result.err


@pytest.mark.cross_version
@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_an_evaluation_whose_loader_hangs(train, tiny, monkeypatch, workers, number, code):
    main_process = os.getpid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for commands in the background

    def hang(*_):
        os.kill(main_process, number)
        time.sleep(60)

    train(STILL)
    monkeypatch.setattr(EvalTransform, 'load', hang)
    monkeypatch.setattr(paddle_fixes, 'SHUTDOWN_SECONDS', 0.1)
    result = train('--eval --num_workers', workers, '--resume', train.path())
    assert result.code == code and result.err == '' and not multiprocessing.active_children()


# ---- what stays behind


def children(pid):
    """Ids of the children of a process."""
    return [int(child) for path in Path(f'/proc/{pid}/task').glob('*/children') for child in path.read_text().split()]


def is_running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def gone(pids):
    """Whether all of these processes end within 10 seconds."""
    end = time.time() + 10
    while any(map(is_running, pids)) and time.time() < end:
        time.sleep(0.02)
    return not any(map(is_running, pids))


@pytest.mark.parametrize('error', [UserError('disk full'), RuntimeError('a defect')], ids=repr)
def test_a_main_that_fails_in_the_middle_of_an_epoch_leaves_no_loader_process(train, tiny, monkeypatch, error):
    seen, before = [], set(children(os.getpid()))

    def fail(*args, **kwargs):
        seen.extend(children(os.getpid()))
        raise error

    monkeypatch.setattr(TokenLabelLoss, 'forward', fail)
    with contextlib.suppress(RuntimeError):
        train('--batch_size 2 --num_workers 2')
    workers = set(seen) - before
    assert len(workers) >= min(2, CORES) and gone(workers)


def test_killed_loader_processes_leave_no_batches_in_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(paddle_fixes, 'SHARED_MEMORY', str(tmp_path))
    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=[60], daemon=True)
    worker.start()
    for pid in (worker.pid, 1):
        (tmp_path / f'paddle_{pid}_0').touch()
    handler = signal.getsignal(signal.SIGCHLD)
    paddle_fixes.kill_workers()
    assert not worker.is_alive() and os.listdir(tmp_path) == ['paddle_1_0']
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.cross_version
@pytest.mark.parametrize('offset, code', [(0, 0), (1, 1)])
def test_a_loader_process_ends_at_once_if_the_main_process_has_ended(offset, code):
    parent = os.getpid() + offset  # another parent than its own has ended
    child = os.fork()
    if child == 0:
        paddle_fixes.begin_worker(parent, 0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
