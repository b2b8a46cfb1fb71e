#!/usr/bin/env bash
# What is measured on GPU machines, a step a call, none longer than ten minutes:
#
#     benchmarks/gpu_runs.sh STEP FOLDER [BEFORE]
#
# FOLDER gets logs and tables; the end of the output is the step's summary, and its exit code that of
# the last command that failed. BEFORE: another checkout, for the steps that compare. `gpu_runs.sh`
# alone lists the steps. On one H200 unless the step says how many. Results worth keeping go to
# benchmarks/results/, with machine and date.
set -uo pipefail
from=$PWD status=0
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
SCRIPTS=benchmarks/scripts

main() {
    if ! declare -F "step_${1:-}" >/dev/null || [ -z "${2:-}" ]; then
        sed -n '/^# /{s/^# //;h}; /^step_/{s/^step_//; s/() {//; G; s/\n/: /; p}' benchmarks/gpu_runs.sh
        exit 2
    fi
    out=$(cd "$from" && realpath -m "$2") before=${3:+$(cd "$from" && realpath -m "$3")}
    mkdir -p "$out"
    "step_$1"
    exit "$status"
}

# Runs a command for so many seconds at most; its output goes to FOLDER/NAME.log and its end is shown.
within() { # SECONDS NAME COMMAND...
    local seconds=$1 name=$2 began=$SECONDS code=0
    shift 2
    timeout --signal=INT --kill-after=15 "$seconds" "$@" >"$out/$name.log" 2>&1 || status=$((code = $?))
    echo "== $name: exit code $code, $((SECONDS - began)) s"
    tail -n "${LINES_SHOWN:-25}" "$out/$name.log"
}

# All GPU tests, in two random orders at once (pytest-randomly, pytest-timeout). 480 s.
step_tests() {
    local seed code files
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests) # all take ten times as long to collect
    declare -A runs
    for seed in 22 23; do
        timeout --signal=INT --kill-after=15 570 "$PYTHON" -m pytest -m gpu -p no:benchmark -p no:cacheprovider \
            -n 8 -q --timeout=240 --randomly-seed=$seed "${files[@]}" >"$out/tests_$seed.log" 2>&1 &
        runs[$seed]=$!
    done
    for seed in 22 23; do
        code=0
        wait "${runs[$seed]}" || status=$((code = $?))
        echo "== seed $seed: exit code $code"
        grep -E '^(FAILED|ERROR)' "$out/tests_$seed.log" | tail -n 25
        tail -n 3 "$out/tests_$seed.log"
    done
}

# Attention to hidden states: the kernel by warpgroups, and the one by warps beside it. 150 s.
step_latent() {
    LINES_SHOWN=5 within 120 wgmma_tests "$PYTHON" -m pytest -m gpu -p no:benchmark -q -x -n 4 \
        tests/gpu/test_latent_wgmma.py
    for form in "" --warps; do
        # shellcheck disable=SC2086 # none or one
        within 100 "latent$form" "$PYTHON" $SCRIPTS/latent_attention.py $form \
            --sequences 1,16,64,128,256 --models 20x1280,16x1024
    done
}

# One caller, BART, 32 and 128 callers, offline, T5-XL, beside another checkout, in turns. 560 s.
step_before_after() {
    within 580 before_after "$PYTHON" $SCRIPTS/before_after.py "${before:?BEFORE is missing}" . \
        --no-ray --rounds "${ROUNDS:-1}" --loads "${LOADS:-one caller,BART,32 callers,128 callers,offline,T5-XL}" \
        --output "$out/before_after.json"
}

# What statistics, word times and beams cost 32 callers. 200 s.
step_quality() {
    within 220 quality "$PYTHON" $SCRIPTS/speech_quality.py --no-ray --output "$out/quality.json"
    within 220 drafts "$PYTHON" $SCRIPTS/drafts_by_callers.py --callers 1,8 --drafted 2,4 \
        --output "$out/drafts.json"
}

# HTTP beside the engine without it. 240 s.
step_http() {
    within 400 http "$PYTHON" $SCRIPTS/http_overhead.py --no-ray --output "$out/http.json"
}

# Image encoders at their published sizes on every backend, beside transformers. 500 s.
step_image_encoders() {
    for name in qwen2.5-vl-vision internvit-6b-448 siglip-so400m-384 internvit-300m-448 clip-vit-large-336; do
        within 110 "encoder_$name" "$PYTHON" $SCRIPTS/image_encoders.py "$name" --profile \
            --output "$out/$name.json"
    done
}

# Whole vision-language models: requests with images, steps beside their bytes. 560 s.
step_image_requests() {
    within 260 qwen "$PYTHON" $SCRIPTS/image_requests.py qwen2.5-vl-7b --peer 10 \
        --peer-loads 2x224x1 --output "$out/qwen.json"
    for name in internvl3.5-4b llava-onevision-7b; do
        within 160 "$name" "$PYTHON" $SCRIPTS/image_requests.py "$name" --output "$out/$name.json"
    done
}

# The shipped vision models' scores by backend and quantisation. 200 s.
step_image_scores() {
    within 400 scores "$PYTHON" $SCRIPTS/image_scores.py --output "$out/scores.json"
    within 100 vit_table "$PYTHON" -m antiphon bench attention --preset vit
}

# Quantised models: steps, memory, offline throughput by scheme. 580 s.
step_quantized() {
    for name in qwen2.5-7b whisper-large-v3 flan-t5-xl; do
        within 190 "quantized_$name" "$PYTHON" $SCRIPTS/quantized_models.py --models "$name" \
            --output "$out/quantized_$name.json"
    done
}

# Two or four GPUs: every layout beside one GPU of the same machine. 580 s.
step_layouts() {
    within 590 layouts "$PYTHON" $SCRIPTS/layouts.py ${ROWS:+--rows "$ROWS"} \
        --output "$out/layouts.json" --profile "$out/profile"
}

# Two or four GPUs: the tests of several GPUs. 400 s.
step_multi_gpu_tests() {
    within 580 multi_gpu "$PYTHON" -m pytest -m multi_gpu -p no:benchmark -q tests/multi_gpu
}

main "$@"
