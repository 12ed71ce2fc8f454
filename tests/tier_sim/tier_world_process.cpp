// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Processes start and end; time passes; faults come and go.
#include "support/toy_geometry.hpp"
#include "tier_world.hpp"

#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/segment_store.hpp>

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>
#include <string>

namespace sim {
namespace {

/// What `tier_limits::now_us` shows: that of the world that runs.
thread_local const std::uint64_t* clock_now = nullptr;
std::uint64_t shown_now() {
  return *clock_now;
}

oriel::pool_plan plan_of(const setup& s) {
  std::vector<oriel::kv_layer_shape> shapes;
  for (const std::uint32_t window : s.layers) {
    shapes.push_back({.kv_heads = 1, .head_dim_qk = 2, .head_dim_vo = 2, .window_tokens = window});
  }
  return *oriel::pool_plan::make(
      shapes,
      {.page_size = s.page_size, .step_tokens = s.step_tokens, .slack_pages = s.ring_slack});
}

std::vector<std::vector<std::uint64_t>> slice_bytes_of(const oriel::pool_plan& plan) {
  std::vector<std::vector<std::uint64_t>> slices;
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    const oriel::page_layout& layout = plan.layout(oriel::pool_id{pool});
    slices.emplace_back();
    for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
      slices.back().push_back(layout.slice_bytes(slot));
    }
  }
  return slices;
}

std::shared_ptr<tier_book> new_book(const char* name, bool is_strict, bool may_lie) {
  auto book = std::make_shared<tier_book>();
  book->name = name;
  book->is_strict = is_strict;
  book->may_lie = may_lie;
  return book;
}

bool is_calm(const oriel_test::sim_faults& f) {
  return !f.are_lies() && f.read_error + f.write_error + f.sync_failure + f.flipped_read +
                                  f.misdirected_read + f.stale_read + f.no_room + f.slow ==
                              0;
}

}  // namespace

tier_tally& tier_tally::operator+=(const tier_tally& other) noexcept {
  constexpr std::uint64_t tier_tally::*counts[] = {&tier_tally::operations,
                                                   &tier_tally::turns,
                                                   &tier_tally::requests,
                                                   &tier_tally::finished,
                                                   &tier_tally::steps,
                                                   &tier_tally::hits,
                                                   &tier_tally::heals,
                                                   &tier_tally::fetches,
                                                   &tier_tally::fetched_pages,
                                                   &tier_tally::copied_pages,
                                                   &tier_tally::refused_copies,
                                                   &tier_tally::dropped_copies,
                                                   &tier_tally::waited,
                                                   &tier_tally::restarts,
                                                   &tier_tally::drops_repeated,
                                                   &tier_tally::healed_worlds,
                                                   &tier_tally::compared_worlds,
                                                   &tier_tally::pages_checked};
  for (const auto count : counts) {
    this->*count += other.*count;
  }
  for (std::size_t i = 0; i < faults.size(); ++i) {
    faults[i] += other.faults[i];
  }
  for (std::size_t i = 0; i < lies.size(); ++i) {
    lies[i] += other.lies[i];
  }
  return *this;
}

tier_world::tier_world(const tier_setup& sizes)
    : sizes_(sizes),
      model_{sizes.device.layers},
      geometry_(toy_geometry(sizes.device.layers, false)),
      plan_(plan_of(sizes.device)),
      rates_(sizes.computes_fast ? oriel::compute_rates{1e12, 1e12}
                                 : oriel::compute_rates{1e6, 1e6}),
      ledger_(sizes_.device),
      epochs_(sizes.device.tenants),
      layers_of_(plan_.pools()),
      draw_(sizes.seed, 0x71),
      disk_(sizes.seed, sizes.disk_latency_us),
      sessions_(8),
      missing_(plan_.pools()) {
  const char* salts[] = {"org_1", "org_12", "org_123"};
  const char* models[] = {"2345", "345", "45"};
  for (std::uint32_t tenant = 0; tenant < sizes.device.tenants; ++tenant) {
    spaces_.emplace_back(
        oriel::namespace_fields{.tenant_salt = salts[tenant], .model = models[tenant]});
    starts_.push_back(chain_start(spaces_[tenant],
                                  {.page_size = page_size(),
                                   .slice_bytes = slice_bytes_of(plan_),
                                   .window_tokens = sizes.device.windows}));
  }
  for (std::uint32_t l = 0; l < model_.layers(); ++l) {
    layers_of_[to_index(plan_.home(l).pool)].push_back(l);
  }
  const bool disk_is_calm = is_calm(sizes.disk_faults) && !sizes.disk_has_holes;
  host_ = new_book("host", !sizes.slabs_fail, false);
  disk_book_ = new_book("disk", disk_is_calm, sizes.disk_faults.are_lies());
  remote_ = new_book(
      "remote", !sizes.remote_faults_at_times.any(), sizes.remote_faults_at_times.lies != 0);
  for (const auto& book : {host_, disk_book_, remote_}) {
    book->is_right = [this](const oriel::store_item& item) { return is_right(item); };
    book->now_us = [this] { return now(); };
    book->on_get = [this](const oriel::store_item& item) {
      p_->memory.touch(item.key.pool, item.slices[0].data());
    };
  }
  disk_.clock = shown_us_;
  start_process();
}

