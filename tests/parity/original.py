"""The original's own code (`tlt`, `timm` and their `torchvision`), loaded beside a CPU build of PyTorch."""

import contextlib
import importlib
import importlib.util
import os
import sys
import types

PACKAGES = ('torch', 'torchvision', 'timm', 'tlt')
MODULES = (  # `torchvision.ops.roi_align` and `tlt.models.lvvit` are functions beside modules of that name
    'torchvision.ops.roi_align torchvision.transforms.functional timm.data.auto_augment timm.data.random_erasing '
    'timm.data.transforms_factory timm.models.layers timm.optim timm.scheduler timm.utils '
    'tlt.data.label_transforms_factory tlt.data.mixup tlt.data.random_augment_label tlt.loss tlt.models.layers '
    'tlt.models.lvvit tlt.utils'
).split()
ABSENT = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
REASON = (
    f"the parity suite needs PyTorch and the original's code ({', '.join(ABSENT)} not installed): "
    'pip install -r tests/parity/requirements.txt && '
    'pip install --no-deps -r tests/parity/requirements-nodeps.txt'
)


@contextlib.contextmanager
def _missing_operators_tolerated(torch):
    """torchvision describes its compiled operators to PyTorch while it is imported. The wheel of PyPI is built for
    CUDA and its operators do not load beside a CPU PyTorch; nothing here needs them, so the descriptions may fail."""
    register_fake = torch.library.register_fake

    def tolerant(operator, *args, **kwargs):
        def decorate(function):
            with contextlib.suppress(RuntimeError):
                return register_fake(operator, *args, **kwargs)(function)
            return function

        return decorate

    torch.library.register_fake = tolerant
    try:
        yield
    finally:
        torch.library.register_fake = register_fake


def load():
    """The original as a namespace: torch, torchvision, timm, tlt, with every submodule that tests use imported;
    `lvvit` is the module tlt.models.lvvit, which a function of that name hides.

    torchvision's compiled RoIAlign is replaced by torchvision's own pure Python transcription of it.
    """
    import torch

    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS') or 1))  # as many as Paddle has
    with _missing_operators_tolerated(torch):
        for name in MODULES:
            importlib.import_module(name)
    modules = {name: sys.modules[name] for name in PACKAGES}
    modules['tlt'].data.mixup.roi_align = _python_roi_align
    return types.SimpleNamespace(**modules, lvvit=sys.modules['tlt.models.lvvit'])


def _python_roi_align(input, boxes, output_size):
    """torchvision.ops.roi_align with its defaults (scale 1, adaptive sampling, not aligned), for channels that are not
    all zeros (of others the result is zero) and a few at a time: the transcription holds H·W numbers for every number
    of the result."""
    import torch

    module = sys.modules['torchvision.ops.roi_align']
    function = getattr(module._roi_align, '__wrapped__', module._roi_align)  # not compiled: that needs a C++ compiler
    used = input.abs().amax(dim=(0, 2, 3)).nonzero().flatten()
    result = torch.zeros(len(boxes), input.shape[1], *output_size)
    for channels in used.split(4):
        result[:, channels] = function(input[:, channels], boxes, 1.0, *output_size, -1, False)
    return result
