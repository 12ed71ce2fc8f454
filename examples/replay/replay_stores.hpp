// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The stores below a replay's pools: real ones, with pages of a few bytes that stand for the
/// model's own, on the trace's clock.
#pragma once

#include <oriel/kv/pool_plan.hpp>
#include <oriel/tier/any_store.hpp>
#include <oriel/tier/page_key.hpp>

#include <replay/tier_sizes.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace oriel::replay {

/// The time of the request that is being served. One replay at a time has it.
class trace_clock {
 public:
  static void set(std::uint64_t now_us) noexcept { current = now_us; }
  [[nodiscard]] static std::uint64_t now() noexcept { return current; }
  [[nodiscard]] std::uint64_t now_us() const noexcept { return current; }

 private:
  inline static thread_local std::uint64_t current = 0;
};

inline constexpr std::size_t mark_bytes = 16;
using page_mark = std::array<std::byte, mark_bytes>;

/// The bytes that stand for a page's KV: they follow from all tokens up to its end, as KV does. The
/// half of the link that no store's index knows.
[[nodiscard]] page_mark mark_of(const page_key& key) noexcept;
void write_mark(std::span<std::byte> page, const page_key& key) noexcept;
[[nodiscard]] bool has_mark(std::span<const std::byte> page, const page_key& key) noexcept;

/// A `kv_store` in front of one whose pages are marks: items go on with the first 16 bytes of what
/// they had, and zeros that make a record as long as it has to be; completions come back with the
/// bytes of the model's own page. A page that comes back with another mark is counted and
/// `corrupt`.
class stand_in_store {
 public:
  /// @param page_bytes   [pools] of the model's own pages
  /// @param extra_bytes  [pools] of zeros behind the mark, multiples of 4 KiB
  stand_in_store(any_store store,
                 std::vector<std::uint64_t> page_bytes,
                 std::vector<std::uint64_t> extra_bytes);

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us);
  std::size_t poll(std::span<store_completion> done);
  bool wait(std::uint64_t until_us) { return store_.wait(until_us); }
  [[nodiscard]] std::size_t pending() const { return store_.pending(); }
  [[nodiscard]] store_stats stats() const;
  [[nodiscard]] store_fault last_fault() const { return store_.last_fault(); }

 private:
  static constexpr std::size_t errands_max = 256;
  struct errand {
    std::uint64_t user = 0;
    page_key key;
    std::array<std::span<std::byte>, 2> slices;
  };
  struct aligned_delete {
    void operator()(std::byte* p) const noexcept;
  };
  using zeros = std::unique_ptr<std::byte[], aligned_delete>;
  [[nodiscard]] static zeros make_zeros(std::uint64_t bytes);

  any_store store_;
  std::vector<std::uint64_t> page_bytes_, extra_bytes_;  // [pools]
  zeros written_, read_;
  std::vector<errand> errands_;      // [errands_max]
  std::vector<std::uint32_t> free_;  // of errands_
  std::uint64_t wrong_marks_ = 0;
};

/// Host memory of a plan; its index and eviction are `memory_store`'s. @throws std::bad_alloc
[[nodiscard]] any_store make_host(const tier_plan& plan, const pool_plan& pools);
/// The disk of a plan: a `segment_store` on a `sparse_disk`. @throws std::bad_alloc
[[nodiscard]] any_store make_disk(const tier_plan& plan, const pool_plan& pools);

/// Pools of the same pages, windows and rings, with a page of a few bytes. @throws std::bad_alloc
[[nodiscard]] result<pool_plan> thin_plan(const pool_plan& pools);

}  // namespace oriel::replay
