"""util/logger.py: console lines, and statistics that are read from the device only when they are shown."""

import paddle
import pytest

from util import logger
from util.errors import UserError


def test_a_smoothed_value_shows_the_median_of_the_window_and_the_mean_of_all():
    value = logger.SmoothedValue(window=3)
    for x in (100, 1, 2, 3):
        value.update(x)
    assert str(value) == '2.0000 (26.5000)' and value.mean == 26.5


def test_tensors_are_read_together_when_flushed(monkeypatch):
    reads, stack = [], paddle.stack
    monkeypatch.setattr(paddle, 'stack', lambda tensors: reads.append(len(tensors)) or stack(tensors))
    meters = logger.MetricLogger({'loss': (4.0, 2)})
    for step, value in enumerate((1.0, 2.0, 8.0)):
        meters.update(step, loss=paddle.to_tensor(value))
    assert reads == [] and meters.totals() == {'loss': (15.0, 5)} and reads == [3]
    assert meters.means() == {'loss': 3.0}


@pytest.mark.parametrize('bad', ['nan', 'inf'])
def test_a_value_that_is_not_finite_is_named_with_its_step(bad):
    meters = logger.MetricLogger()
    for step, value in ((6, 1.0), (7, float(bad)), (8, 1.0)):
        meters.update(step, lr=0.1, loss=paddle.to_tensor(value))
    with pytest.raises(FloatingPointError, match=f'step 7: loss is {bad}'):
        meters.flush()


def test_file_names_break_neither_a_line_nor_the_log_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logger, '_copy', None)
    logger.log_to(str(tmp_path / 'run.log'))
    logger.log('猫\n\x1b[2J\udce9.jpg')
    for text in capsys.readouterr().out, (tmp_path / 'run.log').read_text(encoding='utf-8'):
        assert text.endswith('] 猫\\n\\x1b[2J\\udce9.jpg\n') and text.count('\n') == 1


def test_a_log_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match='run.log: cannot be written to'):
        logger.log_to(str(tmp_path / 'nowhere' / 'run.log'))
