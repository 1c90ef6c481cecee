#!/usr/bin/env bash
# Makes under dataset/ what test_train_inference_python.sh needs: images, label maps, and weights for whole_infer.
#
#   bash test_tipc/prepare.sh CONFIG MODE
#
# TIPC_DATA=DIR         an ImageNet folder (train/, val/, and train_list.txt, val_list.txt if it has them), of which the
#                       lite modes take a few images. Without it demo/digits.py makes scenes of handwritten digits.
# TIPC_LABEL_MAPS=DIR   its label maps (default: DIR/label_top5_train_nfnet or DIR/label_maps)
# TIPC_WEIGHTS=FILE     for whole_infer: a checkpoint. Without it random weights of a fixed seed, whose predictions are
#                       stored.
set -uo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
begin_script "${1-}" "${2-}"

data=dataset/ILSVRC2012
train_images=40 val_images=20  # of our scenes, and of the user's images in the lite modes: 5 steps of 8

for variable in TIPC_DATA TIPC_LABEL_MAPS; do
    [ -z "${!variable-}" ] || [ -d "${!variable}" ] || fail "$variable=${!variable}: no such folder"
done

# -- the user's images: links, and lists of those that take part -------------------------------------------------------

images_of() {  # images_of SPLIT: lines "SPLIT/class/image id" of the list, else of the folders in the order of train/
    local of_ids=$TIPC_DATA/train
    [ -d "$of_ids" ] || of_ids=$TIPC_DATA/$1
    if [ -f "$TIPC_DATA/$1_list.txt" ]; then
        sed -E 's/[[:blank:]]+([0-9]+)[[:space:]]*$/ \1/' "$TIPC_DATA/$1_list.txt"  # a list may have tabs
    else
        (cd "$TIPC_DATA" && find -L "$1" -mindepth 2 -maxdepth 2 -type f -iregex '.*\.\(jpe?g\|png\|bmp\|webp\)') |
            LC_ALL=C sort |
            awk -F / 'NR == FNR { id[$1] = FNR - 1; next } $2 in id { print $0, id[$2] }' \
                <(cd "$of_ids" && find -L . -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | LC_ALL=C sort) -
    fi
}

spread() {  # spread N: N of the lines read, at equal distances
    awk -v n="$1" '{ line[NR] = $0 }
        END { if (n > NR) n = NR; for (i = 0; i < n; i++) print line[int(i * NR / n) + 1] }'
}

link_images() {  # link_images SPLIT N: N images of a split, each as a link
    local line path
    images_of "$1" | spread "$2" > "$data/$1_list.txt"
    while IFS= read -r line; do
        path=${line% *}
        [ -f "$source/$path" ] || fail "$TIPC_DATA/$1_list.txt: no image $source/$path"
        mkdir -p "$data/${path%/*}"
        ln -s "$source/$path" "$data/$path"
    done < "$data/$1_list.txt"
}

link_user_data() {
    local source split maps=${TIPC_LABEL_MAPS-} folders=(train val)
    source=$(realpath -- "$TIPC_DATA")
    if [ "$mode" = whole_infer ]; then folders=(val); fi
    for split in "${folders[@]}"; do
        [ -d "$source/$split" ] || fail "TIPC_DATA=$TIPC_DATA: has no $split/"
    done
    mkdir -p "$data" && touch "$data/links" || exit
    if [ "$mode" = whole_infer ]; then
        ln -s "$source/val" "$data/val"
        images_of val > "$data/val_list.txt"
        return
    fi

    for split in "$source/label_top5_train_nfnet" "$source/label_maps"; do
        if [ -z "$maps" ] && [ -d "$split" ]; then maps=$split; fi
    done
    [ -n "$maps" ] || fail "TIPC_DATA=$TIPC_DATA: has no label maps; set TIPC_LABEL_MAPS=DIR"
    ln -s "$(realpath -- "$maps")" "$data/label_maps"
    for split in train val; do
        if [[ $mode == whole_train* || $mode$split == lite_train_whole_inferval ]]; then
            ln -s "$source/$split" "$data/$split"
            images_of "$split" > "$data/${split}_list.txt"
        elif [ "$split" = train ]; then
            link_images train $train_images
        else
            link_images val $val_images
        fi
        [ -s "$data/${split}_list.txt" ] || fail "TIPC_DATA=$TIPC_DATA: no images in $split/"
    done
}

# -- our scenes and weights --------------------------------------------------------------------------------------------

make_scenes() {
    "$python" -c 'import numpy, PIL, sklearn' 2> /dev/null ||
        fail "$python cannot draw the scenes: pip install -r requirements-cpu.txt -r demo/requirements.txt"
    "$python" demo/digits.py "$data" --train $train_images --val $val_images --size 224 \
        --class_ids 0 111 222 333 444 555 666 777 888 999 --fresh
}

lay_out_images() {
    if [ -f "$data/links" ]; then
        rm -rf "$data"  # links that this script made
    fi
    if [ -z "${TIPC_DATA-}" ]; then
        make_scenes || exit
        return
    fi
    if [ -f "$data/digits.json" ]; then
        rm -rf "$data"  # scenes that this script made
    fi
    [ ! -e "$data" ] || fail "$data was not made by this script; move it away and set TIPC_DATA to it"
    link_user_data
    echo "$data: $(count_images "$data/train") training and $(count_images "$data/val") validation images of $TIPC_DATA"
}

checksum_of_scenes() {
    (cd "$data/val" && find . -name '*.JPEG' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
}

place_weights() {  # the files of line 37; beside our own weights the stored predictions, if the scenes are equal
    local weights reference=test_tipc/results/python_${model_name}_results_fp32.txt
    for weights in $(value 36 | tr '|' ' '); do
        is_set "$weights" || continue
        mkdir -p "$(dirname "$weights")" || exit
        rm -f "$weights" "${weights%.*}.reference.txt"
        if [ -n "${TIPC_WEIGHTS-}" ]; then
            [ -f "$TIPC_WEIGHTS" ] || fail "TIPC_WEIGHTS=$TIPC_WEIGHTS: no such file"
            ln -s "$(realpath -- "$TIPC_WEIGHTS")" "$weights" || exit
            continue
        fi
        "$python" test_tipc/seed_weights.py --model "$model_name" --output "$weights" || exit
        if [ -n "${TIPC_DATA-}" ]; then continue; fi
        if [ "$(checksum_of_scenes)" = "$(cat test_tipc/results/scenes.sha256)" ]; then
            cp "$reference" "${weights%.*}.reference.txt" || exit
        else
            echo 'predictions are not compared with stored ones: this Pillow draws other scenes (13 or newer does)'
        fi
    done
}

# -- run --------------------------------------------------------------------------------------------------------------

if [ "$mode" = whole_train_whole_infer ] && [ -z "${TIPC_DATA-}" ]; then
    fail "$mode trains and infers on the whole of ImageNet: set TIPC_DATA=DIR (and TIPC_LABEL_MAPS=DIR)"
fi
if [[ $(value 37) == *export_onnx.py* ]]; then
    for package in paddle2onnx onnx onnxruntime; do
        "$python" -c "import $package" 2> /dev/null ||
            fail "this config needs $package: pip install paddle2onnx==2.1.0 onnx onnxruntime"
    done
fi
if [ "$mode" != whole_infer ] || is_set "$(value 39)"; then lay_out_images; fi
if [ "$mode" = whole_infer ]; then
    place_weights
    if [ -z "${TIPC_WEIGHTS-}" ]; then
        echo "no TIPC_WEIGHTS: random weights of a fixed seed; their predictions serve for comparison"
    fi
fi
