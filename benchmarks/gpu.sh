#!/usr/bin/env bash
# All measurements on a GPU, in at most ten minutes on an H100 or H200: the tests of devices, training steps, memory over
# L_f, predicted and measured peaks, features a second, waiting for batches, and a search.
#
#     benchmarks/gpu.sh [--short] [--device DEVICE] [OUTPUT]
#
# Each part has a limit of time, and writes its figures to OUTPUT/PART.json (default: benchmarks/results/gpu) as it goes.
# A part that fails or runs out of time does not stop the others; the exit status is then 1. --short shows that everything
# works, with tiny encoders: also on a CPU (--device cpu). PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."

device=auto
short=()
output=benchmarks/results/gpu
while [ $# -gt 0 ]; do
    case $1 in
        --short) short=(--short) ;;
        --device)
            device=${2:?gpu.sh: --device: missing value; expected auto, cpu, cuda, or cuda:1}
            shift
            ;;
        -*)
            echo "gpu.sh: unknown option; expected --short or --device DEVICE, got $1" >&2
            exit 2
            ;;
        *) output=$1 ;;
    esac
    shift
done
mkdir -p "$output" || exit 2
read -ra python <<<"${PYTHON:-python}"
export OMP_WAIT_POLICY=PASSIVE
failed=()

part() {
    local name=$1 seconds=$2 status=0
    echo "== after $SECONDS s: $name, at most $seconds s"
    timeout --kill-after=10 "$seconds" "${python[@]}" -m "benchmarks.gpu.$name" --device "$device" "${short[@]}" \
        --json "$output/$name.json" || status=$?
    case $status in
        0) ;;
        124 | 137) failed+=("$name: stopped after $seconds s") ;;
        *) failed+=("$name: exit status $status") ;;
    esac
}

# The steps first: they are what a rented GPU is needed for most.
part steps "${GPU_SECONDS:-160}"
part peaks "${GPU_SECONDS:-90}"
part memory_table "${GPU_SECONDS:-60}"
part features "${GPU_SECONDS:-50}"
part reading "${GPU_SECONDS:-40}"
part search "${GPU_SECONDS:-120}"
part device_tests "${GPU_SECONDS:-80}"

echo "== after $SECONDS s: figures in $output"
for text in "${failed[@]}"; do
    echo "failed: $text"
done
test ${#failed[@]} -eq 0
