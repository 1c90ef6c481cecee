"""test_tipc/: its configs fit the scripts, a step that fails or writes too little fails the chain, and the chain runs
on a CPU (tests marked readme). See also test_tipc_prepare.py and test_compare_results.py."""

import importlib
import json
import os
import re
import subprocess

import pytest

from conftest import ROOT

TIPC = ROOT / 'test_tipc'
CONFIGS = sorted(TIPC.glob('config/*/*.txt'))
CAPTURED = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
INFER_ONCE = {41: '--use_gpu:False', 42: '--enable_mkldnn:True', 43: '--cpu_threads:1', 44: '--batch_size:2'}
INFER_ONCE[46] = FP32 = '--precision:fp32'


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
def test_the_scripts_parse_every_command_of_a_config(path):
    lines = read(path)
    field = {n: line.partition(':')[::2] for n, line in enumerate(lines)}
    of_cpu = dict(line.partition(':')[::2] for line in lines[51:])

    def flags(*numbers):
        """The flags of these lines, each with its first choice."""
        choices = [(field[n][0], field[n][1].split('|')[0].split('=')[-1]) for n in numbers]
        return ' '.join(f'{key}={choice or "x"}' for key, choice in choices if 'null' not in (key, choice))

    train = [field[15][1], flags(6, 7, 8, 12), of_cpu.get('train', '')]
    if field[14][1] == 'to_static_train':
        train.append(field[19][1])
    if field[5][0] != 'null':
        train.append(field[5][0])
    exports = [field[29][1], field[37][1]]
    commands = [
        ' '.join(train),
        f'{field[23][1]} --resume=x {of_cpu.get("eval", "")}',
        f'{exports[0]} --resume=x {field[27][0]}=x {of_cpu.get("export", "")}',
        f'{exports[1]} --resume=x {field[27][0]}=x',
        f'{field[39][1]} {flags(*range(40, 48), 49, 50)}',
    ]
    if field[39][1] != 'null':
        predict = [export.partition(' ')[2] for export in exports if export != 'null']
        commands += [f'predict.py {flags_of_export} --resume=x --infer_imgs=x' for flags_of_export in predict]
    commands = [command.split() for command in commands if not command.startswith('null')]
    for script, *words in commands:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / os.path.dirname(script)))
            module = importlib.import_module(os.path.basename(script)[:-3])
        module.parser().parse_args(words)
    assert len(commands) in (1, 4, 7)


# -- the checks of steps -----------------------------------------------------------------------------------------------

ACC = '* Acc@1 {} Acc@5 50.000 loss 6.8 on {} images'
EPOCHS = '{"epoch": 0, "train_loss": 6.9e+00, "test_loss": 6.8}\n{"epoch": 1, "train_loss": %s, "test_loss": %s}'
RECORDS = "[{'class_ids': [1]}, {'class_ids': [2]}]\n"
CHECKS = {  # (function and its arguments after the log, content of the log): a part of what it prints
    ('has_accuracy log 2', ACC.format('50.000', 2)): '',
    ('has_accuracy log 2', ACC.format('50.000', 1)): 'evaluated 1 of 2 images',
    ('has_accuracy log 0', ACC.format('0.000', 0)): 'evaluated 0 of 0 images',
    ('has_accuracy log 2', ACC.format('101.000', 2)): 'an accuracy of 101.000 %',
    ('has_accuracy log 2', ACC.format('nan', 2)): "no line '* Acc@1",
    ('has_epochs log 0 1', EPOCHS % (6.8, 6.7)): '',
    ('has_epochs log 1 1', EPOCHS % ('-6.8e-01', 6.7)): '',
    ('has_epochs log 0 2', EPOCHS % (6.8, 6.7)): 'log has no epoch 2',
    ('has_epochs log 0 1', EPOCHS % ('NaN', 6.7)): 'train_loss of epoch 1',
    ('has_epochs log 0 1', EPOCHS % (6.8, 'Infinity')): 'test_loss of epoch 1',
    ('has_processes log nowhere 2', 'Paddle 3.3.1 on cpu, 2 process(es). CPU'): '',
    ('has_processes log nowhere 2', 'Paddle 3.3.1 on cpu, 1 process(es). CPU'): 'did not train as 2 process(es)',
    ('has_records log images False', RECORDS): '',
    ('has_records log images False', RECORDS[:22] + ']'): 'predictions for 1 of the 2 images',
    ('has_records log nowhere False', RECORDS): 'no images in nowhere',
    ('has_records log images True', RECORDS): "no line 'preprocess_time(ms)'",
    ('has_records log images True', RECORDS + 'preprocess_time(ms): 1.0'): '',
    ('has_file log', ''): 'wrote no log',
}


