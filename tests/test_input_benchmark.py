"""benchmarks/input.py measures every arm and writes a table, a figure and a profile for each backend."""

import json

from benchmarks import input as benchmark
from benchmarks import input_processes
from conftest import words


def test_a_small_run_measures_every_arm(scenes, run, tmp_path, monkeypatch):
    for module in (benchmark, input_processes):
        monkeypatch.setattr(module, 'BATCH', 4)
    flags = words('--nb_classes 10 --rounds 1 --images 8 --processes 1 --no_reference --data_path', scenes)
    result = run(benchmark, tmp_path, *flags, '--token_label_data', scenes / 'label_maps')
    assert result.code == 0, result.err
    measured = json.loads((tmp_path / 'input.json').read_text())
    tasks = ('training', 'training without maps', 'evaluation', 'decoding')
    assert set(measured['one core, images/s']) == {f'{task}, {backend}' for task in tasks for backend in ('pil', 'cv2')}
    assert set(measured['processes, images/s']) == {'pil, 1', 'cv2, 1'}
    assert all(rate > 0 for rate in measured['one core, images/s'].values())
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {'input.json', 'input.md', 'input.png', 'profile_pil.txt', 'profile_cv2.txt'}
