// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The inside of `redis_store`: items become commands on links, replies become completions.
///
///     waiting -> sent -> verifying -> complete       in this order; a drop has the store to itself
///
/// Items wait in one queue, because what was submitted later must not overtake: a put waits for the
/// epochs it will carry, and all behind it with it. Gets do not wait: their epochs are compared
/// when the page is there.
#pragma once

#include "redis_cluster.hpp"
#include "redis_epochs.hpp"
#include "redis_link.hpp"

#include <oriel/tier/redis_store.hpp>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace oriel {

struct redis_store::state {
  explicit state(redis_options given);

  // redis_store.cpp: items.
  void take(const store_item& item, std::uint64_t deadline_us, std::uint64_t now);
  void pump(std::uint64_t now);
  void start(std::uint64_t now);
  void dispatch(std::uint64_t now);
  bool wait(std::uint64_t until_us);
  [[nodiscard]] std::uint64_t now_us() const;
  [[nodiscard]] store_stats stats() const;
  [[nodiscard]] store_fault last_fault() const;

  std::deque<store_completion> completions;
  std::size_t pending = 0;
  redis_options options;

 private:
  using command = detail::redis_command;
  using purpose = detail::redis_purpose;
  using verdict = detail::redis_verdict;

  enum class stage : std::uint8_t { unused, waiting, sent, verifying };
  struct entry {
    store_item item;
    std::uint64_t deadline_us = 0;
    std::uint64_t check = 0;  ///< the stamp must have been read as often; 0: it does not matter
    stage at = stage::unused;
    command* operation = nullptr;
    command* fence = nullptr;
    bool is_answered = false, is_fenced = false;
    bool has_two_steps = false;  ///< a get out of the middle: head first, then slices
    // verifying: what the record says.
    std::array<std::uint64_t, 3> epochs = {};
    page_digest name_space;
    page_owner owner;
  };
  struct node {
    std::string host;
    std::uint16_t port = 0;
    std::vector<std::unique_ptr<detail::redis_link>> links;
  };

  // redis_dispatch.cpp: from items to commands.
  bool start(std::uint32_t index, std::uint64_t now);
  bool start_put(std::uint32_t index, std::uint64_t now);
  void start_get(std::uint32_t index, std::uint64_t now);
  void start_head(std::uint32_t index, std::uint64_t now);
  void start_erase(std::uint32_t index, std::uint64_t now);
  void start_drop(std::uint32_t index, std::uint64_t now);
  void start_fence(std::uint32_t index, detail::redis_link& link, std::uint64_t now);
  void start_check(std::uint64_t now);
  void start_epochs(std::uint64_t now);
  void start_slots(std::uint64_t now);
  void start_range(std::uint32_t index, command& front, std::uint64_t now);
  void discard(const page_key& key, std::uint64_t now);
  [[nodiscard]] std::uint64_t room_of(const store_item& item) const;
  [[nodiscard]] std::string key_of(const page_key& key) const;
  [[nodiscard]] command& new_command(purpose what, std::uint32_t index);
  void send(command& c, detail::redis_link& link, std::uint64_t now);
  [[nodiscard]] detail::redis_link& link_of(std::uint16_t slot);
  [[nodiscard]] detail::redis_link& epoch_link();
  node* node_at(const std::string& host, std::uint16_t port);

  // redis_replies.cpp: from replies to completions.
  void take_replies(std::uint64_t now);
  void hear(command& c, detail::redis_link& link, std::uint64_t now);
  bool follow_redirect(command& c, detail::redis_link& link, std::uint64_t now);
  void hear_item(command& c, detail::redis_link& link, std::uint64_t now);
  void hear_page(entry& e, command& c, detail::redis_link& link, std::uint64_t now);
  void hear_front(entry& e, command& c, detail::redis_link& link, std::uint64_t now);
  void hear_head(entry& e, command& c, detail::redis_link& link, std::uint64_t now);
  void hear_verdict(entry& e, verdict v, detail::redis_link& link, std::uint64_t now);
  void hear_write(entry& e, command& c, detail::redis_link& link, std::uint64_t now);
  void hear_fence(entry& e, command& c, detail::redis_link& link, std::uint64_t now);
  void hear_stamp(command& c);
  void hear_epochs(command& c);
  void refuse_puts(std::span<const detail::redis_epoch_name> unmade);
  void hear_slots(command& c, detail::redis_link& link, std::uint64_t now);
  void verify(entry& e, const detail::redis_record_fixed& fixed);
  void settle();
  bool settle(std::uint32_t index);
  void fail_checked(std::uint64_t check, store_outcome outcome, int native);
  void fail_waiting(store_outcome outcome, int native);
  void expire(std::uint64_t now);
  void complete(std::uint32_t index, store_outcome outcome, int native = 0);
  void complete_error(entry& e, std::string_view error);
  [[nodiscard]] std::uint32_t index_of(const entry& e) const {
    return static_cast<std::uint32_t>(&e - entries_.data());
  }

  redis_url url_;
  std::unique_ptr<detail::redis_tls> tls_;
  std::vector<std::unique_ptr<node>> nodes_;  ///< the first is the URL's
  std::vector<std::uint16_t> node_of_slot_;   ///< of nodes_; empty: no cluster
  bool knows_slots_ = false, wants_slots_ = false, is_fetching_slots_ = false;
  std::uint64_t slots_retry_us_ = 0;
  std::size_t slots_turn_ = 0;

  std::vector<entry> entries_;
  std::vector<std::uint32_t> unused_;
  std::deque<std::uint32_t> waiting_;
  std::vector<std::uint32_t> verifying_;
  std::size_t active_ = 0;     ///< sent or verifying
  std::size_t two_steps_ = 0;  ///< gets out of the middle that are active
  std::size_t puts_ = 0;       ///< of the items not complete
  bool has_barrier_ = false;   ///< nothing starts before all that is active is complete
  std::uint64_t earliest_us_ = no_deadline;

  std::vector<std::unique_ptr<command>> commands_;
  std::vector<command*> unused_commands_;
  std::size_t commands_out_ = 0;
  std::uint64_t bytes_out_ = 0;

  detail::redis_epochs epochs_;
  std::uint64_t checks_sent_ = 0, checks_done_ = 0, fences_ = 0;
  bool wants_check_ = false;
  std::uint64_t epoch_greetings_ = 0;

  store_stats counts_;
  bool is_write_paused_ = false;
  std::string make_error_;  ///< of the epochs being made
  store_fault fault_;       ///< of replies; a link has its own
};

}  // namespace oriel
