#!/usr/bin/env bash
# Installs what is missing, builds Oriel, and runs its main job: the nano model writes some Python.
# Needs Debian 12 or like it; no GPU, no CUDA toolkit, no network beyond the package mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
./src/cmake/install_packages.sh build
mkdir -p build
cmake --preset release > build/quickstart.log 2>&1 || { cat build/quickstart.log >&2; exit 1; }
cmake --build --preset release --target oriel_cli
echo
./build/release/examples/oriel run
