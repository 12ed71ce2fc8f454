#!/usr/bin/env bash
# Attention's softmax of a tile runs under the product of the tile before only where ptxas leaves it: it moves waits up.
# In the machine code of each tensor-core unit, a tile's exponentials (64 keys: 32 a thread) have to be between the wait that
# leaves one product under way and the next wait for products; that it fails where they are not is tried with a planted listing.
# Needs nvdisasm, from the toolkit or from PyPI; without it, or without nvcc, it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/../.."
nvcc=${CUDACXX:-$(command -v nvcc || true)}
[ -n "$nvcc" ] || nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
[ -x "$nvcc" ] || { echo "overlap: skipped (no nvcc)"; exit 0; }
exponentials_of_tile=32
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

overlaps() {  # overlaps <listing>: prints how many kernels with products it has; says what is wrong with one
  awk -v least=$exponentials_of_tile '
    function end_kernel() {
      if (products && !loops) { print "no wait that leaves a product under way"; bad = 1 }
      kernels += products; products = loops = under = 0
    }
    /^[ \t]*\.section[ \t]+\.text\./ { end_kernel() }
    /HGMMA/ { products = 1 }
    /MUFU\.EX2/ { exponentials += under }
    /WARPGROUP\.DEPBAR\.LE gsb0, 0x1/ { if (!under) { under = 1; exponentials = 0; ++loops } }
    /WARPGROUP\.DEPBAR\.LE gsb0, 0x0/ {
      if (under && exponentials < least) {
        print "only " exponentials " exponentials under a product"
        bad = 1
      }
      under = 0
    }
    END { end_kernel(); print kernels " kernels"; exit bad || !kernels }' "$1"
}

# listing <exponentials under the product> <behind it>
listing() {
  echo '.section .text.planted,"ax"'
  echo 'HGMMA.64x64x16.F32.BF16 R88, gdesc[UR4], RZ, !UPT ;'
  echo 'WARPGROUP.DEPBAR.LE gsb0, 0x1 ;'
  for ((i = 0; i < $1; ++i)); do echo 'MUFU.EX2 R13, R13 ;'; done
  echo 'WARPGROUP.DEPBAR.LE gsb0, 0x0 ;'
  for ((i = 0; i < $2; ++i)); do echo 'MUFU.EX2 R13, R13 ;'; done
}
listing 34 0 > "$work/right"
listing 0 34 > "$work/wrong"
listing 34 0 | grep -v 0x1 > "$work/missing"
if ! overlaps "$work/right" > "$work/log" || overlaps "$work/wrong" > "$work/log" || overlaps "$work/missing" > "$work/log"; then
  cat "$work/log" >&2
  echo "overlap: a planted listing was not judged rightly" >&2
  exit 1
fi

# nvdisasm: the toolkit's, that on PATH, or PyPI's in the virtual environment that Conan has, too (run.sh).
nvdisasm=$(dirname "$nvcc")/nvdisasm
[ -x "$nvdisasm" ] || nvdisasm=$(command -v nvdisasm || true)
fetched() { find build/tools/lib -path '*/bin/nvdisasm' 2> /dev/null | head -1 || true; }
[ -n "$nvdisasm" ] || nvdisasm=$(fetched)
if [ -z "$nvdisasm" ] && python3 -m venv build/tools > "$work/log" 2>&1 \
    && build/tools/bin/pip -q install 'nvidia-cuda-nvdisasm>=13' >> "$work/log" 2>&1; then
  nvdisasm=$(fetched)
fi
[ -n "$nvdisasm" ] || { echo "overlap: skipped (nvdisasm is not in the toolkit, not on PATH and not to be had from PyPI)"; exit 0; }

[ -d build/cuda/include ] || cmake --preset cuda > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
for unit in kernels/cuda/attention_*_*.cu; do
  name=$(basename "$unit" .cu)
  "$nvcc" -std=c++20 --expt-relaxed-constexpr -fmad=false -gencode arch=compute_90a,code=sm_90a -Iinclude \
    -Ibuild/cuda/include -Ikernels -cubin "$unit" -o "$work/cubin" > "$work/log" 2>&1 \
    || { cat "$work/log" >&2; echo "overlap: $name does not compile" >&2; exit 1; }
  "$nvdisasm" -c "$work/cubin" > "$work/listing"
  if ! found=$(overlaps "$work/listing") || [ "$found" != "2 kernels" ]; then
    echo "overlap: $name: ${found//$'\n'/, }; the wait for a product is before the softmax that it should hide" >&2
    exit 1
  fi
  echo "overlap: $name: $found, softmax under the product before"
done
