#!/usr/bin/env bash
# On a machine with a CUDA device: the device tests, plain and under compute-sanitizer. Ends within GPU_SECONDS (570:
# a call of ten minutes) with a line for each step: what passed, was skipped, failed, or ran out of time. Exit code 1:
# something did not pass; 77: there is no device, so nothing was tested.
#
#     tests/gpu.sh [--engine] [--sanitize | --no-sanitize | --models] [--without-cublaslt]
#       --engine       whole models, too
#       --sanitize     build, and the sanitizers alone; --no-sanitize: everything but them; --models: build, and whole
#                      models alone. So two calls have twice the time; what was built is kept.
#       --without-cublaslt  a toolkit without it is no failure: dense products and models are not tested
#
# Kernels come first: they are built and tested before the engine is built, and also when that does not build. What the
# steps said so far is in gpu_tests.log of the folder OUT (build/gpu by default), with the summary on top, also when
# the script is told to end; all that the compiler said is in gpu_build.log.
# Needs nvcc, CMake, ninja, g++, Catch2 and xxhash; with --engine also fmt, simdjson, nlohmann-json, CLI11, PCRE2,
# utf8proc and OpenSSL. What is not in the system's folders is looked for in GPU_DEPS, by default .gpu_deps, which
# tests/gpu_bundle.sh makes on a Debian machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/support/steps.sh
. tests/support/cublaslt_of_python.sh
engine=OFF only='' sanitizes=1 needs_cublaslt=1
while [ $# -gt 0 ]; do
  case $1 in
    --engine) engine=ON ;;
    --sanitize | --models) only+=$1 ;;
    --no-sanitize) sanitizes=0 ;;
    --without-cublaslt) needs_cublaslt=0 ;;
    *) echo "usage: $0 [--engine] [--sanitize | --no-sanitize | --models] [--without-cublaslt]" >&2; exit 2 ;;
  esac
  shift
done
kernels=1 models=$engine
case $only$sanitizes in
  1 | 0) ;;
  --sanitize1) kernels=0 models=OFF ;;
  --models?) kernels=0 models=ON engine=ON sanitizes=0 ;;
  *) echo "gpu: nothing is left to do" >&2; exit 2 ;;
esac
steps_begin "${GPU_SECONDS:-570}"
deps=${GPU_DEPS:-$PWD/.gpu_deps}
out=${OUT:-build/gpu}
mkdir -p "$out"
# A folder of its own: what is switched off here stays in the cache.
build=build/gpu

