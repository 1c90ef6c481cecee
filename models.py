"""The LV-ViT family (All Tokens Matter, arXiv 2104.10858) and its registry.

    image [B, 3, S, S] -> convolutional stem -> MixToken -> [cls | tokens] + pos_embed -> blocks -> head, aux_head

Parameters have the names of the original implementation (zihangJiang/TokenLabeling), so that its checkpoints load by
name; Linear weights are [in, out] here and [out, in] there.
"""

import argparse
import contextlib
import math
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.base.layer_helper import LayerHelper
from paddle.distributed.fleet.utils import recompute

from util import class_names
from util.errors import UserError, shorten
from util.train import mixtoken
from util.weights import download, settings, torch_file
from util.weights.fit import DoesNotFit, differences
from util.weights.load import load_state, read

NORMAL = nn.initializer.Normal(std=0.02)
ZEROS = nn.initializer.Constant(0.0)
PADDLE_2 = paddle.__version__.startswith('2.')


def linear(in_features, out_features, bias=True):
    """A linear layer with the original's initial weights: N(0, 0.02), bias 0."""
    return nn.Linear(
        in_features,
        out_features,
        weight_attr=paddle.ParamAttr(initializer=NORMAL),
        bias_attr=paddle.ParamAttr(initializer=ZEROS) if bias else False,
    )


def conv(in_channels, out_channels, kernel, stride, padding=0, bias=False):
    """A convolution with PyTorch's default initial distribution: weight and bias uniform in ±1/sqrt(fan_in)."""
    bound = 1.0 / math.sqrt(in_channels * kernel * kernel)
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    return nn.Conv2D(
        in_channels, out_channels, kernel, stride, padding, weight_attr=uniform, bias_attr=uniform if bias else False
    )


def gelu(x):
    """GELU by the error function, not by its tanh approximation."""
    if paddle.framework.in_dynamic_or_pir_mode():
        return F.gelu(x)
    # F.gelu of Paddle 3 cannot be saved into a .pdmodel, and OpenVINO cannot read a GELU that is written out with erf.
    helper = LayerHelper('gelu')
    out = helper.create_variable_for_type_inference(x.dtype)
    helper.append_op(type='gelu', inputs={'X': x}, outputs={'Out': out}, attrs={'approximate': False})
    return out


class PatchEmbedNaive(nn.Layer):
    """ViT's stem: one convolution with kernel and stride P, the patch size. [B, 3, S, S] -> [B, D, S/P, S/P]."""

    def __init__(self, patch_size, in_chans, embed_dim):
        super().__init__()
        self.proj = conv(in_chans, embed_dim, patch_size, patch_size, bias=True)

    def forward(self, x):
        return self.proj(x)


