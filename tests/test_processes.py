"""util/paddle_fixes.py: a loader process does not outlive the main process, however early that ends."""

import os

import pytest

from util.paddle_fixes import begin_worker

pytestmark = pytest.mark.cross_version


@pytest.mark.parametrize('parent, code', [(os.getpid, 0), (lambda: os.getpid() + 1, 1)], ids=['there', 'ended'])
def test_a_worker_goes_on_only_if_the_process_that_started_it_is_its_parent(parent, code):
    parent = parent()
    child = os.fork()
    if child == 0:
        begin_worker(parent, 0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