steps_keep() {
  { [ ! -s "$steps/outcomes" ] || steps_summary || true
    tail -n 200 "$steps"/*.log; } > "$out/gpu_tests.log" 2> /dev/null || true  # With a line for the name of each.
  cat "$steps"/{configure,configure_without_engine,build,build_engine}.log > "$out/gpu_build.log" 2> /dev/null || true
}
# For those who watch; and a script that is killed has told what came before.
begin_part() {
  steps_keep
  echo "gpu: $1, $(steps_left) s left"
}
finish() {  # finish <exit code>
  steps_summary || true
  exit "$1"
}

configure() {  # configure <with engine?>
  cmake --preset cuda -B "$build" -DORIEL_EXAMPLES="$1" -DORIEL_TIER="$1" -DORIEL_BENCH=OFF \
    -DORIEL_ONEDNN=OFF -DORIEL_WERROR=OFF -DCMAKE_PREFIX_PATH="$deps" -DORIEL_CUBLASLT_DIR="$(cublaslt_of_python)"
}
export -f configure cublaslt_of_python
export build deps
has_engine=$engine
begin_part "building the kernels' tests"
# With the engine wherever that can be: a call that wants it then finds the kernels built as it would build them.
if [ $engine = OFF ]; then
  step configure 90 bash -euc "configure ON || configure OFF" || { step_tail configure 20; finish 1; }
elif ! step configure 90 bash -euc "configure ON"; then
  step_tail configure 20
  has_engine=OFF
  step configure_without_engine 90 bash -euc "configure OFF" || finish 1
fi
# -k 0: one call shows all that does not compile.
if ! step_once "$build" build 400 cmake --build "$build" --target test.cuda -- -k 0; then
  grep -E -A3 'error|FAILED' "$steps/build.log" | head -n 40 || true
  step_tail build 20
  finish 1
fi

together=$((($(nproc) + 1) / 2))  # Cases at a time: the host computes what is expected of them.
code=0
step device 60 "./$build/tests/test.cuda" "no such case" || code=$?
if [ "$code" != 0 ]; then
  step_tail device
  [ "$code" = 77 ] || code=1
  finish "$code"
fi

steps_skipped=  # There is a device: who finds none now has lost it.

cublaslt=$(sed -n 's/^cuBLASLt: //p' "$steps/device.log")
outcome=passed
if [ "${cublaslt:-NONE}" = NONE ]; then
  outcome=skipped
  [ $needs_cublaslt = 0 ] || outcome=failed
fi
printf 'cuBLASLt\t%s\tversion: %s\n' $outcome "${cublaslt:-NONE}" >> "$steps/outcomes"

# cases <family> <side by side> <seconds> <program> <which> [tool...]: a process for each test case, so that one that
# takes too long, or whose kernel never ends, costs no other. 1: there is no such case.
cases() {
  local family=$1 together=$2 limit=$3 program=./$build/tests/$4 which=$5 name quoted listed=0
  shift 5
  steps_pass_on
  while read -r name; do
    quoted=$(printf '%s' "$name" | sed 's/[][,\\*"]/\\&/g')
    while [ "$(jobs -rp | wc -l)" -ge "$together" ]; do
      wait -n || true
    done
    step "$family: $name" "$limit" "$@" "$program" -w NoTests "$quoted" &
    listed=$((listed + 1))
  done < <(timeout --kill-after=5 20 "$program" "$which" --list-test-names-only || true)
  wait
  [ "$listed" -gt 0 ]
}
none_listed() { printf '%s\tfailed\tno case was listed\n' "$1" >> "$steps/outcomes"; }
# First what must have the device for itself. What takes long, most of it the host's own sums, goes beside the models.
if [ $kernels = 1 ]; then
  begin_part "the kernels' tests"
  cases test.cuda 1 40 test.cuda "[alone]" || none_listed "test.cuda [alone]"
  cases test.cuda $together 40 test.cuda "~[alone]~[long]" || none_listed test.cuda
  begin_part "the long ones"
  { cases test.cuda $together 200 test.cuda "[long]" || none_listed "test.cuda [long]"; } &
fi
if [ $models = ON ] && [ $outcome = skipped ]; then
  printf 'test.cuda_engine\tskipped\tno cuBLASLt\n' >> "$steps/outcomes"
elif [ $models = ON ] && [ $has_engine = ON ]; then
  begin_part "whole models"
  if step_once "$build" build_engine 300 cmake --build "$build" --target test.cuda_engine -- -k 0; then
    cases test.cuda_engine $together 100 test.cuda_engine "*" || none_listed test.cuda_engine
  fi
fi
wait

# Does the sanitizer that this calls know the device? Asked with one small case; that it fails is nothing here.
is_supported() {
  local log=$steps/supported.log left
  left=$(steps_left)
  [ "$left" -gt 0 ] || return 0
  timeout --kill-after=5 $((left < 40 ? left : 40)) "$@" "./$build/tests/test.cuda" "cuda growing memory*" > "$log" 2>&1 || true
  ! grep -qi 'device not supported' "$log"
}
# Not the cases that are [alone] or [long] ([grid] is theirs in small), nor cuBLASLt's kernels, which are not ours.
# API calls that fail are asked for by tests: what has no room, what cannot be captured. For initcheck device memory is
# not poisoned, and copies to the host, of what a kernel left out or of padding, are no error of a kernel.
sanitize() {  # sanitize <tool> [option...]
  local tool=$1
  shift
  begin_part "$tool"
  if ! is_supported "$sanitizer" --tool "$tool" "$@"; then
    printf '%s\tnot run\tthe sanitizer does not support this device\n' "$tool" >> "$steps/outcomes"
    return
  fi
  cases "$tool" $together 40 test.cuda "~[alone]~[long]~cuda gemm*" "$sanitizer" --tool "$tool" --error-exitcode 1 "$@" \
    || none_listed "$tool"
}
if [ $sanitizes = 1 ]; then
  sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
  if [ -x "$sanitizer" ]; then
    sanitize memcheck --report-api-errors no
    sanitize racecheck
    sanitize synccheck
    ORIEL_TEST_NO_POISON=1 sanitize initcheck --check-api-memory-access no
  else
    printf 'sanitizers\tnot run\tcompute-sanitizer is not here\n' >> "$steps/outcomes"
  fi
fi

while IFS=$'\t' read -r name outcome _; do
  [ "$outcome" = passed ] || [ ! -e "$steps/$name.log" ] || { echo "$name"; step_tail "$name" 10; }
done < "$steps/outcomes"
steps_summary
