"""test_tipc/: its configs fit the scripts, a step that fails or leaves nothing fails the chain, and (with the README's
commands) the chain runs in a fresh clone on a CPU. See also test_tipc_prepare.py and test_compare_results.py."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / 'test_tipc'))
import compare_results

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
    predict = []  # what the scripts make of the two exports
    for export in (field[29][1], field[37][1]) if field[39][1] != 'null' else ():
        if export != 'null':
            predict.append(f'predict.py {export.partition(" ")[2]} --resume=x --infer_imgs=x')
    commands = [
        ' '.join(train),
        f'{field[23][1]} --resume=x {of_cpu.get("eval", "")}',
        f'{field[29][1]} --resume=x {field[27][0]}=x {of_cpu.get("export", "")}',
        f'{field[37][1]} --resume=x {field[27][0]}=x',
        *predict,
        f'{field[39][1]} {flags(*range(40, 48), 49, 50)}',
    ]
    commands = [command.split() for command in commands if not command.startswith('null')]
    for script, *words in commands:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / os.path.dirname(script)))
            module = importlib.import_module(os.path.basename(script)[:-3])
        module.parser().parse_args(words)
    assert len(commands) in (1, 4, 7)


# -- the chain, with a stub for Python ---------------------------------------------------------------------------------

STUB = r"""#!/bin/sh
# Plays python: writes what the real commands leave, unless told to break.
number=1
for word; do
    case $word in
        --output_dir=*) out=${word#*=} ;;
        --output=*) file=${word#*=} ;;
        --epochs=* | --cooldown_epochs=*) epochs=$((epochs + ${word#*=})) ;;
        --gpus=0,1 | 2) number=2 ;;  # 2: --nproc_per_node 2
    esac
done
records() {  # records SCORE: of the two images, whose classes are 1 and 2
    images=./dataset/ILSVRC2012/val
    [ "$BREAK" = no-records ] || echo "[{'class_ids': [1], 'scores': [0.5], 'file_name': '$images/n1/a.JPEG'},\
 {'class_ids': [1], 'scores': [$1], 'file_name': '$images/n2/a.JPEG'}]"
}
case "$*" in
    -c*) echo gpus "${GPUS:-0}" ;;
    *main.py*)
        [ "$BREAK" != train ] || { echo out of luck; exit 3; }
        [ "$BREAK" != alone ] || number=1
        [ "$BREAK" != stopped ] || epochs=$((epochs - 1))
        loss=6.9e+00 test=6.8
        [ "$BREAK" != nan ] || loss=NaN
        [ "$BREAK" != test-nan ] || test=NaN
        echo "Paddle on a stub, $number process(es). And so on"
        mkdir -p "$out"
        for epoch in $(seq 0 $((epochs - 1))); do
            echo "{\"epoch\": $epoch, \"train_loss\": $loss, \"test_loss\": $test}"
        done > "$out/log.txt"
        [ "$BREAK" = no-checkpoint ] || echo weights > "$out/checkpoint-latest.pd" ;;
    *eval.py*)
        case "$BREAK" in
            eval) ;;
            eval-part) echo '* Acc@1 50.000 Acc@5 50.000 loss 6.8 on 1 images' ;;
            eval-none) echo '* Acc@1 0.000 Acc@5 0.000 loss 6.8 on 0 images' ;;
            eval-much) echo '* Acc@1 101.000 Acc@5 50.000 loss 6.8 on 2 images' ;;
            eval-nan) echo '* Acc@1 nan Acc@5 50.000 loss 6.8 on 2 images' ;;
            eval-else) echo '* Acc@1 100.000 Acc@5 100.000 loss 6.8 on 2 images' ;;
            *) echo '* Acc@1 50.000 Acc@5 50.000 loss 6.8 on 2 images' ;;
        esac ;;
    *export_model.py*)
        mkdir -p "$out"; echo graph > "$out/model.pdmodel"
        [ "$BREAK" = export ] || echo weights > "$out/model.pdiparams" ;;
    *export_onnx.py*) [ "$BREAK" = export ] || echo graph > "$file" ;;
    *predict.py*) records 0.5 ;;
    *infer.py*)
        echo 'preprocess_time(ms): 1.0'
        score=0.5
        case "$BREAK $*" in all-wrong*) score=0.51 ;; disagree*mkldnn=False*) score=0.51 ;; esac
        records $score ;;
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
    stub = tmp_path / 'python'
    stub.write_text(STUB)
    stub.chmod(0o755)
    data = root / 'dataset/ILSVRC2012'
    for name in ('n1/a.JPEG', 'n2/a.JPEG'):
        (data / 'val' / name).parent.mkdir(parents=True)
        (data / 'val' / name).write_text('an image')
    (data / 'val_list.txt').write_text('val/n1/a.JPEG 1\nval/n2/a.JPEG 2\n')
    (root / 'dataset/weights').mkdir()
    for name in ('lvvit_t', 'lvvit_s'):
        (root / f'dataset/weights/{name}.pdparams').write_text('weights')

    def call(mode='lite_train_lite_infer', fault='', images_there=True, gpu_list='0', lines=None, whole=None, **env):
        """lines: {number, as in docs/test_train_inference_python.md: a line of lvvit_t.txt in place of its own}; whole:
        path of a config to take as it stands."""
        text = read(whole or TIPC / 'config/TokenLabeling/lvvit_t.txt')
        for number, line in {} if whole else {4: f'gpu_list:{gpu_list}', **(lines or {})}.items():
            text[number - 1] = line
        config.write_text('\n'.join(text))
        if not images_there:
            for file in data.glob('val/*/*'):
                file.unlink()
        breaks = {'BREAK': fault, 'TIPC_DEVICE': '', 'TIPC_GPU_LIST': ''}
        env = {**os.environ, 'PYTHON': str(stub), 'REAL_PYTHON': sys.executable, **breaks, **env}
        command = ['bash', str(root / 'test_tipc/test_train_inference_python.sh'), str(config), mode]
        done = subprocess.run(command, cwd=tmp_path, env=env, **CAPTURED)
        log = root / f'test_tipc/output/config/tiny/{mode}/results_python.log'
        return done.returncode, done.stdout, log.read_text().splitlines() if log.exists() else []

    return call


