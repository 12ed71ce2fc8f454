#!/usr/bin/env bash
# Runs nvcc (a CMAKE_CUDA_COMPILER_LAUNCHER, before a compiler cache) and judges how it compiled a unit: fails on a
# register spill, on ptxas' warnings C75xx (setmaxnreg ignored, wgmma serialised) and on a unit that takes over 15 CPU
# seconds. What it found is in <object>.judged. What a compiler cache knows took it no time: 0 seconds.
# Usage: judge_unit.sh [cache] nvcc <argument...>, with -Xptxas=-v and -o <object> among them
set -euo pipefail
cpu_seconds_max=15
object=
previous=
for argument in "$@"; do
  [ "$previous" != -o ] || object=$argument
  previous=$argument
done
case $object in *.cu.o) ;; *) exec "$@" ;; esac  # A link, or what CMake asks of the compiler.
unit=$(basename "$object" .cu.o)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
refuse() {
  rm -f "$object" "$object.judged"
  echo "cuda: $unit $1" >&2
  exit 1
}

TIMEFORMAT='%U %S'
seconds=$( { time "$@" > "$log" 2>&1; } 2>&1 ) || { cat "$log" >&2; refuse "does not compile"; }
seconds=$(awk '{ printf "%.1f", $1 + $2 }' <<< "$seconds")
if grep -E '[1-9][0-9]* bytes spill|C75[0-9][0-9]|serialized' "$log" >&2; then
  refuse "spills registers, its setmaxnreg is ignored or its wgmma waits"
fi
if awk "BEGIN { exit !($seconds > $cpu_seconds_max) }"; then
  refuse "took $seconds CPU seconds; $cpu_seconds_max are allowed"
fi
grep -vE '^ptxas info|bytes stack frame' "$log" >&2 || true
registers=$(sed -nE 's/.*Used ([0-9]+) registers.*/\1/p' "$log" | sort -n | tail -1)
echo "cuda: $unit: $seconds CPU s, no spills, at most ${registers:-0} registers" > "$object.judged"
