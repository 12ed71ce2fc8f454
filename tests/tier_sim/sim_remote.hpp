// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A remote tier that is down, slow, or lies in twelve ways. What it answers are the bytes of a
/// record, true or not; the store in front of it believes the library's own `read_record` alone.
#pragma once

#include "tier/hand_clock.hpp"

#include <oriel/core/random.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/page_record.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace sim {

enum class lie : std::uint8_t {
  other_key,
  old_layout,
  partial,
  garbage_length,
  twice,  ///< the reply comes again, as that of the next request
  late,   ///< the reply comes when nobody waits any more
  swapped_slices,
  flipped_bits,
  after_erase,  ///< what was erased or dropped is still shown
  exists,       ///< says that it has what it has not, and the other way round
  zeros,
  foreign_tenant,
};
inline constexpr std::size_t lie_kinds = 12;

/// Odds in 1 / 65,536 of what can be hit.
struct remote_faults {
  std::uint32_t lies = 0;     ///< a get or an exists
  std::uint32_t slow = 0;     ///< takes a hundred times as long
  std::uint32_t refuses = 0;  ///< a put
  bool is_down = false;       ///< refuses connections
  bool is_silent = false;     ///< never answers

  [[nodiscard]] bool any() const noexcept {
    return lies + slow + refuses != 0 || is_down || is_silent;
  }
};

/// The other machine: it outlives its clients.
struct remote_machine {
  using record = std::vector<std::byte>;
  std::map<oriel::page_key, record> records, erased;
  remote_faults faults;
  std::uint64_t now_us = 0;  ///< time passes; no clock that anybody reads
  std::array<std::uint64_t, lie_kinds> lies = {};
  std::uint64_t down = 0, slow = 0;  ///< items that met it
};

class sim_remote {
 public:
  sim_remote(std::shared_ptr<remote_machine> machine,
             hand_clock clock,
             std::uint64_t seed,
             std::uint32_t latency_us_max)
      : machine_(std::move(machine)),
        clock_(std::move(clock)),
        draw_(seed, 0x3E),
        latency_us_max_(latency_us_max) {}

  std::size_t submit(std::span<const oriel::store_item> items, std::uint64_t deadline_us) {
    const std::size_t taken = std::min(items.size(), queue_max - queue_.size());
    for (std::size_t i = 0; i < taken; ++i) {
      std::uint64_t takes = 1 + draw_.next_below(latency_us_max_ + 1);
      if (chance(machine_->faults.slow)) {
        takes *= 100;
        ++machine_->slow;
      }
      queue_.push_back({items[i],
                        deadline_us,
                        machine_->now_us + takes,
                        machine_->now_us + answer_us_max,
                        chance(items[i].op == oriel::store_op::get ? machine_->faults.lies
                                                                   : machine_->faults.lies / 8)});
    }
    return taken;
  }

  std::size_t poll(std::span<oriel::store_completion> done) {
    std::size_t count = 0;
    for (auto next = queue_.begin(); next != queue_.end() && count < done.size();) {
      oriel::store_completion c{.user = next->item.user, .op = next->item.op};
      if (comes_after_another(next) || !is_over(*next, c)) {
        ++next;
        continue;
      }
      done[count++] = c;
      next = queue_.erase(next);
    }
    return count;
  }
  bool wait(std::uint64_t) {
    std::uint64_t next = ~std::uint64_t{0};
    for (auto w = queue_.begin(); w != queue_.end(); ++w) {
      if (!comes_after_another(w)) {
        next = std::min(next, machine_->faults.is_silent ? w->given_up_us : w->due_us);
      }
    }
    machine_->now_us = queue_.empty() ? machine_->now_us : std::max(machine_->now_us, next);
    return !queue_.empty();
  }
  [[nodiscard]] std::size_t pending() const { return queue_.size(); }
  [[nodiscard]] oriel::store_stats stats() const { return {.pages = machine_->records.size()}; }
  [[nodiscard]] oriel::store_fault last_fault() const { return {}; }

 private:
  static constexpr std::size_t queue_max = 200;
  static constexpr std::uint64_t answer_us_max = 50'000;  // of an item without a deadline

  struct waiting {
    oriel::store_item item;
    std::uint64_t deadline_us = 0, due_us = 0, given_up_us = 0;
    bool is_lie = false;
  };
  using record = remote_machine::record;

