"""test_tipc/compare_results.py and seed_weights.py, whose predictions are stored in test_tipc/results/."""

import sys

import numpy as np
import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / 'test_tipc'))
import compare_results
import seed_weights


def log_of(*records):
    """A log of predict.py with records (name of the image, class ids, scores)."""
    printed = [
        {'class_ids': ids, 'scores': scores, 'file_name': f'./some/where/{name}.JPEG', 'label_names': ["Anna's"]}
        for name, ids, scores in records
    ]
    return f'a line before\n{printed}\na line after\n'


@pytest.fixture
def files(tmp_path):
    """The flags that name a reference and a log; the test writes the two."""
    return ['--gt_file', tmp_path / 'gt_fp32.txt', '--log_file', tmp_path / 'infer_precision_fp32.log']


@pytest.fixture
def compare(run, files):
    """compare(reference log, log, *flags) -> Result, through a stored reference and glob patterns."""

    def call(reference, log, *flags):
        files[3].write_text(log_of(*reference))
        assert run(compare_results, '--store', *files).code == 0
        files[3].write_text(log_of(*log))
        patterns = [files[1].with_name('gt_*.txt'), '--log_file', files[3].with_name('infer_*.log')]
        return run(compare_results, '--gt_file', *patterns, *flags)

    return call


A = ('a', [5, 3, 1], [0.6, 0.2, 0.1])
B = ('b', [7, 8, 9], [0.3, 0.3, 0.2])
SHIFTED = ('a', [5, 3, 1], [0.6015, 0.2, 0.1])
CASES = {
    'equal': ([A, B], [A, B], '', '2 predictions agree'),
    'within 1e-3 + 1e-3 of the reference': ([A, B], [SHIFTED, B], '', '2 predictions agree'),
    'not within 1e-3': ([A, B], [SHIFTED, B], '--rtol 0', 'a.JPEG: score 1 is 0.6015, the reference has 0.6'),
    'tied classes in another order': ([A, B], [A, ('b', [8, 7, 9], B[2])], '', '2 predictions agree'),
    'other classes in another order': ([A, B], [('a', [3, 5, 1], A[2]), B], '', 'a.JPEG: class 1 is 3'),
    'another last class': ([A, B], [('a', [5, 3, 2], A[2]), B], '', '2 predictions agree'),
    'another class before the last': ([A, B], [('a', [5, 2, 1], A[2]), B], '', 'a.JPEG: class 2 is 2'),
    'fewer classes': ([A, B], [('a', [5, 3], A[2][:2]), B], '', 'a.JPEG: 2 classes'),
    'an image is missing': ([A, B], [A], '', 'b.JPEG: no prediction'),
    'an image too many': ([A], [A, B], '', 'b.JPEG: not in the reference'),
}


@pytest.mark.parametrize('case', CASES)
def test_predictions_agree_except_for_rounding_and_ties(compare, case):
    reference, log, flags, expected = CASES[case]
    result = compare(reference, log, *flags.split())
    assert expected in result.out and result.code == ('agree' not in expected)
    assert ('1 of 1 logs differ' in result.err) == result.code


BOTH = [('n1/a', [5, 3, 1], [0.6, 0.2, 0.1]), ('n2/a', [7, 8, 9], [0.3, 0.2, 0.1])]


def test_images_of_one_name_in_two_folders_are_two_images(compare, files):
    assert '2 predictions agree' in compare(BOTH, BOTH).out
    stored = files[1].read_text()
    assert [line.split('\t')[0] for line in stored.splitlines()] == ['n1/a.JPEG', 'n2/a.JPEG']
    result = compare(BOTH, BOTH[:1], '--folder', 'some/where')
    assert result.code == 1 and 'n2/a.JPEG: no prediction' in result.out
    exchanged = [(name, *record) for (name, *_), (_, *record) in zip(BOTH, reversed(BOTH))]
    assert 'n1/a.JPEG: score 1 is 0.3' in compare(BOTH, exchanged).out


