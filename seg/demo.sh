#!/usr/bin/env bash
# Segmentation from one command: masks of the demo's scenes, PaddleSeg's training of LV-ViT on them, evaluation, export,
# and a picture. Needs Python 3.9+ and pip; what is there from an earlier run is used again.
#
#   seg/demo.sh [--arms token label scratch] [--seeds 0 1 2] [--iters N]
#
# token (the default) starts from the checkpoint of demo/run.sh, which is trained first if it is not there. Everything
# lies under demo/output/seg/, the Python packages under .venv-seg/.
set -euo pipefail
cd "$(dirname "$0")/.."
bash seg/venv.sh
exec .venv-seg/bin/python seg/demo.py demo/output/seg "$@"
