#!/usr/bin/env bash
# Installs Oriel into an empty folder, moves it, and uses it as its users do: find_package,
# add_subdirectory, pkg-config, a C++23 program, the program oriel, Conan and vcpkg. The library is built as by the
# presets cpu and cuda, so that a compiler cache that saw it has it.
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$PWD
work=$(mktemp -d)
aside=
end() {
  [ -z "$aside" ] || kill -- "-$aside" 2> /dev/null || true
  rm -rf "$work"
}
trap end EXIT
passed=0

ok() { echo "package: $1: ok"; passed=$((passed + 1)); }
quietly() { "$@" > "$work/log" 2>&1 || { tail -60 "$work/log" >&2; echo "package: failed: $*" >&2; exit 1; }; }
build_consumer() {  # build_consumer <name> [cmake argument...]
  local name=$1; shift
  quietly cmake -G Ninja -S "tests/package/$name" -B "$work/$name" "$@"
  quietly cmake --build "$work/$name" --target consumer
  "$work/$name/consumer"
  ok "$name"
}
refuses() {  # refuses <words of the message> [cmake argument...]
  local words=$1; shift
  if cmake -G Ninja -S tests/package/cuda -B "$work/refused" "$@" > "$work/log" 2>&1 \
      || ! tr -s '\n ' ' ' < "$work/log" | grep -q "$words"; then
    tail -30 "$work/log" >&2
    echo "package: component cuda: expected an error that says: $words" >&2
    exit 1
  fi
  rm -rf "$work/refused"
  ok "component cuda refused: $words"
}

# The library alone: neither examples nor tests may be needed to package it. With oriel::cuda where
# there is a toolkit, and its consumers must then not notice; with oneDNN where it is installed.
nvcc=${CUDACXX:-$(command -v nvcc || true)}
[ -n "$nvcc" ] || nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
cuda=OFF
if [ -x "$nvcc" ]; then cuda=ON; fi
# CUDA's flags are those of tests/package/cuda.sh.
quietly cmake -G Ninja -S . -B "$work/build" -DORIEL_TESTS=OFF -DORIEL_EXAMPLES=OFF -DORIEL_TIER=ON \
  -DCMAKE_BUILD_TYPE=Release -DORIEL_WERROR=ON -DORIEL_CUDA=$cuda "-DCMAKE_CUDA_FLAGS=-Xptxas=-v --no-compress" \
  -DORIEL_ONEDNN=AUTO -DCMAKE_INSTALL_PREFIX="$work/first"
quietly cmake --build "$work/build"
quietly cmake --install "$work/build"
mv "$work/first" "$work/moved"  # An install is relocatable.
ok install

# vcpkg and Conan beside the rest, where one step waits for the other. What they say follows at the end.
mkdir "$work/vcpkg" "$work/conan"
setsid bash -c "set -e; tests/package/vcpkg.sh '$work/vcpkg'; tests/package/conan.sh '$work/conan'" > "$work/aside" 2>&1 &
aside=$!

host_only=(-DCMAKE_PREFIX_PATH="$work/moved" -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON)
build_consumer find_package "${host_only[@]}"
build_consumer cxx23 "${host_only[@]}"
build_consumer add_subdirectory -DCMAKE_BUILD_TYPE=Release -DORIEL_WERROR=ON
if [ $cuda = ON ]; then
  build_consumer cuda -DCMAKE_PREFIX_PATH="$work/moved"
  refuses "needs the CUDA toolkit" "${host_only[@]}"
else
  refuses "built without its component cuda" "${host_only[@]}"
fi

build_consumer tier "${host_only[@]}"

PKG_CONFIG_PATH=$(dirname "$(find "$work/moved" -name oriel.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
g++ -std=c++20 tests/package/consumer.cpp $(pkg-config --cflags --libs oriel) -o "$work/pc_consumer"
"$work/pc_consumer"
if [ $cuda = ON ]; then
  # shellcheck disable=SC2046
  g++ -std=c++20 tests/package/cuda/consumer.cpp $(pkg-config --cflags --libs oriel-cuda) -o "$work/pc_cuda"
  LD_LIBRARY_PATH=$(pkg-config --variable=cuda_libdir oriel-cuda) "$work/pc_cuda"
fi
# shellcheck disable=SC2046
g++ -std=c++20 tests/package/tier/consumer.cpp $(pkg-config --cflags --libs oriel-tier) -o "$work/pc_tier"
"$work/pc_tier"
ok pkg-config

# The full build's install: the program, and the model it takes when no other is named.
if [ -d examples/cli ]; then
  quietly cmake --preset cpu
  quietly cmake --build --preset cpu -j "$(nproc)"
  quietly cmake --install build/cpu --prefix "$work/program"
  mv "$work/program" "$work/program-moved"
  (cd "$work" && quietly program-moved/bin/oriel inspect --preset mimo-v2-flash)
  (cd "$work" && quietly program-moved/bin/oriel run -n 4 --temp 0)
  ok "program, moved away from its build"
fi

wait "$aside" || { cat "$work/aside" >&2; exit 1; }
aside=
cat "$work/aside"
passed=$((passed + $(grep -c ': ok$' "$work/aside")))
skipped=$(grep -c ': skipped' "$work/aside" || true)
echo "$passed passed, 0 failed, $skipped skipped"
