# shellcheck shell=bash
# Sourced by tests/gpu.sh and bench/gpu.sh, for toolkits without cuBLASLt: the folder of Python's package that has its
# headers and its library, the newest where there are several; or nothing.
cublaslt_of_python() {
  python3 -c 'import glob, nvidia, os, re
def version(folder):
    names = [os.path.basename(f) for f in glob.glob(folder + "/lib/libcublasLt.so*")]
    return max([int(n) for n in re.findall("[0-9]+", name)] for name in names)
folders = [f for p in nvidia.__path__ for f in glob.glob(p + "/*") if glob.glob(f + "/lib/libcublasLt.so*")]
print(max((f for f in folders if all(os.path.exists(f + "/include/" + h) for h in ("cublasLt.h", "cublas_api.h"))),
          default="", key=version))' 2> /dev/null || true
}
