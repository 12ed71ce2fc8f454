// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/aligned_bytes.hpp>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

namespace oriel::engine {
namespace {

constexpr std::size_t mapped_from_bytes = std::size_t{4} << 20;
constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;
constexpr std::size_t page_bytes = 4096;

constexpr std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

/// Anonymous pages, 2 MiB aligned. The surplus around the aligned run is given back.
std::byte* map_pages(std::size_t size) {
  const std::size_t length = round_up(size, page_bytes), surplus = huge_page_bytes;
  void* raw =
      ::mmap(nullptr, length + surplus, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    throw std::bad_alloc();
  }
  auto* const begin = static_cast<std::byte*>(raw);
  const auto address = reinterpret_cast<std::uintptr_t>(raw);
  const std::size_t before = round_up(address, huge_page_bytes) - address;
  if (before != 0) {
    ::munmap(begin, before);
  }
  if (before != surplus) {
    ::munmap(begin + before + length, surplus - before);
  }
  ::madvise(begin + before, length, MADV_HUGEPAGE);  // Advice: a refusal changes speed alone.
  return begin + before;
}

}  // namespace

aligned_bytes::aligned_bytes(std::size_t size_bytes) : size_(size_bytes) {
  if (size_bytes > std::numeric_limits<std::size_t>::max() / 2) {
    throw std::bad_alloc();
  }
  if (size_bytes >= mapped_from_bytes) {
    first_ = map_pages(size_bytes);
  } else if (size_bytes != 0) {
    first_ = static_cast<std::byte*>(::operator new (size_bytes, std::align_val_t{alignment}));
    std::memset(first_, 0, size_bytes);
  }
}

aligned_bytes::~aligned_bytes() {
  if (size_ >= mapped_from_bytes) {
    ::munmap(first_, round_up(size_, page_bytes));
  } else if (size_ != 0) {
    ::operator delete (first_, std::align_val_t{alignment});
  }
}

}  // namespace oriel::engine
