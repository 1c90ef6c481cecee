# shellcheck shell=bash
# Shared by prepare.sh and test_train_inference_python.sh: reads a config, runs a step and checks its results.

fail() {  # fail MESSAGE: one line, exit code 2
    echo "${0##*/}: error: $*" >&2
    exit 2
}

begin_script() {  # begin_script CONFIG MODE: change to the root of the project; set $config, $mode and $python
    [ -n "$1" ] || fail "usage: ${0##*/} CONFIG MODE"
    config=$(realpath -m -- "$1")
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
    mode=$2
    case $mode in
        lite_train_lite_infer | lite_train_whole_infer | whole_train_whole_infer | whole_infer) ;;
        *) fail "mode '$mode': must be {lite,whole}_train_whole_infer, lite_train_lite_infer or whole_infer" ;;
    esac
    read_config "$config"
    model_name=$(value 1)
    python=${PYTHON:-}
    if [ -z "$python" ]; then  # the project's own environment, else the config's third line
        python=$(value 2)
        [ ! -x .venv/bin/python ] || python=.venv/bin/python
    fi
    command -v "$python" > /dev/null || fail "$python: no such Python; set PYTHON=/path/to/python"
}

# -- configs: 51 lines "key:value" in the order of docs/test_train_inference_python.md ---------------------------------

lines=() config='' mode='' model_name='' python=''

