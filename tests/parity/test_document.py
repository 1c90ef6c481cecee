"""docs/results/fidelity.md has the figures that this suite measured."""

import pytest

from parity.fidelity import DOCUMENT, END, RECORD, RELATIVE, SECTIONS, Row, far_apart


def test_the_document_lists_exactly_the_comparisons_of_this_suite(request):
    session, option = request.session, request.config.option
    if request.config.getoption('--write_fidelity', default=False):
        assert session.testsfailed == 0, 'not written: a comparison failed'
        RECORD.write()
    files = {item.path for item in session.items if item.path.parent == request.path.parent}
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


@pytest.mark.parametrize('tolerance, measured, written', [(5e-6, 5.6e-7, 5e-6), (5e-6, 5.6e-7, 5e-8), (0.0, 0.0, 1e-9)])
def test_a_figure_that_is_far_from_the_measured_one_is_wrong(tolerance, measured, written):
    row = Row('Loss', 'scores', RELATIVE, tolerance, measured, '')
    assert far_apart(row, written) and not far_apart(row, measured) and not far_apart(row, 2 * measured)


def test_every_section_has_rows():
    text = DOCUMENT.read_text(encoding='utf-8')
    assert SECTIONS == [line[4:] for line in text.split(END)[0].splitlines() if line.startswith('### ')]
