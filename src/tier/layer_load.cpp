// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/layer_load.hpp>

#include <utility>

namespace oriel {

layer_load::layer_load(layer_plan plan,
                       std::vector<layer_page> pages,
                       const layer_load_options& options,
                       std::uint64_t now_us)
    : plan_(std::move(plan)),
      pages_(std::move(pages)),
      options_(options),
      layers_(plan_.layers()),
      page_reads_(pages_.size()),
      end_(static_cast<std::uint32_t>(plan_.reads.size())) {
  for (const layer_read& r : plan_.reads) {
    ORIEL_EXPECTS(r.page < pages_.size() && pages_[r.page].identity != nullptr);
    ++page_reads_[r.page].waiting;
  }
  for (std::uint32_t l = 0; l < plan_.layers(); ++l) {
    layers_[l].reads_left = plan_.reads_of[l];
    if (plan_.reads_of[l] == 0) {
      settle(layers_[l], layer_state::ready, now_us);
    }
  }
}

template <class Visit>
void layer_load::visit_layers(const layer_read& read, Visit&& visit) {
  const std::vector<std::uint32_t>& layers = plan_.layer_in[pages_[read.page].key.pool];
  for (std::uint32_t slot = read.first_slot; slot < read.first_slot + read.slots; ++slot) {
    visit(layers_[layers[slot]]);
  }
}

/// The bytes were written before, by this thread or by one that it heard from: the release hands
/// them on to whoever asks for the state.
void layer_load::settle(progress& l, layer_state state, std::uint64_t now_us) noexcept {
  if (l.state.load(std::memory_order_relaxed) != layer_state::loading) {
    return;
  }
  l.settled_us = now_us;
  ++settled_;
  l.state.store(state, std::memory_order_release);
}

std::size_t layer_load::offer(std::span<store_item> items, std::uint8_t& tier) const noexcept {
  std::uint64_t bytes = in_flight_bytes_;
  std::size_t count = 0;
  for (std::uint32_t n = next_; n < end_ && count < items.size(); ++n) {
    const layer_read& r = plan_.reads[n];
    const layer_page& page = pages_[r.page];
    if (count != 0 && page.tier != tier) {
      break;
    }
    if (bytes != 0 && bytes + r.bytes > options_.in_flight_bytes_max) {
      break;
    }
    tier = page.tier;
    bytes += r.bytes;
    items[count++] = {.op = store_op::get,
                      .key = page.key,
                      .identity = page.identity,
                      .slices = page.slices.subspan(r.first_slot, r.slots),
                      .first_slice = ORIEL_MUTANT(read_takes_first_layers) ? 0 : r.first_slot,
                      .user = options_.user_base + n};
  }
  return count;
}

void layer_load::on_taken(std::size_t count) noexcept {
  for (; count > 0; --count, ++next_) {
    const layer_read& r = plan_.reads[next_];
    in_flight_bytes_ += r.bytes;
    ++in_stores_;
    --page_reads_[r.page].waiting;
    ++page_reads_[r.page].in_stores;
    if (ORIEL_MUTANT(gate_opens_before_acknowledged)) {
      visit_layers(r, [&](progress& l) { settle(l, layer_state::ready, 0); });
    }
  }
}

bool layer_load::on_completion(const store_completion& c, std::uint64_t now_us) noexcept {
  const std::uint64_t n = c.user - options_.user_base;
  if (c.op != store_op::get || n >= next_) {
    return false;
  }
  const layer_read& r = plan_.reads[n];
  ORIEL_EXPECTS(page_reads_[r.page].in_stores > 0);  // Each item completes once.
  in_flight_bytes_ -= r.bytes;
  --in_stores_;
  --page_reads_[r.page].in_stores;
  if (c.outcome == store_outcome::done || ORIEL_MUTANT(failed_read_counts_as_ready)) {
    done_bytes_ += r.bytes;
    visit_layers(r, [&](progress& l) {
      if (--l.reads_left == 0 || ORIEL_MUTANT(one_page_makes_a_layer)) {
        settle(l, layer_state::ready, now_us);
      }
    });
  } else {
    ++failed_reads_;
    visit_layers(r, [&](progress& l) { settle(l, layer_state::failed, now_us); });
    cancel(now_us);
  }
  return true;
}

void layer_load::cancel(std::uint64_t now_us) noexcept {
  for (std::uint32_t n = next_; n < end_; ++n) {
    visit_layers(plan_.reads[n], [&](progress& l) { settle(l, layer_state::failed, now_us); });
  }
  end_ = next_;
  if (ORIEL_MUTANT(cancel_lets_go_at_once)) {
    in_stores_ = 0;
    page_reads_.assign(page_reads_.size(), {});
  }
}

void layer_load::give_up(std::uint64_t now_us) noexcept {
  cancel(now_us);
  for (progress& l : layers_) {
    settle(l, layer_state::failed, now_us);
  }
}

layer_counters& layer_counters::operator+=(const layer_counters& other) noexcept {
  loads += other.loads;
  failed_loads += other.failed_loads;
  layers += other.layers;
  late_layers += other.late_layers;
  stall_us += other.stall_us;
  lead_us += other.lead_us;
  reads += other.reads;
  bytes += other.bytes;
  return *this;
}

void layer_meter::begin(const layer_plan& plan) {
  waits_.assign(plan.layers(), {});
  for (std::uint32_t l = 0; l < plan.layers(); ++l) {
    waits_[l].was_loaded = plan.reads_of[l] != 0;
  }
  has_failed_ = false;
  ++counters_.loads;
  counters_.reads += plan.reads.size();
  counters_.bytes += plan.bytes;
}

void layer_meter::pass(const layer_load& load,
                       std::uint32_t layer,
                       std::uint64_t asked_us,
                       std::uint64_t passed_us) noexcept {
  layer_wait& w = waits_[layer];
  w.ready_us = load.settled_us(layer);
  w.asked_us = asked_us;
  w.passed_us = passed_us;
  if (!w.was_loaded) {
    return;
  }
  ++counters_.layers;
  counters_.late_layers += w.ready_us > asked_us;
  counters_.stall_us += w.stall_us();
  if (load.state(layer) == layer_state::ready) {
    counters_.lead_us += w.lead_us();
  } else if (!has_failed_) {
    has_failed_ = true;
    ++counters_.failed_loads;
  }
}

}  // namespace oriel