class PatchEmbed4_2(nn.Layer):
    """LV-ViT's stem: convolutions 7x7/2, 3x3, 3x3, then one of P/2 x P/2. [B, 3, S, S] -> [B, D, S/P, S/P]."""

    def __init__(self, patch_size, in_chans, embed_dim, hidden=64):
        super().__init__()
        self.conv1 = conv(in_chans, hidden, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2D(hidden)
        self.conv2 = conv(hidden, hidden, 3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2D(hidden)
        self.conv3 = conv(hidden, hidden, 3, stride=1, padding=1)
        self.bn3 = nn.BatchNorm2D(hidden)
        self.proj = conv(hidden, embed_dim, patch_size // 2, patch_size // 2, bias=True)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.proj(x)


class DropPath(nn.Layer):
    """Stochastic depth: in training a sample is set to 0 with probability `rate`, else divided by 1 - rate."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)) < keep
        return x * (kept.astype(x.dtype) / keep)


def uses_fused_attention(q):
    """Whether attention runs through F.scaled_dot_product_attention: on GPUs, for float16 and bfloat16.

    q: queries [B, T, heads, width]. Paddle 3 chooses a kernel that takes them. Paddle 2 has one kernel, for widths that
    are multiples of 8 and GPUs of compute capability 8.0 or higher. Static graphs, such as an export, do not use it.
    """
    if not paddle.in_dynamic_mode() or not q.place.is_gpu_place() or q.dtype == paddle.float32:
        return False
    return not PADDLE_2 or (q.shape[-1] % 8 == 0 and paddle.device.cuda.get_device_capability() >= (8, 0))


def recomputed(block, x):
    """block(x), whose intermediate values are not kept: the backward pass computes them again, with the same draws.

    Paddle 2 cannot restore its generator for that on CPUs, so this does. The backward pass leaves the generator in
    another state; training seeds it in every batch (engine.step_rng). use_reentrant=False works in DataParallel.
    """
    state = paddle.get_rng_state()

    def run(x):
        paddle.set_rng_state(state)
        return block(x)

    return recompute(run, x, use_reentrant=False, preserve_rng_state=False)


class Attention(nn.Layer):
    """Multi-head self-attention over all tokens, [B, T, D] -> [B, T, D]."""

    def __init__(self, dim, num_heads, qkv_bias=False, drop=0.0):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x):
        tokens, dim = x.shape[1:]
        # split, not qkv[i]: the gradient of an index is a zero-filled tensor of the full size; OpenVINO has no unbind
        heads = [-1, tokens, self.num_heads, self.head_dim]
        q, k, v = (part.reshape(heads) for part in self.qkv(x).split(3, axis=-1))
        if uses_fused_attention(q):
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = q.transpose([0, 2, 1, 3]), k.transpose([0, 2, 3, 1]), v.transpose([0, 2, 1, 3])
            attention = F.softmax((q * self.head_dim**-0.5) @ k, axis=-1)  # paddle.matmul cannot be saved as .pdmodel
            x = (attention @ v).transpose([0, 2, 1, 3])
        x = x.reshape([-1, tokens, dim])
        return self.proj_drop(self.proj(x))


class Mlp(nn.Layer):
    """Two linear layers with GELU between them, for each token: [B, T, D] -> [B, T, D]."""

    def __init__(self, dim, hidden, drop=0.0):
        super().__init__()
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(gelu(self.fc1(x)))))


class Block(nn.Layer):
    """Pre-norm transformer block, [B, T, D] -> [B, T, D]; both residual branches are divided by `skip_lam`."""

    def __init__(self, dim, num_heads, mlp_ratio=3.0, qkv_bias=False, drop=0.0, drop_path=0.0, skip_lam=1.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)
        self.skip_scale = 1.0 / skip_lam

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x))) * self.skip_scale
        return x + self.drop_path(self.mlp(self.norm2(x))) * self.skip_scale


class LV_ViT(nn.Layer):
    """Vision transformer with a convolutional stem and a classifier on every token.

    img_size: side of the input in pixels; patch_size: side of a patch. stem: '4_2' (four convolutions, 64 channels),
    '4_2_128' (128 channels) or 'naive' (one convolution). drop_rate: dropout. drop_path_rate: stochastic depth of the
    last block; it grows linearly from 0 over the blocks. skip_lam: divides each residual branch (the paper's residual
    scaling). return_dense: add `aux_head`, the classifier of the patch tokens. mix_token: in training, use MixToken.
    recompute: in training, keep only the inputs of the blocks, and compute the rest again in the backward pass.
    Attribute `grid`: patch tokens a side. Raises ValueError unless patch_size divides img_size and num_heads embed_dim.
    """

    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        embed_dim=384,
        depth=16,
        num_heads=6,
        mlp_ratio=3.0,
        qkv_bias=False,
        drop_rate=0.0,
        drop_path_rate=0.0,
        stem='4_2',
        skip_lam=1.0,
        return_dense=True,
        mix_token=True,
        recompute=False,
    ):
        super().__init__()
        if img_size < patch_size or img_size % patch_size or embed_dim % num_heads:
            raise ValueError(
                f'img_size {img_size} must be a multiple of patch_size {patch_size}, '
                f'and embed_dim {embed_dim} of num_heads {num_heads}'
            )
        self.img_size, self.num_classes, self.embed_dim = img_size, num_classes, embed_dim
        self.grid = img_size // patch_size
        self.return_dense, self.mix_token = return_dense, mix_token and return_dense
        self.recompute = recompute

        if stem == 'naive':
            self.patch_embed = PatchEmbedNaive(patch_size, in_chans, embed_dim)
        else:
            self.patch_embed = PatchEmbed4_2(patch_size, in_chans, embed_dim, hidden={'4_2': 64, '4_2_128': 128}[stem])
        self.cls_token = self.create_parameter([1, 1, embed_dim], default_initializer=NORMAL)
        self.pos_embed = self.create_parameter([1, self.grid**2 + 1, embed_dim], default_initializer=NORMAL)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList()
        for drop_path in np.linspace(0.0, drop_path_rate or 0.0, depth):
            self.blocks.append(
                Block(
                    embed_dim,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop=drop_rate,
                    drop_path=float(drop_path),
                    skip_lam=skip_lam,
                )
            )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = linear(embed_dim, num_classes)
        if return_dense:
            self.aux_head = linear(embed_dim, num_classes)

    def no_weight_decay(self):
        """Names of the parameters without weight decay, besides biases and norms."""
        return {'pos_embed', 'cls_token'}

    def disable_aux_head(self):
        """Set `aux_head` to zero and freeze it, for training without token targets. It adds 0 in evaluation."""
        if self.return_dense:
            for p in self.aux_head.parameters():
                p.set_value(paddle.zeros_like(p))
                p.stop_gradient = True

    def forward_embeddings(self, x):
        """Images [B, 3, S, S] -> patch embeddings on the token grid, [B, D, grid, grid]."""
        return self.patch_embed(x)

    def forward_tokens(self, x):
        """Patch embeddings [B, N, D] -> normalised features of the class token and the patch tokens, [B, 1+N, D]."""
        cls = self.cls_token.expand([x.shape[0], 1, self.embed_dim])
        x = self.pos_drop(paddle.concat([cls, x], axis=1) + self.pos_embed)
        for block in self.blocks:
            x = recomputed(block, x) if self.recompute and self.training else block(x)
        return self.norm(x)

    def forward_features(self, x):
        """Images [B, 3, S, S] -> normalised features of the class token and the patch tokens, [B, 1+N, D]."""
        return self.forward_tokens(as_sequence(self.forward_embeddings(x)))

    def forward_dense(self, x):
        """Class scores of the image and of every token, unmixed: ([B, C], [B, N, C])."""
        x = self.forward_features(x)
        return self.head(x[:, 0]), self.aux_head(x[:, 1:])

    def forward(self, x, box=None):
        """x: float32 [B, 3, S, S]; box: in training, the MixToken box; None: draw one if mix_token is on.

        Evaluation: logits [B, C], `cls + 0.5 * max over tokens of aux`. Training: (cls [B, C], aux [B, N, C], box);
        all tokens of aux[i] belong to image i again. Without `aux_head`: cls, in training (cls, None, empty box).
        """
        if not self.return_dense:
            cls = self.head(self.forward_features(x)[:, 0])
            return (cls, None, mixtoken.EMPTY_BOX) if self.training else cls
        if not self.training:
            cls, aux = self.forward_dense(x)
            return cls + 0.5 * aux.max(axis=1)
        if box is None:
            box = mixtoken.EMPTY_BOX
            if self.mix_token:
                box = mixtoken.rand_box(self.grid, self.grid, np.random.default_rng(np.random.randint(2**31)))
        cls, aux = self.forward_mixed(x, mixtoken.mask(box, self.grid))
        return cls, aux, box

    def forward_mixed(self, x, inside):
        """(cls [B, C], aux [B, N, C]): tokens where `inside` is True are swapped before the blocks, and back in aux.

        inside: bool [grid, grid], or None to swap nothing.
        """
        x = self.forward_tokens(as_sequence(mixtoken.swap(self.forward_embeddings(x), inside)))
        aux = self.aux_head(x[:, 1:])
        if inside is not None:
            aux = aux.transpose([0, 2, 1]).reshape([0, 0, self.grid, self.grid])
            aux = as_sequence(mixtoken.swap(aux, inside))
        return self.head(x[:, 0]), aux

    def to_static(self):
        """Train with a static graph. The box goes in as a mask: Python numbers would become constants of the graph."""
        self.forward_mixed = paddle.jit.to_static(self.forward_mixed, full_graph=True)


def as_sequence(x):
    """A map on the token grid, [B, D, grid, grid] -> its tokens row by row, [B, N, D]."""
    return x.flatten(2).transpose([0, 2, 1])


class ModelConfig(NamedTuple):
    """A model of the family: its architecture, and the settings with which its published accuracy was measured."""

    architecture: dict  # arguments of LV_ViT
    input_size: int = 224  # side of the input, in pixels
    crop_pct: float = 0.9  # side of the centre crop over the short side of the resized image
    weights: dict = {}  # {input size: address of the published weights}


RELEASES = 'https://github.com/zihangJiang/TokenLabeling/releases/download'  # the original's, in PyTorch's format
FAMILY = {
    'vit': ModelConfig(dict(stem='naive', return_dense=False)),
    'lvvit': ModelConfig(dict(skip_lam=2.0, return_dense=False)),
    'lvvit_nano': ModelConfig(
        dict(embed_dim=128, depth=6, num_heads=4), crop_pct=1.0
    ),  # ours: for CPUs, demo and tests
    'lvvit_nano_patch8': ModelConfig(
        dict(embed_dim=128, depth=6, num_heads=4, patch_size=8), input_size=64, crop_pct=1.0
    ),
    'lvvit_t': ModelConfig(dict(embed_dim=240, depth=12, num_heads=4), weights={224: f'{RELEASES}/v0.2.0/lvvit_t.pth'}),
    'lvvit_s': ModelConfig(
        dict(embed_dim=384, depth=16, num_heads=6, skip_lam=2.0),
        weights={
            224: f'{RELEASES}/1.0/lvvit_s-26M-224-83.3.pth.tar',
            384: f'{RELEASES}/1.0/lvvit_s-26M-384-84.4.pth.tar',
        },
    ),
    'lvvit_m': ModelConfig(
        dict(embed_dim=512, depth=20, num_heads=8, skip_lam=2.0),
        crop_pct=1.0,
        weights={
            224: f'{RELEASES}/1.0/lvvit_m-56M-224-84.0.pth.tar',
            384: f'{RELEASES}/1.0/lvvit_m-56M-384-85.4.pth.tar',
            448: f'{RELEASES}/1.0/lvvit_m-56M-448-85.5.pth.tar',
        },
    ),
    'lvvit_l': ModelConfig(
        dict(embed_dim=768, depth=24, num_heads=12, skip_lam=3.0, stem='4_2_128'),
        input_size=448,
        crop_pct=1.0,
        weights={
            448: f'{RELEASES}/1.0/lvvit_l-150M-448-86.2.pth.tar',
            512: f'{RELEASES}/1.0/lvvit_l-150M-512-86.4.pth.tar',
        },
    ),
}


def build_model(name, **kwargs):
    """The model `name` of FAMILY. kwargs: arguments of LV_ViT. Raises UserError for an unknown name or a wrong size."""
    if name not in FAMILY:
        raise UserError(f'--model {name}: unknown; use {", ".join(FAMILY)}')
    try:
        return LV_ViT(**{**FAMILY[name].architecture, **kwargs})
    except ValueError as error:
        raise UserError(f'--model {name}: {error}')


def create(name, pretrained=False, ema=False, **kwargs):
    """The model `name` of FAMILY, with or without weights. The functions below, which paddle.hub lists, call this.

    pretrained: False (as initialised), True (the published weights, fetched once) or a file (.pd, .pdparams, .pth,
    .safetensors). ema: a checkpoint's averaged weights. kwargs: arguments of LV_ViT, such as num_classes and img_size
    (default: those of the file if it says them; else 1,000 and the size of the published evaluation).
    Raises UserError for an unknown name, and for weights that cannot be fetched, cannot be read or do not fit.
    """
    if name not in FAMILY:
        return build_model(name)  # raises the error
    usual_size = FAMILY[name].input_size
    if not pretrained:
        return build_model(name, **{'img_size': usual_size, **kwargs})
    size, classes = kwargs.pop('img_size', None), kwargs.pop('num_classes', None)
    path = published_weights(name, size or usual_size) if pretrained is True else pretrained
    flags = argparse.Namespace(model=name, input_size=size, nb_classes=classes, ema=ema)
    return load_model(flags, read(path), path, **kwargs)


def vit(pretrained=False, **kwargs):
    """ViT with a class token and no token classifier, 384 wide, 16 blocks: the paper's baseline. See create."""
    return create('vit', pretrained, **kwargs)


def lvvit(pretrained=False, **kwargs):
    """LV-ViT-S without the token classifier. See create."""
    return create('lvvit', pretrained, **kwargs)


def lvvit_nano(pretrained=False, **kwargs):
    """128 wide, 6 blocks, 1.9 M parameters with 1,000 classes: this project's own. See create."""
    return create('lvvit_nano', pretrained, **kwargs)


def lvvit_nano_patch8(pretrained=False, **kwargs):
    """lvvit_nano with patches of 8 pixels, for small images: 8×8 tokens at 64 px, its own size. See create."""
    return create('lvvit_nano_patch8', pretrained, **kwargs)


def lvvit_t(pretrained=False, **kwargs):
    """LV-ViT-T: 240 wide, 12 blocks, 8.5 M parameters. Published at 224 px. See create."""
    return create('lvvit_t', pretrained, **kwargs)


def lvvit_s(pretrained=False, **kwargs):
    """LV-ViT-S: 384 wide, 16 blocks, 26 M parameters. Published at 224 and 384 px. See create."""
    return create('lvvit_s', pretrained, **kwargs)


def lvvit_m(pretrained=False, **kwargs):
    """LV-ViT-M: 512 wide, 20 blocks, 56 M parameters. Published at 224, 384 and 448 px. See create."""
    return create('lvvit_m', pretrained, **kwargs)


def lvvit_l(pretrained=False, **kwargs):
    """LV-ViT-L: 768 wide, 24 blocks, 150 M parameters. Published at 448 and 512 px. See create."""
    return create('lvvit_l', pretrained, **kwargs)


def token_grid(name, input_size):
    """Patch tokens a side of the model `name` at an input size in pixels."""
    return input_size // FAMILY[name].architecture.get('patch_size', 16)


# -- with weights ------------------------------------------------------------------------------------------------------


def published_weights(name, input_size, nearest=False):
    """Path of the published weights of a model of FAMILY at an input size in pixels; downloads them the first time.

    nearest: take the nearest published size, for callers that resize the position embedding.
    Raises UserError if there are no such weights, or if they cannot be downloaded.
    """
    addresses = FAMILY[name].weights
    if nearest and addresses:
        input_size = min(addresses, key=lambda size: abs(size - input_size))
    if input_size not in addresses:
        published = [
            f'{other} at {", ".join(str(size) for size in entry.weights)}'
            for other, entry in FAMILY.items()
            if entry.weights
        ]
        raise UserError(
            f'--pretrained: no weights are published for {name} at {input_size} pixels; '
            f'published: {"; ".join(published)}'
        )
    return download.fetch(addresses[input_size])


def weights_file(args, nearest=False):
    """The file of --resume, or with --pretrained that of the published weights. Raises UserError unless one is given.

    args: the flags of args.add_model and add_weights; with --pretrained those of the model are set if they are None.
    nearest: see published_weights.
    """
    if args.pretrained and args.resume:
        raise UserError('--pretrained and --resume both name the weights; give one')
    if args.pretrained:
        settings.complete(args, FAMILY)
        return published_weights(args.model, args.input_size, nearest)
    if not args.resume:
        raise UserError('--resume is missing: the checkpoint or state dict (.pd, .pth, .safetensors); or --pretrained')
    return args.resume


def load_model(args, state, path, **kwargs):
    """The model that flags and a file of weights describe, with these weights.

    args: flags as in settings.KINDS, and `ema`; those that are None are set to what the file says, or else to defaults.
    state: what load.read returned for the file `path`. kwargs: further arguments of LV_ViT. The position embedding is
    resized if --input_size is given. Raises UserError for weights that do not fit, and flags that contradict them.
    """
    resize = args.input_size is not None
    settings.complete(args, FAMILY, settings.of_file(state, path, FAMILY), path)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes, **kwargs)
    with naming_what_fits():
        load_state(model, state, path, args.ema, resize=resize)
    return model


def load_named(args):
    """(model in evaluation mode, {class id: name}) of the flags of a script, see weights_file and load_model."""
    path = weights_file(args)
    state = read(path)
    model = load_model(args, state, path)
    model.eval()
    kept = class_names.of_checkpoint(state, path, args.nb_classes)
    return model, class_names.to_show(args.label_list, kept, args.nb_classes)


def nearest_model(weights):
    """(flags of the model of FAMILY that weights fit, or nearly fit; how they differ: [] if they fit).

    weights: {name: array}, in Paddle's layout. flags: such as '--model lvvit_s --input_size 224 --nb_classes 1000'.
    """
    pos_embed, bias = np.shape(weights.get('pos_embed')), np.shape(weights.get('head.bias'))
    grid = max(1, round((pos_embed[1] - 1) ** 0.5)) if len(pos_embed) == 3 else 1
    classes = bias[0] if bias else 1
    found = {}
    for name, entry in FAMILY.items():
        size = grid * entry.architecture.get('patch_size', 16)
        with paddle.LazyGuard():  # shapes only: no memory for the weights
            own = build_model(name, img_size=size, num_classes=classes).state_dict()
        flags = settings.as_flags({'model': name, 'input_size': size, 'nb_classes': classes})
        found[flags] = differences(own, weights)
        if not found[flags]:
            break
    return min(found.items(), key=lambda item: len(item[1]))


@contextlib.contextmanager
def naming_what_fits():
    """Make the error for weights that do not fit the model of a command say which model they fit."""
    try:
        yield
    except DoesNotFit as error:
        flags, problems = nearest_model(error.weights)
        if not problems:
            raise UserError(f'{error.path}: does not fit the model of this command; it fits {flags}')
        if len(problems) < len(error.weights) // 2:
            raise UserError(f'{error.path}: fits no LV-ViT; the nearest is {flags}: {shorten(problems, 3)}')
        raise


def count_parameters(model):
    """Number of learned parameters. Paddle's parameters() has BatchNorm's running statistics too; they do not count."""
    return torch_file.count_parameters(model.state_dict())
