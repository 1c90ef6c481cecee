#!/usr/bin/env bash
# Acceptance on GPUs, which this project's own machines do not have: one command, about ten minutes on one card.
#
#   ./tests/gpu/run.sh                  all checks; prints one table to paste into an issue
#   ./tests/gpu/run.sh --only resume    those with this word in their name
#   ./tests/gpu/run.sh --rehearse       on the CPU with tiny models, which finds slips of the pen and accepts nothing
#
# Needs an NVIDIA GPU, its driver, Python 3.9+, pip, and about 5 GB where temporary files go. Makes .venv-gpu from
# requirements-gpu.txt (some GB), unless PYTHON names a Python with Paddle, requirements.txt and demo/requirements.txt.
# Exits 0 only if something ran and all that ran passed; 1 where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."

rehearse=
for word in "$@"; do
    [ "$word" != --rehearse ] || rehearse=1
done
if [ -z "$rehearse" ] && ! nvidia-smi -L 2> /dev/null | grep -q '^GPU '; then
    echo "tests/gpu/run.sh: no GPU here (nvidia-smi -L lists none), so nothing was run; --rehearse tries the checks on the CPU" >&2
    exit 1
fi
if [ -z "${PYTHON:-}" ]; then
    if [ -n "$rehearse" ]; then
        bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt
        PYTHON=.venv/bin/python
    else
        bash tools/venv.sh .venv-gpu -r requirements-gpu.txt -r demo/requirements.txt
        PYTHON=.venv-gpu/bin/python
    fi
fi
exec "$PYTHON" tests/gpu/acceptance.py "$@"
