// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The driver of the process. Its functions are looked up at run time: nothing links libcuda.
#include <oriel/device/memory_driver.hpp>

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

namespace oriel::cuda {
namespace {

/// The code of a call of the runtime. A refusal is told here and not by a later launch's
/// cudaGetLastError, too.
int taken(cudaError_t code) noexcept {
  if (code != cudaSuccess) {
    cudaGetLastError();
  }
  return code;
}

/// A function of the driver, in the version that CUDA 10.2 brought; null with `code` where there is
/// none.
template <class Function>
struct entry_point {
  Function call = nullptr;
  int code = 0;

  explicit entry_point(const char* name) noexcept {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult why = cudaDriverEntryPointSymbolNotFound;
    code = taken(cudaGetDriverEntryPointByVersion(name, &found, 10020, cudaEnableDefault, &why));
    if (code == 0 && (why != cudaDriverEntryPointSuccess || found == nullptr)) {
      code = cudaErrorSymbolNotFound;
    }
    call = code == 0 ? reinterpret_cast<Function>(found) : nullptr;
  }

  template <class... Arguments>
  [[nodiscard]] int operator()(Arguments... arguments) const noexcept {
    return call == nullptr ? code : static_cast<int>(call(arguments...));
  }
};

CUdeviceptr device_address(std::byte* address) noexcept {
  return reinterpret_cast<CUdeviceptr>(address);
}

CUmemAllocationProp memory_of(int device) noexcept {
  CUmemAllocationProp wanted{};
  wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  wanted.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
  return wanted;
}

int current_device(int& device) noexcept {
  if (const int code = taken(cudaGetDevice(&device)); code != 0) {
    return code;
  }
  return taken(cudaFree(nullptr));  // Makes the context that cuMem* want.
}

int allocate(std::byte*& address, std::size_t bytes) noexcept {
  void* at = nullptr;
  const int code = taken(cudaMalloc(&at, bytes));
  address = static_cast<std::byte*>(at);
  return code;
}

int free_bytes(std::byte* address) noexcept {
  return taken(cudaFree(address));
}

int allocate_pinned(std::byte*& address, std::size_t bytes) noexcept {
  void* at = nullptr;
  const int code = taken(cudaHostAlloc(&at, bytes, cudaHostAllocPortable));
  address = static_cast<std::byte*>(at);
  return code;
}

int free_pinned(std::byte* address) noexcept {
  return taken(cudaFreeHost(address));
}

int granularity(std::size_t& bytes, int device) noexcept {
  static const entry_point<PFN_cuMemGetAllocationGranularity_v10020> ask(
      "cuMemGetAllocationGranularity");
  const CUmemAllocationProp wanted = memory_of(device);
  return ask(&bytes, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
}

int reserve(std::byte*& address, std::size_t bytes) noexcept {
  static const entry_point<PFN_cuMemAddressReserve_v10020> ask("cuMemAddressReserve");
  CUdeviceptr at = 0;
  const int code = ask(&at, bytes, std::size_t{0}, CUdeviceptr{0}, 0ull);
  address = reinterpret_cast<std::byte*>(at);
  return code;
}

int unreserve(std::byte* address, std::size_t bytes) noexcept {
  static const entry_point<PFN_cuMemAddressFree_v10020> ask("cuMemAddressFree");
  return ask(device_address(address), bytes);
}

int create(std::uint64_t& handle, std::size_t bytes, int device) noexcept {
  static const entry_point<PFN_cuMemCreate_v10020> ask("cuMemCreate");
  const CUmemAllocationProp wanted = memory_of(device);
  CUmemGenericAllocationHandle made = 0;
  const int code = ask(&made, bytes, &wanted, 0ull);
  handle = made;
  return code;
}

int release(std::uint64_t handle) noexcept {
  static const entry_point<PFN_cuMemRelease_v10020> ask("cuMemRelease");
  return ask(CUmemGenericAllocationHandle{handle});
}

int map(std::byte* address, std::size_t bytes, std::uint64_t handle) noexcept {
  static const entry_point<PFN_cuMemMap_v10020> ask("cuMemMap");
  return ask(
      device_address(address), bytes, std::size_t{0}, CUmemGenericAllocationHandle{handle}, 0ull);
}

int unmap(std::byte* address, std::size_t bytes) noexcept {
  static const entry_point<PFN_cuMemUnmap_v10020> ask("cuMemUnmap");
  return ask(device_address(address), bytes);
}

int set_access(std::byte* address, std::size_t bytes, int device) noexcept {
  static const entry_point<PFN_cuMemSetAccess_v10020> ask("cuMemSetAccess");
  const CUmemAccessDesc access{.location = memory_of(device).location,
                               .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  return ask(device_address(address), bytes, &access, std::size_t{1});
}

}  // namespace

const memory_driver& process_driver::table() noexcept {
  static constexpr memory_driver driver{.current_device = current_device,
                                        .allocate = allocate,
                                        .free = free_bytes,
                                        .allocate_pinned = allocate_pinned,
                                        .free_pinned = free_pinned,
                                        .granularity = granularity,
                                        .reserve = reserve,
                                        .unreserve = unreserve,
                                        .create = create,
                                        .release = release,
                                        .map = map,
                                        .unmap = unmap,
                                        .set_access = set_access};
  return driver;
}

}  // namespace oriel::cuda