SUCCESS, FAILURE, NOT_RUN = 'Run successfully with command - ', 'Run failed with command - ', 'Not run: '


def count(status):
    """(successes, failures, not run); each status line is one of these."""
    found = [sum(line.startswith(start) for line in status) for start in (SUCCESS, FAILURE, NOT_RUN)]
    assert sum(found) == len(status) and all(line.endswith(' ! ') for line in status)
    return tuple(found)


STEPS = 1 + 1 + 1 + (2 + 8) + 1 + 1  # train, eval, export, infer on GPU (batch 2) and CPU (2 x 2 x 2), predict, compare


def test_a_chain_in_which_all_goes_well_on_a_cpu(chain):
    code, out, status = chain(gpu_list='0,1')
    assert code == 0, out
    assert ' --nproc_per_node 2 --backend gloo main.py ' in status[0]
    assert status[0].count('--input_size=64 --token_label_size=4') == 1 and '--batch_size=8' in status[0]
    assert not any('--use_gpu=True' in line for line in status)
    assert count(status) == (STEPS - 2, 0, 2)
    assert all(re.fullmatch(r'(.*) command - lvvit_t - .* - .*\.log ! ', line) for line in status if 'Not' not in line)
    label = 'norm_train_gpus_0,1_autocast_null gpu_usetrt_False_precision_fp32_batchsize_1.log'
    assert status[3] == f'Not run: there is no GPU here - lvvit_t - infer {label} ! '
    assert out.count('\nok ') == STEPS - 2 and f'{STEPS - 2} steps ran, 0 failed, 2 not run' in out


