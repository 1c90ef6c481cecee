"""Memory of a training step, and the images and operations of a whole training, before anything is rented.

    python tools/estimate.py -c configs/lvvit_l_384.yaml --processes 8
    python tools/estimate.py --model lvvit_s --batch_size 8 --measure        train two steps here and measure, too

It takes the flags of main.py. Memory is computed from shapes: weights, gradients and AdamW's two moments (16 bytes a
weight), averaged weights, and what the forward pass keeps for the backward pass. Paddle's own memory (CUDA context,
kernels' workspaces, fragmentation) comes on top. Mixed precision is O1 with fused attention, and was not measured.
"""

import gc
import os
import sys
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import paddle
from paddle.base import core

import main as trainer
import model_info
from lv_vit import PADDLE_2, PatchEmbed4_2
from models import FAMILY, build_model, count_parameters
from util.errors import UserError
from util.ranges import count
from util.train import optim
from util.train.amp import Amp, on_gpu
from util.train.loss import Targets, TokenLabelLoss
from util.weights import settings

IMAGENET_IMAGES = 1281167


def parser():
    parser = trainer.parser()
    parser.prog, parser.description = 'tools/estimate.py', __doc__
    add = parser.add_argument_group('estimate').add_argument
    add('--processes', default=1, type=count, metavar='N', help='processes of the training, one a GPU (default: 1)')
    help = f"images of the training set (default: ImageNet's {IMAGENET_IMAGES:,})"
    add('--images', default=IMAGENET_IMAGES, type=count, metavar='N', help=help)
    add('--measure', action='store_true', help='train two steps on random images here, and print the measured peak too')
    return parser


def kept_bytes(model, batch, drop_path, mixed, recompute):
    """Bytes that the forward pass of a training step keeps for the backward pass.

    model: LV_ViT; batch: images; mixed: float16 or bfloat16 where AMP O1 uses it; recompute: of the blocks.
    """
    half = 2 if mixed else 4
    patches = model.grid**2
    tokens = patches + 1
    width = tokens * model.embed_dim
    stem = half * 3 * model.img_size**2
    if isinstance(model.patch_embed, PatchEmbed4_2):  # the outputs of three convolutions and of their activations
        stem += half * 6 * model.patch_embed.conv1.weight.shape[0] * (model.img_size // 2) ** 2
    hidden = tokens * model.blocks[0].mlp.fc1.weight.shape[1]
    block = 4 * 2 * width  # the inputs of both LayerNorms
    block += half * 3 * width  # the outputs of both LayerNorms and of attention
    block += half * 3 * width  # queries, keys and values
    block += half * 2 * hidden  # before and after GELU
    if not mixed:  # the attention itself; fused attention does not keep it
        block += 4 * model.blocks[0].attn.num_heads * tokens**2
    if drop_path:  # the inputs of both of its products
        block += half * 2 * width
    depth = len(model.blocks)
    blocks = block + 4 * depth * width if recompute else depth * block
    heads = 4 * 2 * width  # embedding and normalised features
    if model.return_dense:  # logits, their softmax, and targets
        heads += 4 * 3 * patches * model.num_classes
    return batch * (stem + blocks + heads)


def step_bytes(model, args, recompute):
    """{part: bytes} of a training step. args: flags of main.py."""
    weights = 4 * count_parameters(model)
    parts = {'weights': weights, 'gradients': weights, 'AdamW': 2 * weights}
    if args.model_ema:
        parts['averaged weights'] = weights
    parts['activations'] = kept_bytes(model, args.batch_size, args.drop_path, args.use_amp, recompute)
    return parts


def measure(args, recompute):
    """Most bytes of tensors in the second of two training steps on random images, here and without averaged weights.

    Raises UserError on Paddle 2, which cannot count the memory of a single step.
    """
    if PADDLE_2:
        raise UserError('--measure: needs Paddle 3')
    if on_gpu():
        current, peak = paddle.device.cuda.memory_allocated, paddle.device.cuda.max_memory_allocated
        reset = paddle.device.cuda.reset_max_memory_allocated
    else:
        current = partial(core.host_memory_stat_current_value, 'Allocated', 0)
        peak = partial(core.host_memory_stat_peak_value, 'Allocated', 0)
        reset = partial(core.host_memory_stat_reset_peak_value, 'Allocated', 0)
    gc.collect()  # what an earlier call left
    before = current()
    model = build_model(
        args.model,
        img_size=args.input_size,
        num_classes=args.nb_classes,
        drop_path_rate=args.drop_path,
        recompute=recompute,
    )
    model.train()
    amp = Amp(args.use_amp, args.amp_dtype)
    optimizer, criterion = optim.build_optimizer(model, 'adamw', 1e-3), TokenLabelLoss()
    images = paddle.rand([args.batch_size, 3, args.input_size, args.input_size])
    for _ in range(2):
        reset()
        tokens = None
        if model.return_dense:
            tokens = paddle.full([args.batch_size, model.grid**2, args.nb_classes], 1 / args.nb_classes)
        targets = Targets(paddle.full([args.batch_size, args.nb_classes], 1 / args.nb_classes), tokens)
        with amp.autocast():
            loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return peak() - before


def table(rows):
    """Lines of a Markdown table. rows: [(name, cells)], the first is the header."""
    lines = [f'| {name} | {" | ".join(cells)} |' for name, cells in rows]
    return [lines[0], '|---|' + '--:|' * len(rows[0][1]), *lines[1:]]


def main(args):
    settings.complete(args, FAMILY)
    model = model_info.build(args.model, args.input_size, args.nb_classes)
    how = f'{args.amp_dtype} (O1)' if args.use_amp else 'float32'
    print(f'{args.model} at {args.input_size} px, {args.batch_size} images per process, {how}\n')
    plain, recomputed = (step_bytes(model, args, recompute) for recompute in (False, True))
    rows = [('memory per process, MB', ('', '--recompute'))]
    rows += [(part, (f'{plain[part] / 1e6:,.0f}', f'{recomputed[part] / 1e6:,.0f}')) for part in plain]
    rows.append(('sum', tuple(f'{sum(parts.values()) / 1e6:,.0f}' for parts in (plain, recomputed))))
    if args.measure:
        found = [f'{measure(args, recompute) / 1e6:,.0f}' for recompute in (False, True)]
        rows.append(('measured here, without averaged weights', tuple(found)))
    print('\n'.join(table(rows)))
    images_per_step = args.batch_size * args.accum_iter * args.processes
    epochs, steps = args.epochs + args.cooldown_epochs, args.images // images_per_step
    macs = sum(model_info.count_macs(model).values())
    operations = 6 * macs * epochs * steps * images_per_step  # two a MAC; the backward pass costs two forward passes
    print(
        f'\n{epochs} epochs of {steps:,} steps with {images_per_step:,} images: '
        f'{epochs * steps * images_per_step / 1e6:,.0f} M images, {operations:.1e} floating-point operations'
        '; --recompute adds a third'
    )


if __name__ == '__main__':
    runtime.run(main, parser())
