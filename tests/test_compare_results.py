"""test_tipc/compare_results.py, and what it compares with: weights of a fixed seed and predictions stored for them."""

import sys

import numpy as np
import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / 'test_tipc'))
import compare_results
import seed_weights

TIPC = ROOT / 'test_tipc'


def log_of(*records):
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
    """compare(reference log, log, *flags) -> Result, through a stored reference."""

    def call(reference, log, *flags):
        files[3].write_text(log_of(*reference))
        assert run(compare_results, '--store', *files).code == 0
        files[3].write_text(log_of(*log))
        patterns = [files[1].with_name('gt_*.txt'), '--log_file', files[3].with_name('infer_*.log')]
        return run(compare_results, '--gt_file', *patterns, *flags)

    return call


ONE = [('a', [5, 3, 1], [0.6, 0.2, 0.1]), ('b', [7, 8, 9], [0.3, 0.3, 0.2])]


TWO = [ONE[0], ('b', [8, 7, 9], [0.3, 0.3, 0.2])]
SHIFTED = [('a', [5, 3, 1], [0.6015, 0.2, 0.1]), ONE[1]]
CASES = {
    'equal': (ONE, ONE, '', '2 predictions agree'),
    'within 1e-3 + 1e-3 of the reference': (ONE, SHIFTED, '', '2 predictions agree'),
    'within 1e-3, but not 0.0015': (ONE, SHIFTED, '--rtol 0', 'a.JPEG: score 1 is 0.6015, the reference has 0.6'),
    'tied classes in another order': (ONE, TWO, '', '2 predictions agree'),
    'other classes in another order': (
        ONE,
        [('a', [3, 5, 1], [0.6, 0.2, 0.1]), ONE[1]],
        '',
        'a.JPEG: class 1 is 3, the reference has 5 with 0.6',
    ),
    'another last class': (ONE, [('a', [5, 3, 2], [0.6, 0.2, 0.1]), ONE[1]], '', '2 predictions agree'),
    'another class before it': (ONE, [('a', [5, 2, 1], [0.6, 0.2, 0.1]), ONE[1]], '', 'a.JPEG: class 2 is 2'),
    'an image is missing': (ONE, ONE[:1], '', 'b.JPEG: no prediction'),
    'an image too many': (ONE[:1], ONE, '', 'b.JPEG: not in the reference'),
}


@pytest.mark.parametrize('case', CASES)
def test_predictions_agree_but_for_rounding_and_ties(compare, case):
    reference, log, flags, says = CASES[case]
    result = compare(reference, log, *flags.split())
    assert says in result.out and result.code == ('agree' not in says)
    assert ('1 of 1 logs differ' in result.err) == result.code


BOTH = [('n1/a', [5, 3, 1], [0.6, 0.2, 0.1]), ('n2/a', [7, 8, 9], [0.3, 0.2, 0.1])]


def test_images_of_one_name_in_two_folders_are_two_images(compare, files, run):
    assert '2 predictions agree' in compare(BOTH, BOTH).out
    stored = files[1].read_text()
    assert [line.split('\t')[0] for line in stored.splitlines()] == ['n1/a.JPEG', 'n2/a.JPEG']
    result = compare(BOTH, BOTH[:1], '--folder', 'some/where')
    assert result.code == 1 and 'n2/a.JPEG: no prediction' in result.out
    exchanged = [(name, *record) for (name, *_), (_, *record) in zip(BOTH, reversed(BOTH))]
    assert 'n1/a.JPEG: score 1 is 0.3' in compare(BOTH, exchanged).out


def test_a_log_is_not_its_own_reference(refused, files):
    files[3].write_text(log_of(*ONE))
    assert 'is its own reference' in refused(compare_results, '--gt_file', files[3], *files[2:])


ACCURACIES = {  # accuracy of eval.py, labels of the two images: what is said
    (50.0, 5, 8): 'agree with an accuracy of 50.000 %',
    (0.0, 5, 8): '50.000 % of the 2 best classes are right, eval.py found 0.000 %',
    (100.0, 5, 8): '50.000 % of the 2 best classes are right, eval.py found 100.000 %',
    (100.0, 5, 7): 'agree with',
    (0.0, 3, 9): 'agree with',
}


