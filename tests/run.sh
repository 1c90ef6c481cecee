#!/usr/bin/env bash
# The test suite. Makes its virtual environments on the first run; needs Python 3.9+ and pip.
#
#   ./tests/run.sh                       everything
#   ./tests/run.sh PYTEST_ARGUMENT ...   pytest on Paddle 3.3.1 with these arguments, e.g. -q tests/train
#
# Everything is, at the same time:
#   .venv          ruff; all tests on Paddle 3.3.1: the commands of README.md, docs/ and test_tipc/, the page of
#                  demo/app.py in a browser (needs Chromium or Chrome and its ChromeDriver), segmentation in PaddleSeg
#   .venv-2.6.2    the tests marked cross_version on Paddle 2.6.2
#   .venv-parity   tests/parity: the comparison with the original in PyTorch
#
# A part that cannot be installed here is reported as NOT RUN; with CI=true, which GitHub sets, it is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1  # processes of one thread use the cores better than one process of several threads
pip_install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"; }

NOT_INSTALLED=99
failed=()

paddle_2() {
    bash tools/venv.sh .venv-2.6.2 -r requirements.txt -r tests/requirements-2.6.2.txt || return $NOT_INSTALLED
    .venv-2.6.2/bin/python -m pytest -q -m cross_version --ignore tests/parity tests
}

parity() {
    bash tools/venv.sh .venv-parity -r tests/parity/requirements.txt &&
        pip_install .venv-parity --no-deps -r tests/parity/requirements-nodeps.txt || return $NOT_INSTALLED
    PARITY=required .venv-parity/bin/python -m pytest -q tests/parity tests/weights/test_torch_file.py
}

finish() {  # finish PART PID HINT: wait for a part that runs in the background, and show its output
    local code=0
    wait "$2" || code=$?
    echo "== $1"
    if [ $code != $NOT_INSTALLED ]; then
        cat "$logs/$1"
        [ $code = 0 ] || failed+=("$1")
    else
        echo "NOT RUN: pip could not install it; $3. The end of its output:"
        tail -n 5 "$logs/$1"
        [ "${CI-}" != true ] || failed+=("$1")
    fi
}

if [ $# = 0 ]; then
    logs=$(mktemp -d)
    trap 'rm -rf "$logs"' EXIT
    paddle_2 > "$logs/Paddle 2.6.2" 2>&1 &
    paddle_2=$!
fi
bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt  # as demo/run.sh makes it
pip_install .venv --no-compile -r tests/requirements.txt
pip_install .venv --no-deps -r seg/requirements-nodeps.txt
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi

echo "== ruff"
.venv/bin/ruff check . && .venv/bin/ruff format --check . || failed+=(ruff)

parity > "$logs/parity with the original in PyTorch" 2>&1 &
parity=$!
echo "== Paddle 3.3.1 (Paddle 2.6.2 and the comparison with the original run beside it)"
# three processes for two cores, because tests wait for processes that they start; conftest.py puts long files first
.venv/bin/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/parity tests ||
    failed+=("Paddle 3.3.1")
finish "Paddle 2.6.2" "$paddle_2" "it has wheels for Python 3.8 to 3.12, see PYTHON in tools/venv.sh"
finish "parity with the original in PyTorch" "$parity" \
    "PyTorch has wheels for some Pythons only, see PYTHON in tools/venv.sh"

for part in "${failed[@]}"; do
    echo "tests/run.sh: FAILED: $part, see above" >&2
done
[ ${#failed[@]} = 0 ]
