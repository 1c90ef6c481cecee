#!/usr/bin/env bash
# The test suite: ruff; Paddle 3.3.1; the page of demo/app.py in a browser; segmentation inside PaddleSeg; parity with the
# original in PyTorch beside the tests marked cross_version on Paddle 2.6.2; and the commands of README.md and test_tipc/.
# Makes its own virtual environments (.venv, .venv-app, .venv-seg, .venv-parity, .venv-2.6.2) on the first run; needs
# Python 3.9+ and pip, and for the page Chromium or Chrome with its ChromeDriver.
#
#   ./tests/run.sh [PYTEST_ARGUMENT ...]      with arguments: pytest on Paddle 3.3.1 alone, with those
#
# What cannot be installed, or a browser that is not there, is said to be NOT RUN; with CI=true (GitHub sets it) that
# is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt  # as demo/run.sh makes it
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi

# Two processes of one thread each use two cores better than one process of two threads.
two=(-n 2 --dist loadfile)
export OMP_NUM_THREADS=1

not_run() {  # not_run WHY: a notice; in CI, where nobody may be there to read it, a failure
    echo "NOT RUN: $1"
    [ "${CI-}" != true ]
}

parity() {  # with the tests of .pth files, which ask PyTorch itself where there is one
    if ! bash tools/venv.sh .venv-parity -r tests/parity/requirements.txt ||
        ! .venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/parity/requirements-nodeps.txt; then
        not_run "pip could not install tests/parity/requirements*.txt (see above; PyTorch has wheels for some Pythons only: set PYTHON=)"
        return
    fi
    PARITY=required .venv-parity/bin/python -m pytest -q tests/parity tests/weights/test_torch_file.py
}

page() {  # in an environment of its own: Gradio holds Pillow below 13, which draws some of the demo's scenes otherwise
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 10))'; then
        not_run "Gradio 6 has no wheel for Python 3.9; set PYTHON=python3.10 or newer"
        return
    fi
    bash tools/venv.sh .venv-app -r requirements-cpu.txt -r tests/requirements-browser.txt &&
        .venv-app/bin/python -m pytest -q -rs -m browser tests/test_app_page.py
}

segmentation() {  # in an environment of its own: PaddleSeg has many wishes; at most three minutes
    if ! bash seg/venv.sh || ! .venv-seg/bin/python -m pip install --quiet --disable-pip-version-check pytest pytest-timeout; then
        not_run "pip could not install seg/requirements*.txt (see above)"
        return
    fi
    .venv-seg/bin/python -m pytest -q tests/test_seg_paddleseg.py
}

paddle_2() {
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
        not_run "Paddle 2.6.2 has no wheel for Python 3.13 and newer; set PYTHON=python3.12 or older"
        return
    fi
    if ! bash tools/venv.sh .venv-2.6.2 -r requirements.txt -r tests/requirements.txt paddlepaddle==2.6.2; then
        not_run "pip could not install paddlepaddle==2.6.2 and what it needs (see above)"
        return
    fi
    .venv-2.6.2/bin/python -m pytest -q -m cross_version tests
}

echo "== ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .

echo "== Paddle 3.3.1"
.venv/bin/python -m pytest -q "${two[@]}" -m 'not readme and not browser' tests

echo "== the page of demo/app.py, in a headless browser"
failed=0
page || failed=1

echo "== segmentation, inside PaddleSeg"
segmentation || failed=1

echo "== Paddle 2.6.2: tests marked cross_version"
parity_log=$(mktemp)
trap 'rm -f "$parity_log"' EXIT
parity > "$parity_log" 2>&1 &
paddle_2 || failed=1
wait $! || failed=1
echo "== parity with the original (PyTorch), run beside it"
cat "$parity_log"
[ "$failed" = 0 ] || { echo "tests/run.sh: the page, segmentation, Paddle 2.6.2 or parity failed, see above" >&2; exit 1; }

echo "== the commands of README.md and test_tipc/"
.venv/bin/python -m pytest -q "${two[@]}" -m readme tests
