"""LV-ViT (All Tokens Matter, arXiv 2104.10858), the network. models.py has the models of the family and their weights.

    image [B, 3, S, S] -> convolutional stem -> MixToken -> [cls | tokens] + pos_embed -> blocks -> head, aux_head

Parameters have the names of the original implementation (zihangJiang/TokenLabeling), so that its checkpoints load by
name; Linear weights are [in, out] here and [out, in] there.
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.base.layer_helper import LayerHelper
from paddle.distributed.fleet.utils import recompute

from util.train import mixtoken

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
    """block(x) without keeping its intermediate values: the backward pass computes them again, with the same draws.

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
