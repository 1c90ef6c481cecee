"""Does a backbone that was trained with token labels segment better? The demo's scenes with their masks, by PaddleSeg.

    python seg/demo.py OUT [--arms token label scratch] [--seeds 0 1 2] [--iters 200]

    token      starts from the demo's checkpoint: trained with a label for every token
    label      from one trained on the same images in the same order, with the image's label alone
    scratch    from random weights

Each arm trains on the same 320 scenes with masks, and is evaluated on the same 200, of digits that it has not seen. A
seed takes other scenes and another start. OUT receives a folder for each seed, study.md and segmentation.png. Called
again it goes on where it was.
"""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from PIL import Image, ImageDraw

from benchmarks.study import difference, mean_and_std
from util import options
from util.errors import UserError
from util.logger import log

ROOT = Path(__file__).resolve().parents[1]
ARMS = ('token', 'label', 'scratch')
CONFIG = 'seg/configs/upernet_lvvit_nano_digits_48x48.yml'
EPOCHS = 14
RECIPE = (  # of demo/run.sh, without the token labels
    f'--model lvvit_nano --input_size 48 --nb_classes 10 --epochs {EPOCHS} --warmup_epochs 1 --cooldown_epochs 0 '
    '--batch_size 32 --lr 1e-3 --clip_grad 1 --smoothing 0 --mixup 0 --cutmix 0 --no_mix_token --aa= --hflip 0 '
    '--train_scale 0.8 1 --reprob 0 --num_workers 0'
)
PICTURED, ZOOM = 10, 3
COLOURS = [(40, 40, 40)] + [  # the ground, and the ten digits
    *[(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)],
    *[(145, 30, 180), (70, 240, 240), (240, 50, 230), (170, 110, 40), (250, 190, 212)],
]


class Demo:
    """The steps for one seed. Each is skipped if what it makes is there.

    reuse: `token` starts from demo/run.sh's checkpoint if it is there. That was trained by two processes, so beside
    `label` it would not be a fair comparison.
    """

    def __init__(self, out, seed, iters, reuse=False):
        self.folder, self.seed, self.iters, self.reuse = out / f'seed{seed}', seed, iters, reuse
        self.scenes = self.folder / 'scenes'

    def command(self, *words):
        """Run one of the project's scripts; its output goes to FOLDER/console.log. Returns that output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in words]
        log(f'seed {self.seed}: {words[0]} …')
        done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = done.stdout.decode('utf-8', 'replace')
        with open(self.folder / 'console.log', 'a', encoding='utf-8') as f:
            f.write(f'$ {" ".join(words)}\n{text}\n')
        if done.returncode:
            raise UserError(f'{self.folder}/console.log: {words[0]} failed, see its end')
        return text

    def checkpoint(self, arm):
        """The weights an arm starts from, of the last epoch: demo/run.sh's where they are, else trained here."""
        theirs = ROOT / 'demo' / ('output' if self.seed == 0 else f'output-seed{self.seed}') / 'train'
        if arm == 'token' and self.reuse and (theirs / f'checkpoint-{EPOCHS - 1}.pd').exists():
            return theirs / f'checkpoint-{EPOCHS - 1}.pd'
        folder, digits = self.folder / f'classification-{arm}', self.folder / 'digits'
        last = folder / f'checkpoint-{EPOCHS - 1}.pd'
        if not last.exists():
            self.command('demo/digits.py', digits, '--size', '48', '--seed', self.seed)
            token = ['--token_label', '--token_label_data', digits / 'label_maps'] if arm == 'token' else []
            lists = [f'--cls_label_path_{split}={digits}/{split}_list.txt' for split in ('train', 'val')]
            places = ['--data_path', digits, *lists, '--output_dir', folder]
            self.command('main.py', *RECIPE.split(), *token, *places, '--seed', self.seed, '--resume', 'auto')
        return last

    def settings(self, arm=None):
        """--opts: where the data are, and the weights that `arm` starts from."""
        changes = {f'{split}_dataset.dataset_root': self.scenes for split in ('train', 'val')}
        changes.update(
            {f'{split}_dataset.{split}_path': self.scenes / f'masks_{split}.txt' for split in ('train', 'val')}
        )
        if arm and arm != 'scratch':
            changes['model.backbone.pretrained'] = self.checkpoint(arm)
        return ['--opts', *(f'{key}={value}' for key, value in changes.items())]

    def run_folder(self, arm):
        return self.folder / ('token-of-the-demo' if arm == 'token' and self.reuse else arm)

    def weights(self, arm):
        return self.run_folder(arm) / f'iter_{self.iters}' / 'model.pdparams'

    def run(self, arm):
        """Train an arm, evaluate it, predict what is pictured; returns its mIoU in percent."""
        self.command(
            'demo/digits.py', self.scenes, *'--size 48 --train 320 --val 200 --masks --seed'.split(), self.seed
        )
        run = self.run_folder(arm)
        if not self.weights(arm).exists():
            every = ['--iters', self.iters, '--save_interval', self.iters]
            self.command(
                'seg/train.py', '--config', CONFIG, '--save_dir', run, *every, '--seed', self.seed, *self.settings(arm)
            )
        result = run / f'val_{self.iters}.txt'
        if not result.exists():
            text = self.command('seg/val.py', '--config', CONFIG, '--model_path', self.weights(arm), *self.settings())
            result.write_text(text[text.index('[EVAL]') :], encoding='utf-8')
        return 100 * float(re.search(r'mIoU: ([\d.]+)', result.read_text(encoding='utf-8'))[1])

    def predicted(self, arm):
        """Predict the first scenes; returns the folder with PaddleSeg's masks."""
        pictured = self.scenes / 'pictured.txt'
        pictured.write_text('\n'.join((self.scenes / 'masks_val.txt').read_text().splitlines()[:PICTURED]) + '\n')
        out, use = self.run_folder(arm) / 'predictions', ['--config', CONFIG, '--model_path', self.weights(arm)]
        self.command('seg/predict.py', *use, '--image_path', pictured, '--save_dir', out, *self.settings())
        return out / 'pseudo_color_prediction'

    def export(self, arm):
        use = ['--config', CONFIG, '--model_path', self.weights(arm)]
        self.command('seg/export.py', *use, '--save_dir', self.run_folder(arm) / 'export', *self.settings())


