"""A page in the browser: drop a photo, see its five best classes, and over the photo what every token says.

demo/app.py --model lvvit_nano --input_size 48 --nb_classes 10 --resume demo/output/train/checkpoint-best.pd
demo/app.py --model_file output/export/model.pdmodel              an exported model gives classes only

The server fetches nothing, and the page needs no internet. It needs Gradio, which holds Pillow below 13, so that images
differ from those of the other scripts in a last bit now and then; it is better off in an environment of its own:
bash tools/venv.sh .venv-app -r requirements-cpu.txt -r demo/requirements-app.txt
"""

import argparse
import os
import socket
import sys
import threading
from typing import NamedTuple, Optional

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
from PIL import Image

import infer
from models import build_model, load_weights, published_defaults
from util import options
from util.data.images import FORMATS, BadImage, find_images, open_rgb
from util.data.transforms import EvalTransform
from util.deploy import drawing, inference_yml, insight, predictor, records
from util.errors import UserError
from util.logger import log

DEMO = os.path.dirname(os.path.abspath(__file__))
SIDE = 576  # pixels of the page, of the square that the model sees
EXPLANATION = (
    'A token is a square of the picture: its colour is that of the class that it prefers, the stronger the surer. '
    'What the model does not see is pale.'
)
MAX_PIXELS = 64_000_000  # of a photo: 0.2 GB decoded
MAX_BYTES = 64 << 20  # of a file


def port(word):
    """A whole number from 1 to 65535."""
    value = int(word)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f'must be 1 to 65535, not {word}')
    return value


def parser():
    parser = runtime.Parser('demo/app.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_eval_transform(parser)
    parser.set_defaults(interpolation=None)  # bicubic, or as exported
    title = 'exported model, instead of the weights (input size, crop and names: as exported)'
    add = parser.add_argument_group(title).add_argument
    add('--model_file', metavar='FILE', help='model.pdmodel or model.json')
    add('--params_file', metavar='FILE', help='model.pdiparams (default: beside the model)')
    add('--config', metavar='FILE', help='inference.yml (default: beside the model)')
    add = parser.add_argument_group('page').add_argument
    add('--label_list', metavar='FILE', help="names of the classes, lines 'id name'")
    add('--examples', nargs='+', metavar='IMG', help="photos to click on (default: the demo's)")
    add('--host', default='127.0.0.1', help='address to listen on; 0.0.0.0: all of this machine, for others to see')
    add('--port', default=7860, type=port)
    return parser


# -- what the page asks -----------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a model says of a photo, and the photo as the page shows it (drawing.in_context)."""

    best: dict  # {name: probability} of the five best classes, the best first
    tokens: Optional[list]  # [drawing.Tokens] after each block; None if there are no token scores
    faded: Image.Image
    square: Image.Image  # what the model sees
    corner: tuple


class Checkpoint:
    """A model with its weights, which can be looked into. Raises UserError for weights that do not fit."""

    def __init__(self, args):
        published_defaults(args)
        self.names = records.class_names(args.label_list, args.nb_classes)
        self.transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation or 'bicubic')
        self.model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        log(load_weights(self.model, args))
        self.model.eval()
        self.title = f'{args.model}, {args.input_size} px'
        self.blocks, self.silent = len(self.model.blocks), ''
        if not insight.says_something(self.model):
            self.blocks, self.silent = 0, 'This model was trained without token labels: its tokens say nothing.'

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], [drawing.Tokens] after each block or None)."""
        scores, tokens = insight.scores_and_tokens(self.model, image)
        return scores, None if tokens is None else [drawing.Tokens.of(block) for block in tokens]


class Exported:
    """An exported model, run as infer.py runs it on the CPU: classes only."""

    blocks, silent = 0, 'An exported model gives classes only; start the page with a checkpoint to see its tokens.'

    def __init__(self, args):
        params = args.params_file or os.path.splitext(args.model_file)[0] + '.pdiparams'
        words = ['--model_file', args.model_file, '--params_file', params, '--use_gpu', 'False', '--input_file', '-']
        for flag in ('config', 'input_size', 'crop_pct', 'interpolation', 'label_list'):
            value = getattr(args, flag)
            if value is not None:
                words += [f'--{flag}', str(value)]
        given = infer.parser().parse_args(words)
        settings = inference_yml.find_settings(given)
        size = settings['input_size']
        self.transform = EvalTransform(
            size, settings['crop_pct'], settings['interpolation'], mean=settings['mean'], std=settings['std']
        )
        self.network = predictor.create(given, settings)
        outputs = self.network(np.zeros([1, 3, size, size], 'float32'))
        if settings['nb_classes'] is None:  # no inference.yml
            inference_yml.complete(settings, outputs, args.label_list)
        self.names, self.are_scores = settings['label_names'], settings['output'] == 'scores'
        self.title = f'{os.path.basename(args.model_file)}, {size} px'

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], None)."""
        outputs = self.network(image[None])[0].astype('float64')
        if self.are_scores:
            return outputs, None
        powers = np.exp(outputs - outputs.max())
        return powers / powers.sum(), None


