#!/usr/bin/env bash
# TIPC's chain for this project: train, evaluate, export, infer, and compare the predictions.
#
#   bash test_tipc/prepare.sh CONFIG MODE
#   bash test_tipc/test_train_inference_python.sh CONFIG MODE [GPU]
#
# MODE: lite_train_lite_infer, lite_train_whole_infer, whole_train_whole_infer or whole_infer (GPU: its number).
# Without a GPU the CPU form of the same chain runs. Logs and status lines: test_tipc/output/<config's folder>/<config>/
# <mode>/. The exit code is 0 only if every step ran and wrote what it should. See README.md beside this file.
set -ufo pipefail  # -f: the words of a config are never expanded
trap "exit 130" INT TERM
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
begin_script "${1-}" "${2-}"
gpu_of_infer=${3-0}

# -- device: GPUs or the CPU form --------------------------------------------------------------------------------------

count_gpus() {
    "$python" -c 'import paddle
print("gpus", paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0)' 2>&1
}

case ${TIPC_DEVICE-} in
    cpu) gpus=0 ;;
    '') found=$(count_gpus) ||
            fail "$python cannot import paddle: ${found##*$'\n'}; set PYTHON=, or pip install -r requirements-cpu.txt"
        gpus=${found##*gpus } ;;
    *) fail "TIPC_DEVICE=$TIPC_DEVICE: leave it unset, or cpu" ;;
esac
on_cpu=$([ "$gpus" != 0 ] || echo yes)

name=$(basename "$config" .txt)
out=test_tipc/output/$(basename "$(dirname "$config")")/$name/$mode
if [[ $mode == whole_train* && -d $out ]]; then  # a second call must not delete the results of days
    rm -rf "$out.old"
    mv "$out" "$out.old"
fi
rm -rf "$out"
mkdir -p "$out" || exit
status_log=$out/results_python.log
: > "$status_log"
if [ -n "$on_cpu" ]; then where='no GPU: the CPU form'; else where="$gpus GPU(s)"; fi
echo "$name, $mode, $where; $python; results in $out"

cpu_extra() {  # cpu_extra NAME: flags that make the lite modes small on a CPU, the lines after the 51st
    if [ -n "$on_cpu" ] && [[ $mode == lite_train_* ]]; then extra "$1"; fi
}

# -- steps: each sets the variables that its check reads, then runs ----------------------------------------------------

check_train() {  # the first machine writes the checkpoint and log.txt
    local first=0 epochs cooldown
    [ "$machine" = first ] || return 0
    has_file "$checkpoint"
    has_processes "$1" "$run.launch" "$processes"
    epochs=$(of_mode "$(value 6)") cooldown=$(of_mode "$(value 12)")
    if ! [[ $epochs$cooldown =~ ^[0-9]+$ ]]; then
        echo 'lines 7 and 13 of the config do not say how many epochs'
        return
    fi
    if is_set "$(flag 9)"; then  # continued from a checkpoint: log.txt begins where that ended
        first=$(sed -nE 's/.*"epoch": ([0-9]+).*/\1/p' "$run/log.txt" | head -n 1)
    fi
    has_epochs "$run/log.txt" "${first:-0}" $((epochs + cooldown - 1))
}

check_eval() { has_accuracy "$1" "$(images_evaluated)"; }

check_export() {
    has_file "$model_file"
    [ -z "$params_file" ] || has_file "$params_file"
}

check_quantize() { has_file "$model_file"; }

check_infer() { has_records "$1" "$images" "$(value 49)"; }

check_predict() { has_records "$1" "$images" ''; }

check_compare() { has_line "$1" 'agree with'; }

words() { read -r -a command <<< "$*"; }  # into command[]: a config's words are split at blanks, never expanded

exported() {  # exported FOLDER: names of the files that an export writes there
    local below
    below=$(value 35)
    if is_set "$below"; then set -- "$1/$below"; fi
    model_file=$1/$(value 46) params_file=
    if is_set "$(key 50)"; then params_file=$1/$(value 50); fi
}

on_one_cpu() {  # on_one_cpu NODES COMMAND...: NODES launchers that find each other, as on as many machines
    local nodes=$1 port rank pids=() code=0
    shift
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    for ((rank = nodes - 1; rank >= 0; rank--)); do
        "$python" -m paddle.distributed.launch --master "127.0.0.1:$port" --nnodes "$nodes" --rank "$rank" \
            --nproc_per_node 1 --log_dir "$run.launch/node$rank" "$@" &
        pids+=($!)
    done
    for rank in "${pids[@]}"; do
        wait "$rank" || code=$?
    done
    return "$code"
}

count_of() { tr ',' '\n' <<< "$1" | wc -l; }  # count_of A,B,…: how many they are

