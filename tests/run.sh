#!/usr/bin/env bash
# The test suite: Paddle 3.3.1, then the tests marked cross_version on Paddle 2.6.2, then the commands of README.md.
# Makes its own virtual environments (.venv, .venv-2.6.2) on the first run; needs Python 3.9+ and pip.
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

echo "== Paddle 2.6.2: tests marked cross_version"
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
    bash tools/venv.sh .venv-2.6.2 -r requirements.txt -r tests/requirements.txt paddlepaddle==2.6.2
    .venv-2.6.2/bin/python -m pytest -q -m cross_version tests
else
    echo "NOT RUN: Paddle 2.6.2 has no wheel for Python 3.13 and newer; set PYTHON=python3.12 or older"
fi

echo "== the commands of README.md"
.venv/bin/python -m pytest -q -m readme tests
