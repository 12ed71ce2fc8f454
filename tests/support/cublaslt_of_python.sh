# shellcheck shell=bash
# Sourced by tests/gpu.sh and bench/gpu.sh, for toolkits without cuBLASLt: the folder of Python's package that has its
# header and its library, the newest where there are several; or nothing.
cublaslt_of_python() {
  python3 -c 'import glob, nvidia, os
folders = [f for p in nvidia.__path__ for f in glob.glob(p + "/*") if glob.glob(f + "/lib/libcublasLt.so*")]
print(max((f for f in folders if os.path.exists(f + "/include/cublasLt.h")), default="",
          key=lambda f: sorted(glob.glob(f + "/lib/libcublasLt.so*"))[-1].rpartition("/")[2]))' 2> /dev/null || true
}