ACCURACIES = {  # accuracy of eval.py, labels of the two images: expected output
    (50.0, 5, 8): 'agree with an accuracy of 50.000 %',
    (0.0, 5, 8): '50.000 % of the 2 best classes are right, eval.py found 0.000 %',
    (100.0, 5, 8): '50.000 % of the 2 best classes are right, eval.py found 100.000 %',
    (100.0, 5, 7): 'agree with',
    (0.0, 3, 9): 'agree with',
}


@pytest.mark.parametrize('case', ACCURACIES)
def test_the_best_classes_have_the_accuracy_of_eval_py(run, files, case, tmp_path):
    accuracy, *labels = case
    files[3].write_text(log_of(*BOTH))
    (tmp_path / 'list.txt').write_text('where/n1/a.JPEG {}\nwhere/n2/a.JPEG\t{}\n'.format(*labels))
    result = run(compare_results, *files[2:], '--acc1', accuracy, '--cls_label_path', tmp_path / 'list.txt')
    assert ACCURACIES[case] in result.out and result.code == ('agree' not in ACCURACIES[case])
    (tmp_path / 'list.txt').write_text('')
    result = run(compare_results, *files[2:], '--acc1', accuracy, '--cls_label_path', tmp_path / 'list.txt')
    assert result.code == 1 and 'agree' not in result.out


def test_either_of_two_tied_classes_may_be_the_best_class_of_eval_py():
    tied = {'a': ([7, 8], [0.3, 0.29995])}
    for label in (7, 8):
        for accuracy in (0, 100):
            assert not compare_results.wrong_accuracy({'a': label}, tied, accuracy, atol=1e-4, rtol=0)
    assert compare_results.wrong_accuracy({'a': 9}, tied, 100, atol=1e-4, rtol=0)
    assert not compare_results.wrong_accuracy({'a': 9}, tied, 0, atol=1e-4, rtol=0)
    assert compare_results.wrong_accuracy({'a': 8}, tied, 100, atol=1e-5, rtol=0)
    assert compare_results.wrong_accuracy({'a': 7, 'b': 7}, tied, 100, atol=0, rtol=0)


BAD_LOGS = {
    'no predictions here': 'holds no predictions',
    "[{'class_ids': [1], 'file_name': 'a'}]": 'line 1',
    "[{'class_ids': [1, 2], 'scores': [1.0], 'file_name': 'a'}]": '2 class ids, 1 scores',
    "[{'class_ids': __import__('os').system('true'), 'scores': [1.0], 'file_name': 'a'}]": 'line 1',
    log_of(('a', [1], [0.5]), ('a', [2], [0.5])): 'a.JPEG has two different predictions',
}


@pytest.mark.parametrize('text', BAD_LOGS)
def test_a_bad_log_is_refused_in_one_line(refused, files, text):
    files[1].write_text('a.JPEG\t{"class_ids": [1], "scores": [0.5]}\n')
    files[3].write_text(text)
    assert BAD_LOGS[text] in refused(compare_results, *files)


def test_a_log_needs_a_reference_of_its_precision_or_an_accuracy(refused, files):
    files[1].write_text('a.JPEG\t{"class_ids": [1], "scores": [0.5]}\n')
    files[3].write_text(log_of(A))
    fp16 = files[3].with_name('infer_precision_fp16.log')
    fp16.write_text(log_of(A))
    assert 'no reference for fp16' in refused(compare_results, *files[:2], '--log_file', fp16)
    assert 'is its own reference' in refused(compare_results, '--gt_file', files[3], *files[2:])
    assert '--gt_file' in refused(compare_results, *files[2:])
    assert '--cls_label_path' in refused(compare_results, *files[2:], '--acc1', 50)


def test_seed_weights_are_the_same_on_every_machine():
    drawn = seed_weights.draw('head.weight', [4, 2], np.random.RandomState(0))
    assert drawn[0].tolist() == pytest.approx([1.7640523 * 1.5, 0.4001572 * 1.5])  # N(0, 1) · 3 / sqrt(4)
    assert seed_weights.draw('bn1._variance', [2], None).tolist() == [1, 1]
    assert seed_weights.draw('blocks.0.norm1.bias', [2], None).tolist() == [0, 0]
