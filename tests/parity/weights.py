"""The same model in both frameworks with the same weights."""

import numpy as np
import paddle

import models
from util.weights import torch_file

STEMS = {'naive': 1, '4_2': '4_2', '4_2_128': '4_2_128'}  # our `stem` -> the original's `p_emb`


def theirs_of(original, name, img_size=224, num_classes=1000, **changes):
    """The original's LV_ViT with the numbers of models.FAMILY[name]; changes override its arguments.

    Its own functions of these names, where it has them, take no depth or width; test_forward compares the two.
    """
    ours = models.FAMILY[name].architecture
    arguments = dict(
        patch_size=16,
        mlp_ratio=3.0,
        embed_dim=ours.get('embed_dim', 384),
        depth=ours.get('depth', 16),
        num_heads=ours.get('num_heads', 6),
        skip_lam=ours.get('skip_lam', 1.0),
        p_emb=STEMS[ours.get('stem', '4_2')],
        return_dense=ours.get('return_dense', True),
        mix_token=ours.get('return_dense', True),
        img_size=img_size,
        num_classes=num_classes,
    )
    return original.lvvit.LV_ViT(**{**arguments, **changes})


def arrays(state):
    """{name: numpy array} of a state dict of either framework."""
    return {name: np.asarray(value.detach() if hasattr(value, 'detach') else value) for name, value in state.items()}


def in_our_terms(state):
    """The original's tensors by name as {our name: numpy array in our layout}, without BatchNorm's counters."""
    return torch_file.to_paddle(arrays(state))


def random_state(model, seed):
    """Weights in which nothing is trivial: no bias 0, no norm 1, attention far from uniform, statistics positive."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, p in model.state_dict().items():
        normal = rng.standard_normal(p.shape, dtype='float32')
        if name.endswith('._variance'):
            state[name] = rng.uniform(0.5, 2.0, p.shape).astype('float32')
        elif name.endswith('.bias') or name.endswith('._mean') or name in ('cls_token', 'pos_embed'):
            state[name] = 0.2 * normal
        elif p.ndim == 1:  # scale of a norm
            state[name] = 1.0 + 0.2 * normal
        else:
            fan_in = p.shape[0] if p.ndim == 2 else np.prod(p.shape[1:])
            state[name] = normal / np.float32(np.sqrt(fan_in))
    return state


def load_theirs(original, theirs, state):
    """Set all of the original's weights from arrays named and laid out as ours; another set of names is an error."""
    tensors = {
        name: original.torch.from_numpy(np.array(value))  # a copy: it is trained in place
        for name, value in torch_file.to_torch(arrays(state)).items()
    }
    theirs.load_state_dict(tensors, strict=True)


def pair(original, name, img_size=224, num_classes=1000, seed=0, **changes):
    """(ours, theirs) with equal random weights (see random_state)."""
    ours = models.build_model(name, img_size=img_size, num_classes=num_classes, **changes)
    theirs = theirs_of(original, name, img_size, num_classes, **changes)
    state = random_state(ours, seed)
    ours.set_state_dict(state)
    load_theirs(original, theirs, state)
    return ours, theirs


def inject_box(monkeypatch, original, box):
    """Let the original's next training forwards mix this MixToken box."""
    monkeypatch.setattr(original.lvvit, 'rand_bbox', lambda size, lam: box)


def difference(ours, theirs):
    """max |ours − theirs| / max |theirs| of two arrays or tensors, in float64."""
    ours, theirs = (np.asarray(x.detach() if hasattr(x, 'detach') else x, 'float64') for x in (ours, theirs))
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def image(seed, batch, size):
    """Random numbers [batch, 3, size, size] like those of normalised images, with smooth structure and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal([batch, 3, 8, 8], dtype='float32')
    smooth = coarse.repeat(-(-size // 8), axis=2).repeat(-(-size // 8), axis=3)[:, :, :size, :size]
    return smooth + 0.3 * rng.standard_normal([batch, 3, size, size], dtype='float32')


def to_paddle(array):
    return paddle.to_tensor(np.ascontiguousarray(array))
