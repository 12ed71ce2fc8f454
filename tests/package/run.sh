#!/usr/bin/env bash
# Installs Oriel into an empty folder, moves it, and uses it as its users do: find_package,
# add_subdirectory, pkg-config, a C++23 program, Conan and vcpkg where they are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0

ok() { echo "package: $1: ok"; passed=$((passed + 1)); }
build_consumer() {  # build_consumer <name> [cmake argument...]
  local name=$1; shift
  cmake -G Ninja -S "tests/package/$name" -B "$work/$name" -DCMAKE_BUILD_TYPE=Release "$@" > "$work/log" 2>&1 \
    && cmake --build "$work/$name" --target consumer >> "$work/log" 2>&1 \
    && "$work/$name/consumer" || { cat "$work/log" >&2; echo "package: $name failed" >&2; exit 1; }
  ok "$name"
}

# The library alone: neither examples nor tests may be needed to package it.
cmake -G Ninja -S . -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DORIEL_TESTS=OFF -DORIEL_EXAMPLES=OFF \
  -DCMAKE_INSTALL_PREFIX="$work/first" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
cmake --build "$work/build" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
cmake --install "$work/build" > "$work/log"
mv "$work/first" "$work/moved"  # An install is relocatable.
ok install

build_consumer find_package -DCMAKE_PREFIX_PATH="$work/moved"
build_consumer cxx23 -DCMAKE_PREFIX_PATH="$work/moved"
build_consumer add_subdirectory

export PKG_CONFIG_PATH=$(dirname "$(find "$work/moved" -name oriel.pc)")
# shellcheck disable=SC2046
g++ -std=c++20 tests/package/consumer.cpp $(pkg-config --cflags --libs --static oriel) -o "$work/pc_consumer"
"$work/pc_consumer"
ok pkg-config

# Conan is a tool: from PATH, or from PyPI into a virtual environment of our own.
conan=$(command -v conan || true)
if [ -z "$conan" ] && [ -x build/tools/bin/conan ]; then conan=$source/build/tools/bin/conan; fi
if [ -z "$conan" ] && python3 -m venv build/tools > "$work/log" 2>&1 \
    && build/tools/bin/pip -q install 'conan>=2,<3' >> "$work/log" 2>&1; then
  conan=$source/build/tools/bin/conan
fi
if [ -n "$conan" ]; then
  export CONAN_HOME=$work/conan
  "$conan" profile detect > "$work/log" 2>&1
  for program in False True; do
    "$conan" create . --no-remote -pr tests/package/conan/profile -s compiler.cppstd=20 \
      -o "oriel/*:program=$program" > "$work/log" 2>&1 \
      || { tail -40 "$work/log" >&2; echo "package: conan create (program=$program) failed" >&2; exit 1; }
    ok "conan create (program=$program)"
  done
else
  echo "package: conan: skipped (neither on PATH nor to be had from PyPI)"
fi
"$source/tests/package/vcpkg.sh" "$work" && passed=$((passed + 1))
echo "$passed passed, 0 failed"