def coloured(path):
    """A mask file as an RGB image, in the colours of this picture."""
    mask = Image.open(path)
    mask.putpalette(sum(COLOURS, ()))
    return mask.convert('RGB')


def draw(demo, arms, path):
    """A column a scene: the image, its mask, and what each arm says."""
    pairs = [line.split() for line in (demo.scenes / 'masks_val.txt').read_text().splitlines()[:PICTURED]]
    rows = [('image', [Image.open(demo.scenes / image) for image, _ in pairs])]
    rows.append(('truth', [coloured(demo.scenes / mask) for _, mask in pairs]))
    for arm in arms:
        folder = demo.predicted(arm)
        rows.append((arm, [coloured(folder / Path(image).with_suffix('.png')) for image, _ in pairs]))
    side, left, gap = 48 * ZOOM, 62, 4
    sheet = Image.new('RGB', (left + PICTURED * (side + gap), len(rows) * (side + gap) + 26), 'white')
    pen = ImageDraw.Draw(sheet)
    for y, (name, images) in enumerate(rows):
        pen.text((6, y * (side + gap) + side // 2 - 6), name, fill='black')
        for x, image in enumerate(images):
            sheet.paste(image.resize((side, side), Image.NEAREST), (left + x * (side + gap), y * (side + gap)))
    for i, colour in enumerate(COLOURS):
        x, y = left + i * 90, len(rows) * (side + gap) + 6
        pen.rectangle((x, y, x + 14, y + 14), fill=colour)
        pen.text((x + 20, y + 1), 'ground' if i == 0 else f'a {i - 1}', fill='black')
    sheet.save(path)


def report(results, iters):
    """Markdown of {arm: {seed: mIoU}}."""
    lines = ['| start | n | mIoU, mean ± std | each seed | against `scratch`, each seed | mean [95 % interval] |']
    lines += ['|---|--:|--:|---|---|---|']
    base = results.get('scratch', {})
    for arm, of in results.items():
        gains = [value - base[seed] for seed, value in of.items() if seed in base]
        cells = [f'`{arm}`', str(len(of)), mean_and_std(list(of.values())), ', '.join(f'{v:.1f}' for v in of.values())]
        compared = gains and arm != 'scratch'
        cells += [', '.join(f'{gain:+.1f}' for gain in gains), difference(gains)] if compared else ['', '']
        lines.append('| ' + ' | '.join(cells) + ' |')
    both = [seed for seed in results.get('token', {}) if seed in results.get('label', {})]
    if both:
        gains = [results['token'][seed] - results['label'][seed] for seed in both]
        lines += ['', f'`token` against `label`: {difference(gains)} points, n = {len(both)}.']
    return '\n'.join([*lines, '', f'{iters} steps of 16 scenes.'])


def main(args):
    results = {arm: {} for arm in args.arms}
    demos = [Demo(args.out.resolve(), seed, args.iters, reuse='label' not in args.arms) for seed in args.seeds]
    for seed, demo in zip(args.seeds, demos):
        for arm in args.arms:
            results[arm][seed] = demo.run(arm)
            log(f'{arm}, seed {seed}: mIoU {results[arm][seed]:.1f} %')
    first = demos[0]
    first.export(args.arms[0])
    draw(first, args.arms, args.out / 'segmentation.png')
    table = report(results, args.iters)
    (args.out / 'study.md').write_text(table + '\n', encoding='utf-8')
    print(table)
    print(f'{args.out}/segmentation.png shows them; {first.run_folder(args.arms[0])}/export is for Paddle Inference')


def parser():
    parser = runtime.Parser('seg/demo.py', description=__doc__.splitlines()[0])
    parser.add_argument('out', metavar='OUT', type=Path)
    parser.add_argument('--arms', nargs='+', default=['token'], choices=ARMS)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--iters', type=options.count, default=200, help='training steps of 16 scenes')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
