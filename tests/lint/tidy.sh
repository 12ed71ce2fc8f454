#!/usr/bin/env bash
# clang-tidy (.clang-tidy) over units, as many at once as there are cores.
#   tidy.sh          every public header, in one unit, and with ORIEL_TIDY_BASE=COMMIT the units that
#                    changed since that commit
#   tidy.sh --all    every unit of the library, the engine and the program
#   tidy.sh file...  these units
# A finding takes one line, and is told once however many units see it. Progress goes to stderr.
set -euo pipefail
cd "$(dirname "$0")/../.."
usage() { sed -n 's/^#   /  /p' "$0"; }

headers=
units=()
case "${1:-}" in
  --all) [ $# -eq 1 ] || { usage >&2; exit 2; } ;;
  -h|--help) usage; exit 0 ;;
  -*) echo "tidy.sh: no such option: $1" >&2; usage >&2; exit 2 ;;
  "") headers=build/cpu/all_headers.cpp ;;
  *) units=("${@#./}") ;;
esac

cmake --preset cpu > /dev/null  # for build/cpu/compile_commands.json
mapfile -t built < <(python3 -c 'if True:
  import json, os
  names = {os.path.relpath(unit["file"]) for unit in json.load(open("build/cpu/compile_commands.json"))}
  print(*sorted(names), sep="\n")')
of_the_code() { printf '%s\n' "${built[@]}" | grep -E '^(src|kernels|examples)/'; }
for unit in ${units[@]+"${units[@]}"}; do
  if ! printf '%s\n' "${built[@]}" | grep -qxF -e "$unit"; then
    echo "tidy.sh: $unit is not a unit that the preset cpu compiles" >&2
    exit 2
  fi
done
if [ "${1:-}" = --all ]; then
  mapfile -t units < <(of_the_code)
elif [ -n "$headers" ]; then
  (cd include && find oriel -name '*.hpp' -o -name '*.cuh' | sort | sed 's/.*/#include <&>/') > "$headers"
  units=("$headers")
  if [ -n "${ORIEL_TIDY_BASE:-}" ]; then
    mapfile -t -O 1 units < <(comm -12 <(of_the_code) \
      <(git diff --name-only --diff-filter=d "$ORIEL_TIDY_BASE" -- | sort))
  fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: > "$work/told"
judge() {  # judge <unit>: its findings, one a line, into $work; a line of progress
  local unit=$1 begin=$SECONDS name=$work/${1//\//+}
  local flags=(-p build/cpu --extra-arg=-Wno-unknown-warning-option "$unit")
  if [[ $unit == */all_headers.cpp ]]; then  # Not of the compilation database: its flags follow it.
    flags=("$unit" -- -std=c++20 -Iinclude -Ibuild/cpu/include)
  fi
  if clang-tidy --quiet "${flags[@]}" > "$name.out" 2> "$name.err"; then
    : > "$name.found"
  else
    grep -E '^[^ ]+:[0-9]+:[0-9]+: (warning|error): ' "$name.out" \
      | sed "s|^$PWD/||; s|,-warnings-as-errors||" | sort -u > "$name.found"
    [ -s "$name.found" ] || echo "$unit: clang-tidy failed: $(tail -1 "$name.err")" > "$name.found"
  fi
  grep -vxF -f "$work/told" "$name.found" | tee -a "$work/told" || true
  echo >> "$work/judged"
  echo "[$(wc -l < "$work/judged")/$units_count] $unit: $(wc -l < "$name.found") findings, $((SECONDS - begin)) s" >&2
}
export -f judge
export work units_count=${#units[@]}
printf '%s\0' "${units[@]}" | xargs -0 -P "$(nproc)" -n 1 bash -c 'judge "$1"' judge
if [ -s "$work/told" ]; then
  echo "clang-tidy: $(sort -u "$work/told" | wc -l) findings in $units_count units" >&2
  exit 1
fi
echo "clang-tidy: $units_count units clean"
