#!/usr/bin/env bash
# clang-tidy (.clang-tidy). Usage: tidy.sh [--all | file...]
#   tidy.sh          every public header, in one unit, and with ORIEL_TIDY_BASE=COMMIT the units that
#                    changed since that commit
#   tidy.sh --all    every unit of the library, the engine and the program: minutes
#   tidy.sh file...  these units
set -euo pipefail
cd "$(dirname "$0")/../.."
cmake --preset cpu > /dev/null  # for build/cpu/compile_commands.json
built() {  # Units in the compilation database; an optional backend's unit may be missing there.
  python3 -c 'if True:
    import json, os
    names = {os.path.relpath(unit["file"]) for unit in json.load(open("build/cpu/compile_commands.json"))}
    print(*sorted(n for n in names if n.startswith(("src/", "kernels/", "examples/"))), sep="\n")'
}
units=()
headers=
case "${1:-}" in
  --all) mapfile -t units < <(built) ;;
  "")
    headers=build/cpu/all_headers.cpp
    if [ -n "${ORIEL_TIDY_BASE:-}" ]; then
      mapfile -t units < <(comm -12 <(built) <(git diff --name-only --diff-filter=d "$ORIEL_TIDY_BASE" -- | sort))
    fi ;;
  *) units=("$@") ;;
esac

found=$(mktemp)
trap 'rm -f "$found"' EXIT
fail() { cat "$found" >&2; echo "clang-tidy: findings above" >&2; exit 1; }
if [ -n "$headers" ]; then
  (cd include && find oriel -name '*.hpp' -o -name '*.cuh' | sort | sed 's/.*/#include <&>/') > "$headers"
  clang-tidy --quiet "$headers" -- -std=c++20 -Iinclude -Ibuild/cpu/include > "$found" 2> /dev/null || fail
  echo "clang-tidy: public headers clean"
fi
if [ ${#units[@]} -gt 0 ]; then
  printf '%s\n' "${units[@]}" \
    | xargs -P "$(nproc)" -n 2 clang-tidy -p build/cpu --quiet --extra-arg=-Wno-unknown-warning-option \
      > "$found" 2> /dev/null || fail
  echo "clang-tidy: ${#units[@]} units clean"
fi
