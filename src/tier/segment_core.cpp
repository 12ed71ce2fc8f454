// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Operations from submit to poll, their order, and the health of the store.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/segment_core.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <stdexcept>
#include <utility>

namespace oriel::detail {
namespace {

std::uint32_t pages_of(const segment_store_options& o) {
  // No record is smaller than a header and a block: with as many entries no room stays empty.
  const std::uint64_t pages =
      o.pages_max != 0 ? o.pages_max : o.capacity_bytes / (2 * record_alignment_bytes);
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(pages, 16, null_entry - 1));
}

const segment_store_options& checked(const segment_store_options& o) {
  if (o.segment_bytes < 4 * record_alignment_bytes ||
      o.segment_bytes % record_alignment_bytes != 0 ||
      o.segment_bytes / record_alignment_bytes > 0xFFFF'FFFFu) {
    throw std::invalid_argument("segment_store: segment_bytes");
  }
  if (o.capacity_bytes / o.segment_bytes < 3) {
    throw std::invalid_argument("segment_store: capacity_bytes must hold three segments");
  }
  if (!(o.tenant_share_max > 0 && o.tenant_share_max <= 1) ||
      !(o.carry_share_max >= 0 && o.carry_share_max < 1)) {
    throw std::invalid_argument("segment_store: a share is out of range");
  }
  if (o.queue_items == 0 || o.batches_in_flight == 0 || o.reads_in_flight == 0 ||
      o.bounce_bytes < 16 * record_alignment_bytes) {
    throw std::invalid_argument("segment_store: a queue or buffer of nothing");
  }
  return o;
}

bool has_key(store_op what) noexcept {
  return what == store_op::get || what == store_op::put || what == store_op::exists ||
         what == store_op::touch || what == store_op::erase;
}

}  // namespace

segment_core::segment_core(const segment_store_options& options, segment_names& names)
    : options_(checked(options)),
      names_(names),
      index_(pages_of(options)),
      bounce_(options.bounce_bytes),
      generation_(options.initial_generation),
      operations_(options.queue_items),
      holders_(std::bit_ceil(std::uint64_t{options.queue_items}), null_id),
      ready_(options.queue_items),
      batches_(options.batches_in_flight),
      carries_(options.carries_in_flight) {
  for (std::uint32_t id = 0; id < operations_.size(); ++id) {
    push(free_, id);
  }
  waiting_syncs_.reserve(operations_.size());
  carries_ready_.reserve(carries_.size());
  stats_.capacity_bytes = options_.capacity_bytes;
}

segment_core::~segment_core() = default;

void segment_core::push(operation_queue& queue, std::uint32_t id) noexcept {
  op(id).next = null_id;
  (queue.is_empty() ? queue.first : op(queue.last).next) = id;
  queue.last = id;
}

std::uint32_t segment_core::pop(operation_queue& queue) noexcept {
  const std::uint32_t id = queue.first;
  queue.first = op(id).next;
  return id;
}

std::size_t segment_core::submit(std::span<const store_item> items,
                                 std::uint64_t deadline_us,
                                 std::uint64_t now_us) {
  taken_ = 0;
  while (taken_ < items.size() && pending_ < ready_.size() && !free_.is_empty()) {
    const std::uint32_t id = pop(free_);
    operation& o = op(id);
    o.item = items[taken_++];
    o.state = operation_state::held;
    o.deadline_us = deadline_us;
    o.sequence = ++sequence_;
    o.tries = o.plans = 0;
    o.is_probe = o.counts_as_write = false;
    o.error = 0;
    o.slices_at = 0;
    o.first_waiter = o.last_waiter = null_id;
    ++pending_;
    if (is_lost_) {
      o.state = operation_state::writing;  // in no queue
      finish(id, store_outcome::refused, ENOMEM);
      continue;
    }
    earliest_us_ = std::min(earliest_us_, deadline_us);
    if (barrier_ != null_id || !held_.is_empty()) {
      o.state = operation_state::held;
      push(held_, id);
    } else {
      route(id, now_us);
      drain(now_us);
    }
  }
  progress(now_us);
  return taken_;
}

