#!/usr/bin/env bash
# On a machine with one CUDA device: builds and runs every row of the goals (bench/cuda) beside COPY, GEMM and LINK and
# beside the peers that are there (bench/peers), and makes one table of it. Ends within GPU_SECONDS (570: a call of ten
# minutes); what fails, is not there or finds no time is a line of the table.
#
#     bench/gpu.sh     the table on stdout; the same, its figures as JSON, and what the steps said in three files
#                      gpu_bench.* of the folder OUT (build/gpu by default)
#
# Needs nvcc, CMake, ninja, g++ and xxhash (GPU_DEPS or .gpu_deps: tests/gpu_bundle.sh makes it); of peers cuDNN's
# headers and library, and a python3 that has PyTorch and Triton. Exit code 1: some row was not measured, or cannot be.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/support/steps.sh
. tests/support/cublaslt_of_python.sh
steps_begin "${GPU_SECONDS:-570}"
deps=${GPU_DEPS:-$PWD/.gpu_deps}
build=build/gpu_bench
out=${OUT:-build/gpu}
mkdir -p "$out"

# What was measured, where and when. A tree without git is named by a hash of its sources.
commit=${GPU_COMMIT:-$(git rev-parse --short HEAD 2> /dev/null \
  || echo "tree $(find include kernels src bench -type f | sort | xargs cat | sha1sum | cut -c1-12)")}
ask() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2> /dev/null | head -1 || true; }
clocks() { ask clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw; }
{
  printf 'date\t%s\n' "$(date -u '+%Y-%m-%d %H:%M UTC')"
  printf 'commit\t%s\n' "$commit"
  printf 'device\t%s\n' "$(ask name,driver_version,memory.total)"
  printf 'host\t%s, %s cores\n' "$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)" "$(nproc)"
  printf 'nvcc\t%s\n' "$("${CUDACXX:-nvcc}" --version 2> /dev/null | sed -n 's/.*release \([^,]*\).*/\1/p' || true)"
  printf 'clocks before (SM, memory, most SM, most memory, degrees, watts)\t%s\n' "$(clocks)"
} > "$steps/facts"

# Our programs are built first, without what only peers need. PyTorch comes with a cuDNN of its own.
configure() {
  cmake --preset cuda -B "$build" -DORIEL_EXAMPLES=OFF -DORIEL_TIER=OFF -DORIEL_TESTS=OFF -DORIEL_BENCH=CUDA \
    -DORIEL_ONEDNN=OFF -DORIEL_WERROR=OFF -DCMAKE_PREFIX_PATH="$deps" -DORIEL_CUDNN_DIR="$cudnn" \
    -DORIEL_CUBLASLT_DIR="$(cublaslt_of_python)"
}
cudnn=$(python3 -c 'import nvidia.cudnn as c; print(list(c.__path__)[0])' 2> /dev/null || true)
export -f configure cublaslt_of_python
export build deps cudnn
programs=(plan attention gemm moe rows sample kv_copy)
peers=(cub cudnn_attention)
step configure 60 bash -euc configure || step_tail configure 30
for program in "${programs[@]}"; do
  targets+=("bench.cuda.$program")
done
# -k 0: a unit that does not compile stops no other program, and leaves none of an older tree.
rm -f "$build"/bench/bench.cuda.* "$build"/bench/bench.peers.*
step build 280 cmake --build "$build" --target "${targets[@]}" -- -k 0 || step_tail build 30
build_peers() {
  for peer in "$@"; do
    if ! cmake --build "$build" --target help | grep -q "bench.peers.$peer"; then
      echo "bench.peers.$peer: not configured (its library is not here)"
    elif ! cmake --build "$build" --target "bench.peers.$peer"; then
      echo "bench.peers.$peer: does not compile"
    fi
  done
}
export -f build_peers

# A program stops itself before its limit, so that what it has measured is told and the rest is named.
measure() {  # measure <step> <seconds> <program> [argument...]
  local name=$1 limit=$2
  shift 2
  if [ ! -x "$1" ] && [[ $1 == */* ]]; then
    printf '%s\tnot run\t%s was not built\n' "$name" "$1" >> "$steps/outcomes"
    return
  fi
  step "$name" "$limit" "$@" || true
}
limits=(15 100 70 40 30 40 50)
for i in "${!programs[@]}"; do
  measure "${programs[i]}" "${limits[i]}" "$build/bench/bench.cuda.${programs[i]}" $((limits[i] - 8))
done
step build_peers 60 bash -c "build_peers ${peers[*]}" || true
measure torch 110 python3 bench/peers/torch_peers.py 100
measure cub 25 "$build/bench/bench.peers.cub"
# cuDNN's engines are compiled while they run, by a library that pip has in a folder of its own.
nvrtc=$(python3 -c 'import glob, nvidia, os
print(":".join({os.path.dirname(f) for p in nvidia.__path__ for f in glob.glob(p + "/*/lib/libnvrtc.so*")}))' \
  2> /dev/null || true)
LD_LIBRARY_PATH=$nvrtc${LD_LIBRARY_PATH:+${nvrtc:+:}$LD_LIBRARY_PATH} \
  measure cudnn 60 "$build/bench/bench.peers.cudnn_attention" 52
printf 'cuBLASLt\t%s\n' "$(sed -n 's/^cuBLASLt: //p' "$steps/gemm.log" 2> /dev/null | grep . || echo unknown)" \
  >> "$steps/facts"
printf 'clocks after\t%s\n' "$(clocks)" >> "$steps/facts"

for name in configure build build_peers "${programs[@]}" torch cub cudnn; do
  [ ! -e "$steps/$name.log" ] || { echo "== $name"; cat "$steps/$name.log"; }
done > "$out/gpu_bench.log"
lines=()
for name in "${programs[@]}" torch cub cudnn; do
  lines+=("$steps/$name.log")
done
python3 bench/cuda/table.py "$steps/facts" "$steps/outcomes" "$out/gpu_bench" "${lines[@]}"
