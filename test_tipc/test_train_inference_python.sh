#!/usr/bin/env bash
# TIPC's chain on this project: train, evaluate, export, infer, and compare what the predictors say.
#
#   bash test_tipc/prepare.sh CONFIG MODE
#   bash test_tipc/test_train_inference_python.sh CONFIG MODE [GPU]
#
# MODE: lite_train_lite_infer, lite_train_whole_infer, whole_train_whole_infer or whole_infer (GPU: which one to use).
# Without a GPU the CPU form of the same chain runs. Logs and status lines: test_tipc/output/<config's folder>/<config>/
# <mode>/; exit code 0 only if every step ran and left what it should. See README.md beside this file.
set -ufo pipefail  # -f: the words of a config are never expanded
trap "exit 130" INT TERM
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
begin_script "${1-}" "${2-}"
gpu_of_infer=${3-0}

# -- where: GPUs, or the CPU form --------------------------------------------------------------------------------------

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

# -- steps: each sets what its check looks for, and runs ---------------------------------------------------------------

check_train() { [ "$machine" != first ] || has_file "$checkpoint"; }  # the first machine writes it

check_eval() { has_line "$1" 'Acc@1'; }

check_export() {
    has_file "$model_file"
    [ -z "$params_file" ] || has_file "$params_file"
}

check_infer() { has_records "$1" "$images" "$(value 49)"; }

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

