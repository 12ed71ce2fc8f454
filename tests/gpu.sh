#!/usr/bin/env bash
# On a machine with a CUDA device: the device tests, plain and under compute-sanitizer.
# Needs nvcc, CMake, ninja, g++ and Catch2; nothing else of the project is built.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset cuda -DORIEL_EXAMPLES=OFF -DORIEL_BENCH=OFF > /dev/null
cmake --build --preset cuda --target test.cuda
./build/cuda/tests/test.cuda || { echo "gpu: failed, or no device (exit 77)" >&2; exit 1; }
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
if [ ! -x "$sanitizer" ]; then
  echo "gpu: compute-sanitizer is not here; its tools were not run"
  exit 0
fi
for tool in memcheck racecheck initcheck synccheck; do
  "$sanitizer" --tool "$tool" --error-exitcode 1 ./build/cuda/tests/test.cuda
done
