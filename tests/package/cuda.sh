#!/usr/bin/env bash
# Compiles the CUDA kernels for sm_90a, with no device needed: every unit of kernels/cuda, and units
# that include every public header. Fails on a register spill, on ptxas' warnings C75xx
# (setmaxnreg ignored, wgmma serialised) and on a unit that takes over 15 CPU seconds (judge_unit.sh);
# that it fails is tried with a planted spill. Without nvcc it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/../.."
nvcc=${CUDACXX:-$(command -v nvcc || true)}
[ -n "$nvcc" ] || nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
[ -x "$nvcc" ] || { echo "cuda: skipped (no nvcc)"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
judge=$PWD/tests/package/judge_unit.sh
options=-Xptxas=-v

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
if "$judge" "$nvcc" -arch=sm_90a $options -c "$work/spills.cu" -o "$work/spills.cu.o" 2> "$work/log" \
    || ! grep -q 'spills registers' "$work/log"; then
  cat "$work/log" >&2
  echo "cuda: a planted spill was not found" >&2
  exit 1
fi

# The units that are judged are those that are linked. Engine and program come as the release stage built them.
CUDACXX=$nvcc cmake --preset cuda -DORIEL_TEST_UNITY=$([ -n "${ORIEL_TEST_LONG:-}" ] && echo OFF || echo ON) \
  "-DCMAKE_CUDA_COMPILER_LAUNCHER=$judge${CMAKE_CUDA_COMPILER_LAUNCHER:+;$CMAKE_CUDA_COMPILER_LAUNCHER}" \
  "-DCMAKE_CUDA_FLAGS=$options --no-compress" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

# The library, the program, the tests and the device's benchmarks link.
benches=(bench.cuda.{attention,gemm,moe,rows,sample,kv_copy} bench.peers.cub)
cmake --build --preset cuda --target test.cuda test.cuda_engine test.cuda_headers test.no_device test.ptx_machine \
  test.ptx_mutants oriel_cli bench.cuda.plan "${benches[@]}" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
for unit in kernels/cuda/*.cu; do
  cat "build/cuda/CMakeFiles/oriel_cuda.dir/$unit.o.judged"
done
cat build/cuda/tests/CMakeFiles/test.cuda_headers.dir/*.judged
device_tests() {  # device_tests [ctest argument...]
  ctest --preset cuda --no-tests=error "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
  grep 'tests passed' "$work/log"
}
quietly() { "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }
quietly ./build/cuda/tests/test.no_device
quietly ./build/cuda/tests/ptx_machine/test.ptx_machine
if nvidia-smi > /dev/null 2>&1; then
  device_tests
else
  device_tests -R rms_norm
  grep -q Skipped "$work/log" || { cat "$work/log" >&2; echo "cuda: no device, and no test is skipped" >&2; exit 1; }
  ./tests/package/ptx_machine.sh
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
