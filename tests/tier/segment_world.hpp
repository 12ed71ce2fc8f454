// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A small world around a segment store: pages whose bytes follow from their keys, a driver that
/// waits, and a slow model of what a get may, must and must never find.
#pragma once

#include "tier/sim_disk.hpp"

#include <oriel/tier/segment_store.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace oriel_test {

using namespace oriel;

/// splitmix64 of what a page is: its bytes, and other things that must not repeat.
inline std::uint64_t mixed(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t z = a * 0x9E37'79B9'7F4A'7C15u + b * 0xD6E8'FEB8'6659'FD93u + 1;
  z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9u;
  z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EBu;
  return z ^ (z >> 31);
}

inline page_digest digest_of(std::uint64_t seed) noexcept {
  page_digest d;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t word = mixed(seed, i);
    std::memcpy(d.bytes.data() + 8 * i, &word, sizeof(word));
  }
  return d;
}

/// Memory at a multiple of 4 KiB.
class aligned_bytes {
 public:
  explicit aligned_bytes(std::size_t bytes) : memory_(bytes + disk_alignment_bytes), size_(bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    first_ = (disk_alignment_bytes - address % disk_alignment_bytes) % disk_alignment_bytes;
  }
  [[nodiscard]] std::span<std::byte> bytes() noexcept { return {memory_.data() + first_, size_}; }

 private:
  std::vector<std::byte> memory_;
  std::size_t size_, first_ = 0;
};

/// Page number k of a toy model: one full pool with an aligned and an odd layer, one window pool.
struct toy_page {
  std::uint64_t number = 0;  // its link
  std::uint32_t pool = 0;
  std::uint64_t spaces = 2, sessions = 3;

  [[nodiscard]] page_key key() const noexcept { return {digest_of(number), pool}; }
  [[nodiscard]] std::uint64_t space() const noexcept { return number % spaces; }
  [[nodiscard]] page_digest name_space() const noexcept { return digest_of(1'000'000 + space()); }
  [[nodiscard]] page_owner owner() const noexcept { return {1 + space(), 1 + number % sessions}; }
  [[nodiscard]] std::vector<std::size_t> slice_bytes() const {
    return pool == 0 ? std::vector<std::size_t>{4096, 700} : std::vector<std::size_t>{1500};
  }
  /// The slice's eight bytes at `at`, a multiple of 8.
  [[nodiscard]] std::uint64_t word_at(std::size_t slice, std::size_t at) const noexcept {
    return mixed(number * 8 + pool, slice * 65'536 + at / 8);
  }
};

/// A page with its memory, and the items that speak of it.
class page_buffer {
 public:
  explicit page_buffer(const toy_page& page) : page_(page), tokens_(4) {
    std::vector<std::size_t> sizes = page.slice_bytes();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      memory_.emplace_back(sizes[i] + 8);
      // Odd layers lie at odd addresses.
      slices_.push_back(
          memory_.back().bytes().subspan(i % 2 == 0 && page.pool == 0 ? 0 : 8, sizes[i]));
    }
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      tokens_[i] = token_id{static_cast<std::uint32_t>(mixed(page.number, 77 + i))};
    }
    identity_ = {page.name_space(), digest_of(page.number + 500'000), 4, tokens_};
  }
  page_buffer(const page_buffer&) = delete;
  page_buffer& operator=(const page_buffer&) = delete;

  void fill() {
    for (std::size_t s = 0; s < slices_.size(); ++s) {
      for (std::size_t i = 0; i < slices_[s].size(); i += 8) {
        const std::uint64_t word = page_.word_at(s, i);
        std::memcpy(slices_[s].data() + i, &word, std::min<std::size_t>(8, slices_[s].size() - i));
      }
    }
  }
  void poison() {
    for (const std::span<std::byte> s : slices_) {
      std::ranges::fill(s, std::byte{0xCB});
    }
  }
  [[nodiscard]] bool is_right(std::size_t first = 0) const {
    for (std::size_t s = first; s < slices_.size(); ++s) {
      for (std::size_t i = 0; i < slices_[s].size(); i += 8) {
        const std::uint64_t word = page_.word_at(s, i);
        if (std::memcmp(slices_[s].data() + i,
                        &word,
                        std::min<std::size_t>(8, slices_[s].size() - i)) != 0) {
          return false;
        }
      }
    }
    return true;
  }
  [[nodiscard]] store_item item(store_op what, std::uint64_t user = 0) {
    store_item i{.op = what, .key = page_.key(), .identity = &identity_, .user = user};
    i.slices = slices_;
    i.owner = page_.owner();
    return i;
  }
  [[nodiscard]] page_identity& identity() noexcept { return identity_; }
  [[nodiscard]] const toy_page& page() const noexcept { return page_; }

 private:
  toy_page page_;
  std::vector<token_id> tokens_;
  page_identity identity_;
  std::vector<aligned_bytes> memory_;
  std::vector<std::span<std::byte>> slices_;
};

class sim_store : public segment_store<sim_disk, sim_wall> {
 public:
  explicit sim_store(sim_disk& disk, const segment_store_options& options = {})
      : segment_store(disk, options, sim_wall(disk)) {}
};

inline segment_store_options tiny_options(std::uint64_t segments = 8,
                                          std::uint64_t segment_bytes = 65'536) {
  segment_store_options o;
  o.segment_bytes = segment_bytes;
  o.capacity_bytes = segments * segment_bytes;
  o.pages_max = 256;
  o.queue_items = 64;
  o.bounce_bytes = 192 * 1024;
  o.batch_bytes = 48 * 1024;
  o.batches_in_flight = 3;
  o.reads_in_flight = 8;
  o.carries_in_flight = 2;
  o.scan_segments = 4;
  o.scan_chunk_bytes = 16'384;
  o.probe_interval_us = 1'000;
  o.error_window_us = 20'000;
  o.saves_snapshot = false;
  return o;
}

/// Submits and waits until all is done. Completions by `user`.
template <class Store>
std::map<std::uint64_t, store_completion> carry_out(Store& store,
                                                    std::span<const store_item> items,
                                                    std::uint64_t deadline_us = no_deadline) {
  std::map<std::uint64_t, store_completion> all;
  std::size_t taken = 0;
  int idle = 0;
  store_completion done[16];
  while (all.size() < items.size() && idle < 100'000) {
    taken += store.submit(items.subspan(taken), deadline_us);
    const std::size_t count = store.poll(done);
    for (std::size_t i = 0; i < count; ++i) {
      all[done[i].user] = done[i];
    }
    idle = count != 0 || store.wait(no_deadline) ? 0 : idle + 1;
  }
  return all;
}

template <class Store>
store_completion carry_out_one(Store& store, const store_item& item) {
  const auto all = carry_out(store, std::span(&item, 1));
  return all.empty() ? store_completion{.outcome = store_outcome::late, .native = -1}
                     : all.begin()->second;
}

}  // namespace oriel_test
