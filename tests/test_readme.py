"""The README's commands are tests: every bash block below `<!-- run: … -->` runs as it stands, in a fresh clone."""

import ast
import json
import os
import re
import statistics
import subprocess

import pytest

from conftest import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])
CHINESE = re.compile('[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]')


def text(name):
    return (ROOT / name).read_text(encoding='utf-8')


def blocks(marker, *pages):
    """The scripts below `<!-- run: marker -->` of these pages, README.md if none are named."""
    whole = '\n'.join(map(text, pages or ['README.md']))
    return re.findall(rf'<!-- run: {marker} -->\n```bash\n(.*?)```', whole, re.S)


def test_both_readmes_have_the_same_commands_figures_and_links():
    english, chinese = text('README.md'), text('README_ch.md')
    for pattern in (
        r'```(?:bash|python)\n(.*?)```',
        r'^<!-- (?:not )?run: [^\n]*',
        r'^(#+) ',
        r'\]\((?!README)([^)]+)\)',
    ):
        ours, theirs = (sorted(re.findall(pattern, page, re.S | re.M)) for page in (english, chinese))
        assert ours == theirs, pattern
    rows = [line for line in english.splitlines() if line.startswith('| lvvit_')]
    assert len(rows) == 8 and rows == [line for line in chinese.splitlines() if line.startswith('| lvvit_')]
    assert not CHINESE.search(english.replace('[简体中文]', '')) and len(CHINESE.findall(chinese)) > 2000


@pytest.mark.parametrize('page', PAGES)
def test_files_that_a_page_links_to_or_names_exist(page):
    for link in re.findall(r'\]\((?!http)([^)#]+)\)', text(page)):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    folders = 'util|tools|tests|demo|docs|benchmarks|test_tipc'
    for path in re.findall(rf'`((?:{folders})/[\w./-]+\.(?:py|sh|md|txt|png))', text(page)):
        if page != 'CHANGELOG.md' and 'output' not in path:  # that one names what is gone, too
            assert (ROOT / path).exists(), path


def run(script, folder):
    pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], cwd=folder, timeout=1500, **pipes)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_demo_trains_once(tmp_path):
    """With a stand-in for Python that notes what it is asked for: the second run goes on from the first one's model."""
    for name in ('demo/run.sh', 'tools/venv.sh', '.venv/bin/python'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'demo/run.sh').write_text(text('demo/run.sh'))
    (tmp_path / 'tools/venv.sh').write_text('')
    (tmp_path / '.venv/bin/python').write_text('#!/bin/sh\necho "[12:00: asked for $*"\n')
    (tmp_path / '.venv/bin/python').chmod(0o755)
    assert 'main.py' in run('bash demo/run.sh', tmp_path)
    (epochs,) = re.findall(r'^epochs=(\d+)', text('demo/run.sh'), re.M)
    (tmp_path / 'demo/output/train').mkdir()
    (tmp_path / f'demo/output/train/checkpoint-{int(epochs) - 1}.pd').touch()
    out = run('bash demo/run.sh', tmp_path)
    assert 'main.py' not in out and 'asked for demo/report.py' in out and 'eval.py' in out


def records(page):
    """The records of predict.py in a page."""
    lines = [line for line in page.splitlines() if line.startswith("[{'class_ids'")]
    return [record for line in lines for record in ast.literal_eval(line)]


def test_figures_of_fidelity_in_readme_are_those_of_the_tables():
    found = re.search(
        r'at most (\S+) of the largest, gradients by (\S+), .* by (\S+)\. ', ' '.join(text('README.md').split())
    )
    tables = dict(re.findall(r'^### ([\w ]+)\n\n(.*?)\n\n', text('docs/fidelity.md'), re.S | re.M))
    measured = {
        section: [float(row.rstrip(' |').rpartition(' ')[2]) for row in tables[section].splitlines() if only in row]
        for section, only in (
            ('Forward pass', ' at '),
            ('Gradients', 'the worst of'),
            ('Training', '| loss of each step'),
        )
    }
    scores, gradients, losses = (float(figure) for figure in found.groups())
    assert scores == max(measured['Forward pass']) and [losses] == measured['Training']
    assert gradients / 2 < max(measured['Gradients']) <= gradients


def test_the_demo_has_one_figure_for_seed_0():
    """README has the accuracies of three seeds, whose first the other pages repeat."""
    for page in ('README.md', 'README_ch.md'):
        (seeds,) = re.findall(r'(\d\d\.\d\d)[,、]\s*(\d\d\.\d\d)[,、]\s*(\d\d\.\d\d)\s%', text(page))
        seeds = [float(figure) for figure in seeds]
        assert f'{statistics.mean(seeds):.1f}' in text(page) and f'{statistics.stdev(seeds):.2f}' in text(page)
        evaluated = re.findall(r'^\| \d+ \| .* \| 0 \| ([\d.]+) \|$', text('docs/evaluation.md'), re.M)
        deployed = re.findall(r'\(top-1 ([\d.]+) % in fp32\)', text('docs/deploy.md'))
        assert len(evaluated) == 4 and len(deployed) == 1
        assert {float(figure) for figure in evaluated + deployed} == {seeds[0]}


@pytest.mark.readme
def test_demo_reaches_90_percent_and_the_predictors_agree(clone):
    (script,) = blocks('demo')
    out = run(script, clone)
    assert float(re.search(r'top-1 on digits no training image holds\s+([\d.]+) %', out)[1]) >= 90
    assert 'scores differ by at most' in out
    assert (clone / 'demo/output/tokens.png').stat().st_size > 10_000


@pytest.mark.readme
def test_commands_run_as_they_stand(clone):
    """After the demo, whose model and data they take."""
    scripts = blocks('commands')
    assert len(scripts) == 5
    out = run('\n'.join(scripts), clone)
    assert out.count("'class_ids'") > 400 and 'Inference benchmark' in out
    (sample,) = records(text('README.md'))
    first = json.loads((clone / 'output/predict.json').read_text())[0]  # of the command above it
    assert sample.keys() == first.keys() and sample['file_name'] == first['file_name']
    assert sample['label_names'][0] == first['label_names'][0] and len(sample['scores']) == len(first['scores'])
    assert (clone / 'output/targets.png').stat().st_size > 10_000
    for name in (
        'own/student/checkpoint-best.pd',
        'nano/checkpoint-best.pd',
        'nano.safetensors',
        'classes.csv',
        'predict.json',
        'export/model.json',
    ):
        assert os.path.getsize(clone / 'output' / name) > 0


@pytest.mark.readme
def test_commands_of_the_docs_run_as_they_stand(clone):
    """After those of README.md."""
    scripts = blocks('docs', *(page for page in PAGES if page.startswith('docs/')))
    assert len(scripts) == 4
    out = run('\n'.join(['source .venv/bin/activate', *scripts]), clone)
    assert '| 512 |' in out, 'batch_size.py prints its table'
    for name in ('digit_maps/meta.json', 'packed_maps/label_maps.npy', 'token_targets.png'):
        assert os.path.getsize(clone / 'output' / name) > 0