@pytest.mark.parametrize('case', ACCURACIES)
def test_the_accuracy_of_eval_py_is_that_of_the_best_classes(run, files, case, tmp_path):
    accuracy, *labels = case
    files[3].write_text(log_of(*BOTH))
    (tmp_path / 'list.txt').write_text('where/n1/a.JPEG {}\nwhere/n2/a.JPEG {}\n'.format(*labels))
    result = run(compare_results, *files[2:], '--acc1', accuracy, '--cls_label_path', tmp_path / 'list.txt')
    assert ACCURACIES[case] in result.out and result.code == ('agree' not in ACCURACIES[case])


def test_of_two_classes_that_are_tied_either_may_have_been_eval_pys():
    tied = {'a': ([7, 8], [0.3, 0.29995])}
    for label in (7, 8):
        for accuracy in (0, 100):
            assert not compare_results.wrong_accuracy({'a': label}, tied, accuracy, atol=1e-4, rtol=0)
            assert compare_results.wrong_accuracy({'a': 9}, tied, 100, atol=1e-4, rtol=0)
            assert not compare_results.wrong_accuracy({'a': 9}, tied, 0, atol=1e-4, rtol=0)
    assert compare_results.wrong_accuracy({'a': 8}, tied, 100, atol=1e-5, rtol=0)
    (said,) = compare_results.wrong_accuracy({'a': 7, 'b': 7}, tied, 100, atol=0, rtol=0)
    assert said == 'b: in the list or the log alone, as 1 images: no accuracy to compare'


def test_something_to_compare_with_is_asked_for(refused, files):
    files[3].write_text(log_of(*ONE))
    assert 'nothing to compare with' in refused(compare_results, *files[2:])
    assert '--acc1 takes --cls_label_path' in refused(compare_results, *files[2:], '--acc1', 50)


def test_a_score_that_is_no_number_is_a_difference():
    assert compare_results.differences({'a': ([1], [0.5])}, {'a': ([1], [float('nan')])}, 1, 1)[0]


USELESS = [
    ('no predictions here', 'holds no predictions'),
    ("[{'class_ids': [1], 'file_name': 'a'}]", 'line 1: not a line of predictions'),
    ("[{'class_ids': [1, 2], 'scores': [1.0], 'file_name': 'a'}]", '2 class ids, 1 scores'),
    ("[{'class_ids': __import__('os').system('true'), 'scores': [1.0], 'file_name': 'a'}]", 'line 1'),
    (log_of(('a', [1], [0.5]), ('a', [2], [0.5])), 'a.JPEG has two different predictions'),
]


@pytest.mark.parametrize('text, said', USELESS)
def test_a_log_that_cannot_be_compared_is_one_line(refused, files, text, said):
    files[1].write_text('a.JPEG\t{"class_ids": [1], "scores": [0.5]}\n')
    files[3].write_text(text)
    assert said in refused(compare_results, *files)


def test_a_log_is_held_against_the_reference_of_its_precision(refused, files):
    files[1].write_text('a.JPEG\t{"class_ids": [1], "scores": [0.5]}\n')
    files[3] = files[3].with_name('infer_precision_fp16.log')
    files[3].write_text(log_of(('a', [1], [0.5])))
    assert 'no reference for fp16' in refused(compare_results, *files)


@pytest.mark.parametrize('model', ['lvvit_t', 'lvvit_s'])
def test_the_stored_references_tell_images_apart(model):
    reference = compare_results.read(TIPC / f'results/python_{model}_results_fp32.txt')
    assert len(reference) == 100 and len({tuple(ids) for ids, _ in reference.values()}) > 50
    assert sum(scores[0] > 0.2 for _, scores in reference.values()) > 50  # or a tolerance of 1e-3 would mean nothing


def test_seed_weights_are_the_same_on_every_machine():
    drawn = seed_weights.draw('head.weight', [4, 2], np.random.RandomState(0))
    assert drawn[0].tolist() == pytest.approx([1.7640523 * 1.5, 0.4001572 * 1.5])  # N(0, 1) · 3 / sqrt(4)
    assert seed_weights.draw('bn1._variance', [2], None).tolist() == [1, 1]
    assert seed_weights.draw('blocks.0.norm1.bias', [2], None).tolist() == [0, 0]


def test_a_list_without_images_is_no_accuracy_to_compare(run, files, tmp_path):
    files[3].write_text(log_of(*BOTH))
    (tmp_path / 'list.txt').write_text('')
    result = run(compare_results, *files[2:], '--acc1', 50, '--cls_label_path', tmp_path / 'list.txt')
    assert result.code == 1 and 'agree' not in result.out
