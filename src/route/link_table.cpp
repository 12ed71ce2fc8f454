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

template <class Passed>
std::uint64_t& link_table::place_of(std::uint64_t hash,
                                    std::uint32_t position,
                                    strand_id strand,
                                    Passed&& passed) noexcept {
  const std::uint64_t wanted = key(hash, position);
  for (std::uint32_t at = home(hash);; at = next(at)) {
    bucket& b = buckets_[at];
    for (std::uint32_t same = entries_of(b, wanted); same != 0; same &= same - 1) {
      std::uint64_t& found = b.entries[std::countr_zero(same)];
      if (strand_of(found) == strand) {
        passed(b, true);
        return found;
      }
    }
    ORIEL_EXPECTS(b.went_past != 0);
    passed(b, false);
  }
}

void link_table::erase(std::uint64_t hash, std::uint32_t position, strand_id strand) noexcept {
  bucket* last = nullptr;
  std::uint64_t& found = place_of(hash, position, strand, [&](bucket& b, bool is_here) {
    b.went_past -= !is_here;
    last = &b;
  });
  found = last->entries[last->used - 1];
  last->entries[last->used - 1] = 0;
  --last->used;
}

void link_table::move(std::uint64_t hash,
                      std::uint32_t position,
                      strand_id from,
                      strand_id to) noexcept {
  place_of(hash, position, from, [](bucket&, bool) {}) = entry(hash, position, to);
}

}  // namespace oriel::detail
