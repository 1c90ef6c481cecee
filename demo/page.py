"""The page of demo/app.py in Gradio: its parts, and what a visitor does with them. markup.py writes the HTML."""

import os
from functools import partial

import gradio
from PIL import Image

import markup
from photo import read_photo
from predictions import heat_maps, picture, predict, words_fit
from util.data.images import FORMATS, BadImage
from util.errors import UserError

CSS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page.css')
BEST = -1  # a choice of class: the best one of each photo
# The dialog for files offers those that can be read. Gradio's own filter would also refuse files that are dropped, with
# a message over the page; they reach `show` instead, which says why they are refused. A click into the list of classes
# selects the name that stands there, so that what is typed replaces it.
ON_LOAD = """() => {
    const file = '#upload input[type=file]', accept = '%s'
    document.addEventListener('click', () => document.querySelector(file)?.setAttribute('accept', accept), true)
    document.querySelector('#class_id input')?.addEventListener('focus', event => event.target.select())
}"""
SELECT_EXAMPLE = """element.addEventListener('click', event => {
    const button = event.target.closest('button')
    if (button) trigger('select', {index: Number(button.dataset.index)})
})"""


class Answers:
    """What the page shows after a visitor has done something. files: the examples."""

    def __init__(self, network, files):
        self.network, self.files = network, files

    def show(self, path, block, written):
        """Of a file: prediction, photo, best classes, what `redraw` returns, and None, the place for the next file."""
        try:
            photo = read_photo(path)
            prediction = predict(self.network, photo)
        except (BadImage, UserError) as error:
            return None, '', '', '', markup.refusal(error), gradio.update(visible=False), None
        texts = markup.about(photo), markup.best_classes(prediction, self.network.labels)
        return prediction, *texts, *self.redraw(prediction, block, written), None

    def show_example(self, block, written, event: gradio.EventData):
        return self.show(self.files[event.index], block, written)

    def redraw(self, prediction, block, written):
        """The picture after a block, a text about it, and whether there is the choice to write into its tokens."""
        if prediction is None:
            return gradio.skip(), gradio.skip(), gradio.skip()
        names, text, fit = self.network.names, self.network.why_no_tokens, False
        if prediction.tokens:
            text, fit = markup.summary(prediction, block, names), words_fit(prediction, block, names)
        drawn = picture(prediction, block, names, written)
        return markup.seen(prediction, drawn, block, names), text, gradio.update(visible=fit)

    def explain(self, prediction, class_id):
        """The heat maps of a class, or of the best one for BEST."""
        if prediction is None or not self.network.explains:
            return ''
        class_id = prediction.best[0][0] if class_id == BEST else class_id
        return markup.heat_maps(heat_maps(self.network, prediction, class_id))


def build(network, files):
    """The page, as gradio.Blocks. files: the examples. Raises BadImage if one of them is no photo."""
    html = partial(gradio.HTML, apply_default_css=False)
    # uploads are deleted after an hour, and when the server ends
    options = dict(title='Token labeling', analytics_enabled=False, delete_cache=(600, 3600), fill_width=True)
    with gradio.Blocks(**options) as page:
        prediction = gradio.State(time_to_live=3600)  # seconds
        html(markup.introduction(network), elem_id='introduction')
        with gradio.Accordion(f'The {len(network.labels):,} classes of the model', open=False):
            html(markup.class_list(network.labels), elem_id='known')
        with gradio.Row():
            with gradio.Column(scale=2, min_width=220):
                upload = gradio.File(label='photo', show_label=False, height=135, elem_id='upload')
                buttons = markup.examples(map(read_photo, files))
                examples = html(buttons, js_on_load=SELECT_EXAMPLE, visible=bool(files), elem_id='examples')
                about = html(elem_id='about')
            with gradio.Column(scale=5, min_width=340):
                note = html('Drop a photo' + (', or click on an example.' if files else '.'), elem_id='note')
                seen = html(elem_id='seen')
                blocks = dict(minimum=1, maximum=max(network.blocks, 2), value=max(network.blocks, 1), step=1)
                options = dict(label='tokens after block', buttons=[], visible=network.blocks > 1)
                block = gradio.Slider(**blocks, **options, elem_id='block')
                label = 'write class and probability into the tokens'
                written = gradio.Checkbox(True, label=label, visible=False, elem_id='written')
            with gradio.Column(scale=3, min_width=260):
                classes = html(elem_id='classes')
                choices = [('the best class', BEST), *((name, i) for i, name in enumerate(network.labels))]
                options = dict(value=BEST, label='relevance to', visible=network.explains)
                class_id = gradio.Dropdown(choices, **options, elem_id='class_id')
                heat = html(elem_id='heat')

        Image.init()
        page.load(js=ON_LOAD % ','.join(Image.MIME[name] for name in FORMATS))
        answers, drawn = Answers(network, files), [seen, note, written]
        shown = [prediction, about, classes, *drawn, upload]
        one_at_a_time = dict(concurrency_id='network', concurrency_limit=1)
        explanation = dict(fn=answers.explain, inputs=[prediction, class_id], outputs=heat, **one_at_a_time)
        upload.upload(answers.show, [upload, block, written], shown, **one_at_a_time).then(**explanation)
        examples.select(answers.show_example, [block, written], shown, **one_at_a_time).then(**explanation)
        class_id.input(**explanation)
        for control in block, written:
            quietly = dict(trigger_mode='always_last', show_progress='hidden')
            control.change(answers.redraw, [prediction, block, written], drawn, **quietly)
    return page
