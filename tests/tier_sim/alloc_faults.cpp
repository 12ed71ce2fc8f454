// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "alloc_faults.hpp"

#include <cstdlib>
#include <new>
#include <utility>

namespace {

thread_local std::int64_t* countdown_now = nullptr;

}  // namespace

namespace sim {

alloc_faults::alloc_faults(std::int64_t* countdown) noexcept
    : before_(std::exchange(countdown_now, countdown)) {}
alloc_faults::~alloc_faults() {
  countdown_now = before_;
}

}  // namespace sim

void* operator new(std::size_t bytes) {
  if (countdown_now != nullptr && *countdown_now >= 0 && (*countdown_now)-- == 0) {
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(bytes != 0 ? bytes : 1)) {
    return memory;
  }
  throw std::bad_alloc();
}
void* operator new[](std::size_t bytes) {
  return operator new(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
// Where the first one is replaced, a sanitizer keeps its own of these.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return std::malloc(bytes != 0 ? bytes : 1);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return std::malloc(bytes != 0 ? bytes : 1);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
