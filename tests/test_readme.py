"""The README's commands are tests: every bash block below `<!-- run: … -->` runs as it stands, in a fresh clone."""

import os
import re
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def blocks(name, marker=r'[^\n]*'):
    with open(os.path.join(ROOT, name), encoding='utf-8') as f:
        return re.findall(rf'<!-- run: ({marker}) -->\n```bash\n(.*?)```', f.read(), re.S)


def all_blocks(name):
    with open(os.path.join(ROOT, name), encoding='utf-8') as f:
        return re.findall(r'```bash\n(.*?)```', f.read(), re.S)


def test_both_readmes_have_the_same_commands():
    assert all_blocks('README.md') == all_blocks('README_ch.md')
    assert blocks('README.md') == blocks('README_ch.md')


def test_paths_named_in_the_readmes_exist():
    for name in ('README.md', 'README_ch.md'):
        with open(os.path.join(ROOT, name), encoding='utf-8') as f:
            links = re.findall(r'\]\((?!http)([^)#]+)\)', f.read())
        assert links
        for link in links:
            assert os.path.exists(os.path.join(ROOT, link)), f'{name}: {link}'


def run(script, folder):
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', script],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1500,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.readme
def test_demo_reaches_90_percent_and_the_predictors_agree(clone):
    ((_, script),) = blocks('README.md', 'demo')
    out = run(script, clone)
    accuracy = float(re.search(r'top-1 on digits no training image holds\s+([\d.]+) %', out).group(1))
    assert accuracy >= 90.0
    assert 'scores differ by at most' in out
    assert (clone / 'demo/output/tokens.png').stat().st_size > 10_000


@pytest.mark.readme
def test_demo_again_reuses_what_is_there(clone):
    out = run('./demo/run.sh', clone)
    assert 'main.py' not in out and 'scores differ by at most' in out


@pytest.mark.readme
def test_commands_run_as_they_stand(clone):
    scripts = [script for _, script in blocks('README.md', 'commands')]
    assert len(scripts) == 6
    out = run('\n'.join(scripts), clone)
    assert out.count("'class_ids'") > 400 and 'Inference benchmark' in out
    assert (clone / 'output/targets.png').stat().st_size > 10_000
    assert (clone / 'output/nano/checkpoint-best.pd').exists() and (clone / 'output/export/model.json').exists()
