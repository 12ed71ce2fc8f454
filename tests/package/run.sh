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

if command -v conan > /dev/null; then
  CONAN_HOME=$work/conan conan profile detect > /dev/null 2>&1
  printf '[platform_requires]\nfmt/9.1.0\n' >> "$work/conan/profiles/default"
  CONAN_HOME=$work/conan conan create . --no-remote -s compiler.cppstd=20 > "$work/log" 2>&1 \
    || { tail -40 "$work/log" >&2; echo "package: conan failed" >&2; exit 1; }
  ok "conan create"
else
  echo "package: conan: skipped (no conan on PATH)"
fi
"$source/tests/package/vcpkg.sh" "$work" && passed=$((passed + 1))
echo "$passed passed, 0 failed"
