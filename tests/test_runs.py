"""tools/runs.py and tools/curves.py: what they find, the table, the curves."""

import csv
import json
import sys

import pytest
from PIL import Image
from test_commands import BLOCKS, commands

from tools import curves
from tools import runs as script
from util.args import write_config


def write_run(folder, accuracies, flags=None, **more):
    """A run with these accuracies. flags: of args.yaml; more: keys of every record."""
    folder.mkdir(parents=True)
    with open(folder / 'log.txt', 'w') as log:
        for epoch, accuracy in enumerate(accuracies):
            record = {'epoch': epoch, 'train_loss': 5.0 - epoch, 'test_loss': 2.0, 'test_acc1': accuracy, **more}
            log.write(json.dumps(record) + '\n')
    if flags:
        write_config(str(folder), flags)


@pytest.fixture
def output(tmp_path, monkeypatch):
    """output/a has the better accuracies and ended, output/b is in progress with the averaged weights."""
    monkeypatch.chdir(tmp_path)
    flags = {'epochs': 2, 'cooldown_epochs': 1, 'lr': 0.1, 'output_dir': 'output/a', 'seed': 0, 'model_ema': False}
    write_run(tmp_path / 'output/a', [50.0, 70.25, 60.0], flags, seconds=1200, images_per_second=100.0)
    flags = {**flags, 'lr': None, 'output_dir': 'output/b', 'model_ema': True}
    write_run(tmp_path / 'output/b', [40.0, 45.0], flags, seconds=600, images_per_second=300.0, test_acc1_ema=55.0)
    return tmp_path / 'output'


HEADER = 'run,epochs,planned,last top-1,best top-1,at epoch,last EMA,best EMA,hours,images/s'
ROWS = ['a,3,3,60.00,70.25,1,,,1.000,100.0', 'b,2,3,45.00,45.00,1,55.00,55.00,0.333,300.0']


def test_the_commands_of_the_page_write_the_table_three_times_and_draw(output, run):
    pytest.importorskip('matplotlib')
    ((_, _, _, block),) = [block for block in BLOCKS.values() if block[:2] == ('run', 'runs')]
    results = [run(script, *words[2:]) for words in commands(block)]
    assert [result.code for result in results] == [0, 0], results
    text = [line.split() for line in results[0].out.splitlines()]
    numbers = [[word for word in row.split(',') if word] for row in ROWS]
    assert text[1:] == [[*numbers[0], '--lr=0.1'], [*numbers[1], '--model_ema']]
    rows = [f'{HEADER},--lr,--model_ema', f'{ROWS[0]},0.1,False', f'{ROWS[1]},default,True']
    assert (output / 'runs.csv').read_text().splitlines() == rows
    markdown = (output / 'runs.md').read_text().splitlines()
    assert markdown[0] == f'| {HEADER.replace(",", " | ")} | flags that differ |'
    assert markdown[1].startswith('| --- | --: | --: |') and markdown[1].endswith('| --: | --- |')
    assert markdown[3] == f'| {ROWS[1].replace(",", " | ")} | --model_ema |'
    with Image.open(output / 'runs.png') as image:
        image.load()
        assert min(image.size) > 500


def test_trainings_as_they_are(train, tiny, run):
    train('--epochs 2 --lr 0.01', out='one')
    train('--epochs 1 --lr 0.02', out='other')
    result = run(script, train.folder, '--csv', train.folder / 'runs.csv')
    assert result.code == 0, result.err
    rows = {row['run']: row for row in csv.DictReader((train.folder / 'runs.csv').open())}
    assert {(name, row['epochs'], row['planned'], row['--lr']) for name, row in rows.items()} == {
        ('one', '2', '2', '0.01'),
        ('other', '1', '1', '0.02'),
    }
    flags = [name for name in rows['one'] if name.startswith('--')]
    assert flags == ['--epochs', '--lr'] and float(rows['one']['images/s']) > 0 and rows['one']['hours']


def test_what_is_no_run_is_left_out_and_said(output, run):
    write_run(output / 'a/nested', [10.0])
    write_run(output / 'first_epoch', [])
    (output / 'no_run').mkdir()
    (output / 'b/args.yaml').write_text('lr: [')
    with open(output / 'b/log.txt', 'a') as log:
        log.write('written by tee\n{"epoch": 2, "train_l')
    result = run(script, output / 'no_run', output, output / 'a')
    assert result.code == 0, result.err
    *notes, header, first, second, third = result.out.splitlines()
    assert [line.split()[0] for line in (first, second, third)] == ['a', 'b', 'a/nested'], 'each once'
    for says in (
        'no_run: no log.txt in it or below it, left out',
        'first_epoch: no epoch has ended yet, left out',
        'b/log.txt: 2 line(s) are no records',
        'b/args.yaml: not readable YAML',
    ):
        assert sum(says in line for line in notes) == 1, says
    assert len(notes) == 4


def test_a_second_run_in_the_same_folder_replaces_the_first(output, run):
    with open(output / 'a/log.txt', 'a') as log:
        log.write('{"epoch": 0, "test_acc1": 8.5}\n{"epoch": 1, "test_acc1": 9.5}\n')
    result = run(script, output / 'a')
    assert result.out.splitlines()[1].split() == ['a', '2', '3', '9.50', '9.50', '1']


def test_runs_of_the_port_have_neither_times_nor_flags(tmp_path, run):
    write_run(tmp_path / 'port/lvvit_t', [1.0, 79.6], test_acc5=94.5, n_parameters=8_530_000)
    write_run(tmp_path / 'port/without accuracy', [None, 'NaN'])
    result = run(script, tmp_path)
    assert [line.split() for line in result.out.splitlines()[1:]] == [
        ['lvvit_t', '2', '79.60', '79.60', '1'],
        ['without', 'accuracy', '2'],
    ]


def test_names_have_what_tells_runs_apart():
    assert script.short_names(['x/one/train']) == ['train']
    assert script.short_names(['x/one/train', 'x/two/train']) == ['one/train', 'two/train']
    assert script.short_names(['x/one', 'x/one/student']) == ['one', 'one/student']


def test_refusals(output, refused, monkeypatch):
    (output / 'empty').mkdir()
    assert 'no run found' in refused(script, output / 'empty')
    assert f'{output}/none: there is no such folder' in refused(script, output / 'none')
    assert f'--csv {output}/a/log.txt/x' in refused(script, output, '--csv', output / 'a/log.txt/x')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    assert 'pip install matplotlib' in refused(script, output, '--png', output / 'runs.png')


def test_curves_are_told_apart():
    """By colour; from the eleventh run on by the style of the line too. Names are drawn as they are."""
    pytest.importorskip('matplotlib')
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    runs = [script.Run(str(i), [{'epoch': 0, 'test_acc1': i}], {}) for i in range(40)]
    lines = [curves.draw_line(axes, run, 'test_acc1', i) for i, run in enumerate(runs)]
    assert len({line.get_color() for line in lines[:10]}) == 10
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 40
    assert curves.drawable('_lr$1', 10) == r' _lr\$1' and curves.drawable('0123456789', 5) == ' …6789'
