// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

#include <ptx_machine/program/program.hpp>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <malloc.h>

namespace oriel::ptx_machine {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// Prints what it was, too.
cudaError_t code_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ptx machine: %s\n", e.what());
    const std::string_view what = e.what();
    const bool is_of_address = what.find("address") != std::string_view::npos;
    return is_of_address ? cudaErrorIllegalAddress : cudaErrorLaunchFailure;
  }
}

}  // namespace

runtime::runtime()
    : multiprocessors(static_cast<std::uint32_t>(from_environment("ORIEL_PTX_MULTIPROCESSORS", 4))),
      memory(from_environment("ORIEL_PTX_MEMORY_MB", 4096) << 20),
      all_streams(from_environment("ORIEL_PTX_SEED", 0)) {
  // Each launch takes megabytes for its registers and gives them back: they are kept, or pages come and go all the time.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

runtime& runtime::of_process() {
  static auto* const only = new runtime;
  return *only;
}

cudaError_t lost_device() {
  const std::exception_ptr failure = runtime::of_process().all_streams.queue().failure();
  if (failure == nullptr) {
    return cudaSuccess;
  }
  static const cudaError_t code = code_of(failure);
  return code;
}

cudaError_t told(cudaError_t outcome) {
  if (outcome != cudaSuccess) {
    last_error = outcome;
  }
  return outcome;
}

}  // namespace oriel::ptx_machine

using namespace oriel::ptx_machine;  // NOLINT: the functions of C are at the end of the file

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t out = last_error;
  last_error = lost_device();  // That error stays.
  return out;
}

cudaError_t cudaPeekAtLastError() {
  return last_error;
}

}  // extern "C"
