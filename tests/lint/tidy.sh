#!/usr/bin/env bash
# clang-tidy (.clang-tidy) over the library, the engine and the program: all units, or those named.
# Usage: tidy.sh [file...]. Headers are checked through the units that include them.
set -euo pipefail
cd "$(dirname "$0")/../.."
cmake --preset cpu > /dev/null  # for build/cpu/compile_commands.json
units=("$@")
[ ${#units[@]} -gt 0 ] || mapfile -t units < <(git ls-files -- 'src/*.cpp' 'kernels/*.cpp' 'examples/*.cpp')
found=$(mktemp)
trap 'rm -f "$found"' EXIT
printf '%s\n' "${units[@]}" \
  | xargs -P "$(nproc)" -n 2 clang-tidy -p build/cpu --quiet --extra-arg=-Wno-unknown-warning-option \
    > "$found" 2> /dev/null || { cat "$found" >&2; echo "clang-tidy: findings above" >&2; exit 1; }
echo "clang-tidy: ${#units[@]} units clean"
