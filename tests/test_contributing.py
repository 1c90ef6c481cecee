"""The worked examples of CONTRIBUTING.md run as they stand."""

import re

import pytest

import models
from conftest import ROOT
from util.data import augment

HEADINGS = ['Add a model', 'Add an augmentation', 'Add an annotator']
SECTIONS = re.split(r'^## ', (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8'), flags=re.M)[1:]


@pytest.mark.parametrize('heading', HEADINGS)
def test_an_example_runs_as_it_stands(heading, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(models, 'FAMILY', dict(models.FAMILY))  # the examples add to these
    monkeypatch.setitem(augment.GEOMETRIC, 'StretchX', None)  # removed again after the test
    (section,) = [section for section in SECTIONS if section.startswith(f'{heading}\n')]
    source = ''.join(re.findall(r'```python\n(.*?)```', section, re.S))
    assert 'assert' in source
    exec(compile(source, f'CONTRIBUTING.md, {heading}', 'exec'), {'__name__': 'example'})
