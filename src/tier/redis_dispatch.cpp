// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// redis_store: from items to commands.
#include "redis_state.hpp"

#include <oriel/core/mutation.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <cerrno>
#include <span>

namespace oriel {
namespace {

constexpr std::size_t cluster_nodes_max = 256;
constexpr std::size_t epochs_per_fetch = 256;
/// Heads are asked for in one guess; few pages have larger ones.
constexpr std::size_t front_bytes = 4096;

std::string hexadecimal(std::span<const std::byte> bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  for (const std::byte b : bytes) {
    out += digits[static_cast<unsigned>(b) >> 4];
    out += digits[static_cast<unsigned>(b) & 15];
  }
  return out;
}

std::uint64_t bytes_of(std::span<const std::span<std::byte>> slices) {
  std::uint64_t bytes = 0;
  for (const auto& slice : slices) {
    bytes += slice.size();
  }
  return bytes;
}

}  // namespace

std::string redis_store::state::key_of(const page_key& key) const {
  return options.key_prefix + "p:" + hexadecimal(key.link.bytes) + ":" + std::to_string(key.pool);
}

detail::redis_link& redis_store::state::link_of(std::uint16_t slot) {
  node& n = *nodes_[node_of_slot_.empty() ? 0 : node_of_slot_[slot]];
  return *n.links[slot % n.links.size()];
}

detail::redis_link& redis_store::state::epoch_link() {
  return link_of(detail::redis_slot(detail::redis_stamp_key(options.key_prefix)));
}

redis_store::state::node* redis_store::state::node_at(const std::string& host, std::uint16_t port) {
  for (const auto& n : nodes_) {
    if (n->host == host && n->port == port) {
      return n.get();
    }
  }
  if (nodes_.size() >= cluster_nodes_max) {
    return nullptr;
  }
  auto made = std::make_unique<node>();
  made->host = host;
  made->port = port;
  for (std::uint32_t i = 0; i < options.connections; ++i) {
    made->links.push_back(std::make_unique<detail::redis_link>(
        options, url_, host, port, tls_.get(), nodes_.size() * 64 + i));
  }
  nodes_.push_back(std::move(made));
  return nodes_.back().get();
}

redis_store::state::command& redis_store::state::new_command(purpose what, std::uint32_t index) {
  if (unused_commands_.empty()) {
    commands_.push_back(std::make_unique<command>());
    unused_commands_.push_back(commands_.back().get());
  }
  command& c = *unused_commands_.back();
  unused_commands_.pop_back();
  c.restart();
  c.purpose = what;
  c.entry = index;
  return c;
}

void redis_store::state::send(command& c, detail::redis_link& link, std::uint64_t now) {
  ++commands_out_;
  bytes_out_ += c.payload_bytes + c.reply_bytes;
  c.charged_bytes = c.payload_bytes + c.reply_bytes;
  c.link = &link;
  link.enqueue(c, now);
}

// Items in order, until one has to wait or there is no room.
void redis_store::state::dispatch(std::uint64_t now) {
  // A dead node tells nobody who took its slots over.
  for (std::size_t i = 0; !node_of_slot_.empty() && now >= slots_retry_us_ && i < nodes_.size();
       ++i) {
    wants_slots_ = wants_slots_ || (nodes_[i]->links[0]->is_cut_off() &&
                                    std::ranges::find(node_of_slot_, i) != node_of_slot_.end());
  }
  if (wants_slots_) {
    start_slots(now);
  }
  if (!node_of_slot_.empty() && !knows_slots_) {
    return;
  }
  detail::redis_link& checker = epoch_link();
  if (checker.greetings() != epoch_greetings_) {
    epoch_greetings_ = checker.greetings();
    epochs_.forget();  // Another server may have the address now.
  }
  if (checker.is_cut_off()) {
    // Without epochs no page counts: whoever needs them is refused at once.
    fail_checked(no_deadline, store_outcome::refused, checker.last_fault().native);
    wants_check_ = false;
  }
  if (wants_check_ && pending > completions.size()) {
    start_check(now);
  }
  has_barrier_ = has_barrier_ && active_ > 0;
  while (!waiting_.empty() && !has_barrier_) {
    const std::uint32_t index = waiting_.front();
    const std::uint64_t room = room_of(entries_[index].item);
    const bool has_room = commands_out_ < options.in_flight_commands_max &&
                          (bytes_out_ == 0 || bytes_out_ + room <= options.in_flight_bytes_max);
    if (!has_room || !start(index, now)) {
      break;
    }
  }
  if (epochs_.wants_fetch()) {
    start_epochs(now);
  }
}

std::uint64_t redis_store::state::room_of(const store_item& item) const {
  const bool is_transfer = item.op == store_op::get || item.op == store_op::put;
  return is_transfer ? bytes_of(item.slices) : 0;
}

// @returns false: it has to wait, and so has all behind it
bool redis_store::state::start(std::uint32_t index, std::uint64_t now) {
  entry& e = entries_[index];
  switch (e.item.op) {
    case store_op::put:
      if (!start_put(index, now)) {
        return false;
      }
      break;
    case store_op::get:
      waiting_.pop_front();
      start_get(index, now);
      break;
    case store_op::exists:
    case store_op::touch:
      waiting_.pop_front();
      start_head(index, now);
      break;
    case store_op::erase:
      if (two_steps_ > 0) {
        return false;  // It would come between the steps of a get that was there before.
      }
      waiting_.pop_front();
      start_erase(index, now);
      break;
    case store_op::drop_space:
    case store_op::drop_tenant:
    case store_op::drop_session:
      if (active_ > 0) {
        return false;
      }
      waiting_.pop_front();
      has_barrier_ = true;
      start_drop(index, now);
      break;
    case store_op::sync:
      break;  // Never gets here.
  }
  return true;
}

bool redis_store::state::start_put(std::uint32_t index, std::uint64_t now) {
  entry& e = entries_[index];
  const store_item& item = e.item;
  const std::uint64_t payload = bytes_of(item.slices);
  const std::size_t head =
      detail::redis_head_bytes(item.slices.size(), item.identity->tokens.size());
  const bool is_expired = item.expires_us != 0 && item.expires_us <= now;
  if (is_expired || head > detail::redis_head_bytes_max ||
      payload + head > options.record_bytes_max) {
    waiting_.pop_front();
    is_expired ? complete(index, store_outcome::done)
               : complete(index, store_outcome::refused, EMSGSIZE);
    return true;
  }
  if (checks_done_ < e.check) {
    return false;
  }
  std::array<std::uint64_t, 3> epochs = {};
  const auto names = detail::redis_epoch_names(item.identity->name_space, item.owner);
  for (std::size_t i = 0; i < names.size(); ++i) {
    epochs[i] = epochs_.for_put(names[i]);
  }
  if (std::ranges::find(epochs, std::uint64_t{0}) != epochs.end()) {
    return false;
  }
  waiting_.pop_front();
  command& c = new_command(purpose::put, index);
  const std::string key = key_of(item.key);
  // The wall clock first: rather a little too early than too late.
  const std::uint64_t wall = realtime_clock().now_us();
  const std::uint64_t mine = now_us();
  const std::uint64_t left_us =
      item.expires_us == 0 ? 0 : std::max(item.expires_us, mine + 1) - mine;
  detail::append_command_front(c.head, item.expires_us == 0 ? 3 : 5, {"SET", key});
  c.head += '$';
  c.head += std::to_string(head + payload);
  c.head += "\r\n";
  detail::encode_redis_head(
      c.head, item, epochs, left_us == 0 ? 0 : by_other_clock(mine + left_us, mine, wall));
  c.tail = "\r\n";
  if (left_us != 0) {
    // The server forgets it for its room; what decides is in the record.
    detail::append_argument(c.tail, "PX");
    detail::append_argument(c.tail, std::to_string(left_us / 1'000 + 1));
  }
  c.payload = item.slices;
  c.payload_bytes = payload;
  c.is_write = true;
  c.slot = detail::redis_slot(key);
  e.operation = &c;
  e.at = stage::sent;
  ++active_;
  send(c, link_of(c.slot), now);
  return true;
}

void redis_store::state::start_get(std::uint32_t index, std::uint64_t now) {
  entry& e = entries_[index];
  const bool is_front = e.item.first_slice == 0;
  command& c = new_command(is_front ? purpose::page : purpose::page_front, index);
  const std::string key = key_of(e.item.key);
  if (is_front) {
    detail::append_command(c.head, {"GET", key});
  } else {
    e.has_two_steps = true;
    ++two_steps_;
    c.number = front_bytes;
    detail::append_command(c.head, {"GETRANGE", key, "0", std::to_string(front_bytes - 1)});
  }
  c.item = e.item;
  c.reply_bytes = bytes_of(e.item.slices);
  c.slot = detail::redis_slot(key);
  e.operation = &c;
  e.at = stage::sent;
  ++active_;
  send(c, link_of(c.slot), now);
}

// The slices out of the middle of a record whose head is known.
void redis_store::state::start_range(std::uint32_t index, command& front, std::uint64_t now) {
  entry& e = entries_[index];
  const auto head = std::as_bytes(std::span(front.reply.text));
  std::uint64_t begin = front.fixed.head_bytes;
  for (std::uint32_t i = 0; i < e.item.first_slice; ++i) {
    begin += detail::decode_redis_row(head, i).bytes;
  }
  command& c = new_command(purpose::page_range, index);
  c.item = e.item;
  c.fixed = front.fixed;
  for (std::size_t i = 0; i < e.item.slices.size(); ++i) {
    c.rows.push_back(detail::decode_redis_row(head, e.item.first_slice + i));
    c.reply_bytes += c.rows.back().bytes;
  }
  const std::string key = key_of(e.item.key);
  detail::append_command(
      c.head, {"GETRANGE", key, std::to_string(begin), std::to_string(begin + c.reply_bytes - 1)});
  c.slot = detail::redis_slot(key);
  e.operation = &c;
  send(c, link_of(c.slot), now);
}

void redis_store::state::start_head(std::uint32_t index, std::uint64_t now) {
  entry& e = entries_[index];
  command& c = new_command(purpose::head, index);
  const std::string key = key_of(e.item.key);
  detail::append_command(c.head,
                         {"GETRANGE", key, "0", std::to_string(detail::redis_fixed_bytes - 1)});
  c.slot = detail::redis_slot(key);
  e.operation = &c;
  e.at = stage::sent;
  ++active_;
  send(c, link_of(c.slot), now);
}

// Deletions are followed by an ECHO of a number that no other reply has: they are done when replies
// are known to be in step with commands.
void redis_store::state::start_fence(std::uint32_t index,
                                     detail::redis_link& link,
                                     std::uint64_t now) {
  command& c = new_command(purpose::fence, index);
  c.number = ++fences_;
  detail::append_command(c.head, {"ECHO", "fence " + std::to_string(c.number)});
  entries_[index].fence = &c;
  send(c, link, now);
}

void redis_store::state::start_erase(std::uint32_t index, std::uint64_t now) {
  entry& e = entries_[index];
  command& c = new_command(purpose::erase, index);
  const std::string key = key_of(e.item.key);
  detail::append_command(c.head, {"UNLINK", key});
  c.is_write = true;
  c.slot = detail::redis_slot(key);
  e.operation = &c;
  e.at = stage::sent;
  ++active_;
  detail::redis_link& link = link_of(c.slot);
  send(c, link, now);
  start_fence(index, link, now);
}

void redis_store::state::start_drop(std::uint32_t index, std::uint64_t now) {
  entry& e = entries_[index];
  const auto names = detail::redis_epoch_names(e.item.key.link, e.item.owner);
  const std::size_t which = e.item.op == store_op::drop_space    ? 0
                            : e.item.op == store_op::drop_tenant ? 1
                                                                 : 2;
  command& c = new_command(purpose::drop, index);
  const std::string stamp = detail::redis_stamp_key(options.key_prefix);
  std::string epoch = names[which].key(options.key_prefix);
  if (ORIEL_MUTANT(redis_drop_without_epoch)) {
    epoch += '-';
  }
  detail::append_command(c.head,
                         {"MSET",
                          epoch,
                          std::to_string(detail::redis_nonce()),
                          stamp,
                          std::to_string(detail::redis_nonce())});
  c.is_write = true;
  c.slot = detail::redis_slot(stamp);
  e.operation = &c;
  e.at = stage::sent;
  ++active_;
  detail::redis_link& link = link_of(c.slot);
  send(c, link, now);
  start_fence(index, link, now);
}

void redis_store::state::start_check(std::uint64_t now) {
  wants_check_ = false;
  command& c = new_command(purpose::stamp, command::no_entry);
  const std::string key = detail::redis_stamp_key(options.key_prefix);
  detail::append_command(c.head, {"GET", key});
  c.number = ++checks_sent_;
  c.slot = detail::redis_slot(key);
  send(c, link_of(c.slot), now);
}

void redis_store::state::start_epochs(std::uint64_t now) {
  const auto make = [&](const std::string& key) {
    command& c = new_command(purpose::make_epoch, command::no_entry);
    detail::append_command(c.head, {"SET", key, std::to_string(detail::redis_nonce()), "NX"});
    c.is_write = true;
    c.slot = detail::redis_slot(key);
    send(c, link_of(c.slot), now);
  };
  make_error_.clear();
  command& c = new_command(purpose::epochs, command::no_entry);
  const auto& names = epochs_.begin_fetch(epochs_per_fetch);
  detail::append_command_front(c.head, names.size() + 1, {"MGET"});
  bool makes = false;
  for (const detail::redis_epoch_name& name : names) {
    const std::string key = name.key(options.key_prefix);
    if (epochs_.is_to_be_made(name)) {
      makes = true;
      make(key);
    }
    detail::append_argument(c.head, key);
  }
  const std::string stamp = detail::redis_stamp_key(options.key_prefix);
  if (makes && epochs_.stamp() == 0) {
    make(stamp);
  }
  c.number = checks_sent_;
  c.slot = detail::redis_slot(stamp);
  send(c, link_of(c.slot), now);
}

void redis_store::state::start_slots(std::uint64_t now) {
  if (is_fetching_slots_ || now < slots_retry_us_) {
    return;
  }
  // Ask around: the node we asked last may be the one that died.
  node* asked = nullptr;
  for (std::size_t i = 0; i < nodes_.size() && asked == nullptr; ++i) {
    node& n = *nodes_[slots_turn_++ % nodes_.size()];
    asked = n.links[0]->is_cut_off() ? nullptr : &n;
  }
  if (asked == nullptr) {
    fail_waiting(store_outcome::refused, nodes_[0]->links[0]->last_fault().native);
    return;
  }
  is_fetching_slots_ = true;
  command& c = new_command(purpose::slots, command::no_entry);
  detail::append_command(c.head, {"CLUSTER", "SLOTS"});
  send(c, *asked->links[0], now);
}

// Gives back the memory of a record that nobody can use. Never while a put is under way: that one
// may be of the same key.
void redis_store::state::discard(const page_key& key, std::uint64_t now) {
  if (puts_ > 0) {
    return;
  }
  command& c = new_command(purpose::discard, command::no_entry);
  const std::string name = key_of(key);
  detail::append_command(c.head, {"UNLINK", name});
  c.is_write = true;
  c.slot = detail::redis_slot(name);
  send(c, link_of(c.slot), now);
}

}  // namespace oriel
