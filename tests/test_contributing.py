"""The worked examples of CONTRIBUTING.md run as they stand."""

import re
from pathlib import Path

import pytest

import models
from util.data import auto_augment

ROOT = Path(__file__).resolve().parents[1]


def examples():
    """{heading: the Python block below it} of CONTRIBUTING.md."""
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    sections = re.split(r'^## ', text, flags=re.M)[1:]
    found = {section.splitlines()[0]: re.findall(r'```python\n(.*?)```', section, re.S) for section in sections}
    return {heading: ''.join(blocks) for heading, blocks in found.items() if blocks}


@pytest.mark.parametrize('heading', ['Add a model', 'Add an augmentation', 'Add an annotator'])
def test_an_example_runs_as_it_stands(heading, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(models, 'FAMILY', dict(models.FAMILY))  # the examples add to these
    monkeypatch.setattr(auto_augment, 'GEOMETRIC', dict(auto_augment.GEOMETRIC))
    source = examples()[heading]
    assert 'assert' in source
    exec(compile(source, f'CONTRIBUTING.md, {heading}', 'exec'), {'__name__': 'example'})


def test_every_example_is_run():
    assert list(examples()) == ['Add a model', 'Add an augmentation', 'Add an annotator']