void segment_core::give_up() noexcept {
  is_lost_ = is_degraded_ = true;
  fault_.operation = "memory";  // so short that it needs none
  fault_.where.clear();
  fault_.native = ENOMEM;
  ++fault_.count;
  free_ = runnable_ = held_ = reads_ = arrived_ = writes_ = operation_queue{};
  std::ranges::fill(holders_, null_id);
  waiting_syncs_.clear();
  outbox_.clear();
  sent_ = 0;
  barrier_ = null_id;
  writes_pending_ = 0;
  earliest_us_ = no_deadline;
  for (std::uint32_t id = 0; id < operations_.size(); ++id) {
    operation& o = op(id);
    o.pin.release();
    o.header = {};
    o.bounced.clear();
    o.is_holder = o.counts_as_write = false;
    if (o.state != operation_state::free && o.state != operation_state::ended) {
      count(o, store_outcome::failed, 0);
      tell(o, store_outcome::failed, ENOMEM, 0);
    }
    o.state = operation_state::free;
    push(free_, id);
  }
  for (write_batch& b : batches_) {
    b.pin.release();
  }
  for (carried_record& r : carries_) {
    r.pin.release();
  }
}

void segment_core::tell(const operation& o,
                        store_outcome outcome,
                        int native,
                        std::uint64_t bytes) noexcept {
  ORIEL_EXPECTS(ready_count_ < ready_.size());
  ready_[(ready_first_ + ready_count_) % ready_.size()] = {
      o.item.user, o.item.op, outcome, native, bytes};
  ++ready_count_;
}

/// Lets go what a finished operation kept waiting. Later submissions never overtake these: every
/// entry to the store drains before it takes more.
void segment_core::drain(std::uint64_t now_us) {
  for (;;) {
    if (!runnable_.is_empty()) {
      route(pop(runnable_), now_us);
    } else if (barrier_ != null_id) {
      if (writes_pending_ != 0 && !ORIEL_MUTANT(drop_does_not_wait_for_puts)) {
        return;
      }
      start_drop(std::exchange(barrier_, null_id));
    } else if (!held_.is_empty()) {
      route(pop(held_), now_us);
    } else {
      return;
    }
  }
}

void segment_core::route(std::uint32_t id, std::uint64_t now_us) {
  operation& o = op(id);
  if (o.state == operation_state::ended) {  // late while it waited
    o.state = operation_state::free;
    push(free_, id);
    return;
  }
  o.state = operation_state::writing;  // in no queue, wherever it waited
  if (o.item.op == store_op::put || o.item.op == store_op::erase) {
    writes_pending_ += o.counts_as_write ? 0 : 1;
    o.counts_as_write = true;
  }
  if (has_key(o.item.op)) {
    const std::uint32_t holder = find_holder(o.item.key);
    if (holder != null_id && !ORIEL_MUTANT(get_overtakes_a_put)) {
      o.state = operation_state::waiting;
      o.next = null_id;
      operation& h = op(holder);
      (h.first_waiter == null_id ? h.first_waiter : op(h.last_waiter).next) = id;
      h.last_waiter = id;
      return;
    }
  }
  admit(id, now_us);
}

void segment_core::admit(std::uint32_t id, std::uint64_t now_us) {
  operation& o = op(id);
  switch (o.item.op) {
    case store_op::get:
      return admit_get(id, now_us);
    case store_op::exists:
    case store_op::touch:
      return admit_look(id, now_us);
    case store_op::put:
      return admit_put(id, now_us);
    case store_op::erase:
      return admit_erase(id);
    case store_op::drop_space:
    case store_op::drop_tenant:
    case store_op::drop_session:
      // Puts that were submitted before are there when it takes effect, and go too.
      o.state = operation_state::held;
      barrier_ = id;
      return;
    case store_op::sync:
      if (writes_pending_ == 0) {
        return start_sync(id);
      }
      o.state = operation_state::waiting_writes;
      o.remaining = writes_pending_;
      waiting_syncs_.push_back(id);
      return;
  }
}

std::uint32_t segment_core::find_holder(const page_key& key) const noexcept {
  std::uint32_t id = holders_[key.link.prefix64() & (holders_.size() - 1)];
  while (id != null_id && operations_[id].item.key != key) {
    id = operations_[id].next_holder;
  }
  return id;
}

void segment_core::hold_key(std::uint32_t id) noexcept {
  std::uint32_t& bucket = holders_[op(id).item.key.link.prefix64() & (holders_.size() - 1)];
  op(id).next_holder = bucket;
  op(id).is_holder = true;
  bucket = id;
}