@pytest.mark.parametrize('case', CHECKS, ids=str)
def test_a_check_prints_what_is_missing(case, tmp_path):
    call, content = case
    (tmp_path / 'log').write_text(content)
    (tmp_path / 'images/class').mkdir(parents=True)
    for name in ('a.JPEG', 'b.png', 'c.txt'):
        (tmp_path / 'images/class' / name).touch()
    done = subprocess.run(['bash', '-c', f'source {TIPC}/common_func.sh; {call}'], cwd=tmp_path, **CAPTURED)
    assert CHECKS[case] in done.stdout and bool(done.stdout) == bool(CHECKS[case])


# -- the chain, with a script in place of Python -----------------------------------------------------------------------

PYTHON = r"""#!/bin/sh
# Writes what the project's commands write. FAIL: part of the command that fails.
case "$*" in *"$FAIL"*) [ -z "$FAIL" ] || { echo out of luck; exit 3; } ;; esac
processes=1 epochs=0
for word; do
    case $word in
        --output_dir=*) out=${word#*=} ;;
        --output=*) file=${word#*=} ;;
        --epochs=* | --cooldown_epochs=*) epochs=$((epochs + ${word#*=})) ;;
        --gpus=0,1 | 2) processes=2 ;;  # 2: --nproc_per_node 2
    esac
done
case "$*" in
    -c*) echo gpus "${GPUS:-0}" ;;
    *main.py*)
        echo "Paddle, $processes process(es)."
        mkdir -p "$out"
        echo weights > "$out/checkpoint-latest.pd"
        for epoch in $(seq 0 $((epochs - 1))); do
            echo "{\"epoch\": $epoch, \"train_loss\": 6.9, \"test_loss\": 6.8}"
        done > "$out/log.txt" ;;
    *eval.py*) echo '* Acc@1 50.000 Acc@5 50.000 loss 6.8 on 2 images' ;;
    *export_model.py*) mkdir -p "$out"; echo graph > "$out/model.pdmodel"; echo weights > "$out/model.pdiparams" ;;
    *quantize.py*) mkdir -p "$out"; echo graph > "$out/model.xml" ;;
    *export_onnx.py*) echo graph > "$file" ;;
    *compare_results.py*) echo agree with ;;
    *predict.py* | *infer.py*) echo "preprocess_time(ms): 1 [{'class_ids': [1]}, {'class_ids': [1]}]" |
        sed "s/, {/, \n{/" ;;
esac
"""


@pytest.fixture
def chain(tmp_path):
    """chain(mode) -> (exit code, output, status lines), in a copy of test_tipc/ whose path has a blank."""
    root = tmp_path / 'a project'
    (root / 'test_tipc/config').mkdir(parents=True)
    for name in ('common_func.sh', 'test_train_inference_python.sh'):
        (root / 'test_tipc' / name).write_bytes((TIPC / name).read_bytes())
    config = root / 'test_tipc/config/tiny.txt'
    python = tmp_path / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)
    data = root / 'dataset/ILSVRC2012'
    for name in ('n1/a.JPEG', 'n2/a.JPEG'):
        (data / 'val' / name).parent.mkdir(parents=True)
        (data / 'val' / name).write_text('an image')
    (data / 'val_list.txt').write_text('val/n1/a.JPEG 1\nval/n2/a.JPEG 2\n')
    (root / 'dataset/weights').mkdir()
    (root / 'dataset/weights/lvvit_t.pdparams').write_text('weights')

    def call(mode='lite_train_lite_infer', gpu_list='0', lines=None, **env):
        """lines: {number as in docs/test_train_inference_python.md: a line in place of that of lvvit_t.txt or FP32}."""
        text = read(TIPC / 'config/TokenLabeling/lvvit_t.txt')
        for number, line in {4: f'gpu_list:{gpu_list}', 46: FP32, **(lines or {})}.items():
            text[number - 1] = line
        config.write_text('\n'.join(text))
        env = {**os.environ, 'PYTHON': str(python), 'TIPC_DEVICE': '', 'TIPC_GPU_LIST': '', **env}
        command = ['bash', str(root / 'test_tipc/test_train_inference_python.sh'), str(config), mode]
        done = subprocess.run(command, cwd=tmp_path, env=env, **CAPTURED)
        log = root / f'test_tipc/output/config/tiny/{mode}/results_python.log'
        return done.returncode, done.stdout, read(log) if log.exists() else []

    return call


