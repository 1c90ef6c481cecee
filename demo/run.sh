#!/usr/bin/env bash
# The whole chain on real images, from one command: data, training with token labels, evaluation, prediction, export,
# Paddle Inference, and a picture. Needs Python 3.9+ and pip; what is there from an earlier run is used again.
#
#   ./demo/run.sh [--fresh] [--seed N]
#
# --fresh starts over. Everything lies under demo/output/, the Python packages under .venv/.
set -euo pipefail
cd "$(dirname "$0")/.."

out=demo/output seed=0
while [ $# -gt 0 ]; do
    case $1 in
        --fresh) rm -rf "$out" ;;
        --seed) seed=${2:?--seed takes a number}; shift; [ "$seed" = 0 ] || out=demo/output/seed$seed ;;
        *) echo "usage: demo/run.sh [--fresh] [--seed N]" >&2; exit 2 ;;
    esac
    shift
done

bash tools/venv.sh .venv -r requirements-cpu.txt -r demo/requirements.txt
python=.venv/bin/python
data=$out/digits run=$out/train
mkdir -p "$out"
begin=$SECONDS
: > "$out/times.txt"

step() {  # step NAME COMMAND...: announce, run, note the seconds
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@"
    echo "$name $((SECONDS - start))" >> "$out/times.txt"
}

model=(--model lvvit_nano --input_size 64 --nb_classes 10)
val=(--data_path "$data" --cls_label_path_val "$data/val_list.txt")
epochs=12

step data $python demo/digits.py "$data" --seed "$seed"

if [ ! -f "$run/checkpoint-$((epochs - 1)).pd" ]; then
    resume=()
    [ ! -f "$run/checkpoint-latest.pd" ] || resume=(--resume "$run/checkpoint-latest.pd")
    step train $python main.py "${model[@]}" "${val[@]}" --cls_label_path_train "$data/train_list.txt" \
        --token_label --token_label_data "$data/label_maps" --token_label_size 4 \
        --epochs $epochs --warmup_epochs 1 --cooldown_epochs 0 --batch_size 32 --lr 2e-3 \
        --mixup 0 --cutmix 0 --no_mix_token --aa '' --hflip 0 --train_scale 0.5 1 --reprob 0 \
        --num_workers 2 --seed "$seed" --output_dir "$run" "${resume[@]}"
fi
checkpoint=$run/checkpoint-best.pd

step eval $python eval.py "${model[@]}" "${val[@]}" --resume "$checkpoint"
step predict $python predict.py "${model[@]}" --infer_imgs "$data/val" --resume "$checkpoint" \
    --label_list "$data/label_list.txt" --save_json "$out/predict.json" > "$out/predict.log"
step export $python export_model.py "${model[@]}" --resume "$checkpoint" --output_dir "$out/export" \
    --label_list "$data/label_list.txt"
step infer $python infer.py --model_file "$out/export/model.pdmodel" --params_file "$out/export/model.pdiparams" \
    --input_file "$data/val" --batch_size 16 --use_gpu False --save_json "$out/infer.json" > "$out/infer.log"
step picture $python tools/visualize.py "${model[@]}" --resume "$checkpoint" --label_list "$data/label_list.txt" \
    --input "$data/val" --count 12 --output "$out/tokens.png"

$python demo/report.py "$out" $((SECONDS - begin))
