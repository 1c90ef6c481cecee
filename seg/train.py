"""Train a segmentation model with PaddleSeg, as its tools/train.py does, with the backbones of this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from seg import common, loader
from util.args import Parser
from util.ranges import count, natural, positive, whole


def parser():
    parser = Parser('seg/train.py', description=__doc__)
    common.add_config(parser)
    add = parser.add_argument
    add('--save_dir', default='output/seg', metavar='DIR', help='folder of iter_N/ and best_model/')
    add('--iters', type=count, help='training steps (default: the config)')
    add('--batch_size', type=count, help='images per process (default: the config)')
    add('--learning_rate', type=positive, help='default: the config')
    add('--do_eval', action='store_true', help='evaluate at every --save_interval and keep the best')
    add('--save_interval', default=1000, type=count, metavar='N', help='steps (default: 1000)')
    add('--log_iters', default=10, type=count, metavar='N', help='steps between lines of the log (default: 10)')
    help = 'keep the last K iter_N/, 0 for all (default: 5)'
    add('--keep_checkpoint_max', default=5, type=natural, metavar='K', help=help)
    add('--resume_model', metavar='DIR', help='continue from a folder iter_N/')
    add('--num_workers', default=0, type=natural, help='loader processes (default: 0)')
    help = 'random seed (default: a different one in every run)'
    add('--seed', type=whole(at_least=0, at_most=2**32 - 1), help=help)  # what numpy's global generator takes
    add('--use_vdl', action='store_true', help='log to VisualDL')
    add('--precision', default='fp32', choices=('fp32', 'fp16'), help='fp16: mixed precision')
    add('--amp_level', default='O1', choices=('O1', 'O2'), help="Paddle's level of mixed precision")
    common.add_check(parser)
    return parser


def main(args):
    common.load_paddleseg()
    from paddleseg.core import train
    from paddleseg.utils import utils

    utils.set_seed(args.seed)
    built = common.builder(args, iters=args.iters, batch_size=args.batch_size, learning_rate=args.learning_rate)
    train_set = common.dataset(args, built, 'train_dataset')
    val_set = common.dataset(args, built, 'val_dataset') if args.do_eval else None
    with common.config_errors(args.config):
        model = utils.convert_sync_batchnorm(built.model, args.device)
        optimizer, losses = built.optimizer, built.loss
    with loader.in_paddleseg():
        train(
            model,
            train_set,
            val_dataset=val_set,
            optimizer=optimizer,
            save_dir=args.save_dir,
            iters=built.config.iters,
            batch_size=built.config.batch_size,
            resume_model=args.resume_model,
            save_interval=args.save_interval,
            log_iters=args.log_iters,
            num_workers=args.num_workers,
            use_vdl=args.use_vdl,
            losses=losses,
            keep_checkpoint_max=args.keep_checkpoint_max,
            test_config=built.config.test_config,
            precision=args.precision,
            amp_level=args.amp_level,
        )


if __name__ == '__main__':
    runtime.run(main, parser())
