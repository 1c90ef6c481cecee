"""The parts of the page of demo/app.py in HTML: photo, pictures with what each token says, classes, examples."""

import base64
import io
from html import escape

from tools.drawing import common_classes, percent, short_name


def img(image, text, side=None):
    """An <img> of a PIL image. text: says what it shows. side: of the square that it is made to fit in, in pixels."""
    if side:
        image = image.copy()
        image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=90, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(text)}">'


def introduction(network):
    """The title of the page, and a sentence about tokens and classes."""
    knows = f'The model only knows its own {len(network.labels):,} classes and names one of them for every photo.'
    if network.why_no_tokens:
        return f'<h1>What is in the photo?</h1><p>{escape(network.title)}. {knows}</p>'
    token = (
        f'A token is one of the {network.grid} × {network.grid} squares into which the model divides a photo, and it '
        'has a best class of its own.'
    )
    return f'<h1>What does every token say?</h1><p>{escape(network.title)}. {token} {knows}</p>'


def class_list(labels):
    """labels: [name of class 0, …]."""
    return f'<ol start="0">{"".join(f"<li>{escape(name)}</li>" for name in labels)}</ol>'


def examples(photos):
    """A button for each Photo, with its place among them as data-index."""
    buttons = ''
    for i, photo in enumerate(photos):
        thumbnail = img(photo.image, f'example {photo.name}', 160)
        buttons += f'<button data-index="{i}" title="{escape(photo.name)}">{thumbnail}</button>'
    return f'Examples:<div class="buttons">{buttons}</div>'


def about(photo):
    """Thumbnail, name and size of a Photo."""
    width, height = photo.image.size
    turned = ', turned upright as its EXIF data says' if photo.turned else ''
    text = f'<p><b>{escape(photo.name)}</b><br>{width:,} × {height:,} px{turned}</p>'
    return f'<div class="about">{img(photo.image, photo.name, 320)}{text}</div>'


def refusal(error):
    return f'<p class="refusal" role="alert">{escape(str(error))}</p>'


def best_classes(prediction, labels):
    """A bar for each of the best classes."""
    return ''.join(
        f'<p><span>{escape(labels[class_id])}</span><b>{escape(percent(score))}</b></p>'
        f'<div class="bar" style="width: {score:.1%}"></div>'
        for class_id, score in prediction.best
    )


# -- the picture ------------------------------------------------------------------------------------------------------


def summary(prediction, block, names):
    """How many tokens prefer a class after a block, counted from 1, and which classes are the most frequent."""
    tokens, blocks = prediction.tokens.after(block), len(prediction.tokens.ids)
    decided = int(tokens.decided.sum())
    if not decided:
        return f'After block {block} of {blocks} no token prefers a class.'
    palette = prediction.tokens.palette()
    common = [
        f'<span style="color: rgb{palette[i]}">■</span>\N{NO-BREAK SPACE}{escape(short_name(i, names))}'
        for i in common_classes([tokens])[:5]
    ]
    mean = escape(percent(tokens.scores[tokens.decided].mean()))
    return (
        f'After block {block} of {blocks}, {decided} of {len(tokens.ids)} tokens prefer a class '
        f'(mean probability {mean}): {", ".join(common)}.'
    )


def seen(prediction, picture, block, names):
    """The picture of a prediction. A token that is pointed at shows its three best classes after a block."""
    width, height = picture.size
    side, (left, top) = prediction.square.width, prediction.corner
    shows, grid, hints = 'the square that the model sees', '', ''
    if picture.size != prediction.square.size:
        hints += '<p>The model sees only the square in the middle of the photo, not what is pale.</p>'
    if prediction.tokens:
        shows = f'with the best class of each token after block {block}'
        hints += '<p>A token has the colour of its best class. Point at it, or tap it, for the three best.</p>'
        place = dict(left=left / width, top=top / height, width=side / width, height=side / height)
        style = ''.join(f'{name}: {share:.3%}; ' for name, share in place.items())
        rows = round(len(prediction.tokens.ids[0]) ** 0.5)
        grid = f'<div class="grid" style="{style}--rows: {rows}" ontouchstart>{cells(prediction, block, names)}</div>'
    image = img(picture, f'{prediction.name}, {shows}')
    style = f'--width: {width / side:.4f}; --left: {left / side:.4f}'
    return f'<div class="frame" style="{style}"><div class="photo">{image}{grid}</div></div>{hints}'


def cells(prediction, block, names):
    """A cell for each token, with its three best classes in a box that opens towards the middle of the picture."""
    ids, scores = prediction.tokens.ids[block - 1], prediction.tokens.scores[block - 1]
    rows, result = round(len(ids) ** 0.5), []
    for i, decided in enumerate(prediction.tokens.after(block).decided):
        lines = [f'{escape(short_name(c, names))} <b>{escape(percent(s))}</b>' for c, s in zip(ids[i], scores[i])]
        if not decided:
            lines.insert(0, 'prefers no class')
        towards = ('up' if i // rows >= rows / 2 else 'down') + (' left' if i % rows >= rows / 2 else ' right')
        result.append(f'<i><span class="{towards}">{"<br>".join(lines)}</span></i>')
    return ''.join(result)


def heat_maps(maps):
    """maps: [(title, PIL image)]."""
    figures = [f'<figure>{img(image, text)}<figcaption>{escape(text)}</figcaption></figure>' for text, image in maps]
    return f'<p>The redder a token, the more it contributed.</p><div class="maps">{"".join(figures)}</div>'
