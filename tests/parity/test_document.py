"""docs/results/fidelity.md has the figures that this suite measured."""

import pytest

from parity.fidelity import RECORD


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