void tier_world::enter() {
  clock_now = shown_us_.get();
  slab_faults::now = &slabs_;
}

tier_world::~tier_world() {
  enter();
  if (p_ != nullptr) {
    end_process(ending::in_order);
  }
}

tier_world::process::process(tier_world& w)
    : pools(*tier_pools::make(w.plan_, {w.sizes_.device.pages})),
      memory(pools),
      device(w.sizes_.seed, w.sizes_.streams, w.sizes_.device_latency_us),
      tree(pools.all(),
           {.page_size = w.sizes_.device.page_size,
            .windows = w.sizes_.device.windows,
            .slack_pages = w.sizes_.device.tree_slack,
            .leases_max = w.sizes_.device.leases_max,
            .namespaces_max = w.sizes_.device.namespaces_max,
            .tenant_shares = w.sizes_.device.tenant_shares,
            .keeps_hash_chain = true},
           retention(oriel::keep_every{w.sizes_.device.keep_every},
                     oriel::keep_branch_points{w.sizes_.device.branch_points},
                     oriel::keep_dense_head{w.sizes_.device.dense_head}),
           oriel::event_forwarder{},
           [&](std::uint32_t runs) { return any_order(w.sizes_.device.order, runs); }),
      runner(w.model_, pools, memory, w.sizes_.device.writes_garbage) {
  for (const std::uint32_t pages : w.sizes_.device.pages) {
    had_content.emplace_back(pages);
    was_free.emplace_back(pages);
  }
}

tier_world::process::~process() {
  tree.events() = {};
}

void tier_world::start_process() {
  enter();
  ++tally_.restarts;
  p_ = std::make_unique<process>(*this);
  tap_ = {this, {}, 0, 0};
  drops_asked_ = 0;
  books_.clear();
  std::vector<oriel::tier> tiers = make_tiers();
  oriel::tier_limits limits = sizes_.limits;
  limits.now_us = shown_now;
  std::vector<std::uint64_t> page_bytes;
  for (std::uint32_t pool = 0; pool < plan_.pools(); ++pool) {
    page_bytes.push_back(plan_.layout(oriel::pool_id{pool}).page_bytes());
  }
  p_->tiers.emplace(p_->tree,
                    p_->pools,
                    std::move(tiers),
                    oriel::fetch_model{.model = &geometry_,
                                       .healing = {.windows = model_.windows,
                                                   .page_size = page_size(),
                                                   .slack_pages = sizes_.device.heal_slack},
                                       .windows = sizes_.device.windows,
                                       .page_bytes = page_bytes,
                                       .may_heal = sizes_.device.heals},
                    limits);
  p_->tree.events().forward_to(tap_);
  for (asked_drop& d : drops_) {  // What the last process could not finish.
    order(d);
  }
}

