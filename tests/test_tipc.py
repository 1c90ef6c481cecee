"""test_tipc/: its configs fit the scripts, a step that fails or leaves nothing fails the chain, and (with the README's
commands) the chain runs in a fresh clone on a CPU. See also test_tipc_prepare.py and test_compare_results.py."""

import importlib
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

TIPC = ROOT / 'test_tipc'
CONFIGS = sorted(TIPC.glob('config/*/*.txt'))
CAPTURED = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def read(path):
    return path.read_text(encoding='utf-8').splitlines()


# -- configs -----------------------------------------------------------------------------------------------------------


LINES = {
    0: 'train_params model_name python gpu_list',
    10: 'train_model_name train_infer_img_dir',
    13: '## trainer norm_train pact_train fpgm_train distill_train',
    21: '## eval_params eval',
    25: '## infer_params',
    29: 'norm_export',
    39: 'inference --use_gpu --enable_mkldnn --cpu_threads --batch_size --use_tensorrt --precision --model_file',
}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_has_the_51_lines_of_tipc_in_their_order(path):
    keys = [line.split(':')[0].strip('=') for line in read(path)]
    assert len(keys) >= 51
    for first, expected in LINES.items():
        assert keys[first:][: len(expected.split())] == expected.split()
    if path.name.startswith('lvvit_t'):
        twin = read(path.with_name(path.name.replace('lvvit_t', 'lvvit_s')))
        assert [line.replace('lvvit_t', 'lvvit_s') for line in read(path)] == twin


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_command_of_a_config_is_one_that_its_script_understands(path):
    lines = read(path)
    field = {n: line.partition(':')[::2] for n, line in enumerate(lines)}
    of_cpu = dict(line.partition(':')[::2] for line in lines[51:])

    def flags(*numbers):
        """The lines' flags, each with the first of its choices (of 'mode=a|mode=b' the first mode's)."""
        choices = [(field[n][0], field[n][1].split('|')[0].split('=')[-1]) for n in numbers]
        return ' '.join(f'{key}={choice or "x"}' for key, choice in choices if 'null' not in (key, choice))

    train = [field[15][1], flags(6, 7, 8, 12), of_cpu.get('train', '')]
    if field[14][1] == 'to_static_train':
        train.append(field[19][1])
    if field[5][0] != 'null':
        train.append(field[5][0])
    commands = [
        ' '.join(train),
        f'{field[23][1]} --resume=x {of_cpu.get("eval", "")}',
        f'{field[29][1]} --resume=x {field[27][0]}=x {of_cpu.get("export", "")}',
        f'{field[37][1]} --resume=x {field[27][0]}=x',
        f'{field[39][1]} {flags(*range(40, 48), 49, 50)}',
    ]
    commands = [command.split() for command in commands if not command.startswith('null')]
    for script, *words in commands:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / os.path.dirname(script)))
            module = importlib.import_module(os.path.basename(script)[:-3])
        module.parser().parse_args(words)
    assert len(commands) in (1, 2, 5)


# -- the chain, with a stub for Python ---------------------------------------------------------------------------------

STUB = r"""#!/bin/sh
# Plays python: writes what the real commands leave, unless told to break.
for word; do
    case $word in --output_dir=*) out=${word#*=} ;; --log_file=*) log=${word#*=} ;; esac
done
case "$*" in
    -c*) echo gpus "${GPUS:-0}" ;;
    *main.py*)
        [ "$BREAK" != train ] || { echo out of luck; exit 3; }
        mkdir -p "$out"
        [ "$BREAK" = no-checkpoint ] || echo weights > "$out/checkpoint-latest.pd" ;;
    *eval.py*) [ "$BREAK" = eval ] || echo '* Acc@1 10.0' ;;
    *export_model.py*)
        mkdir -p "$out"; echo graph > "$out/model.pdmodel"
        [ "$BREAK" = export ] || echo weights > "$out/model.pdiparams" ;;
    *infer.py*)
        echo 'preprocess_time(ms): 1.0'
        score=0.5
        case "$BREAK $*" in disagree*mkldnn=False*) score=0.51 ;; esac
        [ "$BREAK" = no-records ] || echo "[{'class_ids': [1], 'scores': [0.5], 'file_name': 'a.JPEG'},\
 {'class_ids': [1], 'scores': [$score], 'file_name': 'b.JPEG'}]" ;;
    *compare_results.py*) exec "$REAL_PYTHON" "$@" ;;
esac
"""


