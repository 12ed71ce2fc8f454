#!/usr/bin/env bash
# Runs the device's tests, and the program with --device cuda, on the PTX machine (docs/ptx-machine.md): the kernels'
# own PTX, with no device, but for products of cuBLASLt (whose sums are not the machine's business) and those that take
# minutes there: attention's long sequences, the largest of whole models. With ORIEL_TEST_LONG=1 those too, over several seeds.
# What build/cuda has is run.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH=$PWD/build/cuda/tests/ptx_machine${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
jobs=$(nproc)

run_tests() {  # run_tests <seed> [ctest argument...]
  local seed=$1; shift
  ORIEL_TEST_SCALE=0.1 ORIEL_PTX_SEED=$seed ctest --preset cuda --no-tests=error -j "$jobs" "$@" > "$work/log" 2>&1 \
    || { cat "$work/log" >&2; echo "ptx machine: failed with ORIEL_PTX_SEED=$seed" >&2; exit 1; }
  if grep -q 'Skipped' "$work/log"; then
    cat "$work/log" >&2
    echo "ptx machine: a test found no device" >&2
    exit 1
  fi
  echo "ptx machine, seed $seed: $(grep 'tests passed' "$work/log")"
}
seeds=(0)
left_out='attention agrees with the reference|cuda gemm: (in the fixed order|so it is)|^test\.cuda_engine:'
models='pages that go down|prefix from host|FP8 checkpoint|preempted|another shape|on tensor cores'
if [ -n "${ORIEL_TEST_LONG:-}" ]; then
  seeds=(0 1 2 3)
  left_out='cuda gemm: (in the fixed order|so it is)|^test\.cuda_engine:'
  models='.'
fi
for seed in "${seeds[@]}"; do
  run_tests "$seed" -E "$left_out"
  run_tests "$seed" -R "^test\\.cuda_engine:.*($models)"
done

# Planted bugs in PTX, each of which a test has to find.
./build/cuda/tests/ptx_machine/test.ptx_mutants > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
echo "ptx machine: $(grep -c '^ok' "$work/log") of $(grep -cE '^(ok|HOLE)' "$work/log") mutants as they should be"

# A whole model through the program: the host's words.
for device in cpu cuda; do
  ./build/cuda/examples/oriel run --device "$device" -p "Once upon a time" --temp 0 -n 24 > "$work/$device" 2> "$work/log" \
    || { cat "$work/log" >&2; exit 1; }
done
cmp "$work/cpu" "$work/cuda"
echo "ptx machine: oriel run --device cuda: $(wc -c < "$work/cuda") bytes, as on the host"
