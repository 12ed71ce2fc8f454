#!/usr/bin/env bash
# The overlay port. With vcpkg on PATH (or VCPKG_ROOT set) it is installed; without, its portfile runs
# against vcpkg_steps.cmake, which takes vcpkg's functions' place and does what they do with CMake.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${1:?a scratch folder}
ports=$PWD/src/cmake/vcpkg-ports
vcpkg=$(command -v vcpkg || true)
[ -n "$vcpkg" ] || [ -z "${VCPKG_ROOT:-}" ] || vcpkg=$VCPKG_ROOT/vcpkg
if [ -n "$vcpkg" ]; then
  (cd "$work" && "$vcpkg" install oriel --classic --overlay-ports="$ports" --x-install-root="$work/vcpkg")
  prefix=$(dirname "$(find "$work/vcpkg" -path '*/share/oriel' -type d | head -1)")/..
else
  echo "package: vcpkg: not here; its CMake steps run instead"
  cmake -DPORT_DIR="$ports/oriel" -DWORK_DIR="$work/vcpkg" -P tests/package/vcpkg_steps.cmake > "$work/log" 2>&1 \
    || { cat "$work/log" >&2; exit 1; }
  prefix=$work/vcpkg/package
fi
for file in share/oriel/oriel-config.cmake share/oriel/copyright share/oriel/usage include/oriel/core/result.hpp; do
  [ -f "$prefix/$file" ] || { echo "package: vcpkg: $file is missing" >&2; exit 1; }
done
cmake -G Ninja -S tests/package/find_package -B "$work/vcpkg-consumer" \
  -Doriel_DIR="$prefix/share/oriel" > "$work/log" 2>&1 \
  && cmake --build "$work/vcpkg-consumer" >> "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
"$work/vcpkg-consumer/consumer"
echo "package: vcpkg: ok"
