"""The README's commands are tests: every bash block below `<!-- run: … -->` runs as it stands, in a fresh clone."""

import ast
import json
import os
import re
import subprocess

import pytest

from conftest import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')])
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
    assert not CHINESE.search(english.replace('[简体中文]', '')) and len(CHINESE.findall(chinese)) > 1000


@pytest.mark.parametrize('page', PAGES)
def test_files_that_a_page_links_to_or_names_exist(page):
    for link in re.findall(r'\]\((?!http)([^)#]+)\)', text(page)):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    folders = 'util|tools|tests|demo|docs|benchmarks|test_tipc'
    for path in re.findall(rf'`((?:{folders})/[\w./-]+\.(?:py|sh|md|txt|png))', text(page)):
        if page != 'CHANGELOG.md' and not page.startswith('docs/results') and 'output' not in path:
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
    assert len(scripts) == 3
    run('\n'.join(['source .venv/bin/activate', *scripts]), clone)
    for name in ('digit_maps/meta.json', 'packed_maps/label_maps.npy', 'token_targets.png', 'figures/geometry.png'):
        assert os.path.getsize(clone / 'output' / name) > 0
