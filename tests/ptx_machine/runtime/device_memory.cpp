// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "device_memory.hpp"

#include <ptx_machine/block/memory_map.hpp>
#include <sys/mman.h>

#include <cstring>
#include <utility>

#include <unistd.h>

namespace oriel::ptx_machine {
namespace {

constexpr std::size_t page_bytes = 4096;
/// What CUDA promises, and no more: an odd multiple of it.
constexpr std::size_t alignment_bytes = 256;
constexpr std::size_t retired_bytes_max = std::size_t{1} << 38;
constexpr std::size_t size_max = std::size_t{1} << 44;

std::uint64_t number(const void* at) {
  return reinterpret_cast<std::uint64_t>(at);
}
void* pointer(std::uint64_t at) {
  return reinterpret_cast<void*>(at);  // NOLINT
}

std::size_t rounded(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::uint64_t take_addresses(std::size_t bytes) {
  void* const at =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? 0 : number(at);
}

bool is_multiple(std::size_t bytes) {
  return bytes != 0 && bytes % device_memory::granularity_bytes == 0;
}

}  // namespace

void* device_memory::allocate(std::size_t bytes, place where) {
  const std::lock_guard lock(mutex_);
  if (bytes > size_max || (where == place::device && bytes > capacity_ - used_)) {
    return nullptr;
  }
  // A guard, the offset that leaves the address no more aligned than promised, the bytes, a guard.
  const std::size_t inner = rounded(bytes + alignment_bytes, page_bytes);
  const std::size_t all = inner + 2 * page_bytes;
  const std::uint64_t mapping = take_addresses(all);
  if (mapping == 0) {
    return nullptr;
  }
  if (mprotect(pointer(mapping + page_bytes), inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(pointer(mapping), all);
    return nullptr;
  }
  const std::uint64_t at = mapping + page_bytes + alignment_bytes;
  std::memset(pointer(at), 0xFF, bytes);
  addresses_[mapping] = all;
  pieces_[at] = {bytes, where, mapping, all};
  used_ += where == place::device ? bytes : 0;
  memory_map::of_process().add(at, bytes);
  return pointer(at);
}

void device_memory::retire(std::uint64_t mapping, std::size_t bytes) {
  madvise(pointer(mapping), bytes, MADV_DONTNEED);
  mprotect(pointer(mapping), bytes, PROT_NONE);
  retired_.push_back(mapping);
  retired_bytes_ += bytes;
  while (retired_bytes_ > retired_bytes_max) {
    const auto oldest = addresses_.find(retired_.front());
    retired_.pop_front();
    munmap(pointer(oldest->first), oldest->second);
    retired_bytes_ -= oldest->second;
    addresses_.erase(oldest);
  }
}

bool device_memory::release(void* at, place where) {
  const std::lock_guard lock(mutex_);
  const auto found = pieces_.find(number(at));
  if (found == pieces_.end() || found->second.where != where || found->second.mapping == 0) {
    return false;
  }
  memory_map::of_process().remove(found->first);
  used_ -= where == place::device ? found->second.bytes : 0;
  retire(found->second.mapping, found->second.mapping_bytes);
  pieces_.erase(found);
  return true;
}

place device_memory::where(const void* at, std::size_t bytes) const {
  const std::lock_guard lock(mutex_);
  const std::uint64_t a = number(at);
  auto p = pieces_.upper_bound(a);
  if (p != pieces_.begin() && (--p, a < p->first + p->second.bytes)) {
    return bytes <= p->first + p->second.bytes - a ? p->second.where : place::outside;
  }
  auto m = addresses_.upper_bound(a);
  const bool is_ours = m != addresses_.begin() && (--m, a < m->first + m->second);
  return is_ours ? place::outside : place::pageable;
}

std::size_t device_memory::free_bytes() const {
  const std::lock_guard lock(mutex_);
  return capacity_ - used_;
}

std::uint64_t device_memory::reserve(std::size_t bytes, std::size_t alignment) {
  const std::lock_guard lock(mutex_);
  if (!is_multiple(bytes) || bytes > size_max || alignment > granularity_bytes) {
    return 0;
  }
  const std::size_t all = bytes + 2 * granularity_bytes;  // Room to align, and a guard behind.
  const std::uint64_t mapping = take_addresses(all);
  if (mapping == 0) {
    return 0;
  }
  const std::uint64_t at = rounded(mapping, granularity_bytes);
  addresses_[mapping] = all;
  reserved_[at] = bytes;
  return at;
}

bool device_memory::unreserve(std::uint64_t at, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto r = reserved_.find(at);
  const auto m = mapped_.lower_bound(at);
  if (r == reserved_.end() || r->second != bytes || (m != mapped_.end() && m->first < at + bytes)) {
    return false;
  }
  reserved_.erase(r);
  const auto mapping = std::prev(addresses_.upper_bound(at));
  retire(mapping->first, mapping->second);
  return true;
}

std::uint64_t device_memory::create(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!is_multiple(bytes) || bytes > capacity_ - used_) {
    return 0;
  }
  const int file = memfd_create("device memory", MFD_CLOEXEC);
  if (file < 0) {
    return 0;
  }
  if (ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    close(file);
    return 0;
  }
  void* const once = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (once == MAP_FAILED) {
    close(file);
    return 0;
  }
  std::memset(once, 0xFF, bytes);
  munmap(once, bytes);
  used_ += bytes;
  physical_[next_handle_] = {file, bytes, 1, true};
  return next_handle_++;
}

void device_memory::drop_use(std::map<std::uint64_t, physical>::iterator p) {
  if (--p->second.uses == 0) {
    close(p->second.file);
    used_ -= p->second.bytes;
    physical_.erase(p);
  }
}

bool device_memory::release_handle(std::uint64_t handle) {
  const std::lock_guard lock(mutex_);
  const auto p = physical_.find(handle);
  if (p == physical_.end() || !std::exchange(p->second.has_handle, false)) {
    return false;
  }
  drop_use(p);
  return true;
}

bool device_memory::map(std::uint64_t at, std::size_t bytes, std::uint64_t handle) {
  const std::lock_guard lock(mutex_);
  const auto p = physical_.find(handle);
  auto r = reserved_.upper_bound(at);
  if (p == physical_.end() || !p->second.has_handle || p->second.bytes != bytes ||
      at % granularity_bytes != 0 || r == reserved_.begin() ||
      (--r, at + bytes > r->first + r->second)) {
    return false;
  }
  const auto next = mapped_.lower_bound(at);
  if ((next != mapped_.end() && next->first < at + bytes) ||
      (next != mapped_.begin() && std::prev(next)->first + std::prev(next)->second.bytes > at)) {
    return false;
  }
  if (mmap(pointer(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, p->second.file, 0) ==
      MAP_FAILED) {
    return false;
  }
  ++p->second.uses;
  mapped_[at] = {bytes, handle, false};
  return true;
}

bool device_memory::is_mapped_whole(std::uint64_t at, std::size_t bytes) const {
  const std::uint64_t end = at + bytes;
  for (auto m = mapped_.find(at); m != mapped_.end() && m->first == at; ++m) {
    at += m->second.bytes;
    if (at >= end) {
      break;
    }
  }
  return at == end && bytes != 0;
}

bool device_memory::unmap(std::uint64_t at, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!is_mapped_whole(at, bytes)) {
    return false;
  }
  for (auto m = mapped_.find(at); m != mapped_.end() && m->first < at + bytes;) {
    mmap(pointer(m->first),
         m->second.bytes,
         PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
         -1,
         0);
    drop_use(physical_.find(m->second.handle));
    m = mapped_.erase(m);
  }
  update_runs();
  return true;
}

bool device_memory::set_access(std::uint64_t at, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!is_mapped_whole(at, bytes)) {
    return false;
  }
  for (auto m = mapped_.find(at); m != mapped_.end() && m->first < at + bytes; ++m) {
    mprotect(pointer(m->first), m->second.bytes, PROT_READ | PROT_WRITE);
    m->second.is_accessible = true;
  }
  update_runs();
  return true;
}

/// Neighbours are one piece: an access may span them.
void device_memory::update_runs() {
  std::map<std::uint64_t, std::size_t> runs;
  for (const auto& [at, m] : mapped_) {
    if (m.is_accessible) {
      const bool follows = !runs.empty() && runs.rbegin()->first + runs.rbegin()->second == at &&
                           !reserved_.contains(at);
      (follows ? runs.rbegin()->second : runs[at]) += m.bytes;
    }
  }
  for (auto p = pieces_.begin(); p != pieces_.end();) {
    const auto run = runs.find(p->first);
    if (p->second.mapping != 0) {
      ++p;
    } else if (run != runs.end() && run->second == p->second.bytes) {
      runs.erase(run);
      ++p;
    } else {
      if (run == runs.end()) {  // Else it is replaced at once: a kernel may be running.
        memory_map::of_process().remove(p->first);
      }
      p = pieces_.erase(p);
    }
  }
  for (const auto& [at, bytes] : runs) {
    pieces_[at] = {bytes, place::device, 0, 0};
    memory_map::of_process().add(at, bytes);
  }
}

}  // namespace oriel::ptx_machine
