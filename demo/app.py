"""A page in the browser: drop a photo, see its five best classes, and over the photo the prediction of every token.

demo/app.py --resume demo/output/train/checkpoint-best.pd
demo/app.py --model_file output/export/model.pdmodel              an exported model gives classes only

The server fetches nothing, and the page needs no internet. Install: pip install -r demo/requirements-app.txt
"""

import os
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

from models import FAMILY
from predictions import load, picture, predict, summary
from util.args import LABEL_LIST_HELP, Parser, add_eval_transform, add_model, add_normalisation, add_weights
from util.data.folders import find_images
from util.data.images import BadImage
from util.errors import UserError
from util.logger import log
from util.ranges import whole

DEMO = os.path.dirname(os.path.abspath(__file__))
EXPLANATION = (
    'A token is a square of the picture. Its colour shows its best class: the stronger, the higher the probability. '
    'The model does not see the pale border.'
)
MAX_BYTES = 64 << 20  # of a file


def parser():
    parser = Parser('demo/app.py', description=__doc__)
    add_model(parser, FAMILY)
    add_weights(parser)
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    title = 'exported model, instead of the weights (input size, crop and names: as exported)'
    add = parser.add_argument_group(title).add_argument
    add('--model_file', metavar='FILE', help='model.pdmodel, model.json, model.onnx or model.xml')
    add('--params_file', metavar='FILE', help='model.pdiparams (default: beside the model)')
    add('--config', metavar='FILE', help='inference.yml (default: beside the model)')
    add = parser.add_argument_group('page').add_argument
    add('--label_list', metavar='FILE', help=LABEL_LIST_HELP)
    add('--examples', nargs='+', metavar='IMG', help="photos to click on (default: the demo's)")
    add('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1); 0.0.0.0 for other machines too')
    add('--port', default=7860, type=whole(at_least=1, at_most=65535), help='port to listen on (default: 7860)')
    return parser


def examples(args):
    """Files to click on: of --examples, else the demo's photo and, after demo/run.sh, some of its scenes."""
    if args.examples:
        return find_images(args.examples)[:24]
    scenes = os.path.join(DEMO, 'output', 'digits', 'val')
    files = [os.path.join(DEMO, 'chelsea.png')]
    if os.path.isdir(scenes):
        files += find_images([scenes])[::40][:10]  # 40 of each digit, in order
    return files


def import_gradio():
    """Gradio without its calls to other servers. Raises UserError if it is missing or too old."""
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
    """Raise UserError if the server could not listen there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except OSError as error:
        raise UserError(f'--host {host} --port {port}: cannot listen there ({error.strerror})')


def build(gradio, network, files):
    """The page, as gradio.Blocks. files: the examples."""
    welcome = network.why_no_tokens or 'No photo yet.'
    # uploads are deleted after an hour, and when the server ends
    options = dict(title='Token labeling', analytics_enabled=False, delete_cache=(600, 3600), fill_width=True)
    with gradio.Blocks(**options) as page:
        prediction = gradio.State(time_to_live=3600)  # seconds
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
                    True,
                    label='write class and probability into the tokens',
                    visible=network.blocks > 1,
                    elem_id='written',
                )
        gradio.Markdown('Examples:')
        gallery = gradio.Gallery(
            files, show_label=False, columns=11, height=120, allow_preview=False, buttons=[], elem_id='examples'
        )

        def show(path, block, written):
            try:
                result = predict(network, path)
            except (BadImage, UserError) as error:
                gradio.Warning(str(error))
                return None, None, None, str(error), None
            return result, result.best, *redraw(result, block, written), None  # None: ready for the next file

        def show_example(block, written, event: gradio.SelectData):
            return show(files[event.index], block, written)

        def redraw(result, block, written):
            if result is None:
                return None, welcome
            text = summary(result, block, network.names) if result.tokens else network.why_no_tokens
            return picture(result, block, network.names, written), text

        shown = [prediction, classes, seen, note, upload]
        one_at_a_time = dict(concurrency_id='network', concurrency_limit=1)
        controls = [slider, written]
        upload.upload(show, [upload, *controls], shown, **one_at_a_time)
        gallery.select(show_example, controls, shown, **one_at_a_time)
        for control in controls:
            control.change(
                redraw, [prediction, *controls], [seen, note], trigger_mode='always_last', show_progress='hidden'
            )
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
        theme=gradio.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']),  # no web fonts
        prevent_thread_lock=True,
    )
    log(f'the page: http://{args.host}:{args.port} (Ctrl-C ends it)')
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


if __name__ == '__main__':
    runtime.run(main, parser())
