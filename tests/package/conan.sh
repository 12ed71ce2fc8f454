#!/usr/bin/env bash
# `conan create`, without the program and with it. Its flags are its own: it builds without optimisation and several files
# at once, by clang++ where that is installed, which takes half of g++'s time then: only that it fits is tested.
# Conan is a tool: from PATH, or from PyPI into a virtual environment of our own. Usage: conan.sh <a scratch folder>
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${1:?a scratch folder}
quietly() { "$@" > "$work/log" 2>&1 || { tail -60 "$work/log" >&2; echo "package: failed: $*" >&2; exit 1; }; }

conan=$(command -v conan || true)
if [ -z "$conan" ] && [ -x build/tools/bin/conan ]; then conan=$PWD/build/tools/bin/conan; fi
if [ -z "$conan" ] && python3 -m venv build/tools > "$work/log" 2>&1 \
    && build/tools/bin/pip -q install 'conan>=2,<3' >> "$work/log" 2>&1; then
  conan=$PWD/build/tools/bin/conan
fi
if [ -z "$conan" ]; then
  echo "package: conan: skipped (neither on PATH nor to be had from PyPI)"
  exit 0
fi
if command -v clang++ > /dev/null; then export CC=clang CXX=clang++; fi
export CONAN_HOME=$work/conan CCACHE_BASEDIR=$work
quietly "$conan" profile detect
programs=(False)
if [ -d examples/cli ]; then programs+=(True); fi
for program in "${programs[@]}"; do
  quietly "$conan" create . --no-remote -pr tests/package/conan/profile -s compiler.cppstd=20 \
    -s build_type=Debug -c tools.cmake.cmake_layout:test_folder=\$TMP -o "oriel/*:program=$program" \
    -c "tools.cmake.cmaketoolchain:extra_variables={'CMAKE_UNITY_BUILD': 'ON', 'CMAKE_CXX_FLAGS_DEBUG': '-O0'}"
  echo "package: conan create (program=$program): ok"
done
