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
from predictions import load
from tools import fonts
from util import class_names
from util.args import LABEL_LIST_HELP, Parser, add_eval_transform, add_model, add_normalisation, add_weights
from util.data.folders import find_images
from util.data.images import BadImage
from util.errors import UserError
from util.logger import log
from util.ranges import whole

DEMO = os.path.dirname(os.path.abspath(__file__))
MAX_BYTES = 64 << 20  # of a file
EXAMPLES = 12


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
    help = f'photos to click on, files or folders, of which {EXAMPLES} are shown'
    add('--examples', nargs='+', metavar='IMG', help=help)
    help = 'TrueType or OpenType font (default: fonts of the system for characters that the built-in font lacks)'
    add('--font', metavar='FILE', help=help)
    add('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1); 0.0.0.0 for other machines too')
    add('--port', default=7860, type=whole(at_least=1, at_most=65535), help='port to listen on (default: 7860)')
    return parser


def examples(args, network):
    """Files to click on: those of --examples, else photos of what the model knows.

    These are the scenes of demo/run.sh, for the models that it trained and exported, and a cat for ImageNet's classes.
    """
    weights = args.model_file or args.resume
    run = os.path.dirname(os.path.dirname(os.path.abspath(weights)))
    scenes = os.path.join(run, 'digits', 'val')
    if args.examples:
        files = find_images(args.examples)
        return [files[i] for i in sorted({i * len(files) // EXAMPLES for i in range(EXAMPLES)})]
    if weights and os.path.isdir(scenes):
        return find_images([scenes])[::40]  # 40 of each digit, in order
    if network.names == class_names.read_label_list(class_names.IMAGENET_NAMES):
        return [os.path.join(DEMO, 'chelsea.png')]
    return []


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


def address(host, port):
    """The address of the page for a browser on this machine, and if there is one for browsers on others."""
    if host in ('0.0.0.0', '::'):
        return f'http://127.0.0.1:{port}/ and from other machines http://{socket.gethostname()}:{port}/'
    return f'http://[{host}]:{port}/' if ':' in host else f'http://{host}:{port}/'


def main(args):
    gradio = import_gradio()
    check_address(args.host, args.port)
    import page  # needs Gradio

    if args.font:
        fonts.use(args.font)
    network = load(args)
    try:
        blocks = page.build(network, examples(args, network))
    except BadImage as error:
        raise UserError(f'--examples: {error}')
    blocks.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        quiet=True,
        max_file_size=MAX_BYTES,
        footer_links=[],
        css_paths=page.CSS,
        theme=gradio.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']),  # no web fonts
        prevent_thread_lock=True,
    )
    log(f'the page: {address(args.host, args.port)} (Ctrl-C ends it)')
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)


if __name__ == '__main__':
    runtime.run(main, parser())
