// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/tier/detail/bounce_pool.hpp>
#include <oriel/tier/segment_disk.hpp>

#include <algorithm>
#include <new>

namespace oriel::detail {

bounce_pool::bounce_pool(std::size_t bytes)
    : is_used_(std::max<std::size_t>(bytes / disk_alignment_bytes, 1)) {
  memory_ = static_cast<std::byte*>(::operator new(is_used_.size() * disk_alignment_bytes,
                                                   std::align_val_t(disk_alignment_bytes)));
}

bounce_pool::~bounce_pool() {
  ::operator delete(memory_, std::align_val_t(disk_alignment_bytes));
}

std::span<std::byte> bounce_pool::acquire(std::size_t bytes) noexcept {
  const std::size_t blocks = (bytes + disk_alignment_bytes - 1) / disk_alignment_bytes;
  if (blocks == 0 || blocks > is_used_.size() - used_blocks_) {
    return {};
  }
  // Next fit, once around: most runs are short and go back soon.
  std::size_t run = 0;
  const std::size_t from = next_;
  for (std::size_t looked = 0; looked < is_used_.size() + blocks; ++looked) {
    const std::size_t at = (from + looked) % is_used_.size();
    run = at == 0 ? 0 : run;
    run = is_used_[at] ? 0 : run + 1;
    if (run == blocks) {
      const std::size_t first = at + 1 - blocks;
      std::fill_n(is_used_.begin() + static_cast<std::ptrdiff_t>(first), blocks, true);
      used_blocks_ += blocks;
      next_ = (at + 1) % is_used_.size();
      return {memory_ + first * disk_alignment_bytes, blocks * disk_alignment_bytes};
    }
  }
  return {};
}

void bounce_pool::release(std::span<std::byte> run) noexcept {
  if (run.empty()) {
    return;
  }
  const auto first = static_cast<std::size_t>(run.data() - memory_) / disk_alignment_bytes;
  const std::size_t blocks = run.size() / disk_alignment_bytes;
  ORIEL_EXPECTS(first + blocks <= is_used_.size() && is_used_[first]);
  std::fill_n(is_used_.begin() + static_cast<std::ptrdiff_t>(first), blocks, false);
  used_blocks_ -= blocks;
}

std::size_t bounce_pool::capacity_bytes() const noexcept {
  return is_used_.size() * disk_alignment_bytes;
}

std::size_t bounce_pool::used_bytes() const noexcept {
  return used_blocks_ * disk_alignment_bytes;
}

}  // namespace oriel::detail
