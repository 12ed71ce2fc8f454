#!/usr/bin/env bash
# Compiles the CUDA kernels for sm_90a, with no device needed: every unit of kernels/cuda, and units
# that include every public header. Fails on a register spill, on ptxas' warnings C75xx
# (setmaxnreg ignored, wgmma serialised) and on a unit that takes over 15 CPU seconds; that it fails
# is tried with a planted spill. Without nvcc it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/../.."
nvcc=${CUDACXX:-$(command -v nvcc || true)}
[ -n "$nvcc" ] || nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
[ -x "$nvcc" ] || { echo "cuda: skipped (no nvcc)"; exit 0; }
cpu_seconds_max=15
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export CUDACXX=$nvcc
cmake --preset cuda > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

flags=(-std=c++20 --expt-relaxed-constexpr -fmad=false -gencode "arch=compute_90a,code=sm_90a"
       -Iinclude -Ibuild/cuda/include -Ikernels -Xptxas=-v)
if [ -e "$(dirname "$nvcc")/../include/cublasLt.h" ]; then
  flags+=(-DORIEL_HAS_CUBLASLT)
fi
compile() {  # compile <unit> <name>: judges ptxas' report and the time; prints the most registers
  local log=$work/$2.log seconds registers
  local TIMEFORMAT='%U %S'
  seconds=$( { time "$nvcc" "${flags[@]}" -c "$1" -o "$work/$2.o" > "$log" 2>&1; } 2>&1 ) \
    || { cat "$log" >&2; echo "cuda: $1 does not compile" >&2; exit 1; }
  seconds=$(awk '{ printf "%.1f", $1 + $2 }' <<< "$seconds")
  if grep -E '[1-9][0-9]* bytes spill|C75[0-9][0-9]|serialized' "$log" >&2; then
    echo "cuda: $1 spills registers, its setmaxnreg is ignored or its wgmma waits" >&2
    exit 1
  fi
  if awk "BEGIN { exit !($seconds > $cpu_seconds_max) }"; then
    echo "cuda: $1 took $seconds CPU seconds; $cpu_seconds_max are allowed" >&2
    exit 1
  fi
  registers=$(sed -nE 's/.*Used ([0-9]+) registers.*/\1/p' "$log" | sort -n | tail -1)
  echo "cuda: $2: $seconds CPU s, no spills, at most ${registers:-0} registers"
}

# 64 values at once do not fit 32 registers.
cat > "$work/spills.cu" <<'EOF'
__global__ void __launch_bounds__(1024, 2) spills(float* x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = v[i] * v[63 - i];
}
EOF
if (compile "$work/spills.cu" spills) > "$work/log" 2>&1 || ! grep -q 'spills registers' "$work/log"; then
  echo "cuda: a planted spill was not found" >&2
  exit 1
fi

for unit in kernels/cuda/*.cu; do
  compile "$unit" "$(basename "$unit" .cu)"
done
# A .cu of a user's engine may include any public header. In four units: one would take as long as is allowed.
for folders in a-o p-r s t-z; do
  (cd include && find oriel \( -name '*.hpp' -o -name '*.cuh' \) | grep "^oriel/[$folders]" | sort \
    | sed 's/.*/#include <&>/') > "$work/headers.cu"
  compile "$work/headers.cu" "public headers $folders"
done

# The library, the program, the tests and the device's benchmarks link; without a device every test is reported as
# skipped, but for what is said there.
benches=(bench.cuda.{attention,gemm,moe,rows,sample,kv_copy} bench.peers.cub)
cmake --build --preset cuda --target test.cuda test.cuda_engine test.no_device oriel_cli bench.cuda.plan "${benches[@]}" > "$work/log" 2>&1 \
  || { cat "$work/log" >&2; exit 1; }
ctest --preset cuda --no-tests=error > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
grep -E 'tests passed|Skipped' "$work/log" || true
./build/cuda/tests/test.no_device > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
if ! nvidia-smi > /dev/null 2>&1; then
  # And over a stand-in for the runtime they run to their end: each figure of the table has its line.
  g++ -std=c++20 -O1 -shared -fPIC tests/package/stand_in_cuda.cpp -o "$work/stand_in.so"
  lines=()
  for bench in "${benches[@]}" bench.cuda.plan; do
    code=0
    "./build/cuda/bench/$bench" > "$work/log" 2>&1 || code=$?
    [ $code = 77 ] || [ "$bench" = bench.cuda.plan ] \
      || { cat "$work/log" >&2; echo "cuda: $bench: exit code $code without a device" >&2; exit 1; }
    [ "$bench" != bench.peers.cub ] || continue  # It asks a real device for more.
    LD_PRELOAD=$work/stand_in.so "./build/cuda/bench/$bench" > "$work/$bench" 2> "$work/log" || true
    lines+=("$work/$bench")
  done
  # Once the device is lost, by the second row at the latest, all rows behind it say by which.
  STAND_IN_LAUNCHES=60 LD_PRELOAD=$work/stand_in.so ./build/cuda/bench/bench.cuda.rows > "$work/lost" 2> "$work/log" \
    && { echo "cuda: a lost device is no failure" >&2; exit 1; }
  if [ "$(grep -o 'device lost by [a-z_0-9]*' "$work/lost" | sort -u | wc -l)" != 1 ]; then
    cat "$work/lost" >&2
    echo "cuda: it is not told which row lost the device" >&2
    exit 1
  fi
  : > "$work/nothing"
  python3 bench/cuda/table.py "$work/nothing" "$work/nothing" "$work/table" "${lines[@]}" > "$work/log" || true
  if ! grep -q '^goals:' "$work/log" || grep '^|.*NOT MEASURED' "$work/log"; then
    echo "cuda: a figure that the benchmarks do not report" >&2
    exit 1
  fi
fi

# The assembler leaves attention's softmax under its products.
./tests/package/overlap.sh
