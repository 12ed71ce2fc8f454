#!/usr/bin/env bash
# Builds and runs every test. Usage: tests/run.sh [--long] [stage...]
# Stages, all by default and in this order: lint release asan cuda tsan package.
# --long adds the soaks. Without a CUDA toolkit the cuda stage says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
stages=()
for argument in "$@"; do
  case "$argument" in
    --long) export ORIEL_TEST_LONG=1 ;;
    lint|release|asan|cuda|tsan|package) stages+=("$argument") ;;
    *) echo "usage: $0 [--long] [lint|release|asan|cuda|tsan|package ...]" >&2; exit 2 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(lint release asan cuda tsan package)

./src/cmake/install_packages.sh test
jobs=$(nproc)
if command -v ccache > /dev/null; then  # Where there is a compiler cache, take it; nothing needs one.
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
  export CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CUDA_COMPILER_LAUNCHER-ccache}
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS-pch_defines,time_macros}  # else it passes by precompiled headers
fi

# Tests wait for disks, servers and processes, so they run behind the builds of the next stages, one preset's at a time.
# What they print follows when they have ended: before the next ones begin, and at the end. There a failure stops all.
tests_of=
tests_log=$(mktemp)
end_tests() {  # Where a build fails, its script does not wait for them: they end, servers and all, and what they said is told.
  if [ -n "$tests_of" ]; then
    kill -- "-$tests_pid" 2> /dev/null || true
    echo "== tests of $tests_of, stopped:"
    cat "$tests_log"
  fi
  rm -f "$tests_log"
}
trap end_tests EXIT
await_tests() {
  [ -n "$tests_of" ] || return 0
  local code=0
  wait "$tests_pid" || code=$?
  echo "== tests of $tests_of"
  cat "$tests_log"
  tests_of=
  return "$code"
}
begin_tests() {  # begin_tests <preset> [ctest argument...]
  await_tests
  tests_of=$1; shift
  CTEST_PARALLEL_LEVEL=$((jobs + jobs / 2)) setsid ctest --preset "$tests_of" "$@" > "$tests_log" 2>&1 &
  tests_pid=$!
}

build() {  # build <preset>
  # Several files of tests at once, which takes half the time; with --long each by itself: has it its includes?
  cmake --preset "$1" -DORIEL_TEST_UNITY=$([ -n "${ORIEL_TEST_LONG:-}" ] && echo OFF || echo ON) > /dev/null
  cmake --build --preset "$1" -j "$jobs"
}

stage_lint() { ./tests/lint/lint.sh; }
stage_release() {
  build cpu
  begin_tests cpu
  cmake --build --preset cpu -j "$jobs" --target all_verify_interface_header_sets
}
# asan and tsan compile by clang++ where it is installed, else by the system's compiler (src/cmake/sanitizer_compiler.cmake).
stage_asan() {  # Release's are figures of whole real traces, minutes here over code that other cases run too, and what seeds meet.
  build asan
  ORIEL_TEST_SCALE=0.05 begin_tests asan \
    -E '^test\.replay:(the agentic trace gives|the real tree under LRU draws|400 GiB of|the default order goes)|:the seeds (with tiers )?meet '
}
stage_cuda() { ./tests/package/cuda.sh; }
stage_tsan() {  # What has threads: the pool itself, probes of a tree, every kernel in the engine's forward pass.
  cmake --preset tsan > /dev/null
  cmake --build --preset tsan -j "$jobs" --target test.core test.threads
  ORIEL_TEST_SCALE=0.1 begin_tests tsan -j 1 --no-tests=error \
    -R '^test\.core:|^test\.threads:(case 49|logits have the same bits|a request.s tokens|a loader thread fills|store_thread|many threads|a node may be|a thread|loads are cancelled|a load that fails|routers in threads)'
}
stage_package() { ./tests/package/run.sh; }  # Last: much of it takes one core, and tsan's tests another.

for stage in "${stages[@]}"; do
  echo "== $stage"
  begin=$SECONDS
  "stage_$stage"
  echo "== $stage: $((SECONDS - begin)) s"
done
await_tests
echo "== all: $SECONDS s"
