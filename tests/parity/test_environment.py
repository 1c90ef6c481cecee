"""The parity suite compares with the published package."""

import os

import pytest

from parity.original import ABSENT, REASON


@pytest.mark.skipif(bool(ABSENT) and 'PARITY' not in os.environ, reason=REASON)  # tests/run.sh sets it
def test_the_original_is_the_published_package_at_the_pinned_versions():
    from importlib import metadata

    assert metadata.version('tlt') == '0.2.0'
    assert metadata.version('timm-clean') == '0.4.12'
    assert metadata.version('torch').split('+')[0] == '2.13.0'