train() {  # train TRAINER GPU_LIST AUTOCAST WORDS...: as one process, several, or several machines
    local ips='' devices=$2 launch number machines=1 autocast=()
    if [[ $2 == *\;* ]]; then
        ips=${2%%;*} devices=${2#*;}
    fi
    case $3 in
        null | fp32) ;;
        amp | fp16) autocast=("$(key 5)") ;;
        bf16) autocast=("$(key 5)" --amp_dtype=bfloat16) ;;
        *) fail "$config, line 6: autocast '$3' is none of null, fp32, amp, fp16, bf16" ;;
    esac
    words "$4" "$(flag 4)" "$(flag 7 "$run")" "$(flag 6)" "$(flag 9)" "$(flag 8)" "$(flag 12)" "${autocast[@]}" \
        "$(cpu_extra train)"
    number=$(count_of "$devices")
    if [ -n "$ips" ]; then machines=$(count_of "$ips"); fi
    processes=$((machines * number))
    launch=("$python" -m paddle.distributed.launch --log_dir "$run.launch")
    if [ -n "$ips" ] && [ -n "$on_cpu" ]; then
        processes=$machines
        launch=(on_one_cpu "$machines")
    elif [ -n "$ips" ]; then
        launch+=("--ips=$ips" "--gpus=$devices")
    elif [ "$number" = 1 ]; then
        launch=("$python")
        if [ -z "$on_cpu" ] && [ "$devices" != -1 ]; then launch=(env "CUDA_VISIBLE_DEVICES=$devices" "$python"); fi
    elif [ -n "$on_cpu" ]; then
        launch+=(--nproc_per_node "$number" --backend gloo)
    else
        launch+=("--gpus=$devices")
    fi
    step "train $label" "$run.log" check_train "${launch[@]}" "${command[@]}"
}

evaluate() {  # evaluate WEIGHTS
    is_set "$(value 23)" || return 0
    words "$(value 23)" "$(flag 9 "$1")" "$(flag 24)" "$(cpu_extra eval)"
    step "eval $label" "${run}_eval.log" check_eval "$python" "${command[@]}"
}

labels_of_eval() {  # the list file of the evaluation in command[]
    local word
    for word in "${command[@]}"; do
        if [[ $word == --cls_label_path_val=* ]]; then echo "${word#*=}"; fi
    done
}

images_evaluated() {  # how many images the evaluation in command[] asks for
    local word list
    list=$(labels_of_eval)
    if [ -n "$list" ]; then grep -c . "$list"; return; fi
    for word in "${command[@]}"; do
        if [[ $word == --data_path=* ]]; then count_images "${word#*=}/val"; fi
    done
}

gpu_cannot() {  # gpu_cannot PRECISION: why this combination cannot run here, nothing if it can
    if [ -n "$on_cpu" ]; then echo 'there is no GPU here'; return; fi
    [[ $1 != int8 || $(value 38) == True ]] || echo 'int8 needs a quantised model (line 39)'
}

cpu_cannot() {  # cpu_cannot PRECISION MKLDNN: the same for a CPU
    case $1 in
        fp32) ;;
        fp16) echo 'fp16 needs a GPU' ;;
        int8) [ "$(value 38)" = True ] || int8_cannot "$2" ;;
        *) [ "$2" = True ] || echo "$1 on a CPU needs oneDNN" ;;
    esac
}

