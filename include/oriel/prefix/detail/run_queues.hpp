// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `run_queues`: the runs of an eviction order in queues, each run in one at most.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/prefix/detail/lazy_array.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel::detail {

/// What a record of a run needs to be linked.
struct run_link {
  std::uint32_t older, newer;  // slots; newer == 0: in no queue
};

/// Rings through records, which lie by run id and are zeros before their first use:
///
///     slot:   0        1 .. Queues                         Queues + 1 ..
///             nobody   a queue's own record: `newer` is    the record of run 0, run 1, ...
///                      its oldest run, `older` its newest
///
/// Every call is O(1). Memory: a record for each run id up to the largest that was used.
///
/// @tparam Record  derived from run_link
template <class Record, std::uint32_t Queues>
class run_queues {
 public:
  /// @throws std::bad_alloc
  explicit run_queues(std::uint32_t max_runs) : records_(std::size_t{max_runs} + first_run) {
    for (std::uint32_t queue = 0; queue < Queues; ++queue) {
      of_queue(queue).older = of_queue(queue).newer = queue + 1;
    }
  }

  [[nodiscard]] bool contains(run_id run) const noexcept { return records_[slot(run)].newer != 0; }
  [[nodiscard]] Record& operator[](run_id run) noexcept { return records_[slot(run)]; }
  /// A record for what a queue has to say of itself.
  [[nodiscard]] Record& of_queue(std::uint32_t queue) noexcept { return records_[queue + 1]; }
  [[nodiscard]] run_id oldest(std::uint32_t queue) const noexcept {
    return run_at(records_[queue + 1].newer);
  }
  [[nodiscard]] run_id newest(std::uint32_t queue) const noexcept {
    return run_at(records_[queue + 1].older);
  }

  void append(run_id run, std::uint32_t queue) noexcept {
    ORIEL_EXPECTS(!contains(run));
    Record& end = of_queue(queue);
    Record& r = records_[slot(run)];
    r.older = end.older;
    r.newer = queue + 1;
    records_[end.older].newer = slot(run);
    end.older = slot(run);
  }
  /// @pre contains(run)
  void remove(run_id run) noexcept {
    Record& r = records_[slot(run)];
    records_[r.older].newer = r.newer;
    records_[r.newer].older = r.older;
    r.newer = 0;
  }

 private:
  static constexpr std::uint32_t first_run = Queues + 1;
  [[nodiscard]] static std::uint32_t slot(run_id run) noexcept { return to_index(run) + first_run; }
  [[nodiscard]] static run_id run_at(std::uint32_t slot) noexcept {
    return slot < first_run ? null_run : run_id{slot - first_run};
  }

  lazy_array<Record> records_;  // [first_run + max_runs]
};

}  // namespace oriel::detail
