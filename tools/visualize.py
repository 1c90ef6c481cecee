"""A PNG of what a model says about images: each image with its prediction and, over it, the class of every token."""
import colorsys
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime  # noqa: E402

CPU = runtime.prepare()
import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from models import build_model, default_crop_pct  # noqa: E402
from util import checkpoint, classify, options  # noqa: E402
from util.datasets import open_rgb  # noqa: E402
from util.logger import log  # noqa: E402
from util.runtime import UserError  # noqa: E402
from util.transforms import EvalTransform, to_input  # noqa: E402

SIDE, MARGIN, CAPTION = 224, 12, 44
INK, PAPER = (30, 30, 30), (255, 255, 255)


def parser():
    parser = runtime.Parser('tools/visualize.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_eval_transform(parser)
    parser.add_argument('--label_list', default=None, metavar='FILE', help="names of the classes, lines 'id name'")
    parser.add_argument('--input', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns')
    parser.add_argument('--count', default=12, type=int, help='images to show, spread evenly over the input')
    parser.add_argument('--columns', default=3, type=int)
    parser.add_argument('--output', required=True, metavar='PNG')
    return parser


def font(size):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def colour(class_id):
    """A colour of its own for each class: steps of the golden ratio around the colour wheel."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1.0, 0.75, 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)


def overlay(image, probabilities, names):
    """The image with a wash over each token: its best class's colour, the stronger the surer; names where they fit.

    image: PIL image; probabilities: [N, C].
    """
    n = round(len(probabilities) ** 0.5)
    cell = image.width / n
    best, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wash = Image.new('RGBA', image.size)
    draw = ImageDraw.Draw(wash)
    for i, (c, p) in enumerate(zip(best, sure)):
        x, y = i % n * cell, i // n * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(*colour(c), int(40 + 150 * p)))
        if cell >= 40:
            draw.text((x + cell / 2, y + cell / 2), f'{names.get(int(c), str(c))[:7]}\n{p:.0%}', fill='white',
                      font=font(12), anchor='mm', align='center', stroke_width=2, stroke_fill=INK)
    return Image.alpha_composite(image.convert('RGBA'), wash).convert('RGB')


def panel(image, logits, aux, names):
    """One image beside its tokens, and a caption: prediction above, the tokens' commonest classes below."""
    image = image.resize((SIDE, SIDE), Image.BICUBIC)
    canvas = Image.new('RGB', (2 * SIDE + 4, SIDE + CAPTION), PAPER)
    canvas.paste(image, (0, 0))
    canvas.paste(overlay(image, aux, names), (SIDE + 4, 0))
    draw = ImageDraw.Draw(canvas)
    best = int(logits.argmax())
    draw.text((0, SIDE + 4), f'{names.get(best, str(best))[:34]}  {logits[best]:.1%}', fill=INK, font=font(15))
    ids, counts = np.unique(aux.argmax(axis=1), return_counts=True)
    x = SIDE + 4
    for c in ids[np.argsort(-counts, kind='stable')][:3]:
        text = names.get(int(c), str(c)).split(',')[0][:14]
        draw.rectangle((x, SIDE + 8, x + 11, SIDE + 19), fill=colour(c))
        draw.text((x + 15, SIDE + 6), text, fill=INK, font=font(12))
        x += 24 + int(draw.textlength(text, font=font(12)))
    return canvas


def sheet(panels, columns):
    """Panels on a white page, row by row."""
    columns = min(columns, len(panels))
    width, height = panels[0].width + MARGIN, panels[0].height + MARGIN
    page = Image.new('RGB', (columns * width + MARGIN, -(-len(panels) // columns) * height + MARGIN), PAPER)
    for i, item in enumerate(panels):
        page.paste(item, (MARGIN + i % columns * width, MARGIN + i // columns * height))
    return page


@paddle.no_grad()
def main(args):
    files = classify.find_images(args.input)
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(args.count, len(files))).round().astype(int)]
    names = classify.label_names(args.label_list, args.nb_classes)
    crop_pct = default_crop_pct(args.model) if args.crop_pct is None else args.crop_pct
    transform = EvalTransform(args.input_size, crop_pct, args.interpolation)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    if not model.return_dense:
        raise UserError(f'--model {args.model}: has no classifier of tokens to show')
    log(checkpoint.load_into(model, args.resume, args.ema))
    model.eval()
    images = [transform.crop(open_rgb(path)) for path in files]
    cls, aux = model.forward_dense(paddle.to_tensor(np.stack([to_input(image) for image in images])))
    logits = F.softmax(cls + 0.5 * aux.max(axis=1)).numpy()
    tokens = F.softmax(aux).numpy()
    page = sheet([panel(*item, names) for item in zip(images, logits, tokens)], args.columns)
    page.save(args.output)
    log(f'wrote {args.output}')


if __name__ == '__main__':
    runtime.run(main, parser())
