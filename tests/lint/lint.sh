#!/usr/bin/env bash
# What a machine can see in the sources: format, include directions, documents, leftovers, clang-tidy.
set -euo pipefail
cd "$(dirname "$0")/../.."
git ls-files -- '*.hpp' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
python3 tests/lint/include_directions.py
python3 tests/lint/readme_example.py
python3 tests/lint/links.py
if git grep -InE '\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b'; then  # A pattern that does not find itself.
  echo "unfinished work is marked above: finish it or delete the mark" >&2
  exit 1
fi
./tests/lint/tidy.sh
echo "lint: clean"