  [[nodiscard]] bool chance(std::uint32_t odds) {
    return odds != 0 && draw_.next_below(65'536) < odds;
  }
  [[nodiscard]] std::size_t below(std::size_t bound) {
    return bound == 0 ? 0 : draw_.next_below(static_cast<std::uint32_t>(bound));
  }

  /// Items on one key take effect in order.
  [[nodiscard]] bool comes_after_another(std::deque<waiting>::iterator at) {
    const bool is_drop = at->item.op > oriel::store_op::erase;
    return std::any_of(queue_.begin(), at, [&](const waiting& w) {
      return is_drop || w.item.key == at->item.key || w.item.op > oriel::store_op::erase;
    });
  }

  /// Is there an answer, or none to be waited for?
  bool is_over(waiting& w, oriel::store_completion& c) {
    const bool has_come = w.due_us <= machine_->now_us && !machine_->faults.is_silent;
    if (has_come && machine_->faults.is_down) {
      ++machine_->down;
      c.outcome = oriel::store_outcome::failed;
      c.native = ECONNREFUSED;
      return true;
    }
    if (has_come) {
      return carry_out(w, c);
    }
    if ((w.deadline_us != oriel::no_deadline && clock_.now_us() >= w.deadline_us) ||
        machine_->now_us >= w.given_up_us) {
      machine_->down += machine_->faults.is_silent;
      c.outcome = oriel::store_outcome::late;
      if (w.item.op == oriel::store_op::put && below(2) == 0) {
        put(w.item);  // Nobody knows what became of it.
      }
      return true;
    }
    return false;
  }

  bool carry_out(waiting& w, oriel::store_completion& c) {
    using oriel::store_op, oriel::store_outcome;
    c.outcome = store_outcome::done;
    switch (w.item.op) {
      case store_op::exists: {
        const bool lies = w.is_lie && told(lie::exists);
        const auto found = machine_->records.find(w.item.key);
        const bool is_there = found != machine_->records.end() && !is_expired(found->second);
        c.outcome = is_there != lies ? store_outcome::done : store_outcome::miss;
        return true;
      }
      case store_op::get:
        return get(w, c);
      case store_op::put:
        if (chance(machine_->faults.refuses)) {
          c.outcome = store_outcome::refused;
        } else {
          c.bytes = put(w.item);
        }
        return true;
      case store_op::erase:
      case store_op::drop_space:
      case store_op::drop_tenant:
      case store_op::drop_session:
        drop(w.item);
        return true;
      case store_op::touch:
      case store_op::sync:
        return true;
    }
    return true;
  }

  bool get(waiting& w, oriel::store_completion& c) {
    record reply;
    bool is_reply = false;
    if (!again_.empty()) {
      reply = std::exchange(again_, {});
      is_reply = true;
    } else if (const auto found = machine_->records.find(w.item.key);
               found != machine_->records.end()) {
      reply = found->second;
      is_reply = true;
    }
    if (w.is_lie) {
      w.is_lie = false;
      const bool is_gone = !is_reply && machine_->erased.contains(w.item.key);
      const auto kind = is_gone ? lie::after_erase : static_cast<lie>(below(lie_kinds));
      if (kind == lie::late) {
        told(kind);
        w.due_us = machine_->now_us + 2 * answer_us_max;  // It is dropped when it comes.
        return false;
      }
      is_reply = tell(kind, w.item, reply, is_reply);
    }
    c.outcome = is_reply ? believed(w.item, reply, c.bytes) : oriel::store_outcome::miss;
    return true;
  }

  /// The client's side: what it makes of the bytes.
  [[nodiscard]] oriel::store_outcome believed(const oriel::store_item& item,
                                              const record& reply,
                                              std::uint64_t& bytes) const {
    using oriel::record_verdict, oriel::store_outcome;
    if (is_expired(reply)) {
      return store_outcome::miss;
    }
    const record_verdict verdict =
        oriel::read_record(reply, item.key, *item.identity, item.first_slice, item.slices);
    if (verdict == record_verdict::sound) {
      for (const std::span<std::byte> slice : item.slices) {
        bytes += slice.size();
      }
      return store_outcome::done;
    }
    return verdict == record_verdict::misplaced ? store_outcome::miss : store_outcome::corrupt;
  }
  [[nodiscard]] bool is_expired(const record& bytes) const {
    oriel::record_view view;
    return oriel::decode_record(bytes, view) == oriel::record_verdict::sound &&
           view.fields.expires_us != 0 && view.fields.expires_us <= clock_.now_us();
  }

  std::uint64_t put(const oriel::store_item& item) {
    record bytes(oriel::record_bytes(item.identity->tokens.size(), item.slices));
    oriel::encode_record({.key = item.key, .owner = item.owner, .expires_us = item.expires_us},
                         *item.identity,
                         item.slices,
                         bytes);
    const std::uint64_t size = bytes.size();
    machine_->records[item.key] = std::move(bytes);
    return size;
  }

  void drop(const oriel::store_item& item) {
    for (auto r = machine_->records.begin(); r != machine_->records.end();) {
      oriel::record_view view;
      const bool is_sound = oriel::decode_record(r->second, view) == oriel::record_verdict::sound;
      const bool goes = item.op == oriel::store_op::erase ? r->first == item.key
                        : item.op == oriel::store_op::drop_space
                            ? is_sound && view.name_space == item.key.link
                        : item.op == oriel::store_op::drop_tenant
                            ? is_sound && view.fields.owner.tenant == item.owner.tenant
                            : is_sound && view.fields.owner == item.owner;
      if (goes) {
        machine_->erased[r->first] = std::move(r->second);
      }
      r = goes ? machine_->records.erase(r) : std::next(r);
    }
  }

  bool told(lie kind) {
    ++machine_->lies[static_cast<std::size_t>(kind)];
    return true;
  }

  /// Makes a lie of a true reply. Returns whether there is a reply.
  bool tell(lie kind, const oriel::store_item& item, record& reply, bool is_reply) {
    if (kind == lie::after_erase) {
      const auto gone = machine_->erased.find(item.key);
      if (gone == machine_->erased.end()) {
        return is_reply;
      }
      reply = gone->second;
      return told(kind);
    }
    if (kind == lie::other_key || kind == lie::foreign_tenant) {
      return tell_other(kind, item, reply, is_reply);
    }
    if (!is_reply) {
      return false;
    }
    told(kind);
    switch (kind) {
      case lie::old_layout:
        old_layout(item, reply);
        break;
      case lie::partial:
        reply.resize(below(reply.size()));
        break;
      case lie::garbage_length: {
        const std::uint64_t garbage = draw_.next_below(1u << 30);
        std::memcpy(reply.data() + (below(2) == 0 ? 16 : 24), &garbage, 4 + 4 * below(2));
        break;
      }
      case lie::twice:
        again_ = reply;
        break;
      case lie::swapped_slices:
        swap_slices(reply);
        break;
      case lie::flipped_bits:
        for (std::size_t flips = 1 + below(3); flips > 0; --flips) {
          flip_meaningful(reply);
        }
        break;
      case lie::exists:
        return false;  // It said it had it.
      case lie::zeros:
        std::ranges::fill(reply, std::byte{0});
        break;
      default:
        break;
    }
    return true;
  }

  bool tell_other(lie kind, const oriel::store_item& item, record& reply, bool is_reply) {
    for (const auto& [key, bytes] : machine_->records) {
      oriel::record_view view;
      if (key == item.key || oriel::decode_record(bytes, view) != oriel::record_verdict::sound ||
          (view.name_space == item.identity->name_space) == (kind == lie::foreign_tenant) ||
          below(4) == 0) {
        continue;
      }
      reply = bytes;
      return told(kind);
    }
    return is_reply;
  }

  /// Another version of the format, or slices of other lengths, told with care.
  void old_layout(const oriel::store_item& item, record& reply) {
    if (below(2) == 0 || item.slices.size() < 2) {
      reply[8] = static_cast<std::byte>(2 + below(250));
      return;
    }
    const std::vector<std::span<std::byte>> fewer(item.slices.begin(), item.slices.end() - 1);
    reply.resize(oriel::record_bytes(item.identity->tokens.size(), fewer));
    oriel::encode_record({.key = item.key, .owner = item.owner}, *item.identity, fewer, reply);
  }
  static void swap_slices(record& reply) {
    oriel::record_view view;
    if (oriel::decode_record(reply, view) != oriel::record_verdict::sound || view.slice_count < 2) {
      reply.resize(reply.size() / 2);
      return;
    }
    const std::uint64_t bytes = std::min(view.slice(0).bytes, view.slice(1).bytes);
    const auto first = reply.begin() + static_cast<std::ptrdiff_t>(view.slice_offset(0));
    std::swap_ranges(first,
                     first + static_cast<std::ptrdiff_t>(bytes),
                     reply.begin() + static_cast<std::ptrdiff_t>(view.slice_offset(1)));
  }
  void flip_meaningful(record& reply) {
    oriel::record_view view;
    if (oriel::decode_record(reply, view) != oriel::record_verdict::sound || below(4) == 0) {
      reply[below(std::min<std::size_t>(reply.size(), 256))] ^=
          static_cast<std::byte>(1u << below(8));
      return;
    }
    const auto slice = static_cast<std::uint32_t>(below(view.slice_count));
    reply[view.slice_offset(slice) + below(view.slice(slice).bytes)] ^=
        static_cast<std::byte>(1u << below(8));
  }

  std::shared_ptr<remote_machine> machine_;
  hand_clock clock_;
  oriel::random_stream draw_;
  std::uint32_t latency_us_max_;
  std::deque<waiting> queue_;
  record again_;
};

static_assert(oriel::kv_store<sim_remote>);

}  // namespace sim