void segment_core::release_key(std::uint32_t id) noexcept {
  operation& o = op(id);
  std::uint32_t* from = &holders_[o.item.key.link.prefix64() & (holders_.size() - 1)];
  while (*from != id) {
    from = &op(*from).next_holder;
  }
  *from = o.next_holder;
  o.is_holder = false;
  if (o.first_waiter != null_id) {  // in their order, behind those of other keys
    (runnable_.is_empty() ? runnable_.first : op(runnable_.last).next) = o.first_waiter;
    runnable_.last = o.last_waiter;
    o.first_waiter = o.last_waiter = null_id;
  }
}

void segment_core::finish(std::uint32_t id,
                          store_outcome outcome,
                          int native,
                          std::uint64_t bytes) {
  operation& o = op(id);
  give_back(o);
  o.pin.release();
  if (o.is_holder) {
    release_key(id);
  }
  count(o, outcome, bytes);
  tell(o, outcome, native, bytes);
  const bool is_linked = o.state == operation_state::held || o.state == operation_state::waiting ||
                         o.state == operation_state::queued_read ||
                         o.state == operation_state::queued_write;
  o.state = is_linked ? operation_state::ended : operation_state::free;
  if (!is_linked) {
    push(free_, id);
  }
  if (std::exchange(o.counts_as_write, false)) {
    --writes_pending_;
    write_ended(o);
  }
}

void segment_core::count(const operation& o, store_outcome outcome, std::uint64_t bytes) noexcept {
  stats_.gets += o.item.op == store_op::get ? 1 : 0;
  stats_.puts += o.item.op == store_op::put ? 1 : 0;
  if (o.item.op == store_op::get) {
    stats_.hits += outcome == store_outcome::done ? 1 : 0;
    stats_.misses += outcome == store_outcome::miss || outcome == store_outcome::corrupt ? 1 : 0;
    stats_.bytes_read += bytes;
  }
  if (o.item.op == store_op::put) {
    stats_.puts_done += outcome == store_outcome::done ? 1 : 0;
  }
  stats_.late += outcome == store_outcome::late ? 1 : 0;
  stats_.refused += outcome == store_outcome::refused ? 1 : 0;
  stats_.failed += outcome == store_outcome::failed ? 1 : 0;
}

/// Syncs that were submitted after this write wait for one less.
void segment_core::write_ended(const operation& o) {
  for (std::size_t i = 0; i < waiting_syncs_.size();) {
    const std::uint32_t sync = waiting_syncs_[i];
    if (op(sync).sequence < o.sequence || --op(sync).remaining != 0) {
      ++i;
      continue;
    }
    waiting_syncs_.erase(waiting_syncs_.begin() + static_cast<std::ptrdiff_t>(i));
    start_sync(sync);
  }
}

/// Ends what nobody started yet; what a disk works on cannot be stopped.
void segment_core::cancel_late(std::uint64_t now_us) {
  if (earliest_us_ > now_us) {
    return;
  }
  earliest_us_ = no_deadline;
  for (std::uint32_t id = 0; id < operations_.size(); ++id) {
    operation& o = op(id);
    const bool waits = o.state == operation_state::held || o.state == operation_state::waiting ||
                       o.state == operation_state::queued_read ||
                       (o.state == operation_state::queued_write && o.item.op == store_op::put);
    if (!waits || id == barrier_) {
      continue;
    }
    if (o.deadline_us <= now_us) {
      finish(id, store_outcome::late);
    } else {
      earliest_us_ = std::min(earliest_us_, o.deadline_us);
    }
  }
  drain(now_us);
}

void segment_core::request(disk_op what,
                           std::uint32_t file,
                           std::uint64_t offset,
                           std::span<const std::span<std::byte>> parts,
                           request_kind kind,
                           std::uint32_t id) {
  outbox_.push_back({.op = what,
                     .file = file,
                     .offset = offset,
                     .parts = parts,
                     .user = (std::uint64_t{static_cast<std::uint8_t>(kind)} << 56) | id});
}

void segment_core::sent(std::size_t count) noexcept {
  sent_ += count;
  if (sent_ == outbox_.size()) {
    outbox_.clear();
    sent_ = 0;
  }
}

