"""Hostile JSON, YAML and lists."""


def json(_):
    texts = {
        'open brackets': b'[' * 1_000_000,
        'nested': b'[' * 100_000 + b']' * 100_000,
        'objects': b'{"a":' * 100_000,
        'empty lists': b'{"x":[' + b'[],' * 1_300_000 + b'[]]}',
        '10 MB': b'{"x":"' + b'a' * (10 << 20) + b'"}',
        '60 MB of blanks': b' ' * (60 << 20),
        'a million digits': b'{"K":' + b'9' * 10**6 + b'}',
        '4,000 digits': b'{"K":' + b'9' * 4000 + b'}',
        'infinite': b'{"K":1e999}',
        'NaN': b'{"K":NaN}',
        'not UTF-8': b'{"coverage":"\xff"}',
        'null bytes': b'{"coverage":"full"}\0',
        'twice': b'{"K":3,"K":3}',
        'UTF-16': '{"K":3}'.encode('utf-16'),
        'surrogate': b'{"coverage":"\\ud800"}',
        'line ends': b'{"coverage":"a\\n\\u001b[2J"}',
        'list': b'[1]',
        'nothing': b'',
        'number': b'3',
        'a bool for a number': b'{"K":true}',
        'shape nested': b'{"shape":' + b'[' * 500 + b']' * 500 + b'}',
        'long shape': b'{"shape":[' + b'1,' * 1_000_000 + b'1]}',
        'negative': b'{"K":-1}',
        'coverage is a list': b'{"coverage":[]}',
        'long coverage': b'{"coverage":"' + b'x' * 10**6 + b'"}',
        'classes': b'{"num_classes":' + b'9' * 4000 + b'}',
    }
    result = {name: lambda text=text: text for name, text in texts.items()}
    result['float of a megabyte'] = lambda: b'{"x":' + b'9' * 3_000_000 + b'.5}'
    return result


def yaml(canary):
    bomb = b'a: &a [x, x, x, x, x, x, x, x, x]\n' + b''.join(
        b'%c: &%c [%s]\n' % (i + 1, i + 1, b', '.join([b'*%c' % i] * 9)) for i in range(97, 105)
    )
    merge = b'a: &a {k: v}\n' + b''.join(
        b'%c: &%c {<<: [%s]}\n' % (i + 1, i + 1, b', '.join([b'*%c' % i] * 9)) for i in range(97, 105)
    )
    texts = {
        'laughs': bomb,
        'merged laughs': merge,
        'alias in itself': b'&a [*a]',
        'anchor': b'a: &a 1',
        'alias': b'*a',
        'apply': b'!!python/object/apply:os.system ["touch %s"]' % canary.encode(),
        'name': b'!!python/name:os.system',
        'new': b'!!python/object/new:os.system ["touch %s"]' % canary.encode(),
        'module': b'!!python/module:hostile_canary',
        'tag': b'!x 1',
        'binary': b'!!binary ' + b'A' * 10**6,
        'set': b'!!set {a, b}',
        'flow, open': b'[' * 1_000_000,
        'flow, deep': b'[' * 50_000 + b']' * 50_000,
        'block, deep': b''.join(b' ' * i + b'-\n' for i in range(2000)),
        'mappings, deep': b'{a: ' * 50_000,
        'keys, deep': b'? ' * 100_000,
        'a million digits': b'a: ' + b'9' * 10**6,
        'base 60': b'a: 1' + b':1' * 500_000,
        'base 60, short': b'a: 1' + b':1' * 4999 + b'\nb: [',
        'date': b'a: 2021-99-99',
        'null bytes': b'a: \0',
        'not UTF-8': b'a: \xff',
        'control': b'a: \x1b[2J',
        '10 MB': b'a: ' + b'b' * (10 << 20),
        'many documents': b'--- a\n' * 100_000,
        'directive': b'%YAML 9.9\n---\na: 1',
        'unhashable key': b'{[1]: 2}',
        'long key': b'? ' + b'a' * 10**6,
        'quotes': b'"' * 999_999,
    }
    result = {name: lambda text=text: text for name, text in texts.items()}
    size, place, places = 1 << 17, 1, []
    for _ in range(80_000):
        places.append(place)
        place = (5 * place + 1) % size
    places += [place + size for place in places[:80_000]]
    result['keys, a chain'] = lambda: b''.join(b'%d: a\n' % place for place in places)
    result['dates and booleans'] = lambda: b'a: 2021-01-01\nb: yes\nc: .inf\nd: ~\ne: 0x10'
    return result


def listing(_):
    good = b'train/a b/1.jpg'
    texts = {
        'a line of 60 MB': b'a' * (60 << 20),
        'wide line': b'a' * 10**7 + '\U0001f600'.encode(),
        'null bytes': good + b'\0 1',
        'not UTF-8': b'\xff\xfe 1',
        '5,000 digits': good + b' ' + b'9' * 5000,
        'class 10': good + b' 10',
        'class -1': good + b' -1',
        'other digits': good + ' \u00b2'.encode(),
        'no class': good,
        'missing': b'train/x.jpg 1',
        'climbing': b'../' * 3000 + b'etc/passwd 1',
        'long name': b'a' * 5000 + b' 1',
        'control': b'a\x1b[2Jb 1',
        'line separators': 'a\u2028b\u0085c 1'.encode(),
        'nothing': b'',
        'blank lines': b'\n' * 3_000_000,
        'folder': b'train/a 1',
    }
    result = {name: lambda text=text: text for name, text in texts.items()}
    result['ids in Arabic digits'] = lambda: good + ' \u0661'.encode()
    result['prefix and suffix'] = lambda: b'\xef\xbb\xbf' + good + b' 1\r\n'
    result['repeated names'] = lambda: b''.join(b'train/' + b'./' * (i % 300) + b'a b/1.jpg 1\n' for i in range(3000))
    return result


def label_list(_):
    good = b''.join(b'%d name\n' % i for i in range(10))
    texts = {
        'a line of 60 MB': b'0 ' + b'a' * (60 << 20),
        '5,000 digits': b'9' * 5000 + b' a',
        'one hash': b''.join(b'%d a\n' % (i * (2**61 - 1)) for i in range(100_000)),
        'twice': good + b'3 other',
        'missing': good[:-8],
        'not UTF-8': good + b'10 \xff',
        'null bytes': good + b'10 \0',
        'no name': good + b'10',
        'minus': b'-1 a',
        'nothing': b'',
        'control': b'\x1b[2J a',
        'blank lines': b'\n' * 3_000_000,
    }
    return {name: lambda text=text: text for name, text in texts.items()}
