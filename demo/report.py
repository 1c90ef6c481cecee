"""The closing table of demo/run.sh; fails if predict.py and infer.py disagree.

python demo/report.py demo/output SECONDS
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import files


def disagreement(predicted, inferred):
    """Largest score difference of two lists of records; inf if the images or the order of classes differ.

    Two classes may be exchanged only if their scores differ by less than 1.5e-5, since records have five decimals.
    """
    if [record['file_name'] for record in predicted] != [record['file_name'] for record in inferred]:
        return float('inf')
    differences = [0.0]
    for a, b in zip(predicted, inferred):
        scores = a['scores']
        differences += [abs(x - y) for x, y in zip(scores, b['scores'])]
        for i, (x, y) in enumerate(zip(a['class_ids'], b['class_ids'])):
            others = scores[:i] + scores[i + 1 :]
            if x != y and min(abs(score - scores[i]) for score in others) > 1.5e-5:
                return float('inf')
    return max(differences)


def read(*path):
    with open(os.path.join(*path), encoding='utf-8') as f:
        return f.read()


def main(out, seconds):
    best = max(files.read_log(os.path.join(out, 'train', 'log.txt')), key=lambda e: e['test_acc1'])
    predicted, inferred = json.loads(read(out, 'predict.json')), json.loads(read(out, 'infer.json'))
    worst = disagreement(predicted, inferred)
    times = ', '.join(f'{name} {value} s' for name, value in map(str.split, read(out, 'times.txt').splitlines()))
    rows = [
        ('top-1 on unseen digits', f'{best["test_acc1"]:.2f} % (epoch {best["epoch"]})'),
        ('predict.py against infer.py', f'{len(predicted)} images, scores differ by at most {worst:.1e}'),
        ('time', f'{seconds} s: {times}'),
        ('data', f'{out}/digits'),
        ('checkpoints and log.txt', f'{out}/train'),
        ('exported model', f'{out}/export'),
        ('token predictions', f'{out}/tokens.png'),
    ]
    width = max(len(name) for name, _ in rows)
    print('\n' + '\n'.join(f'{name:<{width}}  {value}' for name, value in rows))
    if worst > 1e-4:
        sys.exit('error: predict.py and infer.py disagree')


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