SUCCESS, FAILURE, NOT_RUN = 'Run successfully with command - ', 'Run failed with command - ', 'Not run: '


def count(status):
    """(successes, failures, not run); each status line is one of these."""
    found = [sum(line.startswith(start) for line in status) for start in (SUCCESS, FAILURE, NOT_RUN)]
    assert sum(found) == len(status) and all(line.endswith(' ! ') for line in status)
    return tuple(found)


STEPS = 1 + 1 + 1 + (2 + 8) + 1 + 1  # train, eval, export, infer on GPU (batch 2) and CPU (2 x 2 x 2), predict, compare


def test_on_a_cpu_the_chain_runs_the_cpu_form(chain):
    code, out, status = chain(gpu_list='0,1')
    assert code == 0, out
    assert ' --nproc_per_node 2 --backend gloo main.py ' in status[0]
    assert status[0].count('--input_size=64 --token_label_size=4') == 1 and '--batch_size=8' in status[0]
    assert not any('--use_gpu=True' in line for line in status)
    assert count(status) == (STEPS - 2, 0, 2) and f'{STEPS - 2} steps ran, 0 failed, 2 not run' in out
    assert all(re.fullmatch(r'(.*) command - lvvit_t - .* - .*\.log ! ', line) for line in status if 'Not' not in line)
    label = 'norm_train_gpus_0,1_autocast_null gpu_usetrt_False_precision_fp32_batchsize_1.log'
    assert status[3] == f'Not run: there is no GPU here - lvvit_t - infer {label} ! '


def test_on_gpus_the_commands_are_those_of_the_config(chain):
    code, out, status = chain(gpu_list='0|0,1', GPUS='2')
    assert code == 0 and count(status) == (2 * STEPS, 0, 0), out
    text = '\n'.join(status)
    assert ' - env CUDA_VISIBLE_DEVICES=0 ' in status[0] and ' --gpus=0,1 main.py ' in text
    assert '--input_size=64' not in text and 'gloo' not in text
    assert '--use_gpu=True --use_tensorrt=False --batch_size=2 --precision=fp32' in text


@pytest.mark.parametrize('script', 'main.py eval.py export_model.py infer.py predict.py compare_results.py'.split())
def test_a_step_that_fails_fails_the_chain(chain, script):
    code, out, status = chain(FAIL=script)
    assert code == 1 and 'out of luck' in out and 'exit code 3' in out
    assert script in next(line for line in status if line.startswith(FAILURE))
    assert len(status) == STEPS, 'every step has a line'
    if script == 'main.py':
        assert count(status) == (0, 1, STEPS - 1) and all('no checkpoint - ' in line for line in status[1:])


def test_whole_infer_compares_with_predict_py_eval_py_and_stored_predictions(chain, tmp_path):
    code, out, status = chain('whole_infer', lines=INFER_ONCE)
    assert code == 0 and count(status) == (5, 0, 0), out  # eval, export, infer, predict, compare
    assert 'predict.py --model=lvvit_t --resume=./dataset/weights/lvvit_t.pdparams --infer_imgs=' in status[3]
    assert '--acc1=50.000 --cls_label_path=./dataset/ILSVRC2012/val_list.txt' in status[4]
    assert 'lvvit_t/predict.log ' in status[4] and '--atol=1e-4' in status[4]
    (tmp_path / 'a project/dataset/weights/lvvit_t.reference.txt').touch()
    code, out, status = chain('whole_infer', lines=INFER_ONCE)
    assert code == 0 and count(status) == (6, 0, 0)
    assert '--gt_file=./dataset/weights/lvvit_t.reference.txt' in status[5]


