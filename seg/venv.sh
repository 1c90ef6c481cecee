#!/usr/bin/env bash
# The environment of segmentation, .venv-seg: what seg/requirements.txt says, and PaddleSeg without its own wishes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/venv.sh .venv-seg -r seg/requirements.txt
.venv-seg/bin/python -m pip install --quiet --disable-pip-version-check -r seg/requirements.txt
.venv-seg/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r seg/requirements-nodeps.txt
