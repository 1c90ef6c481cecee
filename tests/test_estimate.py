"""tools/estimate.py: the memory of a training step from shapes against the measured one, and the cost of a training."""

import sys

import pytest

import lv_vit
from conftest import ROOT, words

sys.path.insert(0, str(ROOT / 'tools'))
import estimate

measured = pytest.mark.skipif(lv_vit.PADDLE_2, reason='Paddle 2 cannot count the memory of a step')


@measured
@pytest.mark.parametrize('flags', ['lvvit_nano --batch_size 16', 'vit --batch_size 8'])
def test_memory_is_within_15_percent_of_the_measured_one(flags):
    args = estimate.parser().parse_args(words('--input_size 96 --drop_path 0.1 --model', flags))
    model = estimate.model_info.build(args.model, args.input_size)
    for recompute in (False, True):
        parts = estimate.step_bytes(model, args, recompute)
        states = sum(parts.values()) - parts['activations']
        assert parts['activations'] == pytest.approx(estimate.measure(args, recompute) - states, rel=0.15)


def test_a_recipe_is_counted_in_steps_images_and_operations(run):
    result = run(estimate, '-c', ROOT / 'configs' / 'lvvit_s.yaml', '--processes', 8)
    assert '310 epochs of 1,251 steps with 1,024 images: 397 M images, 1.6e+19' in result.out
    assert '| averaged weights | 105 | 105 |' in result.out and 'float16 (O1)' in result.out