void segment_core::completed(const disk_completion& done, std::uint64_t now_us) {
  const auto id = static_cast<std::uint32_t>(done.user);
  switch (static_cast<request_kind>(done.user >> 56)) {
    case request_kind::read: {
      operation& o = op(id);
      o.error = done.error != 0 ? done.error : o.error;
      if (--o.remaining == 0) {
        --reads_in_flight_;
        push(arrived_, id);
      }
      break;
    }
    case request_kind::batch:
      batch_ended(id, done.error, now_us);
      break;
    case request_kind::sync:
      sync_ended(static_cast<std::uint16_t>(id), done.error, now_us);
      break;
    case request_kind::carry:
      carry_read(id, done.error, now_us);
      break;
    case request_kind::scan:
      scan_read(id, done.error, now_us);
      return;
    case request_kind::contest:
      contest_read(id, done.error, now_us);
      return;
  }
  drain(now_us);
}

void segment_core::progress(std::uint64_t now_us) {
  if (is_recovering() || is_lost_) {
    return;
  }
  cancel_late(now_us);
  pump_reclaim(now_us);
  pump_writes(now_us);
  pump_reclaim(now_us);
  pump_reads();
  pump_syncs();
  drain(now_us);
}

std::size_t segment_core::poll(std::span<store_completion> done) noexcept {
  const std::size_t count = std::min(done.size(), ready_count_);
  for (std::size_t i = 0; i < count; ++i) {
    done[i] = ready_[(ready_first_ + i) % ready_.size()];
  }
  ready_first_ = (ready_first_ + count) % ready_.size();
  ready_count_ -= count;
  pending_ -= count;
  return count;
}

bool segment_core::may_read(operation& o, std::uint64_t now_us) noexcept {
  if (!is_degraded_) {
    return true;
  }
  if (now_us < next_probe_us_) {
    return false;
  }
  next_probe_us_ = now_us + options_.probe_interval_us;
  o.is_probe = true;
  return true;
}

bool segment_core::may_write(operation& o, std::uint64_t now_us) noexcept {
  if (!is_degraded_ && !is_paused_) {
    return true;
  }
  if (now_us < next_probe_us_) {
    return false;
  }
  next_probe_us_ = now_us + options_.probe_interval_us;
  o.is_probe = true;
  return true;
}

void segment_core::note_fault(const char* operation, std::uint32_t file, int native) {
  fault_ = {operation, names_.where(file), native, fault_.count + 1};
}

void segment_core::note_error(const char* operation,
                              std::uint32_t file,
                              int native,
                              std::uint64_t now_us) {
  note_fault(operation, file, native);
  if (now_us - errors_since_us_ > options_.error_window_us) {
    errors_since_us_ = now_us;
    errors_ = 0;
  }
  if (++errors_ >= options_.errors_max && !is_degraded_) {
    is_degraded_ = true;
    next_probe_us_ = now_us + options_.probe_interval_us;
  }
}

void segment_core::note_success(const operation& o) noexcept {
  if (o.is_probe) {
    is_degraded_ = false;
    errors_ = 0;
    is_paused_ = is_paused_ && o.item.op == store_op::get;
  }
}

void segment_core::pause_writes(int native, std::uint64_t now_us) noexcept {
  is_paused_ = true;
  paused_by_ = native;
  next_probe_us_ = now_us + options_.probe_interval_us;
}

store_stats segment_core::stats() const noexcept {
  store_stats s = stats_;
  s.pages = index_.pages();
  s.used_bytes = index_.used_bytes();
  s.index_bytes = index_.index_bytes();
  s.health = is_degraded_ ? store_health::degraded
             : is_paused_ ? store_health::write_paused
                          : store_health::healthy;
  return s;
}

segment_store_state segment_core::state() const noexcept {
  segment_store_state s = state_;
  s.segments = order_.size();
  s.segment_bytes = file_bytes_;
  return s;
}

bool segment_core::is_consistent() const {
  std::uint64_t bytes = 0;
  for (const std::uint16_t slot : order_) {
    bytes += segments_[slot].bytes;
  }
  return index_.is_consistent() && bytes == file_bytes_ && index_.used_bytes() <= file_bytes_ &&
         (file_bytes_ <= options_.capacity_bytes || is_paused_) &&
         std::ranges::is_sorted(
             order_, {}, [&](std::uint16_t slot) { return segments_[slot].file; });
}

}  // namespace oriel::detail
