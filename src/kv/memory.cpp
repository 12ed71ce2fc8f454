// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/memory.hpp>

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <utility>

namespace oriel {
namespace {

constexpr std::size_t alignment_bytes = 64;

/// More than any process can address. Refused before malloc is asked: a sanitizer's aborts on it.
constexpr std::size_t host_bytes_max = std::size_t{1} << 47;

constexpr bool can_round_up(std::size_t bytes, std::size_t step) noexcept {
  return bytes <= std::numeric_limits<std::size_t>::max() - (step - 1);
}

constexpr std::size_t round_up(std::size_t bytes, std::size_t step) noexcept {
  return (bytes + step - 1) / step * step;
}

failure refused(int native, const char* detail) noexcept {
  return {errc::out_of_memory, native, detail};
}

void give_back_host(std::byte* base, std::size_t) noexcept {
  std::free(base);
}

void give_back_mapped(std::byte* base, std::size_t size_bytes) noexcept {
  ::munmap(base, size_bytes);
}

void give_back_huge(std::byte* base, std::size_t size_bytes) noexcept {
  ::munmap(base, round_up(size_bytes, huge_page_memory::huge_page_bytes));
}

/// A private mapping, or null with errno set. Bare addresses are not counted as memory; what can be
/// written is, so that the system refuses here what it could never back.
std::byte* map(std::size_t bytes, int protection) noexcept {
  const int uncounted = protection == PROT_NONE ? MAP_NORESERVE : 0;
  void* base = ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | uncounted, -1, 0);
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

}  // namespace

void detail::memory_range::swap(memory_range& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(committed_bytes_, other.committed_bytes_);
  std::swap(give_back_, other.give_back_);
}

result<host_memory> host_memory::reserve(std::size_t bytes) noexcept {
  if (bytes == 0) {
    return host_memory{};
  }
  if (bytes > host_bytes_max) {
    return refused(ENOMEM, "host memory");
  }
  void* base = std::aligned_alloc(alignment_bytes, round_up(bytes, alignment_bytes));
  if (base == nullptr) {
    return refused(ENOMEM, "host memory");
  }
  return host_memory{static_cast<std::byte*>(base), bytes, bytes, give_back_host};
}

status host_memory::commit(std::size_t bytes) noexcept {
  ORIEL_EXPECTS(bytes <= size_bytes());
  return {};
}

result<huge_page_memory> huge_page_memory::reserve(std::size_t bytes) noexcept {
  if (bytes == 0) {
    return huge_page_memory{};
  }
  if (!can_round_up(bytes, 2 * huge_page_bytes)) {
    return refused(ENOMEM, "huge page memory");
  }
  // mmap aligns to small pages: take one huge page more, then return what stands over at both ends.
  const std::size_t size = round_up(bytes, huge_page_bytes);
  const std::size_t mapped = size + huge_page_bytes;
  std::byte* const start = map(mapped, PROT_READ | PROT_WRITE);
  if (start == nullptr) {
    return refused(errno, "huge page memory");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::size_t before = round_up(address, huge_page_bytes) - address;
  const std::size_t after = mapped - before - size;
  if (before != 0) {
    ::munmap(start, before);
  }
  if (after != 0) {
    ::munmap(start + before + size, after);
  }
  static_cast<void>(::madvise(start + before, size, MADV_HUGEPAGE));  // Refused: small pages.
  return huge_page_memory{start + before, bytes, bytes, give_back_huge};
}

status huge_page_memory::commit(std::size_t bytes) noexcept {
  ORIEL_EXPECTS(bytes <= size_bytes());
  return {};
}

result<on_demand_memory> on_demand_memory::reserve(std::size_t bytes) noexcept {
  if (bytes == 0) {
    return on_demand_memory{};
  }
  std::byte* const base = map(bytes, PROT_NONE);
  if (base == nullptr) {
    return refused(errno, "address space");
  }
  return on_demand_memory{base, bytes, 0, give_back_mapped};
}

status on_demand_memory::commit(std::size_t bytes) noexcept {
  ORIEL_EXPECTS(bytes <= size_bytes());
  if (bytes <= committed_bytes()) {
    return {};
  }
  const std::size_t step_end =
      can_round_up(bytes, commit_step_bytes) ? round_up(bytes, commit_step_bytes) : size_bytes();
  const std::size_t end = step_end < size_bytes() ? step_end : size_bytes();
  const std::size_t begin = committed_bytes();  // A multiple of the step, hence of a small page.
  if (::mprotect(base() + begin, end - begin, PROT_READ | PROT_WRITE) != 0) {
    return refused(errno, "committing memory");
  }
  set_committed(end);
  return {};
}

result<address_only_memory> address_only_memory::reserve(std::size_t bytes) noexcept {
  if (bytes == 0) {
    return address_only_memory{};
  }
  std::byte* const base = map(bytes, PROT_NONE);
  if (base == nullptr) {
    return refused(errno, "address space");
  }
  return address_only_memory{base, bytes, 0, give_back_mapped};
}

status address_only_memory::commit(std::size_t bytes) noexcept {
  ORIEL_EXPECTS(bytes <= size_bytes());
  return {};
}

}  // namespace oriel
