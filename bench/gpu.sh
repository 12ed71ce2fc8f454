#!/usr/bin/env bash
# On a machine with one CUDA device: builds and runs every row of the goals (bench/cuda) beside COPY, GEMM and LINK and
# beside the peers that are there (bench/peers), and makes one table of it. Ends within GPU_SECONDS (570: a call of ten
# minutes); what fails, is not there or finds no time is a line of the table.
#
#     bench/gpu.sh     the table on stdout; the same, its figures as JSON, and what the steps said in three files
#                      gpu_bench.* of the folder OUT (build/gpu by default), written anew after each program
#
# Where time is short all programs come to their turn, each with its share; peers come last. Rows behind one that never
# ends, or that loses the device, are asked for again, without it.
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
  || echo "tree $(find include kernels src bench -type f -not -name '*.pyc' | sort | xargs cat | sha1sum | cut -c1-12)")}
# Who asks a device that is lost may be beyond a signal, and would keep a pipe open: its answer is a file.
ask() {
  timeout --signal=KILL 20 timeout --kill-after=5 10 nvidia-smi --query-gpu="$1" --format=csv,noheader \
    > "$steps/answer" 2> /dev/null || true
  head -1 "$steps/answer"
}
clocks() { ask clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw; }
{
  printf 'date\t%s\n' "$(date -u '+%Y-%m-%d %H:%M UTC')"
  printf 'commit\t%s\n' "$commit"
  printf 'device\t%s\n' "$(ask name,driver_version,memory.total)"
  printf 'host\t%s, %s cores\n' "$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)" "$(nproc)"
  printf 'nvcc\t%s\n' "$("${CUDACXX:-nvcc}" --version 2> /dev/null | sed -n 's/.*release \([^,]*\).*/\1/p' || true)"
  printf 'clocks before (SM, memory, most SM, most memory, degrees, watts)\t%s\n' "$(clocks)"
} > "$steps/facts"

# PyTorch comes with a cuDNN of its own.
ask_python() { timeout --kill-after=5 20 python3 -c "$1" 2> /dev/null || true; }
configure() {
  cmake --preset cuda -B "$build" -DORIEL_EXAMPLES=OFF -DORIEL_TIER=OFF -DORIEL_TESTS=OFF -DORIEL_BENCH=CUDA \
    -DORIEL_ONEDNN=OFF -DORIEL_WERROR=OFF -DCMAKE_PREFIX_PATH="$deps" -DORIEL_CUDNN_DIR="$cudnn" \
    -DORIEL_CUBLASLT_DIR="$(cublaslt_of_python)"
}
# -k 0: a unit that does not compile stops no other program, and leaves none of an older tree.
build_ours() {
  rm -f "$build"/bench/bench.cuda.* "$build"/bench/bench.peers.*
  cmake --build "$build" --target "$@" -- -k 0
}
build_peers() {
  for peer in "$@"; do
    if ! cmake --build "$build" --target help | grep -q "bench.peers.$peer"; then
      echo "bench.peers.$peer: not configured (its library is not here)"
    elif ! cmake --build "$build" --target "bench.peers.$peer"; then
      echo "bench.peers.$peer: does not compile"
    fi
  done
}
cudnn=$(ask_python 'import nvidia.cudnn as c; print(list(c.__path__)[0])')
export -f configure cublaslt_of_python build_ours build_peers
export build deps cudnn
programs=(attention gemm moe rows sample kv_copy plan)  # The last needs no device.
limits=(100 70 40 30 40 50 15)
peers=(cub cudnn_attention)

make_table() {
  python3 bench/cuda/table.py "$steps/facts" "$steps/outcomes" "$out/gpu_bench" "$steps"/*.log
}
steps_keep() {
  touch "$steps/outcomes"
  for log in "$steps"/*.log; do
    [ ! -e "$log" ] || { echo "== $(basename "$log" .log)"; cat "$log"; }
  done > "$out/gpu_bench.log"
  make_table > /dev/null || true
}
begin_part() {
  steps_keep
  echo "bench: $1, $(steps_left) s left"
}

# A program stops itself before its limit, so that what it has measured is told and the rest is named.
measure() {  # measure <step> <seconds> <program> [argument...]
  local name=$1 limit=$2
  shift 2
  if [ ! -x "$1" ] && [[ $1 == */* ]]; then
    printf '%s\tnot run\t%s was not built\n' "$name" "$1" >> "$steps/outcomes"
    return
  fi
  begin_part "$name"
  step "$name" "$limit" "$@" || true
}
measure_program() {  # measure_program <index> <step> [row...]
  local i=$1 name=$2 left all=0 limit of
  shift 2
  for of in "${limits[@]:i}"; do
    all=$((all + of))
  done
  left=$(steps_left)
  limit=${limits[i]}
  [ "$left" -ge "$all" ] || limit=$((limit * left / all + 1))  # 0 would be no limit.
  measure "$name" "$limit" "$build/bench/bench.cuda.${programs[i]}" $((limit > 16 ? limit - 8 : limit / 2 + 1)) "$@"
}

begin_part "building"
step configure 60 bash -euc configure || step_tail configure 30
for program in "${programs[@]}"; do
  targets+=("bench.cuda.$program")
done
step_once "$build" build 280 bash -euc "build_ours ${targets[*]}" || step_tail build 30
for i in "${!programs[@]}"; do
  measure_program "$i" "${programs[i]}"
done
for again in 2 3; do
  for i in "${!programs[@]}"; do
    name=${programs[i]}
    rows=()
    if ! grep -qE "^$name"$'\t(passed|skipped)' "$steps/outcomes" && [ -x "$build/bench/bench.cuda.$name" ] \
        && [ "$(steps_left)" -gt 20 ]; then
      mapfile -t rows < <(python3 bench/cuda/table.py --not-begun "$name" "$steps/$name"*.log)
    fi
    [ ${#rows[@]} = 0 ] || measure_program "$i" "$name $again" "${rows[@]}"
  done
done
printf 'cuBLASLt\t%s\n' "$(sed -n 's/^cuBLASLt: //p' "$steps/gemm.log" 2> /dev/null | grep . || echo unknown)" \
  >> "$steps/facts"
printf 'clocks after\t%s\n' "$(clocks)" >> "$steps/facts"

begin_part "building peers"
step build_peers 60 bash -c "build_peers ${peers[*]}" || true
measure torch 110 python3 bench/peers/torch_peers.py 100
measure cub 25 "$build/bench/bench.peers.cub"
# cuDNN's engines are compiled while they run, by a library that pip has in a folder of its own.
nvrtc=$(ask_python 'import glob, nvidia, os
print(":".join({os.path.dirname(f) for p in nvidia.__path__ for f in glob.glob(p + "/*/lib/libnvrtc.so*")}))')
LD_LIBRARY_PATH=$nvrtc${LD_LIBRARY_PATH:+${nvrtc:+:}$LD_LIBRARY_PATH} \
  measure cudnn 60 "$build/bench/bench.peers.cudnn_attention" 52
make_table