FAULTS = [
    ('train', 'main.py', 'exit code 3'),
    ('no-checkpoint', 'main.py', 'checkpoint-latest.pd'),
    ('stopped', 'main.py', 'log.txt has no epoch 1'),
    ('nan', 'main.py', 'train_loss of epoch 0 is no finite number'),
    ('test-nan', 'main.py', 'test_loss of epoch 0 is no finite number'),
    ('alone', 'main.py', 'did not train as 2 process(es)'),
    ('eval', 'eval.py', "no line '* Acc@1"),
    ('eval-part', 'eval.py', 'evaluated 1 of 2 images'),
    ('eval-much', 'eval.py', 'an accuracy of 101.000 %'),
    ('eval-nan', 'eval.py', "no line '* Acc@1"),
    ('eval-else', 'compare_results.py', '50.000 % of the 2 best classes are right, eval.py found 100.000 %'),
    ('export', 'export_model.py', 'model.pdiparams'),
    ('no-records', 'infer.py', 'predictions for 0 of the 2 images'),
    ('disagree', 'compare_results.py', 'n2/a.JPEG: score 1 is 0.51, the reference has 0.5'),
    ('all-wrong', 'compare_results.py', 'n2/a.JPEG: score 1 is 0.51, the reference has 0.5'),
]


@pytest.mark.parametrize('fault, failed, said', FAULTS)
def test_a_step_that_fails_or_leaves_nothing_fails_the_chain(chain, fault, failed, said):
    code, out, status = chain(fault=fault, gpu_list='0,1')
    assert code == 1 and said in out and 'FAILED' in out
    bad = [line for line in status if line.startswith('Run failed with command - lvvit_t - ')]
    assert failed in bad[0]
    assert sum(count(status)) == STEPS, 'a line for every step, run or not'
    if failed == 'main.py':
        assert count(status) == (0, 1, STEPS - 1) and all('no checkpoint - ' in line for line in status[1:])
    if fault == 'train':
        assert 'out of luck' in out


@pytest.mark.parametrize('fault, code', [('', 0), ('all-wrong', 1)])
def test_whole_infer_holds_a_single_inference_against_predict_py_and_eval_py(chain, fault, code):
    once = {41: '--use_gpu:False', 42: '--enable_mkldnn:True', 43: '--cpu_threads:1', 44: '--batch_size:2'}
    found, out, status = chain('whole_infer', fault, lines=once)
    assert found == code, out
    assert count(status) == (5 - code, code, 0)  # eval, export, infer, predict, compare
    assert 'predict.py --model=lvvit_t --resume=./dataset/weights/lvvit_t.pdparams --infer_imgs=' in status[3]
    assert '--acc1=50.000 --cls_label_path=./dataset/ILSVRC2012/val_list.txt' in status[4]


def test_an_exported_model_alone_has_nothing_to_be_held_against(chain, tmp_path):
    folder = tmp_path / 'a project/dataset/exported'
    folder.mkdir()
    code, out, status = chain('whole_infer', lines={37: 'train_model:./dataset/exported', 38: 'infer_export:null'})
    assert code == 0 and count(status) == (8, 0, 3)
    assert status[-1].startswith('Not run: an exported model alone: no weights for predict.py')


KINDS = {  # part of a config's name: (mode, status lines on a CPU: steps that ran, combinations that take a GPU)
    'train_linux_gpu_fleet': ('lite_train_lite_infer', STEPS - 2, 2),
    'train': ('lite_train_lite_infer', 2 * (STEPS - 2), 2 * 2),
    'normal_normal_infer': ('whole_infer', STEPS - 1 - 2, 2),
    'paddle2onnx': ('whole_infer', 1, 0),
    '': ('lite_train_lite_infer', 2 * (STEPS - 2), 2 * 2),
}


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'lvvit_t' in path.name], ids=lambda path: path.stem)
def test_every_config_has_exactly_its_number_of_status_lines_on_a_cpu(chain, path):
    mode, ran, takes_gpu = next(KINDS[kind] for kind in KINDS if kind in path.stem)
    code, out, status = chain(mode, whole=path)
    assert code == 0 and count(status) == (ran, 0, takes_gpu), out