read_config() {  # read_config FILE: into lines[]; checks the section heads
    [ -f "$1" ] || fail "$1: no such config"
    lines=()
    local line where
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%$'\r'}
        lines+=("${line%"${line##*[![:space:]]}"}")
    done < "$1"
    [ ${#lines[@]} -ge 51 ] || fail "$1: has ${#lines[@]} lines, TIPC's format has 51"
    for where in "0 *train_params*" "13 ##" "21 ##" "22 *eval_params*" "25 ##" "26 *infer_params*"; do
        # shellcheck disable=SC2053  # the right side is a pattern
        [[ ${lines[${where%% *}]} == ${where#* } ]] ||
            fail "$1, line $((${where%% *} + 1)): expected ${where#* }, found '${lines[${where%% *}]}'"
    done
}

key() { echo "${lines[$1]%%:*}"; }           # key N, value N: of line N, counted from 0
value() { echo "${lines[$1]#*:}"; }

is_set() { [ -n "$1" ] && [ "$1" != null ]; }

of_mode() {  # of_mode VALUE: of "mode=a|other mode=b" the value for $mode (or null), any other VALUE itself
    local choice
    [[ $1 =~ ^(lite|whole)_[a-z_]+= ]] || { echo "$1"; return; }
    for choice in ${1//|/ }; do
        [ "${choice%%=*}" != "$mode" ] || { echo "${choice#*=}"; return; }
    done
    echo null
}

flag() {  # flag N [VALUE]: "key=value" of line N; nothing if either is null
    local name val
    name=$(key "$1") val=${2-$(of_mode "$(value "$1")")}
    if is_set "$name" && is_set "$val"; then echo "$name=$val"; fi
}

extra() {  # extra NAME: the value of "NAME:…" among the lines after the 51st
    local line
    for line in "${lines[@]:51}"; do
        if [ "${line%%:*}" = "$1" ] && is_set "${line#*:}"; then echo "${line#*:}"; fi
    done
}

count_images() {  # count_images FILE_OR_FOLDER: as infer.py finds images
    find -L "$1" -type f -iregex '.*\.\(jpe?g\|png\|bmp\|webp\)' 2> /dev/null | wc -l
}

# -- steps: each ends in one status line -------------------------------------------------------------------------------
#
#   Run successfully with command - MODEL - COMMAND - LOG !
#   Run failed with command - MODEL - COMMAND - LOG !
#   Not run: WHY - MODEL - STEP !

table=()  # rows of the summary
failures=0
status_log=/dev/null
blocked=''  # why the next steps of this chain cannot run: set by a failure, cleared at the start of a chain

tell() {  # tell STATUS SECONDS NAME LOG LINE: a row of the summary; the line to the screen and results_python.log
    table+=("$1|$2|$3|$4")
    echo "$5 ! " | tee -a "$status_log"
}

not_run() {  # not_run NAME WHY: no failure, but a chain in which nothing ran is one (see summary)
    tell 'not run' - "$1" "${1#* }: $2" "Not run: $2 - $model_name - $1"
}

obstacle() {  # obstacle WHY: a failure that stops the rest of the chain; the first one is reported
    failures=$((failures + 1))
    blocked=${blocked:-$1}
    echo "$1" >&2
}

step() {  # step NAME LOG CHECK COMMAND...: run COMMAND, output to LOG; then the function CHECK prints what is missing
    local name=$1 log=$2 check=$3 begin=$SECONDS code=0 problem=''
    shift 3
    if [ -n "$blocked" ]; then
        not_run "$name" "$blocked"
        return 1
    fi
    echo "== $name"
    "$@" > "$log" 2>&1 || code=$?
    if [ "$code" != 0 ]; then
        problem="exit code $code"
    else
        problem=$("$check" "$log") || problem=${problem:-its check broke off}
    fi
    if [ -n "$problem" ]; then
        echo "$name: $problem" | tee -a "$log" >&2
        echo "-- the end of $log" >&2
        tail -n 15 "$log" >&2
        failures=$((failures + 1))
        tell FAILED $((SECONDS - begin)) "$name" "$log" "Run failed with command - $model_name - $* - $log"
        return 1
    fi
    tell ok $((SECONDS - begin)) "$name" "$log" "Run successfully with command - $model_name - $* - $log"
}

summary() {  # print the table; return 0 only if something ran and nothing failed
    local row status seconds name log ran=0 folder=${status_log%/*}
    [ ${#table[@]} -gt 0 ] || fail "$config asks for nothing in mode $mode"
    printf '\n%-8s %7s  %-20s %s\n' status seconds step "log in $folder"
    for row in "${table[@]}"; do
        IFS='|' read -r status seconds name log <<< "$row"
        [ "$status" = 'not run' ] || ran=$((ran + 1))
        printf '%-8s %7s  %-20s %s\n' "$status" "$seconds" "${name%% *}" "${log#"$folder/"}"
    done
    echo "$ran steps ran, $failures failed, $((${#table[@]} - ran)) not run, $SECONDS s; status lines in $status_log"
    [ "$ran" != 0 ] || echo "nothing of what $config asks for ran" >&2
    [ "$ran" != 0 ] && [ "$failures" = 0 ]
}

# Parts of the CHECK functions; each prints what is missing, or nothing.

has_file() { [ -s "$1" ] || echo "wrote no $1"; }

has_line() { grep -qF -- "$2" "$1" || echo "no line '$2' in $1"; }

has_records() {  # has_records LOG IMAGES BENCHMARK: a record for every image, and the report when it was asked for
    local images records
    images=$(count_images "$2")
    records=$(grep -o "'class_ids'" "$1" | wc -l)
    if [ "$images" = 0 ]; then
        echo "no images in $2"
    elif [ "$records" != "$images" ]; then
        echo "predictions for $records of the $images images of $2"
    elif [ "$3" = True ]; then
        has_line "$1" 'preprocess_time(ms)'
    fi
}

has_epochs() {  # has_epochs LOG.TXT FIRST LAST: a line for each of these epochs, with finite losses
    local epoch line loss number='-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?[,}]'
    [ -f "$1" ] || { echo "wrote no $1"; return; }
    for ((epoch = $2; epoch <= $3; epoch++)); do
        line=$(grep -E "\"epoch\": $epoch[,}]" "$1")
        [ -n "$line" ] || { echo "$1 has no epoch $epoch (the last is $3)"; return; }
        for loss in train_loss test_loss; do
            grep -qE "\"$loss\": $number" <<< "$line" || { echo "$1: $loss of epoch $epoch is no finite number"; return; }
        done
    done
}

has_processes() {  # has_processes LOG FOLDER NUMBER: the training logged it, in LOG or in a launcher's log in FOLDER
    grep -rqsF -- " $3 process(es)" "$1" "$2" || echo "did not train as $3 process(es)"
}

accuracy() {  # accuracy LOG: "top-1 images" of the last line of an evaluation
    sed -nE 's/.*\* Acc@1 ([0-9]+(\.[0-9]+)?) .* on ([0-9]+) images.*/\1 \3/p' "$1" | tail -n 1
}

has_accuracy() {  # has_accuracy LOG IMAGES: between 0 and 100, over IMAGES images
    local top1 images
    read -r top1 images <<< "$(accuracy "$1")"
    if [ -z "$top1" ]; then
        echo "no line '* Acc@1 … on … images' in $1"
    elif ! awk -v top1="$top1" 'BEGIN { exit !(top1 <= 100) }'; then
        echo "an accuracy of $top1 %"
    elif [ "$images" != "$2" ] || [ "$2" = 0 ]; then
        echo "evaluated $images of $2 images"
    fi
}
