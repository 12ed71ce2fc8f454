// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

#include <ptx_machine/program/program.hpp>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <system_error>

#include <malloc.h>

namespace oriel::ptx_machine {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

/// Ends the process where it is no number from `least` to `most`: a seed that is another one would mislead.
std::uint64_t from_environment(const char* name,
                               std::uint64_t otherwise,
                               std::uint64_t least,
                               std::uint64_t most) {
  const char* const text = std::getenv(name);
  if (text == nullptr || *text == '\0') {
    return otherwise;
  }
  std::uint64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stopped, code] = std::from_chars(text, end, value);
  if (code != std::errc() || stopped != end || value < least || value > most) {
    std::fprintf(stderr,
                 "ptx machine: %s='%s' is no number from %llu to %llu\n",
                 name,
                 text,
                 static_cast<unsigned long long>(least),
                 static_cast<unsigned long long>(most));
    std::exit(2);
  }
  return value;
}

/// Prints what it was, too.
cudaError_t code_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ptx machine: %s\n", e.what());
    const std::string_view what = e.what();
    // As executor/warp_memory.cpp says it.
    return what.find(" is not a multiple of ") != what.npos ? cudaErrorMisalignedAddress
           : what.find(" bytes at 0x") != what.npos         ? cudaErrorIllegalAddress
                                                            : cudaErrorLaunchFailure;
  }
}

}  // namespace

runtime::runtime()
    : multiprocessors(
          static_cast<std::uint32_t>(from_environment("ORIEL_PTX_MULTIPROCESSORS", 4, 1, 1024))),
      memory(from_environment("ORIEL_PTX_MEMORY_MB", 4096, 1, 1 << 20) << 20),
      all_streams(from_environment("ORIEL_PTX_SEED", 0, 0, ~std::uint64_t{0})) {
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
