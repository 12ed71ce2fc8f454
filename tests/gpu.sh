#!/usr/bin/env bash
# On a machine with a CUDA device: the device tests, plain and under compute-sanitizer.
# Usage: tests/gpu.sh [--engine]. Needs nvcc, CMake, ninja, g++, Catch2 and xxhash, OpenSSL for Redis over TLS; with
# --engine, which tests whole models, also fmt, simdjson, nlohmann-json, CLI11, PCRE2 and utf8proc. What is not in
# the system's folders may lie in GPU_DEPS (as unpacked Debian packages: GPU_DEPS/include, GPU_DEPS/lib).
set -euo pipefail
cd "$(dirname "$0")/.."
examples=OFF
case "${1:-}" in
  "") ;;
  --engine) examples=ON ;;
  *) echo "usage: $0 [--engine]" >&2; exit 2 ;;
esac
# A folder of its own: what is switched off here stays in the cache.
build=build/gpu
cmake --preset cuda -B "$build" -DORIEL_EXAMPLES=$examples -DORIEL_BENCH=OFF -DCMAKE_PREFIX_PATH="${GPU_DEPS:-}" > /dev/null
passes() {  # passes <target>: exit code 77, no device, is a failure here
  cmake --build "$build" --target "$1"
  "./$build/tests/$1" || { echo "gpu: $1: failed, or no device (exit 77)" >&2; exit 1; }
}
passes test.cuda
if [ $examples = ON ]; then passes test.cuda_engine; fi
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
if [ ! -x "$sanitizer" ]; then
  echo "gpu: compute-sanitizer is not here; its tools were not run"
  exit 0
fi
for tool in memcheck racecheck initcheck synccheck; do
  "$sanitizer" --tool "$tool" --error-exitcode 1 "./$build/tests/test.cuda"
done
