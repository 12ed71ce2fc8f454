#!/usr/bin/env bash
# The overlay port, without its feature and with it. With vcpkg on PATH (or VCPKG_ROOT set) it is installed; without, its
# portfile runs against vcpkg_steps.cmake, which takes vcpkg's functions' place and does what they do with CMake.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${1:?a scratch folder}
ports=$PWD/src/cmake/vcpkg-ports
vcpkg=$(command -v vcpkg || true)
[ -n "$vcpkg" ] || [ -z "${VCPKG_ROOT:-}" ] || vcpkg=$VCPKG_ROOT/vcpkg
[ -n "$vcpkg" ] || echo "package: vcpkg: not here; its CMake steps run instead"
quietly() { "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }

install_port() {  # install_port [feature]; sets prefix
  rm -rf "$work/vcpkg/package"  # The build folder stays: the feature adds to it.
  if [ -n "$vcpkg" ]; then
    (cd "$work" && "$vcpkg" install "oriel${1:+[$1]}" --classic --recurse --overlay-ports="$ports" --x-install-root="$work/vcpkg")
    prefix=$(dirname "$(find "$work/vcpkg" -path '*/share/oriel' -type d | head -1)")/..
  else
    quietly cmake -DPORT_DIR="$ports/oriel" -DWORK_DIR="$work/vcpkg" -DFEATURES="${1:-}" -P tests/package/vcpkg_steps.cmake
    prefix=$work/vcpkg/package
  fi
  for file in share/oriel/oriel-config.cmake share/oriel/copyright share/oriel/usage include/oriel/core/result.hpp; do
    [ -f "$prefix/$file" ] || { echo "package: vcpkg: $file is missing" >&2; exit 1; }
  done
}
consume() {  # consume <a folder of tests/package>
  local build=$work/vcpkg-$1
  quietly cmake -G Ninja -S "tests/package/$1" -B "$build" -Doriel_DIR="$prefix/share/oriel" -DCMAKE_PREFIX_PATH="$prefix"
  quietly cmake --build "$build"
  "$build/consumer"
}

install_port
consume find_package
if cmake -G Ninja -S tests/package/tier -B "$work/vcpkg-none" -Doriel_DIR="$prefix/share/oriel" > "$work/log" 2>&1; then
  echo "package: vcpkg: the port has tiers without its feature" >&2
  exit 1
fi
install_port tier
consume tier
echo "package: vcpkg: ok"
