#!/usr/bin/env bash
# The whole chain on real images, from one command: data, training with token labels, evaluation, prediction, export,
# Paddle Inference, and a picture. Needs Python 3.9+ and pip. A second run reuses the data and the trained model.
#
#   ./demo/run.sh [--fresh] [--seed N]
#
# --fresh starts over; --seed N draws other scenes and initial weights and writes to demo/output-seedN/. Without it the
# results go to demo/output/. Python packages are installed into .venv/.
set -euo pipefail
cd "$(dirname "$0")/.."

out=demo/output seed=0 fresh=
while [ $# -gt 0 ]; do
    case $1 in
        --fresh) fresh=1 ;;
        --seed) seed=${2:?--seed takes a number}; out=demo/output-seed$seed; shift ;;
        *) echo "usage: demo/run.sh [--fresh] [--seed N]" >&2; exit 2 ;;
    esac
    shift
done
[ -z "$fresh" ] || rm -rf "$out"

bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt
python=.venv/bin/python
data=$out/digits run=$out/train
mkdir -p "$out"
begin=$SECONDS
: > "$out/times.txt"

step() {  # step NAME COMMAND...: announce, run, note the seconds
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*" >&2  # not into a redirected log
    "$@"
    echo "$name $((SECONDS - start))" >> "$out/times.txt"
}

val=(--data_path "$data" --cls_label_path_val "$data/val_list.txt")
epochs=14

step data $python demo/digits.py "$data" --size 48 --seed "$seed"

train() {  # two processes with one thread each are faster on a CPU than one with two; only main.py's lines are shown
    $python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo --log_dir "$out/launch" \
        main.py --model lvvit_nano --input_size 48 --nb_classes 10 "${val[@]}" --cls_label_path_train "$data/train_list.txt" \
        --token_label --token_label_data "$data/label_maps" --token_label_size 3 \
        --epochs $epochs --warmup_epochs 1 --cooldown_epochs 0 --batch_size 16 \
        --lr 1e-3 --clip_grad 1 --smoothing 0 \
        --mixup 0 --cutmix 0 --no_mix_token --aa '' --hflip 0 --train_scale 0.8 1 --reprob 0 \
        --num_workers 0 --dist_eval --seed "$seed" --output_dir "$run" --resume auto 2>&1 |
        grep --line-buffered -E '^\[[0-9]{2}:|rror'
}
if [ ! -f "$run/checkpoint-$((epochs - 1)).pd" ]; then
    step train train
fi
checkpoint=$run/checkpoint-best.pd

step eval $python eval.py "${val[@]}" --resume "$checkpoint"
step predict $python predict.py --infer_imgs "$data/val" --resume "$checkpoint" \
    --label_list "$data/label_list.txt" --save_json "$out/predict.json" > "$out/predict.log"
step export $python export_model.py --resume "$checkpoint" --output_dir "$out/export" \
    --label_list "$data/label_list.txt"
step infer $python infer.py --model_file "$out/export/model.pdmodel" --params_file "$out/export/model.pdiparams" \
    --input_file "$data/val" --batch_size 16 --use_gpu False --save_json "$out/infer.json" > "$out/infer.log"
step picture $python tools/visualize.py --resume "$checkpoint" --label_list "$data/label_list.txt" \
    --input "$data/val" --count 12 --output "$out/tokens.png"

$python demo/report.py "$out" $((SECONDS - begin))
