#!/usr/bin/env bash
# The test suite: Paddle 3.3.1, then parity with the original in PyTorch, then the tests marked cross_version on
# Paddle 2.6.2, then the commands of README.md.
# Makes its own virtual environments (.venv, .venv-parity, .venv-2.6.2) on the first run; needs Python 3.9+ and pip.
#
#   ./tests/run.sh [PYTEST_ARGUMENT ...]      with arguments: pytest on Paddle 3.3.1 alone, with those
set -euo pipefail
cd "$(dirname "$0")/.."

bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi

echo "== Paddle 3.3.1"
.venv/bin/python -m pytest -q -m 'not readme' tests

echo "== parity with the original (PyTorch)"
if bash tools/venv.sh .venv-parity -r tests/parity/requirements.txt; then
    .venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/parity/requirements-nodeps.txt
    .venv-parity/bin/python -m pytest -q tests/parity
else
    echo "NOT RUN: pip could not install tests/parity/requirements.txt (see above; PyTorch has wheels for some Pythons only: set PYTHON=)"
fi

echo "== Paddle 2.6.2: tests marked cross_version"
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
    bash tools/venv.sh .venv-2.6.2 -r requirements.txt -r tests/requirements.txt paddlepaddle==2.6.2
    .venv-2.6.2/bin/python -m pytest -q -m cross_version tests
else
    echo "NOT RUN: Paddle 2.6.2 has no wheel for Python 3.13 and newer; set PYTHON=python3.12 or older"
fi

echo "== the commands of README.md"
.venv/bin/python -m pytest -q -m readme tests
