"""Exponential moving average of a model's weights and statistics."""

import copy

import paddle


class ModelEma:
    """A copy of a model, `module`, whose state becomes decay·old + (1 − decay)·new after every optimizer step."""

    def __init__(self, model, decay=0.9999):
        self.module, self.decay = copy.deepcopy(model), decay
        self.module.eval()
        for p in self.module.parameters():
            p.stop_gradient = True

    @paddle.no_grad()
    def update(self, model):
        """Call after every optimizer step. model: the one that was copied."""
        new = model.state_dict()
        for name, old in self.module.state_dict().items():
            if old.dtype in (paddle.float32, paddle.float64):
                old.scale_(self.decay)
                old.add_(new[name].astype(old.dtype) * (1.0 - self.decay))
            else:
                paddle.assign(new[name], old)