def test_an_onnx_file_that_is_not_written_fails_the_chain(chain):
    path = TIPC / 'config/TokenLabeling/lvvit_t_linux_gpu_normal_normal_paddle2onnx_python_linux_cpu.txt'
    code, out, status = chain('whole_infer', 'export', whole=path)
    assert code == 1 and count(status) == (0, 1, 0) and 'lvvit_t/model.onnx' in out


def test_stored_predictions_are_compared_where_they_are_of_these_scenes(chain, tmp_path):
    stored = tmp_path / 'a project/dataset/weights/lvvit_t.reference.txt'
    once = {41: '--use_gpu:False', 42: '--enable_mkldnn:True', 43: '--cpu_threads:1', 44: '--batch_size:2'}
    line = '{}/a.JPEG\t{{"class_ids": [1], "scores": [{}]}}\n'
    for score, code in ((0.5, 0), (0.51, 1)):
        stored.write_text(line.format('n1', 0.5) + line.format('n2', score))
        found, out, status = chain('whole_infer', lines=once)
        assert found == code and count(status) == (6 - code, code, 0), out
    stored.rename(stored.with_suffix('.not')).write_text('drawn otherwise\n')
    code, out, status = chain('whole_infer', lines=once)
    assert code == 0 and status[-1] == 'Not run: drawn otherwise - lvvit_t - compare lvvit_t stored ! '


def test_what_cannot_run_here_is_named_and_a_chain_in_which_nothing_ran_fails(chain):
    code, out, status = chain(lines={46: '--precision:fp32|fp16'})
    assert code == 0 and count(status) == (STEPS - 2, 0, 2 * 2 + 8)
    assert sum(line.startswith('Not run: fp16 takes a GPU - lvvit_t - infer ') for line in status) == 8
    code, out, status = chain(lines={46: '--precision:bf16|int8'})
    assert code == 0 and sum(line.startswith('Not run: bf16 on a CPU takes oneDNN') for line in status) == 4
    assert sum(line.startswith('Not run: int8 takes a quantised model (line 39)') for line in status) == 8
    assert status[-1].startswith('Not run: no inference in fp32')
    for lines in ({46: '--precision:fp16'}, {41: '--use_gpu:True'}):
        code, out, status = chain(lines=lines)
        assert code == 1 and 'no inference of lines 41 to 46 can run here' in out and 'Run failed' not in out
    code, out, status = chain(lines={15: 'trainer:pact_train'})
    assert code == 1 and 'nothing of what' in out
    assert status == ['Not run: line 17 of the config says null - lvvit_t - train pact_train_gpus_0_autocast_null ! ']


def test_on_gpus_the_commands_are_those_of_the_config(chain):
    code, out, status = chain(gpu_list='0|0,1', GPUS='2')
    assert code == 0, out
    text = '\n'.join(status)
    assert count(status) == (2 * STEPS, 0, 0)
    assert ' - env CUDA_VISIBLE_DEVICES=0 ' in status[0] and ' --gpus=0,1 main.py ' in text
    assert '--input_size=64' not in text and 'gloo' not in text
    assert '--use_gpu=True --use_tensorrt=False --batch_size=2 --precision=fp32' in text


def test_gpus_machines_and_images_that_are_not_there_fail_the_chain_and_are_named(chain):
    code, out, status = chain(gpu_list='0|0,1', GPUS='1')
    assert code == 1 and 'GPU 1 is asked for, this machine has 1' in out and count(status) == (STEPS, 0, STEPS)
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


def test_an_evaluation_of_no_images_fails_the_chain(chain, tmp_path):
    (tmp_path / 'a project/dataset/ILSVRC2012/val_list.txt').write_text('')
    code, out, _ = chain('whole_infer', 'eval-none')
    assert code == 1 and 'evaluated 0 of 0 images' in out