std::vector<oriel::tier> tier_world::make_tiers() {
  const oriel::transfer_rates rates =
      sizes_.computes_fast ? oriel::transfer_rates{1e-3, 1e6} : oriel::transfer_rates{0.0, 1e15};
  std::vector<oriel::tier> tiers;
  if (sizes_.host.is_there) {
    host_->pages.clear();
    if (auto host = make_host_tier()) {
      tiers.push_back(std::move(*host));
      books_.push_back(host_);
    }
  }
  if (sizes_.disk.is_there) {
    using store = watched_store<oriel::segment_store<oriel_test::sim_disk, oriel_test::sim_wall>>;
    disk_book_->is_dead = false;
    disk_.revive();
    tiers.push_back({.store = oriel::any_store(std::make_unique<store>(
                         disk_book_, disk_, sizes_.segments, oriel_test::sim_wall(disk_))),
                     .role = oriel::tier_role::disk,
                     .writes = sizes_.disk.writes});
    books_.push_back(disk_book_);
    tally_.faults[38] += sizes_.segments.initial_generation > 1'000;
  }
  if (sizes_.remote.is_there) {
    remote_->is_dead = false;
    tiers.push_back({.store = oriel::any_store(
                         std::make_unique<watched_store<sim_remote>>(remote_,
                                                                     machine_,
                                                                     hand_clock(shown_us_),
                                                                     sizes_.seed + tally_.restarts,
                                                                     sizes_.remote_latency_us)),
                     .role = oriel::tier_role::remote,
                     .writes = sizes_.remote.writes});
    books_.push_back(remote_);
  }
  for (oriel::tier& t : tiers) {
    t.rates = rates;
  }
  return tiers;
}

/// Where memory lacks, a smaller tier, or none (F23).
std::optional<oriel::tier> tier_world::make_host_tier() {
  using store = watched_store<oriel::memory_store<flaky_memory, hand_clock>>;
  std::uint64_t page_bytes = 0;
  const auto slices = slice_bytes_of(plan_);
  for (const auto& pool : slices) {
    page_bytes += std::accumulate(pool.begin(), pool.end(), std::uint64_t{256});
  }
  if (sizes_.slabs_fail && !is_healed_) {
    slabs_.reserves_left = draw_.next_below(2 * plan_.pools() + 4);
    slabs_.commits_left = draw_.next_below(60);
  }
  host_->is_dead = false;
  for (const std::uint32_t pages : {sizes_.host_pages, sizes_.host_pages / 4 + 2}) {
    try {
      return oriel::tier{.store = oriel::any_store(std::make_unique<store>(
                             host_,
                             oriel::memory_store_options{
                                 .page_size = page_size(),
                                 .slice_bytes = slices,
                                 .capacity_bytes = pages * page_bytes,
                                 .order = draw_.next_below(2) == 0 ? oriel::memory_order::lru
                                                                   : oriel::memory_order::s3_fifo,
                                 .queue_items = 1 + draw_.next_below(200),
                                 .copy_bytes_per_poll = 64 + draw_.next_below(4096)},
                             hand_clock(shown_us_))),
                         .role = oriel::tier_role::host,
                         .writes = sizes_.host.writes};
    } catch (const std::bad_alloc&) {
      // Once more, with less.
    }
  }
  return std::nullopt;
}

void tier_world::end_process(ending how) {
  const bool dies = how != ending::in_order;
  for (const auto& book : books_) {
    book->is_dead = dies;
  }
  for (const request_pointer& r : requests_) {
    requeue(*r);
  }
  std::erase_if(requests_, [](const request_pointer& r) { return r->is_cancelled; });
  if (dies) {
    how == ending::power ? disk_.lose_power() : disk_.crash();
  }
  if (how == ending::power) {  // Nothing was synced.
    for (auto& [key, page] : disk_book_->pages) {
      page.must_hit = false;
    }
  }
  p_->tree.events() = {};
  tally_ += moved();
  p_->tiers.reset();
  p_.reset();
  for (const auto& book : {host_, disk_book_, remote_}) {
    book->being_read.clear();
  }
  if (sizes_.disk.is_there && !is_healed_) {
    punch_holes();
  }
}

