// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A stand-in for the CUDA runtime and cuBLASLt, to be preloaded: one device with the numbers of an
// H200, memory that nobody touches, launches that do nothing but be within the limits. With it the
// programs of bench/cuda run to their end on a machine without a device (tests/package/cuda.sh):
// plans are accepted, launches fit, what a kernel was allowed is never taken back, and each figure
// has its line. Its numbers mean nothing.
// STAND_IN_LAUNCHES=<n>: from that launch on the device is lost, as after an illegal access.
#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace {

constexpr int out_of_memory = 2, invalid_configuration = 9, illegal_address = 700;  // cudaError
constexpr int not_supported = 15;                                                   // cublasStatus
constexpr std::size_t header_bytes = 4096, shared_bytes_max = 232'448;

struct dim3 {
  unsigned x, y, z;
};
struct launch {
  dim3 grid, block;
  std::size_t shared_bytes;
  void* stream;
} pushed;

long launches = 0;
int state_of_device() {
  static const char* const most = std::getenv("STAND_IN_LAUNCHES");
  return most != nullptr && launches >= std::atol(most) ? illegal_address : 0;
}

int take(void** p, std::size_t bytes) {
  if (const int lost = state_of_device()) {
    return lost;
  }
  bytes += header_bytes;
  void* const all = mmap(
      nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) {
    return out_of_memory;
  }
  std::memcpy(all, &bytes, sizeof bytes);
  *p = static_cast<char*>(all) + header_bytes;
  return 0;
}
int give(void* p) {
  if (p != nullptr) {
    void* const all = static_cast<char*>(p) - header_bytes;
    std::size_t bytes;
    std::memcpy(&bytes, all, sizeof bytes);
    munmap(all, bytes);
  }
  return 0;
}

int offers_refused = 0;
std::map<const void*, int> allowed_bytes;  ///< of shared memory, by function

}  // namespace

#define ORIEL_DOES_NOTHING(name) \
  int name() {                   \
    return 0;                    \
  }
#define ORIEL_ONLY_FAILS_WHEN_LOST(name) \
  int name() {                           \
    return state_of_device();            \
  }

extern "C" {

int cudaGetDeviceCount(int* n) {
  return *n = 1, 0;
}
int cudaDeviceGetAttribute(int* value, int which, int) {
  *value = which == 16 ? 132 : which == 38 ? 60 << 20 : 0;  // Multiprocessors, bytes of L2.
  return 0;
}
int cudaMalloc(void** p, std::size_t bytes) {
  return take(p, bytes);
}
int cudaMallocHost(void** p, std::size_t bytes) {
  return take(p, bytes);
}
int cudaFree(void* p) {
  return give(p);
}
int cudaFreeHost(void* p) {
  return give(p);
}
int cudaMemcpy(void* to, const void* from, std::size_t bytes, int) {
  if (bytes < std::size_t{1} << 28) {
    std::memcpy(to, from, bytes);
  }
  return 0;
}
int cudaEventElapsedTime(float* ms, void*, void*) {
  return *ms = 0.5f, 0;
}
int cudaFuncSetAttribute(const void* function, int which, int value) {
  constexpr int shared_bytes = 8;
  if (which != shared_bytes) {
    return 0;
  }
  // A launch that was captured, or that another thread makes now, may need what was allowed before.
  int& allowed = allowed_bytes[function];
  const bool is_refused = static_cast<std::size_t>(value) > shared_bytes_max || value < allowed;
  return is_refused ? invalid_configuration : (allowed = value, 0);
}
int cudaOccupancyMaxActiveClusters(int* n, const void*, const void*) {
  return *n = 132 / 8, 0;  // As if each had eight blocks.
}
const char* cudaGetErrorString(int) {
  return "the stand-in says so";
}
ORIEL_ONLY_FAILS_WHEN_LOST(cudaDeviceSynchronize)
ORIEL_ONLY_FAILS_WHEN_LOST(cudaMemcpyAsync)
ORIEL_DOES_NOTHING(cudaMemcpyBatchAsync)
ORIEL_DOES_NOTHING(cudaEventCreate)
ORIEL_DOES_NOTHING(cudaEventCreateWithFlags)
ORIEL_DOES_NOTHING(cudaEventDestroy)
ORIEL_ONLY_FAILS_WHEN_LOST(cudaEventRecord)
ORIEL_ONLY_FAILS_WHEN_LOST(cudaEventSynchronize)
ORIEL_DOES_NOTHING(cudaGetLastError)
ORIEL_DOES_NOTHING(cudaGraphDestroy)
ORIEL_DOES_NOTHING(cudaGraphExecDestroy)
ORIEL_DOES_NOTHING(cudaGraphInstantiate)
ORIEL_ONLY_FAILS_WHEN_LOST(cudaGraphLaunch)
ORIEL_DOES_NOTHING(cudaGraphUpload)
ORIEL_DOES_NOTHING(cudaStreamBeginCapture)
ORIEL_DOES_NOTHING(cudaStreamCreateWithFlags)
ORIEL_DOES_NOTHING(cudaStreamDestroy)
ORIEL_DOES_NOTHING(cudaStreamEndCapture)
ORIEL_DOES_NOTHING(cudaStreamWaitEvent)

// What nvcc makes of <<<>>>.
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t bytes, void* stream) {
  pushed = {grid, block, bytes, stream};
  return 0;
}
int __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* bytes, void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *bytes = pushed.shared_bytes;
  std::memcpy(stream, &pushed.stream, sizeof pushed.stream);
  return 0;
}
int __cudaGetKernel(const void** kernel, const void* function) {
  return *kernel = function, 0;
}
int __cudaLaunchKernel(
    void*, dim3 grid, dim3 block, void**, std::size_t shared_bytes, void* /*stream*/) {
  const unsigned threads = block.x * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.y > 65'535 || grid.z == 0 || grid.z > 65'535 ||
      threads == 0 || threads > 1024 || shared_bytes > shared_bytes_max) {
    std::fprintf(stderr, "a launch beyond the limits: %u x %u blocks\n", grid.x, grid.y);
    std::abort();
  }
  ++launches;
  return 0;
}
void** __cudaRegisterFatBinary(void*) {
  static void* nothing;
  return &nothing;
}
ORIEL_DOES_NOTHING(__cudaRegisterFatBinaryEnd)
ORIEL_DOES_NOTHING(__cudaUnregisterFatBinary)
ORIEL_DOES_NOTHING(__cudaRegisterFunction)

ORIEL_DOES_NOTHING(cublasLtCreate)
ORIEL_DOES_NOTHING(cublasLtDestroy)
ORIEL_DOES_NOTHING(cublasLtMatmulDescCreate)
ORIEL_DOES_NOTHING(cublasLtMatmulDescDestroy)
ORIEL_DOES_NOTHING(cublasLtMatmulDescSetAttribute)
ORIEL_DOES_NOTHING(cublasLtMatmulPreferenceCreate)
ORIEL_DOES_NOTHING(cublasLtMatmulPreferenceDestroy)
ORIEL_DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute)
ORIEL_DOES_NOTHING(cublasLtMatrixLayoutCreate)
ORIEL_DOES_NOTHING(cublasLtMatrixLayoutDestroy)
int cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, void*, int* count) {
  offers_refused = 1;
  return *count = 2, 0;
}
// The first of what was offered is refused.
int cublasLtMatmul() {
  return offers_refused-- > 0 ? not_supported : 0;
}
}