@pytest.fixture
def chain(tmp_path):
    """chain(mode, BREAK) -> (exit code, output, status lines), in a copy of the project, its path with a blank."""
    root = tmp_path / 'a project'
    (root / 'test_tipc/config').mkdir(parents=True)
    for name in ('common_func.sh', 'test_train_inference_python.sh', 'compare_results.py'):
        (root / 'test_tipc' / name).write_bytes((TIPC / name).read_bytes())
    os.symlink(ROOT / 'util', root / 'util')
    config = root / 'test_tipc/config/tiny.txt'
    lines = read(TIPC / 'config/TokenLabeling/lvvit_t.txt')
    stub = tmp_path / 'python'
    stub.write_text(STUB)
    stub.chmod(0o755)
    images = root / 'dataset/ILSVRC2012/val/n0'
    images.mkdir(parents=True)
    for name in ('a.JPEG', 'b.JPEG'):
        (images / name).write_text('an image')

    def call(mode='lite_train_lite_infer', fault='', images_there=True, gpu_list='0', **env):
        lines[3] = f'gpu_list:{gpu_list}'
        config.write_text('\n'.join(lines))
        if not images_there:
            for file in images.iterdir():
                file.unlink()
        breaks = {'BREAK': fault, 'TIPC_DEVICE': '', 'TIPC_GPU_LIST': ''}
        env = {**os.environ, 'PYTHON': str(stub), 'REAL_PYTHON': sys.executable, **breaks, **env}
        command = ['bash', str(root / 'test_tipc/test_train_inference_python.sh'), str(config), mode]
        done = subprocess.run(command, cwd=tmp_path, env=env, **CAPTURED)
        log = root / f'test_tipc/output/config/tiny/{mode}/results_python.log'
        return done.returncode, done.stdout, log.read_text().splitlines() if log.exists() else []

    return call


def test_a_chain_in_which_all_goes_well_on_a_cpu(chain):
    code, out, status = chain(gpu_list='0,1')
    assert code == 0, out
    assert ' --nproc_per_node 2 --backend gloo main.py ' in status[0]
    assert status[0].count('--input_size=64 --token_label_size=4') == 1 and '--batch_size=8' in status[0]
    assert not any('--use_gpu=True' in line for line in status)
    assert len(status) == 1 + 1 + 1 + 8 + 1  # train, eval, export, infer 2 x 2 x 2, compare
    assert all(re.fullmatch(r'Run successfully with command - lvvit_t - .* - .*\.log ! ', line) for line in status)
    assert out.count('\nok ') == len(status) and '12 steps, 0 failed' in out


FAULTS = [
    ('train', 'main.py', 'exit code 3'),
    ('no-checkpoint', 'main.py', 'checkpoint-latest.pd'),
    ('eval', 'eval.py', "no line 'Acc@1'"),
    ('export', 'export_model.py', 'model.pdiparams'),
    ('no-records', 'infer.py', 'predictions for 0 of the 2 images'),
    ('disagree', 'compare_results.py', 'b.JPEG: score 1 is 0.5, the reference has 0.51'),
]


@pytest.mark.parametrize('fault, failed, said', FAULTS)
def test_a_step_that_fails_or_leaves_nothing_fails_the_chain(chain, fault, failed, said):
    code, out, status = chain(fault=fault)
    assert code == 1 and said in out and 'FAILED' in out
    bad = [line for line in status if line.startswith('Run failed with command - lvvit_t - ') and line.endswith(' ! ')]
    assert failed in bad[0]
    if fault == 'train':
        assert len(status) == 1 and re.search(r'NOT RUN .*eval,export,infer', out) and 'out of luck' in out


def test_on_gpus_the_commands_are_those_of_the_config(chain):
    code, out, status = chain(gpu_list='0|0,1', GPUS='2')
    assert code == 0, out
    text = '\n'.join(status)
    assert len(status) == 2 * (1 + 1 + 1 + 2 + 8 + 1)  # infer: batch 1 and 2 on the GPU, then as on a CPU
    assert ' - env CUDA_VISIBLE_DEVICES=0 ' in status[0] and ' --gpus=0,1 main.py ' in text
    assert '--input_size=64' not in text and 'gloo' not in text
    assert '--use_gpu=True --use_tensorrt=False --batch_size=2 --precision=fp32' in text


