"""Hostile images."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def _chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def _png(width, height, data=b'\0' * 9, before=b'', depth=8, colour=2, interlaced=0):
    return (
        b'\x89PNG\r\n\x1a\n'
        + _chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, interlaced))
        + before
        + _chunk(b'IDAT', zlib.compress(data))
        + _chunk(b'IEND', b'')
    )


def _other(canary):
    """Files of other formats, of which some make Pillow start a program."""

    def save(format):
        file = io.BytesIO()
        Image.new('RGB', (8, 8)).save(file, format)
        return file.getvalue()

    return {
        'EPS': lambda: (
            b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(%pipe%touch '
            + canary.encode()
            + b') (w) file\n'
        ),
        **{name: lambda name=name: save(name) for name in ('GIF', 'TIFF', 'PPM', 'TGA', 'ICO', 'PCX')},
        'PDF': lambda: b'%PDF-1.4\n',
        'SVG': lambda: b'<svg/>',
        'WMF': lambda: b'\xd7\xcd\xc6\x9a' + bytes(40),
        'archive': lambda: b'PK\x03\x04',
        'text': lambda: b'text',
        'nothing': lambda: b'',
    }


def png(canary):
    white = zlib.compress(bytes(100 << 20), 9)
    return {
        **_other(canary),
        'billion pixels': lambda: _png(40000, 40000),
        '170 million pixels': lambda: _png(13000, 13000),
        '80 million pixels, all there': lambda: _png(10000, 8000, bytes(8000 * 10001), colour=0),
        'sides of 2 billion': lambda: _png(2**31 - 1, 2**31 - 1),
        'no side': lambda: _png(0, 0),
        'row missing': lambda: _png(64, 64),
        'checksum': lambda: _png(8, 8, bytes(200))[:-20] + bytes(20),
        'text that inflates': lambda: _png(8, 8, before=_chunk(b'zTXt', b'a\0\0' + white)),
        'texts that inflate': lambda: _png(
            8, 8, before=_chunk(b'iTXt', b'a\0\1\0\0\0' + zlib.compress(bytes(900_000))) * 300
        ),
        'profile that inflates': lambda: _png(8, 8, before=_chunk(b'iCCP', b'a\0\0' + white)),
        'chunk of 2 GB': lambda: _png(8, 8, before=struct.pack('>I', 2**31 - 1) + b'tEXt'),
        'million chunks': lambda: _png(8, 8, before=_chunk(b'tEXt', b'a\0b') * 1_000_000),
        'bad palette': lambda: _png(8, 8, bytes(72), _chunk(b'PLTE', b'abcd'), colour=3),
    }


def jpg(_):
    def save(side, **options):
        file = io.BytesIO()
        Image.fromarray(np.zeros((side, side), 'u1')).save(file, 'JPEG', **options)
        return file.getvalue()

    def scans(side, count):
        data = save(side, progressive=True)
        last, end = data.rindex(b'\xff\xda'), data.rindex(b'\xff\xd9')
        return data[:last] + data[last:end] * count + data[end:]

    def claims(width, height):
        data = bytearray(save(64))
        place = data.index(b'\xff\xc0')
        data[place + 5 : place + 9] = struct.pack('>HH', height, width)
        return bytes(data)

    good = save(64)
    return {
        'sides of 65,500': lambda: claims(65500, 65500),
        '5,000 scans': lambda: scans(2000, 5000),
        '1,000 scans': lambda: scans(7000, 1000),
        'no side': lambda: claims(0, 0),
        '90 million pixels': lambda: claims(9500, 9500),
        '40 million pixels, cut short': lambda: claims(6300, 6300)[:-50],
        'nothing after the header': lambda: good[:200],
        'markers': lambda: b'\xff\xd8' + b'\xff' * 10**6,
        'comments': lambda: b'\xff\xd8' + b'\xff\xfe\x00\x02' * 500_000,
        'segments of EXIF': lambda: b'\xff\xd8' + (b'\xff\xe1\x00\x0aExif\0\0II') * 200_000,
    }


def webp(_):
    file = io.BytesIO()
    Image.new('RGB', (8, 8)).save(file, 'WEBP')
    good = file.getvalue()
    canvas = b'WEBPVP8X\x0a\0\0\0\x02\0\0\0' + (16382).to_bytes(3, 'little') * 2
    large = b'ANIM\x06\0\0\0' + bytes(6) + b'ANMF' + struct.pack('<I', 16 + len(good[12:])) + bytes(16) + good[12:]
    return {
        'canvas of 268 million pixels': lambda: b'RIFF' + struct.pack('<I', len(canvas + large)) + canvas + large,
        'cut short': lambda: good[:-4],
        'length of 4 GB': lambda: good[:4] + b'\xff' * 4 + good[8:20],
        'header only': lambda: b'RIFF\x10\0\0\0WEBPVP8 ',
    }


def bmp(_):
    def whole(width, height, bits=24, offset=54, compression=0, data=b''):
        return (
            b'BM'
            + struct.pack('<IHHI', 54 + len(data), 0, 0, offset)
            + struct.pack('<IiiHHIIiiII', 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
            + data
        )

    return {
        'billion pixels': lambda: whole(40000, 40000),
        'negative width': lambda: whole(-8, 8),
        'offset beyond': lambda: whole(8, 8, offset=2**31),
        '45 million pixels': lambda: whole(7000, 6400),
        'sides of 2 billion': lambda: whole(2**31 - 1, 2**31 - 1),
        'no bits': lambda: whole(8, 8, 0),
        'run-length bomb': lambda: whole(7000, 7000, 8, 54 + 1024, 1, bytes(1024) + b'\xff\0' * 1000),
        'palette of 4 billion': lambda: whole(8, 8, 8)[:46] + b'\xff' * 4 + bytes(4),
    }