def test_what_cannot_run_here_is_named_and_a_chain_in_which_nothing_ran_fails(chain):
    code, out, status = chain(lines={46: '--precision:fp32|fp16'})
    assert code == 0 and count(status) == (STEPS - 2, 0, 2 * 2 + 8)
    assert sum(line.startswith('Not run: fp16 needs a GPU - lvvit_t - infer ') for line in status) == 8
    code, out, status = chain(lines={46: '--precision:bf16|int8'})
    assert code == 0 and sum(line.startswith('Not run: bf16 on a CPU needs oneDNN') for line in status) == 4
    assert sum(line.startswith('Not run: calibration for int8 needs 32 images') for line in status) == 4
    code, out, status = chain(lines={41: '--use_gpu:True'})
    assert code == 1 and 'no inference of lines 41 to 46 can run here' in out and 'Run failed' not in out
    code, out, _ = chain(lines={15: 'trainer:pact_train'})
    assert code == 1 and 'nothing of what' in out


def test_int8_runs_a_model_that_is_quantised_for_the_cpu_where_nncf_is_installed(chain, tmp_path):
    train = tmp_path / 'a project/dataset/ILSVRC2012/train'
    train.mkdir()
    for i in range(32):
        (train / f'{i}.JPEG').touch()
    code, out, status = chain(lines={46: '--precision:fp32|int8'})
    assert code == 0, out
    (made,) = [line for line in status if 'tools/quantize.py' in line]
    for part in ('--images=./dataset', '--model=lvvit_t --resume=', '--input_size=64', '/int8 - '):
        assert part in made
    ran = [line for line in status if line.startswith(SUCCESS) and '--precision=int8' in line]
    assert len(ran) == 4 and all('/int8/model.xml ' in line and '--params_file' not in line for line in ran)
    not_run = [line for line in status if line.startswith(NOT_RUN)]
    assert sum('int8 runs in OpenVINO' in line for line in not_run) == 4
    code, out, status = chain(lines={46: '--precision:fp32|int8'}, FAIL='import nncf')
    assert code == 0 and not any('quantize' in line for line in status)
    assert sum('Not run: int8 needs NNCF and OpenVINO' in line for line in status) == 4
    code, out, status = chain(lines={46: '--precision:fp32|int8'}, FAIL='quantize.py')
    assert code == 1 and sum('there is no quantised model' in line for line in status) == 4


def test_missing_gpus_machines_and_images_fail_the_chain_and_are_named(chain, tmp_path):
    code, out, status = chain(gpu_list='0|0,1', GPUS='1')
    assert code == 1 and 'GPU 1 is asked for, this machine has 1' in out and count(status) == (STEPS, 0, STEPS)
    assert chain(gpu_list='0|0,1', GPUS='1', TIPC_GPU_LIST='0')[0] == 0
    code, out, _ = chain(gpu_list='198.51.100.1,198.51.100.2;0,1', GPUS='2')
    assert code == 1 and 'none of 198.51.100.1,198.51.100.2 is this machine' in out
    for file in tmp_path.glob('a project/dataset/ILSVRC2012/val/*/*'):
        file.unlink()
    code, out, _ = chain()
    assert code == 1 and 'no images in ./dataset/ILSVRC2012/val' in out


def test_whole_training_has_its_published_size_and_keeps_the_results_of_the_run_before(chain, tmp_path):
    results = tmp_path / 'a project/test_tipc/output/config/tiny/whole_train_whole_infer'
    results.mkdir(parents=True)
    (results / 'results_python.log').write_text('the run before')
    code, out, status = chain('whole_train_whole_infer')
    assert code == 0, out
    assert '--input_size=64' not in status[0] and '--epochs=300 ' in status[0] and '--batch_size=128' in status[0]
    assert (results.with_suffix('.old') / 'results_python.log').read_text() == 'the run before'


def test_an_unknown_mode_or_config_is_one_line():
    for config, mode, expected in (('lvvit_t.txt', 'lite', "mode 'lite'"), ('no.txt', 'whole_infer', 'no.txt')):
        words = [TIPC / 'test_train_inference_python.sh', TIPC / 'config/TokenLabeling' / config, mode]
        done = subprocess.run(['bash', *words], capture_output=True, text=True)
        assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1


