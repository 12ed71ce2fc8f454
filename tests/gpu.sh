#!/usr/bin/env bash
# On a machine with a CUDA device: the device tests, plain and under compute-sanitizer. Ends within GPU_SECONDS (570:
# a call of ten minutes) with a line for each step: what passed, was skipped, failed, or ran out of time. Exit code 1:
# something did not pass; 77: there is no device, so nothing was tested.
#
#     tests/gpu.sh [--engine] [--sanitize | --no-sanitize]
#       --engine       whole models, too
#       --sanitize     build, and the sanitizers alone; --no-sanitize: everything but them. So two calls have twice
#                      the time; what was built is kept.
#
# What the steps said is in gpu_tests.log of the folder OUT (build/gpu by default).
# Needs nvcc, CMake, ninja, g++, Catch2 and xxhash; with --engine also fmt, simdjson, nlohmann-json, CLI11, PCRE2,
# utf8proc and OpenSSL. What is not in the system's folders is looked for in GPU_DEPS, by default .gpu_deps, which
# tests/gpu_bundle.sh makes on a Debian machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/support/steps.sh
examples=OFF sanitizes=1 tests=1
while [ $# -gt 0 ]; do
  case $1 in
    --engine) examples=ON ;;
    --sanitize) tests=0 ;;
    --no-sanitize) sanitizes=0 ;;
    *) echo "usage: $0 [--engine] [--sanitize | --no-sanitize]" >&2; exit 2 ;;
  esac
  shift
done
[ $((tests + sanitizes)) -gt 0 ] || { echo "gpu: nothing is left to do" >&2; exit 2; }
steps_begin "${GPU_SECONDS:-570}"
deps=${GPU_DEPS:-$PWD/.gpu_deps}
# A folder of its own: what is switched off here stays in the cache.
build=build/gpu
programs=(test.cuda)
if [ $examples = ON ] && [ $tests = 1 ]; then programs+=(test.cuda_engine); fi

build_all() {
  cmake --preset cuda -B "$build" -DORIEL_EXAMPLES=$examples -DORIEL_TIER=$examples -DORIEL_BENCH=OFF \
    -DORIEL_ONEDNN=OFF -DORIEL_WERROR=OFF -DCMAKE_PREFIX_PATH="$deps"
  cmake --build "$build" --target "${programs[@]}"
}
export -f build_all
export build examples deps
if ! step build 400 bash -euc "programs=(${programs[*]}); build_all"; then
  step_tail build 40
  steps_summary || true
  exit 1
fi

code=0
step device 60 "./$build/tests/test.cuda" "no such case" || code=$?
if [ "$code" != 0 ]; then
  step_tail device
  steps_summary || true
  [ "$code" = 77 ] || code=1
  exit "$code"
fi

# cases <family> <seconds> <program> <which> [tool...]: one process for each test case, four at a time, so that a
# case that takes too long, or whose kernel never ends, costs no other.
cases() {
  local family=$1 limit=$2 program=./$build/tests/$3 which=$4 name quoted listed=0
  shift 4
  while read -r name; do
    quoted=$(printf '%s' "$name" | sed 's/[][,\\*"]/\\&/g')
    while [ "$(jobs -rp | wc -l)" -ge 4 ]; do
      wait -n || true
    done
    step "$family: $name" "$limit" "$@" "$program" -w NoTests "$quoted" &
    listed=$((listed + 1))
  done < <("$program" "$which" --list-test-names-only || true)
  wait
  [ "$listed" -gt 0 ] || printf '%s\tfailed\tno case was listed\n' "$family" >> "$steps/outcomes"
}
if [ $tests = 1 ]; then
  for program in "${programs[@]}"; do
    cases "$program" 200 "$program" "*"
  done
fi
# [long] cases are left out; [grid] is theirs in small.
if [ $sanitizes = 1 ]; then
  sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
  if [ -x "$sanitizer" ]; then
    for tool in memcheck racecheck synccheck initcheck; do
      cases "$tool" 40 test.cuda "~[long]" "$sanitizer" --tool "$tool" --error-exitcode 1
    done
  else
    printf 'sanitizers\tnot run\tcompute-sanitizer is not here\n' >> "$steps/outcomes"
  fi
fi

out=${OUT:-build/gpu}
mkdir -p "$out"
tail -n 200 "$steps"/*.log > "$out/gpu_tests.log"  # With a line for the name of each.
while IFS=$'\t' read -r name outcome _; do
  [ "$outcome" = passed ] || [ ! -e "$steps/$name.log" ] || { echo "$name"; step_tail "$name" 10; }
done < "$steps/outcomes"
steps_summary