def load(args):
    """The network of the flags. Raises UserError for flags that do not go together, and for what cannot be loaded."""
    if not args.model_file:
        return Checkpoint(args)
    for flag in ('resume', 'pretrained', 'ema'):
        if getattr(args, flag):
            raise UserError(f'--model_file and --{flag}: an exported model has its own weights; give one')
    return Exported(args)


def read_photo(path):
    """An RGB image, its pixels as the model takes them: an EXIF orientation is ignored.

    Raises BadImage, which names the file without its folder, for what is no image, is damaged, or is too large.
    """
    name = os.path.basename(path)
    try:
        with Image.open(path, formats=FORMATS) as image:  # reads the header only
            width, height = image.size
    except Exception:
        width = height = 0  # open_rgb says what is wrong
    if width * height > MAX_PIXELS:
        raise BadImage(f'{name}: {width} x {height} pixels; this page takes {MAX_PIXELS // 10**6} million at most')
    try:
        return open_rgb(path)
    except (BadImage, UserError) as error:
        raise BadImage(str(error).replace(path, name))


def ask(network, path):
    """The network's Answer about a file. Raises BadImage, one line, for what is no photo."""
    photo = read_photo(path)
    scores, tokens = network(network.transform(photo))
    (record,) = records.best_classes([path], scores[None], network.names, topk=5, are_scores=True)
    best = {}
    for class_id, name, score in zip(record['class_ids'], record['label_names'], record['scores']):
        best[f'{name} (class {class_id})' if name in best else name] = score  # ImageNet has two cranes
    return Answer(best, tokens, *drawing.in_context(photo, network.transform.region(*photo.size), SIDE))


def picture(answer, block, names, written=True):
    """The photo with what its tokens say after a block, counted from 1, over the square that the model sees.

    written: whether names and probabilities are written into the tokens.
    """
    square = answer.square
    if answer.tokens:
        square = drawing.overlay(square, answer.tokens[block - 1], names, written)
    result = answer.faded.copy()
    result.paste(square, answer.corner)
    return result


def summary(answer, block, names):
    """A sentence about the tokens after a block, in Markdown; the commonest classes with their colours."""
    tokens = answer.tokens[block - 1]
    known = int(tokens.know.sum())
    if not known:
        return f'After block {block} of {len(answer.tokens)} no token prefers a class.'
    common = [
        f'<span style="color: rgb{drawing.colour(i)}">■</span> {drawing.short_name(i, names)}'
        for i in drawing.common_classes(tokens)[:5]
    ]
    sure = tokens.scores[tokens.know].mean()
    return (
        f'After block {block} of {len(answer.tokens)}, {known} of {len(tokens.ids)} tokens prefer a class '
        f'(on average with {sure:.0%}): {", ".join(common)}.'
    )


# -- the page ---------------------------------------------------------------------------------------------------------


