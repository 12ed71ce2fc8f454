// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What workers are computing right now and no event tells of yet: of two requests of one session
/// that come at once the second should follow the first.
#pragma once

#include <oriel/route/router.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::detail {

/// The last placement for each key, in a table of fixed size that forgets what collides: it is
/// advice. *Memory* 224 bytes a slot.
class expected_prefixes {
 public:
  struct answer {
    worker_id worker = no_worker;
    std::uint32_t pages = 0;  ///< that it will have; 0: nothing is expected
  };

  /// @param hold_s  a prefix is expected for so long; then events must have told of it
  expected_prefixes(std::size_t slots, double hold_s)
      : slots_(std::bit_ceil(std::max<std::size_t>(slots, 1))), hold_s_(hold_s) {}

  /// Placed: the worker will have the pages of these links. O(1).
  void expect(std::uint64_t key,
              worker_id worker,
              std::span<const chain_hash> links,
              double now_s) noexcept {
    if (links.empty()) {
      return;
    }
    slot& s = at(key);
    s = {.key = key, .worker = worker, .until_s = now_s + hold_s_};
    const std::size_t pages = links.size();
    for (std::size_t i = 0; i < mark_count; ++i) {  // all, 7/8, ... of them
      const std::size_t count = std::max<std::size_t>(1, pages - pages * i / mark_count);
      s.marks[i] = {static_cast<std::uint32_t>(count), links[count - 1]};
    }
  }
  /// The longest prefix of `links` that is expected, to an eighth of what was placed. O(1).
  [[nodiscard]] answer find(std::uint64_t key,
                            std::span<const chain_hash> links,
                            double now_s) const noexcept {
    const slot& s = at(key);
    if (s.key != key || s.worker == no_worker || now_s > s.until_s) {
      return {};
    }
    for (const mark& m : s.marks) {  // A link commits to all pages before it.
      if (m.pages <= links.size() && links[m.pages - 1] == m.link) {
        return {s.worker, m.pages};
      }
    }
    return {};
  }
  /// Nothing is expected of this worker any more. O(slots).
  void forget(worker_id worker) noexcept {
    for (slot& s : slots_) {
      s.worker = s.worker == worker ? no_worker : s.worker;
    }
  }

 private:
  static constexpr std::size_t mark_count = 8;
  struct mark {
    std::uint32_t pages = 0;
    chain_hash link;
  };
  struct slot {
    std::uint64_t key = 0;
    worker_id worker = no_worker;
    double until_s = 0.0;
    std::array<mark, mark_count> marks = {};
  };
  [[nodiscard]] slot& at(std::uint64_t key) noexcept {
    return slots_[(key * 0x9E37'79B9'7F4A'7C15u >> 32) & (slots_.size() - 1)];
  }
  [[nodiscard]] const slot& at(std::uint64_t key) const noexcept {
    return slots_[(key * 0x9E37'79B9'7F4A'7C15u >> 32) & (slots_.size() - 1)];
  }

  std::vector<slot> slots_;
  double hold_s_;
};

}  // namespace oriel::detail