int8_cannot() {  # int8_cannot MKLDNN: why the model that the line `quantize:` makes cannot run here
    local word images=''
    for word in $(extra quantize); do
        if [[ $word == --images=* ]]; then images=${word#*=}; fi
    done
    if [ -z "$images" ]; then
        echo 'int8 needs a quantised model (line 39)'
    elif [ "$1" != True ]; then
        echo 'int8 runs in OpenVINO, with and without oneDNN'
    elif [ "$(count_images "$images")" -lt 32 ]; then
        echo "calibration for int8 needs 32 images in $images"
    elif ! "$python" -c 'import nncf, openvino' > /dev/null 2>&1; then
        echo 'int8 needs NNCF and OpenVINO: pip install -r requirements-deploy.txt'
    fi
}

quantize() {  # quantize FLAGS_OF_EXPORT WEIGHTS: the model of the int8 lines for CPUs
    local float=$model_file precisions why
    precisions="|$(value 45)|" why=$(cpu_cannot int8 True)
    if [[ $precisions != *"|int8|"* || "|$(value 40)|" != *"|False|"* || -n $why || $(value 38) == True ]]; then return; fi
    words "$(extra quantize)" "$1" "$(flag 28 "$2")" "$(cpu_extra export)" "--output_dir=$run/int8"
    model_file=$run/int8/model.xml
    step "quantize $label" "${run}_quantize.log" check_quantize "$python" "${command[@]}"
    model_file=$float
}

infer() {  # infer LOG_SUFFIX WHY_NOT FLAG...: one combination: a run of the predictor on $images
    local log=$run/python_infer_$1.log why_not=$2 model=$model_file params=$params_file
    shift 2
    if [[ $log == *_cpu_*_precision_int8_* && $(value 38) != True ]]; then
        model=$run/int8/model.xml params=
        [ -s "$model" ] || why_not=${why_not:-there is no quantised model}
    fi
    if [ -n "$why_not" ] && [ -z "$blocked" ]; then
        not_run "infer $label ${log##*python_infer_}" "$why_not"
        return
    fi
    words "$(value 39)" "$@" "$(flag 46 "$model")" "$(flag 50 "$params")" "$(flag 47 "$images")" "$(flag 49)"
    step "infer $label ${log##*python_infer_}" "$log" check_infer "$python" "${command[@]}"
}

infer_all() {  # every combination of lines 41 to 46, nested as TIPC nests them
    local device batch precision trt mkldnn threads
    for device in $(value 40 | tr '|' ' '); do
        for batch in $(value 43 | tr '|' ' '); do
            for precision in $(value 45 | tr '|' ' '); do
                if [ "$device" = True ]; then
                    for trt in $(value 44 | tr '|' ' '); do
                        infer "gpu_usetrt_${trt}_precision_${precision}_batchsize_$batch" "$(gpu_cannot "$precision")" \
                            "$(flag 40 True)" "$(flag 44 "$trt")" "$(flag 43 "$batch")" "$(flag 45 "$precision")"
                    done
                    continue
                fi
                for mkldnn in $(value 41 | tr '|' ' '); do
                    for threads in $(value 42 | tr '|' ' '); do
                        infer "cpu_usemkldnn_${mkldnn}_threads_${threads}_precision_${precision}_batchsize_$batch" \
                            "$(cpu_cannot "$precision" "$mkldnn")" "$(flag 40 False)" "$(flag 41 "$mkldnn")" \
                            "$(flag 42 "$threads")" "$(flag 43 "$batch")" "$(flag 45 "$precision")"
                    done
                done
            done
        done
    done
}

infer_and_compare() {  # infer_and_compare IMAGES STORED PREDICT WEIGHTS
    # Compare predictions of infer.py for IMAGES with those of predict.py (the command PREDICT) with the same WEIGHTS,
    # with the accuracy of the evaluation, and with STORED predictions if that file is named.
    local stored=$2 against=() top1 labels
    images=$1
    is_set "$(value 39)" || return 0
    infer_all
    if [ -z "$blocked" ] && [ -z "$(find "$run" -name 'python_infer_*.log' -print -quit)" ]; then
        obstacle "$label: no inference of lines 41 to 46 can run here"
    fi

    if [ -n "$3" ]; then
        words "$3" "$(flag 28 "$4")" "$(cpu_extra export)" "--infer_imgs=$images"
        step "predict $label" "$run/predict.log" check_predict "$python" "${command[@]}"
    fi
    if [ -f "$run/predict.log" ]; then against=("--gt_file=$run/predict.log"); fi
    if [ -f "${run}_eval.log" ]; then
        words "$(value 23)"
        read -r top1 _ <<< "$(accuracy "${run}_eval.log")"
        labels=$(labels_of_eval)
        if [ -n "$top1" ] && [ -n "$labels" ]; then against+=("--acc1=$top1" "--cls_label_path=$labels"); fi
    fi
    compare "compare $label" "$run/compare.log" "${against[@]}"
    if [ -n "$stored" ]; then
        compare "compare $label stored" "$run/compare_stored.log" "--gt_file=$stored"
    fi
}

compare() {  # compare NAME LOG FLAG...: float32 only; for other precisions no tolerance is established
    local name=$1 log=$2
    shift 2
    if [ -z "$blocked" ] && [ -z "$(find "$run" -name 'python_infer_*precision_fp32*.log' -print -quit)" ]; then
        not_run "$name" 'no inference in fp32, and no tolerance is established for other precisions'
    elif [ -z "$blocked" ] && [ $# = 0 ]; then
        not_run "$name" 'an exported model alone: no weights for predict.py, and no stored predictions'
    else
        step "$name" "$log" check_compare "$python" test_tipc/compare_results.py "$@" \
            "--log_file=$run/python_infer_*precision_fp32*.log" "--folder=$images" --atol=1e-4
    fi
}

# -- the chain ---------------------------------------------------------------------------------------------------------

trainer_line() {  # trainer_line NAME: number of the line that describes it
    local n
    for n in 15 16 17 18 19 20; do
        if [ "$(key $n)" = "$1" ]; then echo $n; fi
    done
}

machine_of() {  # machine_of GPU_LIST: which machine of "ip,ip;gpus" this is: first, another, none
    local ips=,${1%%;*}, own
    if [[ $1 != *\;* || -n $on_cpu ]]; then echo first; return; fi
    for own in $(hostname -I); do
        if [[ $ips == ",$own,"* ]]; then echo first; return; fi
        if [[ $ips == *",$own,"* ]]; then echo another; return; fi
    done
    echo none
}

train_chain() {  # train_chain TRAINER GPU_LIST AUTOCAST: train, evaluate, export, infer, compare
    local n commands export_command highest
    blocked='' label=${1}_gpus_${2//;/_}_autocast_$3
    n=$(trainer_line "$1")
    [ -n "$n" ] || fail "$config, line 15: no line describes the trainer '$1'"
    commands=$(value "$n") export_command=$(value $((n + 14)))
    if ! is_set "$commands"; then
        not_run "train $label" "line $((n + 1)) of the config says null"
        return
    fi
    if [[ $commands == -* ]]; then  # flags only: the normal training with them, as PaddleClas writes to_static
        commands="$(value 15) $commands"
    fi
    if [ "$n" -ge 19 ] && ! is_set "$export_command"; then export_command=$(value 29); fi
    run=$out/$label checkpoint=$out/$label/$(value 10)
    machine=$(machine_of "$2")
    highest=$(tr ',' '\n' <<< "${2#*;}" | sort -n | tail -n 1)
    if [ "$machine" = none ]; then
        obstacle "none of ${2%%;*} is this machine ($(hostname -I)); edit line 4 of the config"
    elif [ -z "$on_cpu" ] && [ "$highest" -ge "$gpus" ]; then
        obstacle "GPU $highest is asked for, this machine has $gpus; TIPC_GPU_LIST=0 asks for one"
    fi

    train "$1" "$2" "$3" "$commands" || blocked=${blocked:-there is no checkpoint}
    if [ "$machine" = another ]; then blocked=${blocked:-the first machine of line 4 has the checkpoint}; fi
    evaluate "$checkpoint"
    is_set "$export_command" || return 0
    export_and_infer "$export_command" "$checkpoint" "$(value 11)" ''
}

export_and_infer() {  # export_and_infer COMMAND WEIGHTS IMAGES STORED
    local to=$run predict
    exported "$run"
    if [[ $(value 27) != */ ]]; then to=$model_file; fi  # the line names a file, not a folder
    words "$1" "$(flag 28 "$2")" "$(flag 27 "$to")" "$(cpu_extra export)"
    step "export $label" "${run}_export.log" check_export "$python" "${command[@]}" ||
        blocked=${blocked:-there is no exported model}
    quantize "${1#* }" "$2"
    predict=$(extra predict)
    infer_and_compare "$3" "$4" "${predict:-predict.py ${1#* }}" "$2"
}

whole_infer() {  # whole_infer WEIGHTS: a model that was trained before, or a folder of an exported one
    local stored=
    blocked='' label=$(basename "$1")
    label=${label%.*}
    run=$out/$label
    mkdir -p "$run"
    if [ -z "$on_cpu" ]; then export CUDA_VISIBLE_DEVICES=$gpu_of_infer; fi
    if [ -f "${1%.*}.reference.txt" ]; then stored=${1%.*}.reference.txt; fi  # prepare.sh copied it
    if is_set "$(value 37)"; then
        [ -f "$1" ] || fail "$1: no such weights; run test_tipc/prepare.sh with this config and mode first"
        evaluate "$1"
        export_and_infer "$(value 37)" "$1" "$(value 47)" "$stored"
    else
        [ -d "$1" ] || fail "$1: no such folder of an exported model"
        exported "$1"
        infer_and_compare "$(value 47)" "$stored" '' ''
    fi
}

run='' label='' machine='' processes=1 checkpoint='' model_file='' params_file='' images='' command=()
if [ "$mode" = whole_infer ]; then
    for weights in $(value 36 | tr '|' ' '); do
        if is_set "$weights"; then whole_infer "$weights"; fi
    done
else
    gpu_list=${TIPC_GPU_LIST:-$(value 3)}
    IFS='|' read -r -a gpu_lists <<< "$gpu_list"
    for gpu in "${gpu_lists[@]}"; do
        for autocast in $(value 5 | tr '|' ' '); do
            for trainer in $(value 14 | tr '|' ' '); do
                if is_set "$trainer"; then train_chain "$trainer" "$gpu" "$autocast"; fi
            done
        done
    done
fi
summary
