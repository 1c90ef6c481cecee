#!/usr/bin/env bash
# The test suite. Makes its virtual environments on the first run; needs Python 3.9+ and pip.
#
#   ./tests/run.sh                       everything
#   ./tests/run.sh PYTEST_ARGUMENT ...   pytest on Paddle 3.3.1 with these arguments, e.g. -q tests/train
#
# Everything is, in this order:
#   .venv          ruff; all tests on Paddle 3.3.1, with the page of demo/app.py in a browser (needs Chromium or Chrome
#                  and its ChromeDriver) and segmentation in PaddleSeg
#   .venv-parity   tests/parity: the comparison with the original in PyTorch; beside it
#   .venv-2.6.2    the tests marked cross_version on Paddle 2.6.2
#   .venv          the tests marked readme: the commands of README.md, docs/ and test_tipc/
#
# A part that cannot be installed here is reported as NOT RUN; with CI=true, which GitHub sets, it is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1  # two processes of one thread are faster on two cores than one of two threads

bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt  # as demo/run.sh makes it
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r tests/requirements.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r seg/requirements-nodeps.txt
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=()

install_parity() {
    bash tools/venv.sh .venv-parity -r tests/parity/requirements.txt &&
        .venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
            -r tests/parity/requirements-nodeps.txt
}

install_paddle_2() {
    bash tools/venv.sh .venv-2.6.2 -r requirements.txt -r tests/requirements-2.6.2.txt
}

not_run() {  # not_run NAME HINT
    echo "NOT RUN: $1: pip could not install it; $2. The end of its output:"
    tail -n 5 "$logs/$1.install"
    [ "${CI-}" != true ] || failed+=("$1")
}

echo "== ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .

echo "== Paddle 3.3.1 (the other environments are being installed beside it)"
install_parity > "$logs/parity.install" 2>&1 &
parity_install=$!
install_paddle_2 > "$logs/2.6.2.install" 2>&1 &
paddle_2_install=$!
.venv/bin/python -m pytest -q -n 2 --dist loadfile -m 'not readme' --ignore tests/parity tests || failed+=("Paddle 3.3.1")

parity=
if wait "$parity_install"; then
    PARITY=required .venv-parity/bin/python -m pytest -q tests/parity tests/weights/test_torch_file.py \
        > "$logs/parity" 2>&1 &
    parity=$!
else
    not_run parity "PyTorch has wheels for some Pythons only, see PYTHON in tools/venv.sh"
fi
echo "== Paddle 2.6.2 (parity with the original runs beside it)"
if wait "$paddle_2_install"; then
    .venv-2.6.2/bin/python -m pytest -q -m cross_version --ignore tests/parity tests || failed+=("Paddle 2.6.2")
else
    not_run 2.6.2 "Paddle 2.6.2 has wheels for Python 3.8 to 3.12, see PYTHON in tools/venv.sh"
fi
if [ -n "$parity" ]; then
    wait "$parity" || failed+=(parity)
    echo "== parity with the original in PyTorch"
    cat "$logs/parity"
fi

echo "== the commands of README.md, docs/ and test_tipc/"
.venv/bin/python -m pytest -q -n 2 --dist loadfile -m readme tests || failed+=(readme)

for name in "${failed[@]}"; do
    echo "tests/run.sh: FAILED: $name, see above" >&2
done
[ ${#failed[@]} = 0 ]
