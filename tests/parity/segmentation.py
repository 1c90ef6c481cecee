"""The original's segmentation network in PyTorch.

The original's seg/ is in no package, and mmsegmentation's heads need its mmcv. Blocks and stem are tlt's own; the rest
is written from what those files compute.
"""

from collections import OrderedDict

from parity.weights import theirs_of

CHANNELS, CLASSES = 32, 7  # of the heads that are compared; the published ones have 256 or 512, and 150
SIZES = {  # the original's configs: blocks whose outputs become maps, and the divisor of residual branches
    'lvvit_s': dict(out_indices=(6, 9, 12, 15), skip_lam=2.0),
    'lvvit_m': dict(out_indices=(10, 13, 16, 19), skip_lam=2.0),
    'lvvit_l': dict(out_indices=(14, 17, 20, 23), skip_lam=1.0),
}


def network(original, name, img_size, out_channels):
    """An nn.Module: `backbone` returns the four maps; `decode_head` and `auxiliary_head` take them."""
    torch = original.torch
    nn, F = torch.nn, torch.nn.functional
    whole = theirs_of(
        original, name, img_size, 10, skip_lam=SIZES[name]['skip_lam'], return_dense=False, mix_token=False
    )
    dim = whole.cls_token.shape[-1]

    def conv_bn(wide, narrow, kernel, padding=0):
        conv = nn.Conv2d(wide, narrow, kernel, padding=padding, bias=False)
        return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(narrow), relu=nn.ReLU()))

    def up(times):
        return nn.ConvTranspose2d(dim, dim, times, stride=times, bias=False), nn.BatchNorm2d(dim), nn.ReLU()

    def point(out):
        return nn.Conv2d(dim, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()

    def resize(x, size, mode='bilinear'):
        return F.interpolate(x, size=size, mode=mode, align_corners=False)

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed, self.blocks = whole.patch_embed, whole.blocks
            self.cls_token, self.pos_embed = whole.cls_token, whole.pos_embed
            for block in self.blocks:
                block.norm1.eps = block.norm2.eps = 1e-6
            self.side_layer1 = nn.Sequential(*up(4), *point(dim))
            self.side_layer2 = nn.Sequential(*up(2), *point(dim))
            self.side_layer3 = nn.Sequential(*point(dim))
            self.side_layer4 = nn.Sequential(*point(out_channels))

        def forward(self, image):
            x = self.patch_embed(image)
            batch, _, height, width = x.shape
            side = img_size // 16
            grid = self.pos_embed[0, 1:].t().reshape(1, dim, side, side)
            pos = resize(grid, (height, width), 'bicubic')[0].flatten(1).t()
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(batch, 1, dim), x], 1) + torch.cat([self.pos_embed[0, :1], pos])
            maps = []
            for number, block in enumerate(self.blocks):
                x = block(x)
                if number in SIZES[name]['out_indices']:
                    maps.append(x[:, 1:].transpose(1, 2).reshape(batch, dim, height, width))
            return [getattr(self, f'side_layer{i + 1}')(m) for i, m in enumerate(maps)]

    class Pyramid(nn.Module):  # mmsegmentation's UPerHead
        def __init__(self):
            super().__init__()
            self.psp_modules = nn.ModuleList(
                nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv_bn(out_channels, CHANNELS, 1)) for bins in (1, 2, 3, 6)
            )
            self.bottleneck = conv_bn(out_channels + 4 * CHANNELS, CHANNELS, 3, 1)
            self.lateral_convs = nn.ModuleList(conv_bn(dim, CHANNELS, 1) for _ in range(3))
            self.fpn_convs = nn.ModuleList(conv_bn(CHANNELS, CHANNELS, 3, 1) for _ in range(3))
            self.fpn_bottleneck = conv_bn(4 * CHANNELS, CHANNELS, 3, 1)
            self.conv_seg = nn.Conv2d(CHANNELS, CLASSES, 1)

        def forward(self, maps):
            size = maps[3].shape[2:]
            p4 = self.bottleneck(torch.cat([maps[3], *(resize(pool(maps[3]), size) for pool in self.psp_modules)], 1))
            l1, l2, l3 = (conv(m) for conv, m in zip(self.lateral_convs, maps))
            l3 = l3 + resize(p4, l3.shape[2:])
            l2 = l2 + resize(l3, l2.shape[2:])
            l1 = l1 + resize(l2, l1.shape[2:])
            outs = [conv(level) for conv, level in zip(self.fpn_convs, (l1, l2, l3))] + [p4]
            return self.conv_seg(self.fpn_bottleneck(torch.cat([resize(o, outs[0].shape[2:]) for o in outs], 1)))

    class Fully(nn.Module):  # its FCNHead with one convolution
        def __init__(self):
            super().__init__()
            self.convs = nn.Sequential(conv_bn(dim, CHANNELS, 3, 1))
            self.conv_seg = nn.Conv2d(CHANNELS, CLASSES, 1)

        def forward(self, maps):
            return self.conv_seg(self.convs(maps[2]))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.decode_head, self.auxiliary_head = Backbone(), Pyramid(), Fully()

    return Network()
