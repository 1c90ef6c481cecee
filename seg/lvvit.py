"""LV-ViT as a backbone for segmentation: four feature maps of four blocks, at strides 4, 8, 16 and 16.

    image [B, 3, H, W] -> stem -> [cls | tokens] + pos_embed, resized -> blocks -> four maps -> a side layer for each

The transformer is lv_vit.LV_ViT without its heads and without the norm after the last block; its LayerNorms have an
epsilon of 1e-6. These differences, the side layers, the blocks that they follow and all parameter names are those of
the original's seg/. This file does not need PaddleSeg.
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

import lv_vit
import models
from seg import weights
from util.errors import UserError

EPSILON = 1e-6  # of the LayerNorms; in classification 1e-5
OUT_INDICES = {  # the blocks, counted from 0, whose outputs become the four maps
    'lvvit_nano': (2, 3, 4, 5),
    'lvvit_t': (2, 5, 8, 11),
    'lvvit_s': (6, 9, 12, 15),
    'lvvit_m': (10, 13, 16, 19),
    'lvvit_l': (14, 17, 20, 23),
}


def side_lengths(x):
    """[height, width] of a map [B, C, height, width]: numbers; tensors while a graph for any size is built."""
    return list(x.shape[2:]) if paddle.in_dynamic_mode() else paddle.shape(x)[2:]


def norm_relu(channels):
    return [nn.BatchNorm2D(channels), nn.ReLU()]


def pointwise(in_channels, out_channels):
    return [lv_vit.conv(in_channels, out_channels, 1, stride=1), *norm_relu(out_channels)]


def enlarge(channels, times):
    """Each pixel becomes times x times pixels. Initial weights are PyTorch's default."""
    bound = 1.0 / math.sqrt(channels * times * times)
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    conv = nn.Conv2DTranspose(channels, channels, times, stride=times, weight_attr=uniform, bias_attr=False)
    return [conv, *norm_relu(channels)]


class LVViT(lv_vit.LV_ViT):
    """The backbone. forward: float32 [B, 3, H, W], H and W multiples of 16 -> four maps, of D, D, D and `out_channels`
    channels, at H/4, H/8, H/16 and H/16.

    name: a model of models.FAMILY.
    img_size: side in pixels that pos_embed is made for; it is resized for other inputs.
    out_indices: four blocks, counted from 0 (default: OUT_INDICES).
    drop_path_rate: stochastic depth of the last block; it grows linearly from 0 over the blocks.
    mlp_drop_rate: dropout in the MLP of the last block; it grows in the same way.
    skip_lam: divides the residual branches (default: the model's).
    pretrained: a file of weights, see weights.load_backbone; ema: use the averaged weights of a checkpoint.
    in_channels: PaddleSeg passes the channels of the images; must be 3.
    Raises UserError for wrong arguments.
    """

    def __init__(
        self,
        name,
        img_size=512,
        out_indices=None,
        out_channels=2048,
        drop_path_rate=0.0,
        mlp_drop_rate=0.0,
        skip_lam=None,
        pretrained=None,
        ema=False,
        in_channels=3,
    ):
        architecture = dict(models.FAMILY[name].architecture)
        if skip_lam is not None:
            architecture['skip_lam'] = skip_lam
        depth, dim = architecture.get('depth', 16), architecture.get('embed_dim', 384)
        out_indices = list(OUT_INDICES[name] if out_indices is None else out_indices)
        ascending = out_indices == sorted(set(out_indices))
        if len(out_indices) != 4 or not ascending or out_indices[0] < 0 or out_indices[3] >= depth:
            raise UserError(
                f'out_indices {out_indices}: must be four blocks of 0 to {depth - 1}, ascending, for {name}'
            )
        if in_channels != 3:
            raise UserError(f'in_channels {in_channels}: LV-ViT takes images of 3 channels')
        if not isinstance(img_size, int) or img_size < 16 or img_size % 16:
            raise UserError(f'img_size {img_size}: must be a multiple of 16 pixels, such as 512')
        architecture.update(return_dense=False, mix_token=False, num_classes=1)  # the smallest heads, removed below
        super().__init__(img_size=img_size, drop_path_rate=drop_path_rate, **architecture)
        del self.head, self.norm
        self.name, self.out_indices = name, out_indices
        self.feat_channels = [dim, dim, dim, out_channels]  # PaddleSeg's name for it

        for block, rate in zip(self.blocks, np.linspace(0.0, mlp_drop_rate, depth)):
            block.norm1, block.norm2 = nn.LayerNorm(dim, epsilon=EPSILON), nn.LayerNorm(dim, epsilon=EPSILON)
            block.mlp.drop = nn.Dropout(float(rate))
        self.side_layer1 = nn.Sequential(*enlarge(dim, 4), *pointwise(dim, dim))
        self.side_layer2 = nn.Sequential(*enlarge(dim, 2), *pointwise(dim, dim))
        self.side_layer3 = nn.Sequential(*pointwise(dim, dim))
        self.side_layer4 = nn.Sequential(*pointwise(dim, out_channels))
        if pretrained:
            weights.load_backbone(self, pretrained, ema)

    def position_embedding(self, grid):
        """pos_embed for a token grid [height, width]: [1, 1 + height * width, D]. The class token's stays as it is."""
        if paddle.in_dynamic_mode() and grid == [self.grid, self.grid]:
            return self.pos_embed
        tokens = self.pos_embed[:, 1:].transpose([0, 2, 1]).reshape([1, self.embed_dim, self.grid, self.grid])
        tokens = F.interpolate(tokens, size=grid, mode='bicubic', align_corners=False)
        return paddle.concat([self.pos_embed[:, :1], tokens.flatten(2).transpose([0, 2, 1])], axis=1)

    def forward(self, x):
        if paddle.in_dynamic_mode():  # a graph for any size does not know height and width
            height, width = x.shape[2:]
            if height % 16 or width % 16:
                raise UserError(
                    f'an input of {width}x{height} pixels: its sides must be multiples of 16; choose such a crop_size '
                    'in the config, or add a Resize or Padding (OriginalUPerNet pads by itself, in evaluation)'
                )
        x = self.patch_embed(x)
        grid = side_lengths(x)
        x = x.flatten(2).transpose([0, 2, 1])
        cls = self.cls_token.expand([x.shape[0], 1, self.embed_dim])
        x = paddle.concat([cls, x], axis=1) + self.position_embedding(grid)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.out_indices:
                maps.append(x[:, 1:].transpose([0, 2, 1]).reshape([-1, self.embed_dim, *grid]))
        side_layers = [self.side_layer1, self.side_layer2, self.side_layer3, self.side_layer4]
        return [side_layer(tokens) for side_layer, tokens in zip(side_layers, maps)]


def LVViT_nano(**kwargs):
    """128 wide, 6 blocks; the last map of 256 channels. For the demo and tests."""
    return LVViT('lvvit_nano', **{'out_channels': 256, **kwargs})


def LVViT_T(**kwargs):
    return LVViT('lvvit_t', **kwargs)


def LVViT_S(**kwargs):
    return LVViT('lvvit_s', **kwargs)


def LVViT_M(**kwargs):
    return LVViT('lvvit_m', **kwargs)


def LVViT_L(**kwargs):
    return LVViT('lvvit_l', **kwargs)


BACKBONES = [LVViT_nano, LVViT_T, LVViT_S, LVViT_M, LVViT_L]