/// While nobody looks: a snapshot of another day (F12), files that end early or have holes (F5).
void tier_world::punch_holes() {
  constexpr const char* snapshot = "index-snapshot";
  auto& small = disk_.small_files();
  if (const auto found = small.find(snapshot); found != small.end()) {
    if (!sizes_.is_plain() && !old_snapshot_.empty() && draw_.next_below(2) == 0) {
      found->second = old_snapshot_;
      ++tally_.faults[12];
    } else {
      old_snapshot_ = found->second;
    }
  }
  if (!sizes_.disk_has_holes || draw_.next_below(2) == 0) {
    return;
  }
  const auto files = disk_.list();
  if (!files || files->empty()) {
    return;
  }
  const auto& file = (*files)[draw_.next_below(static_cast<std::uint32_t>(files->size()))];
  std::vector<std::byte>& image = disk_.image(file.file);
  const std::size_t at = draw_.next_below(static_cast<std::uint32_t>(image.size() / 4096)) * 4096;
  if (draw_.next_below(2) == 0) {
    image.resize(at);
  } else {
    const std::size_t end = std::min(image.size(), at + 4096 * (1 + draw_.next_below(8)));
    std::fill(image.begin() + static_cast<std::ptrdiff_t>(at),
              image.begin() + static_cast<std::ptrdiff_t>(end),
              std::byte{0});
  }
  disk_book_->may_lie = true;  // A tombstone may have been there.
  ++tally_.faults[5];
}

void tier_world::set_clock() {
  if (world_us_ >= frozen_until_us_) {
    *shown_us_ = std::max(*shown_us_, world_us_ + clock_offset_us_);
  }
}

/// Time passes for all; then the tiers have their turn.
void tier_world::turn(std::uint64_t us) {
  ++tally_.turns;
  world_us_ += us;
  set_clock();
  disk_.pass(us);
  machine_->now_us += us;
  p_->device.pass(us);
  const bool is_whole = guarded([&] { p_->tiers->turn(); });
  for (const request_pointer& r : requests_) {
    require(!is_whole || !r->fetch || !p_->tiers->is_fetching(*r->fetch) ||
                now() <= r->fetch_begun_us + sizes_.limits.fetch_us_max,
            "F15: a fetch goes on after its deadline");
  }
}

void tier_world::trouble(bool is_on) {
  is_troubled_ = is_on;
  disk_.faults = is_on ? sizes_.disk_faults : oriel_test::sim_faults{};
  machine_->faults = is_on ? sizes_.remote_faults_at_times : remote_faults{};
}

bool tier_world::is_right(const oriel::store_item& item) const {
  const auto name = by_link_.find(item.key.link);
  const page_record* record = name == by_link_.end() ? nullptr : ledger_.find(name->second);
  if (record == nullptr || item.key.pool >= layers_of_.size()) {
    return false;
  }
  const std::vector<std::uint32_t>& layers = layers_of_[item.key.pool];
  for (std::size_t i = 0; i < item.slices.size(); ++i) {
    const std::uint32_t layer = layers.at(item.first_slice + i);
    if (std::memcmp(item.slices[i].data(),
                    record->kv.data() + std::size_t{layer} * page_size(),
                    std::size_t{page_size()} * sizeof(word)) != 0) {
      return false;
    }
  }
  return true;
}

void tier_world::event_tap::on_event(const oriel::cache_event& event) noexcept {
  {
    const alloc_faults faults(world->allocations_left_);
    world->p_->tiers->on_event(event);
  }
  const no_alloc_faults pause;
  last = event.sequence;
  if (waiting.size() >= world->sizes_.sink_room && world->sink_blocked_ != 0) {
    ++lost;
    ++world->tally_.faults[37];
  } else {
    waiting.push_back({event, {event.tokens.begin(), event.tokens.end()}});
  }
}

/// What this process has moved so far.
tier_tally tier_world::moved() const {
  tier_tally t;
  const oriel::tier_counters& c = p_->tiers->counters();
  for (std::size_t role = 0; role < oriel::tier_roles; ++role) {
    t.fetched_pages += c.fetched_reads[role];
    t.copied_pages += c.copied_pages[role];
    t.refused_copies += c.refused_copies[role];
  }
  t.dropped_copies = c.dropped_copies;
  return t;
}

tier_tally tier_world::counts() const {
  tier_tally all = tally_;
  if (p_ != nullptr) {
    all += moved();
  }
  for (std::size_t f = 0; f < all.faults.size(); ++f) {
    all.faults[f] += disk_.fault_counts()[f];
  }
  for (std::size_t kind = 0; kind < lie_kinds; ++kind) {
    all.lies[kind] = machine_->lies[kind];
    all.faults[16] += machine_->lies[kind];
  }
  all.faults[14] += machine_->down;
  all.faults[15] += machine_->slow;
  all.faults[23] += slabs_.failed;
  return all;
}

}  // namespace sim
