"""The commands of README.md and docs/ are tests: every bash block below `<!-- run: NAME -->` runs in a fresh clone."""

import ast
import json
import re
import subprocess
import sys

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


def run(script, folder):
    """Output of a script that must succeed."""
    pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], cwd=folder, timeout=1500, **pipes)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


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
    folders = 'util|tools|tests|demo|docs|seg|benchmarks|test_tipc'
    for path in re.findall(rf'`((?:{folders})/[\w./-]+\.(?:py|sh|md|txt|png))', text(page)):
        if page != 'CHANGELOG.md' and not page.startswith('docs/results/') and 'output' not in path:
            assert (ROOT / path).exists(), path  # those two name deleted files


@pytest.mark.readme
def test_the_demo_learns_and_the_predictors_agree(clone):
    """With 8 epochs in place of 14, after which it reaches 98 %."""
    path = clone / 'demo/run.sh'
    assert path.read_text().count('epochs=14\n') == 1
    path.write_text(path.read_text().replace('epochs=14\n', 'epochs=8\n'))
    (script,) = blocks('demo')
    out = run(script, clone)
    assert float(re.search(r'top-1 on unseen digits\s+([\d.]+) %', out)[1]) >= 80
    assert 'scores differ by at most' in out
    assert (clone / 'demo/output/tokens.png').stat().st_size > 10_000


@pytest.mark.readme
@pytest.mark.skipif(sys.version_info < (3, 10), reason='NNCF needs Python 3.10')
def test_int8_of_the_demo_has_the_best_classes_of_float32(clone):
    """After the demo, whose model and data it uses."""
    run('\n'.join(['source .venv/bin/activate', *blocks('int8', 'docs/deploy.md')]), clone)
    float32, int8 = (
        {record['file_name']: record['class_ids'][0] for record in json.loads((clone / name).read_text())}
        for name in ('demo/output/infer.json', 'output/int8.json')
    )
    same = sum(float32[name] == best for name, best in int8.items())
    assert float32.keys() == int8.keys() and same >= 0.99 * len(int8)


@pytest.mark.readme
def test_the_demo_of_segmentation_starts_from_the_checkpoint_of_the_demo(clone):
    out = run('seg/demo.sh --iters 20', clone)
    assert 'trained weights (model) of demo/output/train/checkpoint-best.pd' in out and 'mIoU: ' in out
    assert len(list(clone.glob('demo/output/seg/predictions/added_prediction/**/*.*'))) == 10
    assert (clone / 'demo/output/seg/export/deploy.yaml').exists()


@pytest.mark.readme
def test_commands_on_the_data_of_that_demo_run(clone):
    out = run('\n'.join(['source .venv/bin/activate', *blocks('segmentation', 'docs/segmentation.md')]), clone)
    assert 'mIoU: ' in out
    assert len(list(clone.glob('output/seg_predict/added_prediction/*.png'))) == 20
    assert (clone / 'output/seg_export/deploy.yaml').exists()


@pytest.mark.readme
def test_commands_of_the_readme_run(clone):
    """After the demo, whose model and data they use: a quarter of its training scenes."""
    for i, path in enumerate(sorted(clone.glob('demo/output/digits/train/*/*.JPEG'))):
        if i % 4:
            path.unlink()
    out = run('\n'.join(blocks('commands')), clone)
    (sample,) = re.findall(r"^\[\{'class_ids'.*", text('README.md'), re.M)
    (sample,) = ast.literal_eval(sample)
    first = json.loads((clone / 'output/predict.json').read_text())[0]  # of the command above it
    assert sample.keys() == first.keys() and sample['file_name'] == first['file_name'] and "'class_ids'" in out
    assert sample['label_names'][0] == first['label_names'][0] and len(sample['scores']) == len(first['scores'])


@pytest.mark.readme
def test_commands_of_the_docs_run(clone):
    """After those of README.md."""
    scripts = blocks('docs', *(page for page in PAGES if page.startswith('docs/')))
    run('\n'.join(['source .venv/bin/activate', *scripts]), clone)
    figures = {path.name for path in clone.glob('output/figures/*')}
    assert figures == {'geometry.png', 'demo_tokens.png', 'rollout.png', 'demo_targets.png'}
