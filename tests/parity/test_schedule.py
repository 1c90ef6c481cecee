"""The learning rate of a recipe in configs/ against the original's scheduler, timm's, with the original's defaults."""

from types import SimpleNamespace

import pytest

import main
from conftest import ROOT
from util.train.lr_sched import lr_at

ORIGINAL = dict(sched='cosine', epochs=300, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5, cooldown_epochs=10, seed=42)


def test_learning_rates_of_a_recipe_are_those_of_the_original(original):
    weight = original.torch.nn.Parameter(original.torch.zeros(1))
    optimizer = original.torch.optim.AdamW([weight], lr=1.6e-3)
    args = SimpleNamespace(**ORIGINAL, lr_noise=None, decay_rate=0.1)
    scheduler, epochs = original.timm.scheduler.create_scheduler(args, optimizer)
    recipe = main.parser().parse_args(['-c', str(ROOT / 'configs' / 'lvvit_s.yaml')])
    assert epochs == recipe.epochs + recipe.cooldown_epochs == 310
    for epoch in (0, 4, 5, 150, 299, 300, 309):
        scheduler.step(epoch)
        ours = lr_at(
            epoch + 0.9,
            recipe.lr,
            recipe.min_lr,
            recipe.warmup_lr,
            recipe.epochs,
            recipe.warmup_epochs,
            in_epochs=recipe.t_in_epochs,
            over_warmup=recipe.cosine_over_warmup,
        )
        assert ours == pytest.approx(optimizer.param_groups[0]['lr'], rel=1e-12), epoch
