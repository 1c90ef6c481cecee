"""Exponential moving average of a model's weights and statistics."""

import paddle


class ModelEma:
    """Keeps `module`, a second model whose state is decay·old + (1 − decay)·new after every optimizer step.

    module: a model of the same architecture (its weights are overwritten by `model`'s).
    """

    def __init__(self, module, model, decay=0.9999):
        self.module, self.decay = module, decay
        self.module.eval()
        for p in self.module.parameters():
            p.stop_gradient = True
        self.module.set_state_dict(model.state_dict())

    @paddle.no_grad()
    def update(self, model):
        new = model.state_dict()
        for name, old in self.module.state_dict().items():
            if old.dtype in (paddle.float32, paddle.float64):
                old.scale_(self.decay)
                old.add_(new[name].astype(old.dtype) * (1.0 - self.decay))
            else:
                paddle.assign(new[name], old)
