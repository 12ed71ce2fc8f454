// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/route/detail/link_table.hpp>

#include <new>
#include <utility>

namespace oriel::detail {

link_table::link_table(std::uint32_t capacity_pages)
    : bucket_count_(capacity_pages / 5 + 2) {  // 5 of 7 entries used where it is full
  result<huge_page_memory> memory =
      huge_page_memory::reserve(std::size_t{bucket_count_} * sizeof(bucket));
  if (!memory) {
    throw std::bad_alloc();
  }
  memory_ = std::move(*memory);
  buckets_ = reinterpret_cast<bucket*>(memory_.base());  // Zeroed by the system: empty.
}

void link_table::insert(std::uint64_t hash, std::uint32_t position, run_id run) noexcept {
  std::uint32_t at = home(hash);
  while (buckets_[at].used == entries_per_bucket) {
    ++buckets_[at].went_past;
    at = next(at);
  }
  bucket& b = buckets_[at];
  b.entries[b.used++] = entry(hash, position, run);
}

void link_table::erase(std::uint64_t hash, std::uint32_t position, run_id run) noexcept {
  const std::uint64_t wanted = entry(hash, position, run);
  for (std::uint32_t at = home(hash);; at = next(at)) {
    bucket& b = buckets_[at];
    for (std::uint32_t i = 0; i < b.used; ++i) {
      if (b.entries[i] == wanted) {
        b.entries[i] = b.entries[--b.used];
        return;
      }
    }
    ORIEL_EXPECTS(b.went_past != 0);
    --b.went_past;
  }
}

void link_table::move(std::uint64_t hash, std::uint32_t position, run_id from, run_id to) noexcept {
  const std::uint64_t wanted = entry(hash, position, from);
  for (std::uint32_t at = home(hash);; at = next(at)) {
    bucket& b = buckets_[at];
    for (std::uint32_t i = 0; i < b.used; ++i) {
      if (b.entries[i] == wanted) {
        b.entries[i] = entry(hash, position, to);
        return;
      }
    }
    ORIEL_EXPECTS(b.went_past != 0);
  }
}

}  // namespace oriel::detail
