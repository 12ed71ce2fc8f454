// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/aligned_bytes.hpp>

#include <cstring>
#include <new>
#include <utility>

namespace oriel::engine {

namespace {
constexpr std::size_t mapped_from_bytes = std::size_t{4} << 20;
}  // namespace

aligned_bytes::aligned_bytes(std::size_t size_bytes) : size_(size_bytes) {
  if (size_bytes >= mapped_from_bytes) {
    auto memory = huge_page_memory::reserve(size_bytes);
    if (!memory) {
      throw std::bad_alloc();
    }
    mapped_ = *std::move(memory);
    first_ = mapped_.base();
  } else if (size_bytes != 0) {
    first_ = static_cast<std::byte*>(::operator new (size_bytes, std::align_val_t{alignment}));
    std::memset(first_, 0, size_bytes);
  }
}

aligned_bytes::~aligned_bytes() {
  if (mapped_.base() == nullptr) {
    ::operator delete (first_, std::align_val_t{alignment});
  }
}

}  // namespace oriel::engine
