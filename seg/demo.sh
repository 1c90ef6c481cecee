#!/usr/bin/env bash
# Segmentation from one command: scenes with masks, training of UPerNet with LV-ViT on them, evaluation, prediction and
# export, by PaddleSeg on a CPU. Needs Python 3.9+ and pip.
#
#   seg/demo.sh [--pretrained FILE|none] [--seed N] [--iters N]
#
# --pretrained is where the backbone starts: by default the checkpoint of demo/run.sh, which is trained first if it does
# not exist; none means random weights. --seed takes other scenes. Everything is written to demo/output/seg/ (with
# --seed to demo/output-seedN/seg/). The Python packages are installed into .venv/.
set -euo pipefail
cd "$(dirname "$0")/.."

demo=demo/output seed=0 iters=200 pretrained=
while [ $# -gt 0 ]; do
    case $1 in
        --pretrained) pretrained=${2:?--pretrained takes a file or none}; shift ;;
        --seed) seed=${2:?--seed takes a number}; demo=demo/output-seed$seed; shift ;;
        --iters) iters=${2:?--iters takes a number of training steps}; shift ;;
        *) echo "usage: seg/demo.sh [--pretrained FILE|none] [--seed N] [--iters N]" >&2; exit 2 ;;
    esac
    shift
done

bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt  # as demo/run.sh makes it
python=.venv/bin/python
$python -m pip install --quiet --disable-pip-version-check -r seg/requirements.txt
$python -m pip install --quiet --disable-pip-version-check --no-deps -r seg/requirements-nodeps.txt

if [ -z "$pretrained" ]; then
    pretrained=$demo/train/checkpoint-best.pd
    [ -f "$pretrained" ] || ./demo/run.sh --seed "$seed"
fi

out=$demo/seg data=$demo/seg/digits
config=(--config seg/configs/upernet_lvvit_nano_digits_48x48.yml)
opts=(--opts "train_dataset.dataset_root=$data" "train_dataset.train_path=$data/masks_train.txt"
    "val_dataset.dataset_root=$data" "val_dataset.val_path=$data/masks_val.txt")
start=()
[ "$pretrained" = none ] || start=("model.backbone.pretrained=$pretrained")
model=(--model_path "$out/train/iter_$iters/model.pdparams")

$python demo/digits.py "$data" --size 48 --train 320 --val 200 --masks --seed "$seed"
$python seg/train.py "${config[@]}" --save_dir "$out/train" --iters "$iters" --save_interval "$iters" --seed "$seed" \
    "${opts[@]}" "${start[@]}"
$python seg/val.py "${config[@]}" "${model[@]}" "${opts[@]}"
head -n 10 "$data/masks_val.txt" > "$data/pictured.txt"
$python seg/predict.py "${config[@]}" "${model[@]}" --image_path "$data/pictured.txt" --save_dir "$out/predictions" \
    --label_list seg/configs/digits_label_list.txt "${opts[@]}"
$python seg/export.py "${config[@]}" "${model[@]}" --save_dir "$out/export" "${opts[@]}"
echo "$out/predictions/added_prediction shows the classes of ten scenes; $out/export is for Paddle Inference"
