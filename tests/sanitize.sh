#!/bin/sh
# NVIDIA's compute-sanitizer on one small case of each kernel: memcheck and racecheck must find nothing there, and must
# find the faults that are planted for them. Prints a line a verdict; exit 0 if all are as they should be.
#
#   tests/sanitize.sh GPU_TESTS [FAULTY]
#
# GPU_TESTS is the program `gpu-tests` of a bundle. FAULTY has the kernels with a barrier left out, as PTX in a folder
# each, for this GPU (the bundle's `faulty`; default: beside GPU_TESTS):
#   QKV_FAULT=merge_full cargo xtask ptx --arch sm_90a DIR, then FAULTY/merge_full is DIR/sm_90a.
# COMPUTE_SANITIZER names the tool where it is not on PATH.
set -u
tests=${1:?"usage: tests/sanitize.sh GPU_TESTS [FAULTY]"}
faulty=${2:-$(dirname "$tests")/faulty}
sanitizer=${COMPUTE_SANITIZER:-compute-sanitizer}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

command -v "$sanitizer" >/dev/null || { echo "no compute-sanitizer: set COMPUTE_SANITIZER"; exit 1; }

# sanitize TOOL TEST...: 0 if the tool reports nothing, 77 if it does.
sanitize() {
    tool=$1
    shift
    "$sanitizer" --tool "$tool" --error-exitcode 77 --print-limit 20 "$tests" --test-threads=1 "$@" >"$log" 2>&1
}

verdict() {
    echo "$1: $2 ($(grep -E 'SUMMARY' "$log" | tail -n 1 | sed 's/=* *//'))"
}

for tool in memcheck racecheck; do
    sanitize "$tool" short::
    code=$?
    ran=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log")
    if [ $code -eq 0 ] && [ "${ran:-0}" -ge 130 ]; then
        verdict "$tool, $ran runs" clean
    else
        verdict "$tool" "FAILED, exit $code, ${ran:-0} tests passed"
        tail -n 60 "$log"
        status=1
    fi
done

# An unchecked page id out of range: memcheck must see the kernel read outside of its buffers.
sanitize memcheck --ignored --exact planted::page_id_out_of_range
if [ $? -ne 0 ] && grep -q 'Invalid __global__' "$log"; then
    verdict "memcheck, page id out of range" "reported, as it should be"
else
    verdict "memcheck, page id out of range" "FAILED, not reported"
    tail -n 60 "$log"
    status=1
fi

# Barriers left out: FAULT TEST, the test being of a kernel that has the barrier.
planted() {
    export QKV_PTX_OVERRIDE_DIR="$faulty/$1"
    sanitize racecheck --exact "$2"
    if [ $? -ne 0 ] && grep -q 'code replaced by' "$log" && grep -qi 'hazard' "$log" \
        && ! grep -q 'RACECHECK SUMMARY: 0 hazards' "$log"; then
        verdict "racecheck, $1 in $2" "reported, as it should be"
    else
        verdict "racecheck, $1 in $2" "FAILED, not reported"
        tail -n 60 "$log"
        status=1
    fi
    unset QKV_PTX_OVERRIDE_DIR
}
planted merge_full short::decode_d64_bf16_bf16_few
planted shared_weights short::decode_d256_bf16_bf16_few
exit $status
