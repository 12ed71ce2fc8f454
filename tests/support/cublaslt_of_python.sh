# shellcheck shell=bash
# Sourced by tests/gpu.sh and bench/gpu.sh, for toolkits without cuBLASLt: the folder of Python's package that has its
# header and library, or nothing.
cublaslt_of_python() {
  python3 -c 'import glob, nvidia, os
found = [f for p in nvidia.__path__ for f in sorted(glob.glob(p + "/*/include/cublasLt.h"))]
print(os.path.dirname(os.path.dirname(found[0])) if found else "")' 2> /dev/null || true
}
