// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `prefix_index`: which worker has how much of a prompt, and up to where it could resume.
///
///     prefix_index index({.page_size = 64, .windows = {128}, .workers = 256});
///     index.apply(event);            // worker_event.hpp, as they come in
///     index.look_up(links, answer);  // of the whole pages of the prompt's first N - 1 tokens
///     answer[worker].safe_pages[0]   // resumable from its device at no cost
///
/// It believes hashes and what workers say, so an answer is advice: the worker's own tree decides
/// what is a hit. docs/routing.md draws the layout and tells what each operation costs.
#pragma once

#include <oriel/route/detail/page_strands.hpp>
#include <oriel/route/prefix_answer.hpp>
#include <oriel/route/worker_event.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

struct prefix_index_options {
  /// Tokens, of the workers' caches: their links are of such pages. 0 is refused: it has to be
  /// said.
  std::uint32_t page_size = 0;
  /// [window kinds] W in tokens, in the order of the workers' pools. A kind with W = 1 is tracked,
  /// and no boundary needs it (the windows of an MTP head).
  std::vector<std::uint32_t> windows = {};
  std::uint32_t workers = 64;              ///< largest worker_id + 1
  std::uint32_t capacity_pages = 1 << 20;  ///< different pages of all workers together
  /// Events that are kept, for each worker, while one before them is missing, and their links.
  std::uint32_t held_events = 64;
  std::uint32_t held_links = 1 << 16;
};

/// What became of an event.
enum class event_outcome : std::uint8_t {
  applied,
  held,       ///< an earlier one is missing; applied once that has come (`missing`)
  duplicate,  ///< its sequence number has been before
  stale,      ///< of an earlier epoch, or of a replay that nobody began
  lost,       ///< events are lost for good, as this one shows: the worker needs a replay
  invalid,    ///< a field is out of range; not applied, and it counts as missing
};

[[nodiscard]] constexpr const char* name_of(event_outcome outcome) noexcept {
  constexpr const char* names[] = {"applied", "held", "duplicate", "stale", "lost", "invalid"};
  return names[static_cast<std::size_t>(outcome)];
}

/// How far what is known of a worker can be trusted.
enum class worker_state : std::uint8_t {
  absent,     ///< nothing was heard of it, or it was removed
  sure,       ///< its rows say what it had after its last applied event
  unsure,     ///< events were lost: rows count only what came since, a lower bound
  replaying,  ///< a replay is under way: rows count what has come of it, a lower bound
};

[[nodiscard]] constexpr const char* name_of(worker_state state) noexcept {
  constexpr const char* names[] = {"absent", "sure", "unsure", "replaying"};
  return names[static_cast<std::size_t>(state)];
}

/// Plain counts since construction.
struct prefix_index_counters {
  std::uint64_t applied = 0, held = 0, duplicate = 0, stale = 0, lost = 0, invalid = 0;
  std::uint64_t epochs = 0;         ///< workers that came or started anew
  std::uint64_t replays = 0;        ///< completed
  std::uint64_t refused_pages = 0;  ///< no room: workers have them and the index does not know
};

struct prefix_index_memory {
  std::uint32_t pages = 0;       ///< different pages that somebody has
  std::uint32_t strands = 0;     ///< stretches of pages that they lie in
  std::uint32_t holders = 0;     ///< (worker, strand) pairs
  std::size_t fixed_bytes = 0;   ///< the table, for capacity_pages; touched as it fills
  std::size_t link_bytes = 0;    ///< grows with pages and strands
  std::size_t holder_bytes = 0;  ///< grows with holders, and with the stretches in which they hold
  std::size_t held_bytes = 0;    ///< events that wait for earlier ones
};

/// A mirror of the caches of many workers.
///
/// *Errors* Nothing but `bad_alloc`, after which an index may only be destroyed: what workers send
/// can be wrong in any way and is answered by an outcome.
/// *Thread safety* Look-ups may go side by side, each with an answer of its own; nothing else may
/// happen beside them.
/// *Memory* docs/routing.md; `memory()` tells.
class prefix_index {
 public:
  /// @pre page_size > 0, windows > 0, 0 < workers, 0 < capacity_pages < 2^24,
  ///      workers * page_tiers * (1 + window kinds) < 2^16
  /// @throws std::bad_alloc
  explicit prefix_index(prefix_index_options options);

  /// Takes an event. O(links) and a search among the workers of each strand that it touches.
  /// @throws std::bad_alloc
  event_outcome apply(const worker_event& event);
  /// Forgets a worker. Only a larger epoch brings it back. O(what it had). @pre worker < workers
  void remove(worker_id worker);

  /// What every worker has of a prompt. Never throws once `answer` has been filled with a path as
  /// long. O(workers + strands on the path * (their holders + log pages)).
  /// @param prompt  its links. Give those of the whole pages of its first N - 1 tokens: one token
  ///                is always computed.
  void look_up(std::span<const chain_hash> prompt, prefix_answer& answer) const {
    strands_.look_up(prompt, answer);
  }

  /// O(1). @pre worker < workers
  [[nodiscard]] worker_state state(worker_id worker) const noexcept;
  /// Of the last event that was applied; the rows are the worker's state after it. O(1).
  [[nodiscard]] std::uint64_t sequence(worker_id worker) const noexcept;
  /// Of the worker's life that is known; 0: none. O(1).
  [[nodiscard]] std::uint64_t epoch(worker_id worker) const noexcept;
  /// Sequence numbers [first, end) to ask the worker for again; empty: nothing waits for them.
  struct sequence_range {
    std::uint64_t first = 0, end = 0;
  };
  [[nodiscard]] sequence_range missing(worker_id worker) const noexcept;

  [[nodiscard]] const prefix_index_options& options() const noexcept { return options_; }
  [[nodiscard]] const prefix_index_counters& counters() const noexcept { return counters_; }
  /// O(strands + holders + workers).
  [[nodiscard]] prefix_index_memory memory() const noexcept;
  /// Do all parts agree? O(everything), for tests.
  [[nodiscard]] bool is_sound() const { return strands_.is_sound(); }

 private:
  struct held_event {
    worker_event event;
    std::vector<chain_hash> links;
  };
  struct stream {
    std::uint64_t epoch = 0;
    std::uint64_t next = 1;  // sequence number
    worker_state state = worker_state::absent;
    bool was_removed = false;
    std::uint64_t replayed = 0;  // events of the replay under way
    std::size_t held_links = 0;
    std::vector<held_event> held;  // by sequence
  };

  [[nodiscard]] bool is_valid(const worker_event& event) const noexcept;
  event_outcome take(const worker_event& event);
  event_outcome take_in_order(stream& s, const worker_event& event);
  event_outcome hold(stream& s, const worker_event& event);
  event_outcome end_replay(stream& s, const worker_event& event);
  void give_up_missing(stream& s, std::uint32_t worker);
  void start(stream& s, std::uint32_t worker, std::uint64_t epoch);
  void carry_out(const worker_event& event);
  void carry_out_held(stream& s);
  static void drop_held(stream& s, std::size_t count);

  prefix_index_options options_;
  detail::page_strands strands_;
  std::vector<stream> streams_;  // [workers]
  prefix_index_counters counters_;
};

}  // namespace oriel
