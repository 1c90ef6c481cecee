"""Hand-made hostile files: {name: function that makes the bytes} for each kind of kinds.LOADERS.

canary: a file that a payload would create if anything in it were executed.
"""

import images
import pickles
import tables
import texts

PICKLES, MAPS = ('pd', 'sealed.pd', 'pdparams', 'legacy.pth'), ('map.npy', 'packed')

# Strange but well-formed: what matters is that they do no harm.
HARMLESS = {
    'repeated names',
    'aliased storages',
    'float of a megabyte',
    'ids in Arabic digits',
    'prefix and suffix',
    'dates and booleans',
    'dicts in the memo',
    'empty lists',
    'climbing',
    'bad palette',
    'keys, a chain',
}


def files(kind, canary):
    """{name: function without arguments that returns the content of a file}"""
    if kind in PICKLES:
        return pickles.files(canary, legacy=kind == 'legacy.pth')
    if kind in ('pth', 'map.pt'):
        return pickles.zipped(canary)
    if kind in MAPS:
        return tables.npy(canary, packed=kind == 'packed')
    return {
        'safetensors': tables.safetensors,
        'names': tables.names,
        'meta': texts.json,
        'yml': texts.yaml,
        'list': texts.listing,
        'label_list': texts.label_list,
        'jpg': images.jpg,
        'png': images.png,
        'webp': images.webp,
        'bmp': images.bmp,
    }[kind](canary)
