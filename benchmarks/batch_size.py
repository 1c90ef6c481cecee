"""What can make accuracy depend on the batch size? docs/evaluation.md quotes the output.

    python benchmarks/batch_size.py FLAGS OF eval.py [--sizes 1 3 7 64] [--reduced]

Prints, for one checkpoint and one set: how far the logits of an image differ between batch sizes, how many answers
change and how near the nearest decision is; what other ways of counting make of the same answers (a mean of batch
means, a dropped last batch, the padding of paddle.io.DistributedBatchSampler); and with --reduced the same comparison
between float32 and matrix products whose operands are rounded to 10 bits of mantissa, as TensorFloat-32 does on GPUs.
Logits of every image are kept: 200 MB for ImageNet.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle

import eval as eval_script
from models import build_model, load_weights, published_defaults
from util import options


def parser():
    parser = eval_script.parser()
    parser.add_argument('--sizes', default=[1, 3, 7, 64], type=options.count, nargs='+', help='batch sizes')
    parser.add_argument('--reduced', action='store_true', help='operands of matrix products with 10 bits of mantissa')
    return parser


@paddle.no_grad()
def logits_of(model, args, size):
    """(float32 [N, C], labels int64 [N]) of the set in batches of `size`."""
    args.batch_size = size
    batches = [(model(batch['image']).numpy(), batch['label'].numpy()) for batch in eval_script.new_eval_loader(args)]
    return tuple(np.concatenate(part) for part in zip(*batches))


def compare(name, logits, reference, labels):
    """A row: largest difference of a logit, relative to the largest logit too, answers that differ, accuracies."""
    difference = np.abs(logits - reference).max()
    best, best_reference = logits.argmax(1), reference.argmax(1)
    print(
        f'| {name} | {difference:.1e} | {difference / np.abs(reference).max():.1e} | '
        f'{(best != best_reference).sum()} | {100 * (best == labels).mean():.3f} |'
    )


def counted(right, size):
    """Accuracies in percent that other ways of counting make of the same answers: {name: value}."""
    batches = [right[i : i + size] for i in range(0, len(right), size)]
    full = [batch for batch in batches if len(batch) == size]
    return {
        'every image once': right.mean(),
        'mean of batch means': np.mean([batch.mean() for batch in batches]),
        'last batch dropped': np.concatenate(full).mean() if full else float('nan'),
    }


def padded(right, size, processes):
    """Accuracy over what the processes get from Paddle's DistributedBatchSampler, which repeats images to fill up."""
    seen = [
        i
        for rank in range(processes)
        for batch in paddle.io.DistributedBatchSampler(right, size, num_replicas=processes, rank=rank)
        for i in batch
    ]
    return right[seen].mean(), len(seen)


def reduce_products(model):
    """From here on round the operands of convolutions, linear layers and `@` to 10 bits of mantissa (TF32)."""

    def reduced(x):
        bits = x.numpy().view('uint32')
        bits = (bits + np.uint32(0xFFF) + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)  # to the nearest, ties to even
        return paddle.to_tensor(bits.view('float32'))

    for layer in model.sublayers():
        if isinstance(layer, (paddle.nn.Linear, paddle.nn.Conv2D)):
            layer.weight.set_value(reduced(layer.weight))
            layer.register_forward_pre_hook(lambda _, inputs: tuple(map(reduced, inputs)))
    exact = paddle.Tensor.__matmul__
    paddle.Tensor.__matmul__ = lambda x, y: exact(reduced(x), reduced(y))


def main(args):
    published_defaults(args)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    print(load_weights(model, args))
    model.eval()
    reference, labels = logits_of(model, args, args.sizes[0])
    second, best = np.sort(reference, axis=1)[:, -2:].T
    gaps = best - second
    print(
        f'{len(labels)} images; largest logit {np.abs(reference).max():.3g}; the two best classes of an image are at '
        f'least {gaps.min():.1e} apart, {np.median(gaps):.2g} in the median\n'
    )
    print(f'| batches of | largest difference to {args.sizes[0]} | relative | answers that differ | top-1 |')
    print('|---|---|---|---|---|')
    for size in args.sizes:
        compare(size, logits_of(model, args, size)[0], reference, labels)
    right = (reference.argmax(1) == labels).astype('float64')
    print('\n| the same answers counted as | ' + ' | '.join(f'batches of {size}' for size in args.sizes) + ' |')
    print('|---' * (len(args.sizes) + 1) + '|')
    for name in counted(right, 1):
        print(f'| {name} | ' + ' | '.join(f'{100 * counted(right, size)[name]:.3f}' for size in args.sizes) + ' |')
    for processes in (3, 8):
        values = [padded(right, size, processes) for size in args.sizes]
        print(
            f'| padded for {processes} processes ({values[0][1]} images) | '
            + ' | '.join(f'{100 * value:.3f}' for value, _ in values)
            + ' |'
        )
    if args.reduced:
        print('\n| 10 bits, batches of | largest difference to float32 | relative | answers that differ | top-1 |')
        print('|---|---|---|---|---|')
        reduce_products(model)
        for size in args.sizes:
            compare(size, logits_of(model, args, size)[0], reference, labels)


if __name__ == '__main__':
    runtime.run(main, parser())