# -- the chain itself, on a CPU ----------------------------------------------------------------------------------------


def script(marker):
    """The bash block of test_tipc/README.md below `<!-- run: marker -->`."""
    text = (TIPC / 'README.md').read_text(encoding='utf-8')
    (block,) = re.findall(rf'<!-- run: {marker} -->\n```bash\n(.*?)```', text, re.S)
    return block


@pytest.fixture
def shell(clone):
    """shell(script, **environment) -> output of a script that must succeed, in the clone."""

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
    """tipc(config, mode, {line number: line}) -> (status lines, folder) of the two commands."""

    def call(name, mode, lines, commands=None, **environment):
        config = f'test_tipc/config/TokenLabeling/{name}.txt'
        text = read(clone / config)
        for number, line in lines.items():
            text[number - 1] = line
        (clone / config).write_text('\n'.join(text) + '\n')
        both = [f"bash test_tipc/{s}.sh {config} '{mode}'" for s in ('prepare', 'test_train_inference_python')]
        shell(commands or '\n'.join(both), TIPC_DEVICE='cpu', **environment)
        folder = clone / f'test_tipc/output/TokenLabeling/{name}/{mode}'
        return read(folder / 'results_python.log'), folder

    return call


def launcher_logs(folder):
    """(paths, whole text) of the logs of a training's processes."""
    logs = sorted(folder.rglob('workerlog.*'))
    return logs, '\n'.join(log.read_text() for log in logs)


TRAIN_ONLY = {24: 'eval:null', 30: 'norm_export:null'}


@pytest.mark.readme
def test_the_commands_of_the_page_run_the_chain(tipc):
    """With one run of infer.py in place of eight."""
    status, folder = tipc('lvvit_t', 'lite_train_lite_infer', INFER_ONCE, script('tipc'))
    assert count(status) == (2 * 6, 0, 0)  # as one process and as two: train, eval, export, infer, predict, compare
    logs, text = launcher_logs(folder)
    assert [log.name for log in logs] == ['workerlog.0', 'workerlog.1'] and ' 2 process(es)' in text
    for label in ('0', '0,1'):
        log = folder / f'norm_train_gpus_{label}_autocast_null/log.txt'
        assert [json.loads(line)['epoch'] for line in read(log)] == [0, 1]
        compare = (folder / f'norm_train_gpus_{label}_autocast_null/compare.log').read_text()
        assert ': 20 predictions agree with ' in compare and ' and an accuracy of ' in compare


@pytest.mark.readme
def test_predictions_of_lvvit_t_are_those_stored(tipc, shell):
    name = 'lvvit_t_linux_gpu_normal_normal_infer_python_linux_gpu_cpu'
    status, folder = tipc(name, 'whole_infer', INFER_ONCE)
    assert count(status) == (6, 0, 0)  # eval, export, infer, predict, compare, compare with what is stored
    assert ': 20 predictions agree with ' in (folder / 'lvvit_t/compare_stored.log').read_text()
    assert '20 predictions agree with test_tipc/results/python_lvvit_t_results_fp32.txt' in shell(script('compare'))


@pytest.mark.readme
def test_several_machines_train(tipc):
    name = 'lvvit_t_train_linux_gpu_fleet_normal_infer_python_linux_gpu_cpu'
    status, folder = tipc(name, 'lite_train_lite_infer', TRAIN_ONLY)
    assert count(status) == (1, 0, 0)
    logs, text = launcher_logs(folder)
    assert {log.parent.name for log in logs} == {'node0', 'node1'} and ' 2 process(es)' in text


@pytest.mark.readme
def test_static_graphs_train(tipc):
    name = 'lvvit_t_train_linux_gpu_normal_dy2static_infer_python_linux_gpu_cpu'
    lines = {**TRAIN_ONLY, 34: 'export1:null'}
    status, folder = tipc(name, 'lite_train_lite_infer', lines, TIPC_GPU_LIST='0,1')
    assert count(status) == (1, 0, 0) and '--to_static' in status[0]
    logs, text = launcher_logs(folder)
    assert [log.name for log in logs] == ['workerlog.0', 'workerlog.1'] and ' 2 process(es)' in text
    # Paddle 3.3 logs this when it starts to run a static graph
    assert all('New Executor is Running' in log.read_text() for log in logs)
