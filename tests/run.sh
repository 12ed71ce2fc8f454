#!/usr/bin/env bash
# Builds and runs every test. Usage: tests/run.sh [--long] [stage...]
# Stages, all by default and in this order: lint release package asan tsan cuda.
# --long adds the soaks. Without a CUDA toolkit the cuda stage says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
stages=()
for argument in "$@"; do
  case "$argument" in
    --long) export ORIEL_TEST_LONG=1 ;;
    lint|release|package|asan|tsan|cuda) stages+=("$argument") ;;
    *) echo "usage: $0 [--long] [lint|release|package|asan|tsan|cuda ...]" >&2; exit 2 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(lint release package asan tsan cuda)

./src/cmake/install_packages.sh test
jobs=$(nproc)
if command -v ccache > /dev/null; then  # Where there is a compiler cache, take it; nothing needs one.
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
  export CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CUDA_COMPILER_LAUNCHER-ccache}
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS-pch_defines,time_macros}  # else it passes by precompiled headers
fi

build_and_test() {  # build_and_test <preset> [ctest argument...]
  local preset=$1; shift
  # Several files of tests at once, which takes half the time; with --long each by itself: has it its includes?
  cmake --preset "$preset" -DORIEL_TEST_UNITY=$([ -n "${ORIEL_TEST_LONG:-}" ] && echo OFF || echo ON) > /dev/null
  cmake --build --preset "$preset" -j "$jobs"
  ctest --preset "$preset" -j $((jobs + jobs / 2)) "$@"  # Some wait for disks, servers and processes.
}

stage_lint() { ./tests/lint/lint.sh; }
stage_release() {
  build_and_test cpu
  cmake --build --preset cpu -j "$jobs" --target all_verify_interface_header_sets
}
stage_package() { ./tests/package/run.sh; }
stage_asan() {  # Figures of whole real traces are release's: minutes here, over code that other cases run too.
  ORIEL_TEST_SCALE=0.1 build_and_test asan \
    -E '^test\.replay:(the agentic trace gives|the real tree under LRU draws|400 GiB of|the default order goes)'
}
stage_tsan() {  # What has threads: the pool itself, probes of a tree, every kernel in the engine's forward pass.
  cmake --preset tsan > /dev/null
  cmake --build --preset tsan -j "$jobs" --target test.core test.threads
  ORIEL_TEST_SCALE=0.1 ctest --preset tsan -j 1 --no-tests=error \
    -R '^test\.core:|^test\.threads:(case 49|logits have the same bits|a request.s tokens|a loader thread fills|store_thread|many threads|a node may be|a thread|loads are cancelled|a load that fails|routers in threads)'
}
stage_cuda() { ./tests/package/cuda.sh; }

for stage in "${stages[@]}"; do
  echo "== $stage"
  begin=$SECONDS
  "stage_$stage"
  echo "== $stage: $((SECONDS - begin)) s"
done