def test_gpus_machines_and_images_that_are_not_there_fail_the_chain_and_are_named(chain):
    code, out, status = chain(gpu_list='0|0,1', GPUS='1')
    assert code == 1 and 'GPU 1 is asked for, this machine has 1' in out and len(status) == 14
    assert chain(gpu_list='0|0,1', GPUS='1', TIPC_GPU_LIST='0')[0] == 0
    code, out, _ = chain(gpu_list='198.51.100.1,198.51.100.2;0,1', GPUS='2')
    assert code == 1 and 'none of 198.51.100.1,198.51.100.2 is this machine' in out
    code, out, _ = chain(images_there=False)
    assert code == 1 and 'no images in ./dataset/ILSVRC2012/val' in out


def test_whole_training_keeps_its_size_and_the_results_of_the_run_before(chain, tmp_path):
    for _ in range(2):
        code, out, status = chain('whole_train_whole_infer')
        assert code == 0, out
    assert '--input_size=64' not in status[0] and '--epochs=300 ' in status[0] and '--batch_size=128' in status[0]
    folder = out.split('results in ')[1].split()[0]
    assert (tmp_path / 'a project' / f'{folder}.old/results_python.log').exists()


def test_an_unknown_mode_or_config_is_one_line():
    for config, mode, said in (('lvvit_t.txt', 'lite', "mode 'lite'"), ('no.txt', 'whole_infer', 'no such config')):
        words = [TIPC / 'test_train_inference_python.sh', TIPC / 'config/TokenLabeling' / config, mode]
        done = subprocess.run(['bash', *words], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


# -- the chain itself, on a CPU ----------------------------------------------------------------------------------------


@pytest.fixture
def tipc(clone):
    """tipc(config, mode, quick) -> (output, status lines) of the two commands; quick: one run of infer.py, not 8."""

    def call(name, mode, quick=True, **environment):
        config = f'test_tipc/config/TokenLabeling/{name}.txt'
        if quick:
            once = {'--enable_mkldnn': 'True', '--cpu_threads': '1', '--batch_size': '2'}
            lines = read(clone / config)
            for n in (41, 42, 43):
                key = lines[n].split(':')[0]
                lines[n] = f'{key}:{once[key]}'
            (clone / config).write_text('\n'.join(lines) + '\n')
        scripts = ('prepare', 'test_train_inference_python')
        command = ' && '.join(f"bash test_tipc/{script}.sh {config} '{mode}'" for script in scripts)
        env = {**os.environ, 'PYTHON': sys.executable, 'TIPC_DEVICE': 'cpu', 'TIPC_DATA': '', **environment}
        done = subprocess.run(command, shell=True, cwd=clone, timeout=900, env=env, **CAPTURED)
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout, (clone / f'test_tipc/output/TokenLabeling/{name}/{mode}/results_python.log').read_text()

    return call


@pytest.mark.readme
def test_the_two_commands_run_the_chain(tipc):
    out, log = tipc('lvvit_t', 'lite_train_lite_infer', quick=False)
    assert log.count('Run successfully with command - ') == 2 * (1 + 1 + 1 + 8 + 1) and 'Run failed' not in log
    assert '--nproc_per_node 2 --backend gloo' in log and '24 steps, 0 failed' in out


@pytest.mark.readme
def test_predictions_of_seed_weights_are_those_stored(tipc, clone):
    tipc('lvvit_t_linux_gpu_normal_normal_infer_python_linux_gpu_cpu', 'whole_infer')
    (log,) = clone.glob('test_tipc/output/TokenLabeling/*/whole_infer/lvvit_t/compare.log')
    assert '100 predictions agree with ./dataset/weights/lvvit_t.reference.txt' in log.read_text()


@pytest.mark.readme
@pytest.mark.parametrize('variant, environment', [('fleet_normal', {}), ('normal_dy2static', {'TIPC_GPU_LIST': '0,1'})])
def test_several_machines_and_static_graphs_train_too(tipc, variant, environment):
    name = f'lvvit_t_train_linux_gpu_{variant}_infer_python_linux_gpu_cpu'
    _, log = tipc(name, 'lite_train_lite_infer', **environment)
    assert log.count('Run successfully') == 5
