// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `kv_store`: a tier below the device pools. Host memory, a disk, another machine: each takes
/// pages in, gives them back byte for byte or not at all, and never makes its caller wait.
///
///     store.submit(items, deadline_us);          // get, put, exists, touch, erase, drop, sync
///     ... other work ...
///     for (const store_completion& c : done.first(store.poll(done))) { ... c.user, c.outcome ... }
///
/// A store is a state machine that one thread drives; `store_thread` gives one a thread of its own.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/tier/page_key.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace oriel {

enum class store_op : std::uint8_t {
  exists,        ///< is the page there? (advisory: it may be gone, or prove damaged, at the get)
  get,           ///< fill the slices
  put,           ///< keep a copy of the slices
  touch,         ///< the page was used elsewhere: refresh its recency
  erase,         ///< forget the page for good: no recovery brings it back
  drop_space,    ///< forget every page whose identity.name_space is key.link; for good
  drop_tenant,   ///< forget every page whose owner.tenant is owner.tenant; for good
  drop_session,  ///< forget every page whose owner is owner; for good
  sync,          ///< completes when all that was acknowledged before survives a loss of power
};

/// What a record must say of itself besides its key; compared at each get.
struct page_identity {
  page_digest name_space;                 ///< chain_start of its namespace
  page_digest parent;                     ///< the link before; name_space for the first page
  std::uint32_t first_token = 0;          ///< position
  std::span<const token_id> tokens = {};  ///< [page_size]
};

/// Who pays for a page, and whose deletion takes it along.
struct page_owner {
  std::uint64_t tenant = 0;   ///< cache_namespace::tenant(), or 0
  std::uint64_t session = 0;  ///< the caller's; 0: none

  friend bool operator==(page_owner, page_owner) noexcept = default;
};

/// One operation on one page.
struct store_item {
  store_op op = store_op::get;
  page_key key;
  const page_identity* identity = nullptr;  ///< get, put; read until the item completes
  /// get: filled; put: read. Slice i of the record is layer i of the pool; a get may ask for some
  /// layers only, from first_slice on. Both the array and the bytes belong to the store until the
  /// item completes, even where its deadline has passed: that is what makes reuse of a page safe.
  /// Any completion, a late one too, gives them back. @pre not empty for get and put
  std::span<const std::span<std::byte>> slices = {};
  std::uint32_t first_slice = 0;
  page_owner owner = {};         ///< put, drop_*
  std::uint64_t expires_us = 0;  ///< put: a miss from then on, by the store's clock; 0: never. A
                                 ///< store that others share turns it into wall-clock time
  std::uint64_t user = 0;        ///< comes back in the completion
};

enum class store_outcome : std::uint8_t {
  done,     ///< exists: yes; get: the bytes are there and verified; put: acknowledged, so it
            ///< survives the end of the process if the store does; others: carried out
  miss,     ///< not there, expired, of another identity
  corrupt,  ///< it was there and failed a check: now it is not
  late,     ///< the deadline passed; a put may or may not have happened
  refused,  ///< no room, over a budget, writes paused, closed
  failed,   ///< the system or the peer said no: `native` has errno
};

struct store_completion {
  std::uint64_t user = 0;
  store_op op = store_op::get;
  store_outcome outcome = store_outcome::miss;
  int native = 0;           ///< errno, or 0
  std::uint64_t bytes = 0;  ///< moved
  /// When it ended, by the store's clock; 0: not told. Whoever polls late can tell how fast the
  /// store is all the same; `store_thread` says it.
  std::uint64_t done_us = 0;
};

enum class store_health : std::uint8_t {
  healthy,
  write_paused,  ///< no room, or read-only: reads go on, writes are refused until that is over
  degraded,      ///< too many failures: everything is refused but a probe now and then
};

/// Counts since construction, and gauges. Faults are numbered as in docs/reliability.md.
struct store_stats {
  std::uint64_t gets = 0, hits = 0, misses = 0;
  std::uint64_t puts = 0, puts_done = 0;
  std::uint64_t late = 0, refused = 0, failed = 0;
  std::uint64_t corrupt = 0;    ///< a checksum did not match
  std::uint64_t misplaced = 0;  ///< a sound record of another page, place or time
  std::uint64_t bytes_read = 0, bytes_written = 0;
  std::uint64_t evicted_pages = 0;
  std::uint64_t evicted_age_us_sum = 0;  ///< from put or last use to eviction
  std::uint64_t pages = 0, used_bytes = 0, capacity_bytes = 0;
  std::uint64_t index_bytes = 0;
  store_health health = store_health::healthy;
};

/// The last thing that went wrong, for logs: which operation, on what, why.
struct store_fault {
  std::string operation;  ///< "write", "connect"
  std::string where;      ///< a path, an address, or a key's first digits
  int native = 0;         ///< errno, or 0
  std::uint64_t count = 0;
};

/// Semantics, checked by `tests/conformance/kv_store_suite.hpp`:
///
///  - `submit(items, deadline_us)` takes items in order as far as its queue has room, and returns
///    how many it took. It never blocks. Each taken item completes exactly once. `deadline_us` is
///    of the store's clock, ~0: none; a get that is not done by then completes as `late`, or as
///    what it came to if that cannot be stopped any more.
///  - A get that ends `done` has every byte as it was put under this key with this identity. Any
///    doubt is a miss. A get that does not end `done` may leave any bytes in the slices.
///  - Of two puts of one key the later may win or be ignored: the bytes are the same by promise.
///  - A put that ended `done` is found by later gets until it is evicted, erased, dropped or
///    expired. Items of one submit, and of one after another, on the same key take effect in order.
///  - `erase` and `drop_*` that ended `done` last: also over a restart. An erase of what is not
///    there is `done` too. A drop takes effect after all items before it and before all after it.
///  - A `sync` covers the puts before it, and what a process before this one left unsynced; a store
///    that cannot know refuses it (EOPNOTSUPP), one that keeps nothing over its end says `done`.
///  - `poll(done)` makes progress, writes completions and returns how many. It never blocks.
///  - `wait(until_us)` blocks until a poll would return something, or until then, and returns
///    which it was; it may return false early if nothing but time can bring a completion. With
///    nothing pending it returns at once.
///  - `pending()` items were taken and not polled yet.
///  - The destructor waits for what still touches slices; it completes nothing.
///
/// Models: `memory_store`, `segment_store`, `redis_store`, `sharded_store`, `store_thread`,
/// `any_store`; and `staged_store`, whose slices are names.
// clang-format off
template <class S>
concept kv_store =
    requires(S& s, const S& cs, std::span<const store_item> items, std::span<store_completion> done,
             std::uint64_t time_us) {
      { s.submit(items, time_us) } -> std::same_as<std::size_t>;
      { s.poll(done) } -> std::same_as<std::size_t>;
      { s.wait(time_us) } -> std::same_as<bool>;
      { cs.pending() } -> std::same_as<std::size_t>;
      { cs.stats() } -> std::same_as<store_stats>;
      { cs.last_fault() } -> std::same_as<store_fault>;
    };
// clang-format on

/// No deadline.
inline constexpr std::uint64_t no_deadline = ~std::uint64_t{0};

/// The names, for messages and tables: "drop_space", "write_paused".
[[nodiscard]] const char* name_of(store_op op) noexcept;
[[nodiscard]] const char* name_of(store_outcome outcome) noexcept;
[[nodiscard]] const char* name_of(store_health health) noexcept;

}  // namespace oriel
