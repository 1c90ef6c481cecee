"""docs/results/fidelity.md says what this suite measured."""

import pytest

from parity import fidelity as document
from parity.fidelity import ABSOLUTE, BEGIN, END, RECORD, RELATIVE, SECTIONS, Record, Row, far_apart


def test_the_document_lists_exactly_the_comparisons_of_this_suite(request):
    session = request.session
    if request.config.getoption('--write_fidelity', default=False):
        assert session.testsfailed == 0, 'not written: a comparison failed'
        RECORD.write()
    files = {item.path for item in session.items if item.path.parent == request.path.parent}
    option = request.config.option
    whole = (
        files == set(request.path.parent.glob('test_*.py'))
        and not option.keyword
        and not option.markexpr
        and not any('::' in str(arg) for arg in request.config.args)
        and session.testsfailed == 0
    )
    differences = RECORD.differences(whole)
    assert not differences, 'docs/results/fidelity.md: pytest tests/parity --write_fidelity: ' + '; '.join(differences)
    if not RECORD.rows:
        pytest.skip('no comparison ran')


@pytest.mark.parametrize('factor', [10, 0.1])
@pytest.mark.parametrize(
    'kind, measured', [(RELATIVE, 5.6e-07), (ABSOLUTE, 2e-06), ('relative error', 1.4e-07), ('standard errors', 1.8)]
)
def test_a_figure_that_is_ten_times_off_is_wrong(kind, measured, factor):
    row = Row('Loss', 'scores', kind, 10 * measured, measured, '')
    assert far_apart(row, factor * measured) and not far_apart(row, measured) and not far_apart(row, 2 * measured)


def test_no_difference_is_a_rounding_but_not_a_figure():
    row = Row('Loss', 'scores', RELATIVE, 1e-6, 0.0, '')
    assert not far_apart(row, 1.2e-7) and far_apart(row, 1e-6)
    exact = Row('Loss', 'count', 'count', 0.0, 0.0, '')
    assert not far_apart(exact, 0.0) and far_apart(exact, 1e-9)


def test_the_check_reads_the_figures_of_the_document(tmp_path, monkeypatch):
    record = Record()
    record.add('Loss', 'scores', 5.6e-07, 5e-06)
    page = tmp_path / 'fidelity.md'
    monkeypatch.setattr(document, 'DOCUMENT', page)
    for figure, wrong in (('5.6e-07', False), ('5.6e-06', True), ('5.6e-08', True), ('0', False)):
        page.write_text(f'{BEGIN}\n| scores | {RELATIVE} | 5e-06 | {figure} |\n{END}\n')
        assert bool(record.differences(whole=True)) == wrong, figure


def test_every_section_has_rows():
    """A section without a table would claim that something is compared that is not."""
    text = document.DOCUMENT.read_text(encoding='utf-8')
    assert SECTIONS == [line[4:] for line in text.split(END)[0].splitlines() if line.startswith('### ')]