def test_epochs_of_the_cool_down_are_asked_for_too(chain):
    more = {13: '--cooldown_epochs:1'}
    assert chain(lines=more)[0] == 0
    code, out, _ = chain(fault='stopped', lines=more)
    assert code == 1 and 'log.txt has no epoch 2 (the last is 2)' in out


def test_every_training_of_a_config_for_static_graphs_is_told_so(chain):
    path = TIPC / 'config/TokenLabeling/lvvit_t_train_linux_gpu_normal_dy2static_infer_python_linux_gpu_cpu.txt'
    code, out, status = chain(whole=path)
    trained = [line for line in status if ' main.py ' in line]
    assert code == 0 and len(trained) == 2 and all(' --to_static ' in line for line in trained)


def test_an_unknown_mode_or_config_is_one_line():
    for config, mode, said in (('lvvit_t.txt', 'lite', "mode 'lite'"), ('no.txt', 'whole_infer', 'no such config')):
        words = [TIPC / 'test_train_inference_python.sh', TIPC / 'config/TokenLabeling' / config, mode]
        done = subprocess.run(['bash', *words], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


# -- the chain itself, on a CPU ----------------------------------------------------------------------------------------

README = (TIPC / 'README.md').read_text(encoding='utf-8')


def script(marker):
    """The bash block of test_tipc/README.md below `<!-- run: marker -->`."""
    (block,) = re.findall(rf'<!-- run: {marker} -->\n```bash\n(.*?)```', README, re.S)
    return block


@pytest.fixture
def shell(clone):
    """shell(script, **environment) -> output of a script that must succeed, in the clone; nothing of TIPC's is set."""

    def call(script, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(('TIPC_', 'PYTHON'))}
        clean['PATH'] = f'{clone}/.venv/bin:{clean["PATH"]}'  # as `source .venv/bin/activate` does
        command = ['bash', '-euo', 'pipefail', '-c', script]
        done = subprocess.run(command, cwd=clone, timeout=1500, env={**clean, **environment}, **CAPTURED)
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return call


@pytest.fixture
def tipc(clone, shell):
    """tipc(config, mode) -> (output, status lines, folder) of the two commands, with one run of infer.py, not 8."""

    def call(name, mode, **environment):
        config = f'test_tipc/config/TokenLabeling/{name}.txt'
        once = {40: 'False', 41: 'True', 42: '1', 43: '2'}  # line, from 0: its only choice
        lines = read(clone / config)
        for n, choice in once.items():
            key = lines[n].split(':')[0]
            lines[n] = f'{key}:{choice}'
        (clone / config).write_text('\n'.join(lines) + '\n')
        scripts = ('prepare', 'test_train_inference_python')
        commands = '\n'.join(f"bash test_tipc/{script}.sh {config} '{mode}'" for script in scripts)
        out = shell(commands, TIPC_DEVICE='cpu', **environment)
        return out, *results(clone, name, mode)

    return call


def results(clone, name, mode):
    """(status lines, folder) of a chain."""
    folder = clone / f'test_tipc/output/TokenLabeling/{name}/{mode}'
    return (folder / 'results_python.log').read_text().splitlines(), folder


def text_of(folder):
    """What all processes of a training said: its launcher's logs."""
    logs = sorted(folder.rglob('workerlog.*'))
    return logs, '\n'.join(log.read_text() for log in logs)


@pytest.mark.readme
def test_the_readmes_two_commands_run_the_chain_as_they_stand(shell, clone):
    out = shell(script('tipc'))
    status, folder = results(clone, 'lvvit_t', 'lite_train_lite_infer')
    assert count(status) == (2 * (STEPS - 2), 0, 2 * 2) and '26 steps ran, 0 failed, 4 not run' in out
    logs, said = text_of(folder)
    assert [log.name for log in logs] == ['workerlog.0', 'workerlog.1'] and ' 2 process(es)' in said
    assert GRAPHS not in said + (folder / 'norm_train_gpus_0_autocast_null.log').read_text()
    for label, processes in (('0', 1), ('0,1', 2)):
        log = folder / f'norm_train_gpus_{label}_autocast_null/log.txt'
        assert [json.loads(line)['epoch'] for line in log.read_text().splitlines()] == [0, 1]
        compare = (folder / f'norm_train_gpus_{label}_autocast_null/compare.log').read_text()
        assert compare.count(': 20 predictions agree with ') == 8 and compare.count('predict.log, scores within') == 8
        assert compare.count(' and an accuracy of ') == 8


@pytest.mark.readme
def test_predictions_of_seed_weights_are_those_stored(tipc, shell):
    _, status, folder = tipc('lvvit_t_linux_gpu_normal_normal_infer_python_linux_gpu_cpu', 'whole_infer')
    assert count(status) == (6, 0, 0)  # eval, export, infer, predict, compare, compare with what is stored
    stored = (folder / 'lvvit_t/compare_stored.log').read_text()
    assert ': 100 predictions agree with ./dataset/weights/lvvit_t.reference.txt, scores within' in stored
    assert '100 predictions agree with test_tipc/results/python_lvvit_t_results_fp32.txt' in shell(script('compare'))


@pytest.mark.readme
def test_predictions_of_lvvit_s_are_those_stored(shell, clone):
    """predict.py on ten of the hundred scenes, one of each class."""
    config = 'test_tipc/config/TokenLabeling/lvvit_s_linux_gpu_normal_normal_infer_python_linux_gpu_cpu.txt'
    shell(f"bash test_tipc/prepare.sh {config} 'whole_infer'")
    assert (clone / 'dataset/weights/lvvit_s.reference.txt').exists(), 'the scenes are those of the stored predictions'
    val = clone / 'dataset/ILSVRC2012/val'
    images = sorted(val.glob('*/val_0000?.JPEG'))
    assert len({image.parent for image in images}) == len(images) == 10
    weights = '--model lvvit_s --resume dataset/weights/lvvit_s.pdparams'
    shell(f'.venv/bin/python predict.py {weights} --infer_imgs {" ".join(map(str, images))} > predict.log')
    stored = compare_results.read(TIPC / 'results/python_lvvit_s_results_fp32.txt')
    wanted = {str(image.relative_to(val)): stored[str(image.relative_to(val))] for image in images}
    found = compare_results.read(clone / 'predict.log', str(val))
    problems, largest = compare_results.differences(wanted, found, atol=1e-4, rtol=1e-3)
    assert not problems and largest < 1e-4


GRAPHS = 'New Executor is Running'  # what Paddle 3.3 says when it begins to run a static graph
TRAINED = 1 + 1 + 1 + 1 + 1 + 1  # train, eval, export, infer once, predict, compare


@pytest.mark.readme
def test_several_machines_train_too(tipc):
    _, status, folder = tipc('lvvit_t_train_linux_gpu_fleet_normal_infer_python_linux_gpu_cpu', 'lite_train_lite_infer')
    assert count(status) == (TRAINED, 0, 0)
    logs, said = text_of(folder)
    assert {log.parent.name for log in logs} == {'node0', 'node1'} and ' 2 process(es)' in said


@pytest.mark.readme
def test_static_graphs_train_too(tipc):
    name = 'lvvit_t_train_linux_gpu_normal_dy2static_infer_python_linux_gpu_cpu'
    _, status, folder = tipc(name, 'lite_train_lite_infer', TIPC_GPU_LIST='0,1')
    assert count(status) == (TRAINED, 0, 0) and '--to_static' in status[0]
    logs, said = text_of(folder)
    assert [log.name for log in logs] == ['workerlog.0', 'workerlog.1'] and ' 2 process(es)' in said
    assert all(GRAPHS in log.read_text() for log in logs)
