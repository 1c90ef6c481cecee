"""Export a checkpoint to ONNX, for batches of any size, and check it with ONNX Runtime.

    python tools/export_onnx.py --resume output/checkpoint-best.pd --output export/model.onnx

Needs Paddle 3 and `pip install paddle2onnx==2.1.0 onnx onnxruntime`. The file's input is `image` [batch, 3, S, S],
normalised by mean and standard deviation; its output is `logits` (or `scores`) [batch, C]. An inference.yml beside it
tells infer.py how to prepare images.
"""

import contextlib
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import paddle

from models import FAMILY, load_named
from util import files
from util.args import Parser, add_eval_transform, add_model, add_normalisation, add_weights
from util.data.transforms import check_eval_transform
from util.deploy import export, inference_yml
from util.errors import UserError, one_line
from util.logger import log
from util.onnx_session import open_session
from util.ranges import whole

INSTALL = 'pip install paddle2onnx==2.1.0 onnx onnxruntime'
OPSET = 17


def parser():
    parser = Parser('tools/export_onnx.py', description=__doc__)
    add_model(parser, FAMILY)
    add_weights(parser)
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    parser.add_argument('--output', required=True, metavar='FILE', help='the ONNX file to write')
    help = f'operator set, 13 to 19 (default: {OPSET}); paddle2onnx crashes for others'
    parser.add_argument('--opset', default=OPSET, type=whole(at_least=13, at_most=19), metavar='N', help=help)
    parser.add_argument('--fuse_softmax', action='store_true', help='end the network with a softmax')
    parser.add_argument('--label_list', metavar='FILE', help='class names to put into inference.yml')
    return parser


def libraries():
    """The modules (paddle2onnx, onnx, onnxruntime). Raises UserError with the pip command if one is missing."""
    if not export.PADDLE_3:
        raise UserError(f'ONNX export needs Paddle 3, this is {paddle.__version__}: paddle2onnx crashes on .pdmodel')
    try:
        with captured():
            import paddle2onnx
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f'ONNX export needs paddle2onnx, onnx and onnxruntime ({one_line(error)}); run `{INSTALL}`')
    return paddle2onnx, onnx, onnxruntime


@contextlib.contextmanager
def captured():
    """Capture file descriptors 1 and 2, to which C++ writes too. Yields a function that returns the text."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        stdout, stderr = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

        def text():
            file.seek(0)
            return file.read().decode(errors='replace')

        try:
            yield text
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)


def convert(paddle2onnx, prefix, path, opset):
    """Write the ONNX file `path` from <prefix>.json. Raises UserError with paddle2onnx's last line if it fails."""
    with captured() as text:
        try:
            paddle2onnx.export(
                f'{prefix}.json',
                f'{prefix}.pdiparams',
                path,
                opset_version=opset,
                auto_upgrade_opset=False,
                enable_onnx_checker=True,
                optimize_tool='None',
            )
            error = None
        except Exception as exception:  # its C++ code raises RuntimeError and others
            error = exception
        lines = text().strip().splitlines()
    if error or not os.path.isfile(path):
        raise UserError(f'--opset {opset}: paddle2onnx cannot convert the model ({error or lines[-1:]})')


def tidy(onnx, path, output):
    """Name the batch dimension and the output, and drop unused constants."""
    model = onnx.load(path)
    graph = model.graph
    old = graph.output[0].name
    for node in graph.node:
        node.output[:] = [output if name == old else name for name in node.output]
        node.input[:] = [output if name == old else name for name in node.input]
    graph.output[0].name = output
    used = {name for node in graph.node for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = 'batch'
    onnx.checker.check_model(model)
    onnx.save(model, path)


def session(path):
    """The file in ONNX Runtime on the CPU, as a function from images [B, 3, S, S] to its output."""
    session = open_session(path, '--output', int(os.environ['OMP_NUM_THREADS']), gpu=False)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def write(model, path, output, opset=OPSET):
    """Write the ONNX file `path` of a model in evaluation mode. output: the name of its output.

    The file is compared with the model in ONNX Runtime before it is kept. Returns a text about that, for the log.
    Raises UserError if it differs.
    """
    paddle2onnx, onnx, onnxruntime = libraries()
    with tempfile.TemporaryDirectory(prefix='.export-', dir=os.path.dirname(os.path.abspath(path))) as work:
        prefix, file = os.path.join(work, 'model'), os.path.join(work, 'model.onnx')
        export.save_graph(model, prefix, as_json=True)
        convert(paddle2onnx, prefix, file, opset)
        tidy(onnx, file, output)
        network = session(file)
        worst = export.compare(export.random_outputs(model), network, path)
        os.replace(file, path)
    return (
        f'opset {opset}, differs from the model by at most {worst:.1e} of the largest output '
        f'(ONNX Runtime {onnxruntime.__version__}, batches of {", ".join(map(str, export.CHECKED_BATCHES))})'
    )


def main(args):
    libraries()
    if not args.output.endswith('.onnx'):
        raise UserError(f'--output {args.output}: must end in .onnx, by which infer.py knows the format')
    folder = os.path.dirname(os.path.abspath(args.output))
    files.check_folder(folder, f'--output {args.output}')
    model, names = load_named(args)
    check_eval_transform(args.crop_pct, args.interpolation, args.mean, args.std)
    output = 'logits'
    if args.fuse_softmax:
        model, output = export.WithSoftmax(model), 'scores'
        model.eval()
    settings = inference_yml.from_flags(args, names, output)
    others = inference_yml.of_other_files(f'--output {args.output}', folder, settings, ['onnx'])
    checked = write(model, args.output, output, args.opset)
    inference_yml.write_settings(folder, settings, [os.path.basename(args.output)], others)
    log(f'{args.output}: {checked}')


if __name__ == '__main__':
    runtime.run(main, parser())
