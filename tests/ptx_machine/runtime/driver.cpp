// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The driver's functions about addresses and memory apart, which a program asks libcudart for by
// name.
#include "runtime.hpp"

#include <cuda.h>

#include <string_view>

using namespace oriel::ptx_machine;  // NOLINT: functions of C

namespace {

device_memory& memory() {
  return runtime::of_process().memory;
}

CUresult outcome(bool is_done) {
  return is_done ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

bool is_of_device(const CUmemAllocationProp* p) {
  return p != nullptr && p->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         p->location.type == CU_MEM_LOCATION_TYPE_DEVICE && p->location.id == 0;
}

CUresult granularity(std::size_t* bytes,
                     const CUmemAllocationProp* p,
                     CUmemAllocationGranularity_flags) {
  if (!is_of_device(p)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *bytes = device_memory::granularity_bytes;
  return CUDA_SUCCESS;
}

CUresult reserve(CUdeviceptr* at,
                 std::size_t bytes,
                 std::size_t alignment,
                 CUdeviceptr,
                 unsigned long long flags) {
  if (flags != 0 || bytes == 0 || bytes % device_memory::granularity_bytes != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *at = memory().reserve(bytes, alignment);
  return *at != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult unreserve(CUdeviceptr at, std::size_t bytes) {
  return outcome(memory().unreserve(at, bytes));
}

CUresult create(CUmemGenericAllocationHandle* handle,
                std::size_t bytes,
                const CUmemAllocationProp* p,
                unsigned long long flags) {
  if (flags != 0 || !is_of_device(p) || bytes == 0 ||
      bytes % device_memory::granularity_bytes != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *handle = memory().create(bytes);
  return *handle != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult release(CUmemGenericAllocationHandle handle) {
  return outcome(memory().release_handle(handle));
}

CUresult map(CUdeviceptr at,
             std::size_t bytes,
             std::size_t offset,
             CUmemGenericAllocationHandle handle,
             unsigned long long flags) {
  return outcome(flags == 0 && offset == 0 && memory().map(at, bytes, handle));
}

CUresult unmap(CUdeviceptr at, std::size_t bytes) {
  return outcome(memory().unmap(at, bytes));
}

CUresult set_access(CUdeviceptr at,
                    std::size_t bytes,
                    const CUmemAccessDesc* access,
                    std::size_t count) {
  const bool is_ours = count == 1 && access->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
                       access->location.id == 0 &&
                       access->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return outcome(is_ours && memory().set_access(at, bytes));
}

// The types are those of the toolkit's header.
static_assert(std::is_same_v<decltype(&reserve), decltype(&cuMemAddressReserve)>);
static_assert(std::is_same_v<decltype(&unreserve), decltype(&cuMemAddressFree)>);
static_assert(std::is_same_v<decltype(&create), decltype(&cuMemCreate)>);
static_assert(std::is_same_v<decltype(&release), decltype(&cuMemRelease)>);
static_assert(std::is_same_v<decltype(&map), decltype(&cuMemMap)>);
static_assert(std::is_same_v<decltype(&unmap), decltype(&cuMemUnmap)>);
static_assert(std::is_same_v<decltype(&set_access), decltype(&cuMemSetAccess)>);
static_assert(std::is_same_v<decltype(&granularity), decltype(&cuMemGetAllocationGranularity)>);

struct entry {
  std::string_view name;
  void* function;
};

}  // namespace

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol,
                                                        void** out,
                                                        unsigned version,
                                                        unsigned long long,
                                                        cudaDriverEntryPointQueryResult* why) {
  constexpr unsigned introduced = 10'020;
  const entry entries[] = {
      {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(granularity)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(reserve)},
      {"cuMemAddressFree", reinterpret_cast<void*>(unreserve)},
      {"cuMemCreate", reinterpret_cast<void*>(create)},
      {"cuMemRelease", reinterpret_cast<void*>(release)},
      {"cuMemMap", reinterpret_cast<void*>(map)},
      {"cuMemUnmap", reinterpret_cast<void*>(unmap)},
      {"cuMemSetAccess", reinterpret_cast<void*>(set_access)},
  };
  return call([&](runtime&) {
    *out = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    for (const entry& e : entries) {
      if (e.name == symbol) {
        result = version < introduced ? cudaDriverEntryPointVersionNotSufficent
                                      : cudaDriverEntryPointSuccess;
        *out = version < introduced ? nullptr : e.function;
      }
    }
    if (why != nullptr) {
      *why = result;
      return cudaSuccess;
    }
    return *out == nullptr ? cudaErrorSymbolNotFound : cudaSuccess;
  });
}
