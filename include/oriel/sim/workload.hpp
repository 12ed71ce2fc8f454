// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `workload`: sessions of requests, as a fleet gets them. Pages have names only: a page's id
/// stands for its tokens and all before them.
#pragma once

#include <oriel/core/hash.hpp>
#include <oriel/core/random.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::sim {

/// Nobody waits longer than this between two turns: a closed loop would measure people.
inline constexpr double gap_max_s = 300.0;

struct workload_request {
  std::uint32_t session = 0;     ///< index
  std::uint32_t name_space = 0;  ///< index; nothing is shared between two
  /// workload::pages[first_page, first_page + pages). Requests may share a place.
  std::size_t first_page = 0;
  std::uint32_t pages = 0;  ///< whole pages of input and output: (input + output) / page_tokens
  std::uint32_t input_tokens = 0;  ///< > 0
  std::uint32_t output_tokens = 0;
  double arrival_s = 0.0;  ///< open loop: after the session's start
  double gap_s = 0.0;  ///< closed loop: after all of its waits have completed, or if it has none
                       ///< after the session's start; at most gap_max_s
  /// workload::waits[first_wait, first_wait + waits): requests of the session before this one: the
  /// turn before, and the sub-agents that it joins.
  std::uint32_t first_wait = 0, waits = 0;
  /// workload::followers: the requests that wait for this one.
  std::uint32_t first_follower = 0, followers = 0;
};

/// A session's requests follow each other, none before one that it waits for; they need not be in
/// the order of arrival.
struct workload_session {
  std::uint32_t first_request = 0, requests = 0;
  double start_s = 0.0;  ///< in the trace
};

/// Read only once it is built: runs share it.
struct workload {
  std::uint32_t page_tokens = 0;
  std::uint32_t distinct_pages = 0;  ///< ids are below
  std::uint32_t name_spaces = 0;
  std::vector<workload_session> sessions;
  std::vector<workload_request> requests;
  std::vector<std::uint32_t> pages;      ///< equal ids: equal tokens up to the end of the page
  std::vector<chain_hash> links;         ///< [pages] of clone 0
  std::vector<std::uint32_t> waits;      ///< indices of requests
  std::vector<std::uint32_t> followers;  ///< indices of requests

  /// Of input and output. O(1).
  [[nodiscard]] std::span<const std::uint32_t> pages_of(const workload_request& r) const noexcept {
    return {pages.data() + r.first_page, r.pages};
  }
  /// Pages of the input that a cache may give: of its first N - 1 tokens, since the last is
  /// computed anyway for its logits. O(1).
  [[nodiscard]] std::uint32_t reusable_pages(const workload_request& r) const noexcept {
    return (r.input_tokens - 1) / page_tokens;
  }
  /// The links of those pages, in clone 0. O(1).
  [[nodiscard]] std::span<const chain_hash> links_of(const workload_request& r) const noexcept {
    return {links.data() + r.first_page, reusable_pages(r)};
  }
  [[nodiscard]] std::span<const std::uint32_t> waits_of(const workload_request& r) const noexcept {
    return {waits.data() + r.first_wait, r.waits};
  }
  [[nodiscard]] std::span<const std::uint32_t> followers_of(
      const workload_request& r) const noexcept {
    return {followers.data() + r.first_follower, r.followers};
  }
  /// Tokens of all inputs. O(requests).
  [[nodiscard]] std::uint64_t input_tokens() const noexcept;
};

/// The link of a page of a clone: for caches that tell what they store by page ids. What salt_links
/// makes of workload::links. O(1), some multiplications.
[[nodiscard]] chain_hash link_of(std::uint32_t page, std::uint32_t clone) noexcept;
/// The same for many. O(pages). @pre out.size() == pages.size()
void links_of_pages(std::span<const std::uint32_t> pages,
                    std::uint32_t clone,
                    std::span<chain_hash> out) noexcept;
/// Makes clone 0's links those of another: an exclusive or with a number of the clone. O(links).
/// @pre out.size() == links.size()
void salt_links(std::span<const chain_hash> links,
                std::uint32_t clone,
                std::span<chain_hash> out) noexcept;

struct clone_options {
  std::uint32_t clones = 1;  ///< of each session, each in name spaces of its own; > 0
  double hours = 8.0;        ///< H: sessions start uniformly over [0, H); > 0
  std::uint64_t seed = 1;    ///< of the starts
};

/// Who draws what from one seed: a stream each, so that no policy changes another's draws.
enum class draw_purpose : std::uint64_t {
  session_starts = 1,
  event_loss = 2,
  event_delay = 3,
  routers = 4,
  faults = 5,
  acceptance = 6,
  server = 7,
};
[[nodiscard]] constexpr random_stream stream_for(std::uint64_t seed, draw_purpose what) noexcept {
  return random_stream(seed, static_cast<std::uint64_t>(what));
}

/// A workload several times over: clone k of session s is number k * sessions + s. Nothing is
/// copied. *Thread safety* as a const object.
class workload_view {
 public:
  /// @param of  outlives the view @pre clones > 0, hours > 0; clones * name_spaces below 2^32
  workload_view(const workload& of, const clone_options& options) noexcept;

  [[nodiscard]] const workload& base() const noexcept { return *of_; }
  [[nodiscard]] const clone_options& options() const noexcept { return options_; }
  /// Of all clones.
  [[nodiscard]] std::uint64_t sessions() const noexcept {
    return std::uint64_t{options_.clones} * of_->sessions.size();
  }
  [[nodiscard]] std::uint64_t requests() const noexcept {
    return std::uint64_t{options_.clones} * of_->requests.size();
  }
  [[nodiscard]] std::uint32_t clone_of(std::uint64_t session) const noexcept {
    return static_cast<std::uint32_t>(session / of_->sessions.size());
  }
  [[nodiscard]] const workload_session& session(std::uint64_t session) const noexcept {
    return of_->sessions[session % of_->sessions.size()];
  }
  /// Uniform over [0, H): H times a number that depends on seed, clone and session alone. O(1).
  [[nodiscard]] double start_s(std::uint64_t session) const noexcept;
  /// A name space of the clone. O(1).
  [[nodiscard]] std::uint32_t name_space(const workload_request& r,
                                         std::uint32_t clone) const noexcept {
    return clone * of_->name_spaces + r.name_space;
  }
  /// What arrives in [H / 4, H) is measured: before it caches fill.
  [[nodiscard]] double measure_begin_s() const noexcept { return options_.hours * 900.0; }
  [[nodiscard]] double measure_end_s() const noexcept { return options_.hours * 3600.0; }

 private:
  const workload* of_;
  clone_options options_;
};

}  // namespace oriel::sim
