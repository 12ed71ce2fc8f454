// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The functions of libcudart about the device and about errors.
#include "runtime.hpp"

#include <cstdio>
#include <cstring>

using namespace oriel::ptx_machine;  // NOLINT: functions of C

namespace {

constexpr int shared_bytes = 48 << 10, shared_opt_in_bytes = 227 << 10,
              shared_of_multiprocessor_bytes = 228 << 10;
constexpr int cache_bytes = 60 << 20, version = CUDART_VERSION;

struct error_text {
  cudaError_t code;
  const char *name, *text;
};
#define ORIEL_ERROR(code, text) \
  { code, #code, text }
constexpr error_text error_texts[] = {
    ORIEL_ERROR(cudaSuccess, "no error"),
    ORIEL_ERROR(cudaErrorInvalidValue, "an argument is not valid"),
    ORIEL_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ORIEL_ERROR(cudaErrorInvalidConfiguration, "grid or block are beyond the limits"),
    ORIEL_ERROR(cudaErrorInvalidClusterSize, "no such clusters of this kernel"),
    ORIEL_ERROR(cudaErrorInvalidDeviceFunction, "no such kernel"),
    ORIEL_ERROR(cudaErrorInvalidDevice, "no such device"),
    ORIEL_ERROR(cudaErrorNoKernelImageForDevice, "no PTX of the kernel that can be read"),
    ORIEL_ERROR(cudaErrorInvalidResourceHandle, "no such stream, event or graph"),
    ORIEL_ERROR(cudaErrorIllegalState, "the stream is not in a state for this"),
    ORIEL_ERROR(cudaErrorSymbolNotFound, "no such symbol"),
    ORIEL_ERROR(cudaErrorNotReady, "not done yet"),
    ORIEL_ERROR(cudaErrorIllegalAddress, "an illegal address (the machine's message is on stderr)"),
    ORIEL_ERROR(cudaErrorMisalignedAddress,
                "a misaligned address (the machine's message is on stderr)"),
    ORIEL_ERROR(cudaErrorLaunchOutOfResources, "more threads than the kernel is made for"),
    ORIEL_ERROR(cudaErrorLaunchFailure, "a kernel failed (the machine's message is on stderr)"),
    ORIEL_ERROR(cudaErrorNotPermitted, "a call in a host function of a stream"),
    ORIEL_ERROR(cudaErrorStreamCaptureUnsupported, "not while a stream captures"),
    ORIEL_ERROR(cudaErrorStreamCaptureInvalidated, "the capture was ended by an earlier error"),
    ORIEL_ERROR(cudaErrorStreamCaptureMerge, "two captures cannot be one"),
    ORIEL_ERROR(cudaErrorStreamCaptureUnmatched, "the capture began in another stream"),
    ORIEL_ERROR(cudaErrorStreamCaptureUnjoined, "a stream of the capture was not joined"),
    ORIEL_ERROR(cudaErrorStreamCaptureIsolation, "a capture cannot wait for what is outside of it"),
    ORIEL_ERROR(cudaErrorStreamCaptureImplicit, "the legacy stream would wait for a capture"),
    ORIEL_ERROR(cudaErrorCapturedEvent, "the event was recorded in a capture"),
    ORIEL_ERROR(cudaErrorStreamCaptureWrongThread, "another thread began the capture"),
};
#undef ORIEL_ERROR

const error_text* find(cudaError_t code) {
  for (const error_text& e : error_texts) {
    if (e.code == code) {
      return &e;
    }
  }
  return nullptr;
}

bool attribute(cudaDeviceAttr which, int& out) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      return out = 1024, true;
    case cudaDevAttrMaxBlockDimZ:
      return out = 64, true;
    case cudaDevAttrMaxGridDimX:
      return out = 0x7FFFFFFF, true;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      return out = 65'535, true;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return out = shared_bytes, true;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return out = shared_opt_in_bytes, true;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return out = shared_of_multiprocessor_bytes, true;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      return out = 1024, true;
    case cudaDevAttrWarpSize:
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      return out = 32, true;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return out = 65'536, true;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return out = 2048, true;
    case cudaDevAttrMultiProcessorCount:
      return out = static_cast<int>(runtime::of_process().multiprocessors), true;
    case cudaDevAttrL2CacheSize:
      return out = cache_bytes, true;
    case cudaDevAttrComputeCapabilityMajor:
      return out = 9, true;
    case cudaDevAttrComputeCapabilityMinor:
    case cudaDevAttrPageableMemoryAccess:
    case cudaDevAttrIntegrated:
      return out = 0, true;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCooperativeLaunch:
      return out = 1, true;
    default:
      return false;
  }
}

}  // namespace

extern "C" {

const char* cudaGetErrorString(cudaError_t code) {
  const error_text* const e = find(code);
  return e == nullptr ? "an error that the machine does not make" : e->text;
}

const char* cudaGetErrorName(cudaError_t code) {
  const error_text* const e = find(code);
  return e == nullptr ? "unknown" : e->name;
}

cudaError_t cudaGetDeviceCount(int* count) {
  return *count = 1, cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  return *device = 0, cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return told(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaRuntimeGetVersion(int* out) {
  return *out = version, cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* out) {
  return *out = version, cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  if (device != 0) {
    return told(cudaErrorInvalidDevice);
  }
  return told(attribute(which, *value) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  if (device != 0) {
    return told(cudaErrorInvalidDevice);
  }
  const runtime& r = runtime::of_process();
  *out = {};
  std::snprintf(out->name, sizeof out->name, "PTX machine (host)");
  out->totalGlobalMem = r.memory.capacity_bytes();
  out->sharedMemPerBlock = shared_bytes;
  out->sharedMemPerBlockOptin = shared_opt_in_bytes;
  out->sharedMemPerMultiprocessor = shared_of_multiprocessor_bytes;
  out->reservedSharedMemPerBlock = 1024;
  out->regsPerBlock = out->regsPerMultiprocessor = 65'536;
  out->warpSize = out->maxBlocksPerMultiProcessor = 32;
  out->maxThreadsPerBlock = out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
  out->maxThreadsDim[2] = 64;
  out->maxGridSize[0] = 0x7FFFFFFF;
  out->maxGridSize[1] = out->maxGridSize[2] = 65'535;
  out->maxThreadsPerMultiProcessor = 2048;
  out->major = 9;
  out->minor = 0;
  out->multiProcessorCount = static_cast<int>(r.multiprocessors);
  out->l2CacheSize = cache_bytes;
  out->memoryBusWidth = 6144;
  out->asyncEngineCount = 3;
  out->concurrentKernels = out->unifiedAddressing = out->canMapHostMemory = out->cooperativeLaunch =
      out->clusterLaunch = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return waiting_call([](runtime& r) { return r.all_streams.finish_all(); });
}

}  // extern "C"