train() {  # train TRAINER GPU_LIST AUTOCAST WORDS...: as one process, several, or several machines
    local ips='' devices=$2 launch number autocast=()
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
    number=$(tr -cd , <<< "$devices" | wc -c)
    number=$((number + 1))
    launch=("$python" -m paddle.distributed.launch --log_dir "$run.launch")
    if [ -n "$ips" ] && [ -n "$on_cpu" ]; then
        number=$(tr -cd , <<< "$ips" | wc -c)
        launch=(on_one_cpu $((number + 1)))
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

infer() {  # infer LOG_SUFFIX FLAG...: one run of the predictor on $images
    local log=$run/python_infer_$1.log
    shift
    words "$(value 39)" "$@" "$(flag 46 "$model_file")" "$(flag 50 "$params_file")" "$(flag 47 "$images")" "$(flag 49)"
    step "infer $label ${log##*python_infer_}" "$log" check_infer "$python" "${command[@]}"
}

infer_on_cpu() {  # infer_on_cpu BATCH PRECISION
    local mkldnn threads
    [[ $2 == fp32 || $2 == bf16 ]] || return 0  # the others are for GPUs
    for mkldnn in $(value 41 | tr '|' ' '); do
        [[ $mkldnn == True || $2 == fp32 ]] || continue
        for threads in $(value 42 | tr '|' ' '); do
            infer "cpu_usemkldnn_${mkldnn}_threads_${threads}_precision_$2_batchsize_$1" \
                "$(flag 40 False)" "$(flag 41 "$mkldnn")" "$(flag 42 "$threads")" "$(flag 43 "$1")" "$(flag 45 "$2")"
        done
    done
}

infer_on_gpu() {  # infer_on_gpu BATCH PRECISION
    local trt
    for trt in $(value 44 | tr '|' ' '); do
        infer "gpu_usetrt_${trt}_precision_$2_batchsize_$1" \
            "$(flag 40 True)" "$(flag 44 "$trt")" "$(flag 43 "$1")" "$(flag 45 "$2")"
    done
}

infer_all() {  # infer_all IMAGES REFERENCE: every combination of the config, as TIPC has them, then whether they agree
    local device devices batch precision reference
    images=$1
    is_set "$(value 39)" || return 0
    devices=$(value 40)
    if [ -n "$on_cpu" ]; then devices=False; fi  # the config's True comes down to the same there
    for device in ${devices//|/ }; do
        for batch in $(value 43 | tr '|' ' '); do
            for precision in $(value 45 | tr '|' ' '); do
                if [ "$device" = True ]; then
                    infer_on_gpu "$batch" "$precision"
                else
                    infer_on_cpu "$batch" "$precision"
                fi
            done
        done
    done
    reference=$2
    if [ -z "$reference" ]; then  # none stored for weights just trained: the logs are held against one of them
        reference=$(find "$run" -name 'python_infer_*precision_fp32*.log' | LC_ALL=C sort | head -n 1)
    fi
    [ -z "$reference" ] || step "compare $label" "$run/compare.log" check_compare \
        "$python" test_tipc/compare_results.py "--gt_file=$reference" \
        "--log_file=$run/python_infer_*precision_fp32*.log" --atol=1e-4
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

train_chain() {  # train_chain TRAINER GPU_LIST AUTOCAST: train, evaluate, export, infer
    local n commands export_command machine label=${1}_gpus_${2//;/_}_autocast_$3 highest
    n=$(trainer_line "$1")
    [ -n "$n" ] || fail "$config, line 15: no line describes the trainer '$1'"
    commands=$(value "$n") export_command=$(value $((n + 14)))
    is_set "$commands" || return 0
    if [[ $commands == -* ]]; then  # flags only: the normal training with them, as PaddleClas writes to_static
        commands="$(value 15) $commands"
    fi
    if [ "$n" -ge 19 ] && ! is_set "$export_command"; then export_command=$(value 29); fi
    run=$out/$label checkpoint=$out/$label/$(value 10)
    machine=$(machine_of "$2")
    if [ "$machine" = none ]; then
        not_run "train $label" "none of ${2%%;*} is this machine ($(hostname -I)); edit line 4 of the config"
        return
    fi
    highest=$(tr ',' '\n' <<< "${2#*;}" | sort -n | tail -n 1)
    if [ -z "$on_cpu" ] && [ "$highest" -ge "$gpus" ]; then
        not_run "train $label" "GPU $highest is asked for, this machine has $gpus; TIPC_GPU_LIST=0 asks for one"
        return
    fi

    if ! train "$1" "$2" "$3" "$commands"; then
        not_run "eval,export,infer $label" 'there is no checkpoint'
        return
    fi
    [ "$machine" = first ] || return 0  # the first machine has the checkpoint
    if is_set "$(value 23)"; then
        words "$(value 23)" "$(flag 9 "$checkpoint")" "$(flag 24)" "$(cpu_extra eval)"
        step "eval $label" "${run}_eval.log" check_eval "$python" "${command[@]}"
    fi
    is_set "$export_command" || return 0
    export_and_infer "$export_command" "$checkpoint" "$(value 11)" ''
}

export_and_infer() {  # export_and_infer COMMAND WEIGHTS IMAGES REFERENCE
    local to=$run
    exported "$run"
    if [[ $(value 27) != */ ]]; then to=$model_file; fi  # the line names a file, not a folder
    words "$1" "$(flag 28 "$2")" "$(flag 27 "$to")" "$(cpu_extra export)"
    if ! step "export $label" "${run}_export.log" check_export "$python" "${command[@]}"; then
        is_set "$(value 39)" && not_run "infer $label" 'there is no exported model'
        return
    fi
    infer_all "$3" "$4"
}

whole_infer() {  # whole_infer WEIGHTS: a model trained elsewhere
    local label reference=
    label=$(basename "$1")
    label=${label%.*}
    run=$out/$label
    mkdir -p "$run"
    if [ -z "$on_cpu" ]; then export CUDA_VISIBLE_DEVICES=$gpu_of_infer; fi
    [ ! -f "${1%.*}.reference.txt" ] || reference=${1%.*}.reference.txt
    if is_set "$(value 37)"; then
        [ -f "$1" ] || fail "$1: no such weights; run test_tipc/prepare.sh with this config and mode first"
        export_and_infer "$(value 37)" "$1" "$(value 47)" "$reference"
    else
        [ -d "$1" ] || fail "$1: no such folder of an exported model"
        exported "$1"
        infer_all "$(value 47)" "$reference"
    fi
}

run='' machine='' checkpoint='' model_file='' params_file='' images='' command=()
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