def examples(args):
    """Files to click on: those of --examples, else the demo's photo and, once demo/run.sh has run, scenes of it."""
    if args.examples:
        return find_images(args.examples)[:24]
    scenes = os.path.join(DEMO, 'output', 'digits', 'val')
    files = [os.path.join(DEMO, 'chelsea.png')]
    if os.path.isdir(scenes):
        files += find_images([scenes])[::40][:10]  # 40 of each digit, in order
    return files


def import_gradio():
    """Gradio, told to call nobody. Raises UserError where it is missing or too old."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['HF_HUB_OFFLINE'] = '1'
    try:
        import gradio
    except ImportError:
        raise UserError('Gradio is not installed: pip install -r demo/requirements-app.txt')
    if int(gradio.__version__.split('.')[0]) < 6:
        raise UserError(f'Gradio {gradio.__version__} is too old: pip install -r demo/requirements-app.txt')
    return gradio


def check_address(host, port):
    """Raises UserError where nobody can listen."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except OSError as error:
        raise UserError(f'--host {host} --port {port}: cannot listen there ({error.strerror})')


def build(gradio, network, files):
    """The page, as gradio.Blocks. files: the examples."""
    welcome = network.silent or 'No photo yet.'
    # what visitors upload is deleted after an hour, and when the server ends
    options = dict(title='Token labeling', analytics_enabled=False, delete_cache=(600, 3600), fill_width=True)
    with gradio.Blocks(**options) as page:
        answer = gradio.State(time_to_live=3600)  # seconds
        gradio.Markdown(f'# What does every token say?\n{network.title}. {EXPLANATION}')
        with gradio.Row():
            with gradio.Column(scale=2, min_width=280):
                upload = gradio.File(label='Drop a photo here', height=150, elem_id='upload')
                classes = gradio.Label(label='Best classes', num_top_classes=5, elem_id='classes')
            with gradio.Column(scale=3, min_width=400):
                note = gradio.Markdown(welcome, elem_id='note')
                seen = gradio.Image(show_label=False, interactive=False, buttons=[], format='png', elem_id='seen')
                slider = gradio.Slider(
                    minimum=1,
                    maximum=max(network.blocks, 2),
                    value=max(network.blocks, 1),
                    step=1,
                    label='after block',
                    visible=network.blocks > 1,
                    elem_id='block',
                )
                written = gradio.Checkbox(
                    True, label='write into the tokens what they say', visible=network.blocks > 1, elem_id='written'
                )
        gradio.Markdown('Examples:')
        gallery = gradio.Gallery(
            files, show_label=False, columns=11, height=120, allow_preview=False, buttons=[], elem_id='examples'
        )

        def show(path, block, written):
            try:
                result = ask(network, path)
            except BadImage as error:
                gradio.Warning(str(error))
                return None, None, None, str(error), None
            return result, result.best, *redraw(result, block, written), None  # None: ready for the next file

        def show_example(block, written, event: gradio.SelectData):
            return show(files[event.index], block, written)

        def redraw(result, block, written):
            if result is None:
                return None, welcome
            text = summary(result, block, network.names) if result.tokens else network.silent
            return picture(result, block, network.names, written), text

        shown = [answer, classes, seen, note, upload]
        one_at_a_time = dict(concurrency_id='network', concurrency_limit=1)
        how = [slider, written]
        upload.upload(show, [upload, *how], shown, **one_at_a_time)
        gallery.select(show_example, how, shown, **one_at_a_time)
        for control in how:
            control.change(redraw, [answer, *how], [seen, note], trigger_mode='always_last', show_progress='hidden')
    return page


def main(args):
    gradio = import_gradio()
    check_address(args.host, args.port)
    page = build(gradio, load(args), examples(args))
    page.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        quiet=True,
        max_file_size=MAX_BYTES,
        footer_links=[],
        theme=gradio.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']),  # none from elsewhere
        prevent_thread_lock=True,
    )
    log(f'the page: http://{args.host}:{args.port} (Ctrl-C ends it)')
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


if __name__ == '__main__':
    runtime.run(main, parser())
