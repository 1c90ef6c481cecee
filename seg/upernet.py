"""mmsegmentation's UPerNet with its auxiliary head: the network of the original's published segmentation weights.

Parameter names are mmsegmentation's. PaddleSeg's UPerNet, which works with the backbones of lvvit.py too, is another
network: its pyramid pooling has a quarter of the last map's channels in each bin, in reverse order; all resizing inside
of the head aligns corners; there is no dropout before the classifier; the auxiliary head is as wide as its input; two
layers are never called.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from seg import lvvit, weights

BINS = (1, 2, 3, 6)  # sides of the pyramid's pooled maps


def resize(x, like):
    """A map, resized bilinearly to the height and width of another."""
    return F.interpolate(x, size=lvvit.side_lengths(like), mode='bilinear', align_corners=False)


def pad_to_16(x):
    """Pad [B, C, H, W] with zeros on the right and below to multiples of 16."""
    if paddle.in_dynamic_mode():
        height, width = x.shape[2:]
        return F.pad(x, [0, -width % 16, 0, -height % 16]) if height % 16 or width % 16 else x
    missing = (16 - paddle.shape(x)[2:].astype('int32') % 16) % 16  # a graph for any size
    none = paddle.zeros_like(missing[:1])
    return F.pad(x, paddle.concat([none, missing[1:], none, missing[:1]]))


def normal(std):
    return paddle.ParamAttr(initializer=nn.initializer.Normal(std=std))


class ConvModule(nn.Layer):
    """Convolution without bias, BatchNorm, ReLU; height and width stay. Initial weights by fan-out (He)."""

    def __init__(self, in_channels, out_channels, kernel):
        super().__init__()
        he = normal(math.sqrt(2.0 / (out_channels * kernel * kernel)))
        self.conv = nn.Conv2D(in_channels, out_channels, kernel, padding=kernel // 2, weight_attr=he, bias_attr=False)
        self.bn = nn.BatchNorm2D(out_channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Head(nn.Layer):
    """The end of both heads: dropout of whole channels, and a classifier for every pixel."""

    def __init__(self, channels, num_classes, dropout_prob):
        super().__init__()
        self.dropout = nn.Dropout2D(dropout_prob)
        self.conv_seg = nn.Conv2D(channels, num_classes, 1, weight_attr=normal(0.01))

    def classify(self, x):
        return self.conv_seg(self.dropout(x))


class UPerHead(Head):
    """Pyramid pooling of the last map, then a feature pyramid over all four (arXiv 1807.10221).

    forward: maps [B, C_i, H_i, W_i] -> class scores [B, num_classes, H_0, W_0].
    """

    def __init__(self, in_channels, channels, num_classes, dropout_prob=0.1):
        super().__init__(channels, num_classes, dropout_prob)
        last = in_channels[-1]
        self.psp_modules = nn.LayerList(
            [nn.Sequential(nn.AdaptiveAvgPool2D(side), ConvModule(last, channels, 1)) for side in BINS]
        )
        self.bottleneck = ConvModule(last + len(BINS) * channels, channels, 3)
        self.lateral_convs = nn.LayerList([ConvModule(width, channels, 1) for width in in_channels[:-1]])
        self.fpn_convs = nn.LayerList([ConvModule(channels, channels, 3) for _ in in_channels[:-1]])
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3)

    def forward(self, maps):
        last = maps[-1]
        pooled = [resize(pool(last), last) for pool in self.psp_modules]
        top = self.bottleneck(paddle.concat([last, *pooled], axis=1))
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps)] + [top]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals)] + [top]
        levels = [levels[0]] + [resize(x, levels[0]) for x in levels[1:]]
        return self.classify(self.fpn_bottleneck(paddle.concat(levels, axis=1)))


class FCNHead(Head):
    """A 3x3 convolution and the classifier: [B, C, h, w] -> [B, num_classes, h, w]."""

    def __init__(self, in_channels, channels, num_classes, dropout_prob=0.1):
        super().__init__(channels, num_classes, dropout_prob)
        self.convs = nn.LayerList([ConvModule(in_channels, channels, 3)])

    def forward(self, x):
        return self.classify(self.convs[0](x))


class OriginalUPerNet(nn.Layer):
    """A backbone with four maps, UPerHead, and in training FCNHead on the third map.

    forward: float32 [B, 3, H, W] -> [scores [B, num_classes, H, W]], in training [scores, scores of the FCN head].
    In evaluation H and W may have any size: images are padded with zeros, the mean colour, to multiples of 16, and the
    scores of the padding are cut off. channels: width of both heads. pretrained: a file with weights of all layers.
    """

    def __init__(self, num_classes, backbone, channels=512, dropout_prob=0.1, pretrained=None):
        super().__init__()
        self.backbone = backbone
        widths = backbone.feat_channels
        self.decode_head = UPerHead(widths, channels, num_classes, dropout_prob)
        self.auxiliary_head = FCNHead(widths[2], channels, num_classes, dropout_prob)
        if pretrained:
            weights.load_model(self, pretrained)

    def forward(self, x):
        if self.training:
            maps = self.backbone(x)
            return [resize(self.decode_head(maps), x), resize(self.auxiliary_head(maps[2]), x)]
        padded = pad_to_16(x)
        height, width = lvvit.side_lengths(x)
        return [resize(self.decode_head(self.backbone(padded)), padded)[:, :, :height, :width]]
