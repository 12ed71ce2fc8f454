#!/usr/bin/env bash
# Installs what is missing of Oriel's Debian packages. Usage: install_packages.sh build|test
# build: what the library, the engine and `oriel` need.
# test:  that, and what the tests need; clang++ and its sanitizers, for the presets asan and tsan; a compiler cache, since
#        the stages build much of the same; oneDNN for the GEMM backend that they compare with.
#        Its CMake files ask for OpenCL, which Debian only recommends.
set -euo pipefail
build=(g++ cmake ninja-build pkg-config libfmt-dev libsimdjson-dev nlohmann-json3-dev libcli11-dev
       libpcre2-dev libutf8proc-dev libssl-dev libxxhash-dev libzstd-dev
       liburing-dev)
test=(ccache catch2 libbenchmark-dev redis-server fio libdnnl-dev ocl-icd-opencl-dev clang libclang-rt-dev clang-format clang-tidy
      python3 python3-venv git)
case "${1:-}" in
  build) wanted=("${build[@]}") ;;
  test) wanted=("${build[@]}" "${test[@]}") ;;
  *) echo "usage: $0 build|test" >&2; exit 2 ;;
esac
command -v dpkg-query > /dev/null || { echo "not a Debian system: install yourself: ${wanted[*]}" >&2; exit 0; }
missing=()
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo > /dev/null || { echo "run as root, or install: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
echo "installing: ${missing[*]}" >&2
apt_get() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" < /dev/null >&2; }
apt_get update
apt_get install -y --no-install-recommends "${missing[@]}"
