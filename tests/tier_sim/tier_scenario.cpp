// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "sim/dice.hpp"
#include "tier/segment_world.hpp"
#include "tier_scenario.hpp"

#include <algorithm>
#include <sstream>

namespace sim {
namespace {

oriel::placement draw_placement(dice& draw) {
  using oriel::placement;
  static constexpr placement choices[] = {placement::write_through,
                                          placement::write_through,
                                          placement::write_through,
                                          placement::selective,
                                          placement::selective,
                                          placement::write_back,
                                          placement::write_back,
                                          placement::read_only};
  return choices[draw.below(8)];
}

void draw_tiers(dice& draw, tier_setup& s) {
  s.host = {draw.below(4) != 0, draw_placement(draw)};
  s.disk = {draw.below(3) != 0, draw_placement(draw)};
  s.remote = {draw.one_in(2), draw_placement(draw)};
  if (const std::uint32_t only = draw.below(9); only < 3) {
    s.host.is_there = only == 0;
    s.disk.is_there = only == 1;
    s.remote.is_there = only == 2;
  }
  if (s.is_plain()) {  // One tier at least gets all, and keeps it.
    (s.host.is_there   ? s.host
     : s.disk.is_there ? s.disk
                       : s.remote) = {true, oriel::placement::write_through};
  }
  s.host.is_there = s.host.is_there || !(s.disk.is_there || s.remote.is_there);
  s.host_pages = s.is_plain() ? 4000 : draw.one_in(3) ? draw.between(2, 12) : draw.between(20, 300);
  const bool is_small = !s.is_plain() && draw.one_in(2);
  s.segments = oriel_test::tiny_options(is_small       ? draw.between(3, 10)
                                        : s.is_plain() ? 512
                                                       : 48,
                                        65'536 + 32'768 * draw.below(3));
  s.segments.pages_max = 8192;
  s.segments.queue_items = draw.between(4, 128);
  s.segments.saves_snapshot = draw.one_in(2);
  s.segments.initial_generation =  // F38: of 32 bits, or of the puts.
      draw.below(6) != 0 || s.is_plain() ? draw.below(1000)
      : draw.below(4) != 0               ? (std::uint64_t{1} << 32) - draw.below(64)
                                         : ~std::uint64_t{0} - 65'536 - draw.below(200);
  s.disk_latency_us = draw.between(1, 200);
  s.remote_latency_us = draw.between(1, draw.one_in(2) ? 300 : 3000);
}

void draw_limits(dice& draw, tier_setup& s) {
  s.device_latency_us = draw.between(1, 200);
  s.streams = draw.between(1, 3);
  oriel::tier_limits& l = s.limits;
  l.copies_max = s.is_plain() || !draw.one_in(6) ? 4096 : draw.between(1, 20);
  l.fetches_max = s.is_plain() ? 64 : draw.between(1, 8);
  l.fetch_us_min = s.is_plain() ? 100'000'000 : draw.one_of<4>({300, 2'000, 20'000, 200'000});
  l.fetch_us_max = l.fetch_us_min + (draw.one_in(2) ? 0 : 50'000);
  l.selective_hits = draw.between(1, 3);
  l.touch_period_us = draw.one_in(2) ? 1'000 : 60'000'000;
  l.ttl_us = s.is_plain() || draw.below(4) != 0 ? 0 : draw.between(500, 100'000);
  s.computes_fast = !s.is_plain() && draw.one_in(8);
  s.shares_fetches = s.is_plain() || draw.below(4) != 0;
  s.sink_room = draw.between(1, 200);
}

void draw_disk_faults(dice& draw, tier_setup& s) {
  const auto odds = [&] {
    const std::uint32_t most = s.is_extreme ? 12'000 : 2'500;
    return draw.one_in(s.is_extreme ? 2 : 3) ? draw.below(most) : 0;
  };
  oriel_test::sim_faults& f = s.disk_faults;
  f = {.read_error = odds(),
       .write_error = odds(),
       .sync_failure = odds(),
       .flipped_read = odds(),
       .flipped_at_rest = odds(),
       .misdirected_write = odds(),
       .misdirected_read = odds(),
       .lost_write = odds(),
       .stale_read = odds(),
       .no_room = odds(),
       .slow = odds() / 4};
}

void draw_faults(dice& draw, tier_setup& s) {
  if (s.is_plain() || draw.one_in(6)) {
    return;
  }
  s.is_extreme = draw.one_in(6);
  const auto is_on = [&](std::uint32_t one_in) { return s.is_extreme || draw.one_in(one_in); };
  if (is_on(2)) {
    draw_disk_faults(draw, s);
  }
  if (is_on(2)) {
    const bool lies = draw.below(3) != 0;  // Else it need not answer at all.
    s.remote_faults_at_times = {.lies = lies ? draw.between(5'000, 65'000) : 0,
                                .slow = draw.one_in(2) ? draw.below(20'000) : 0,
                                .refuses = draw.one_in(3) ? draw.below(20'000) : 0,
                                .is_down = !lies && draw.one_in(2),
                                .is_silent = !lies && draw.one_in(2)};
  }
  s.disk_tears = is_on(2);
  s.disk_has_holes = is_on(5);
  s.slabs_fail = is_on(4);
  s.no_memory = is_on(3);
  s.device_breaks = is_on(3);
  s.clock_jumps = is_on(3);
  s.sink_blocks = is_on(3);
}

tier_setup draw_tier_setup(dice& draw, std::uint64_t seed) {
  tier_setup s;
  s.seed = seed;
  s.device = draw_setup(draw);
  s.device.with_chain = true;
  draw_tiers(draw, s);
  draw_limits(draw, s);
  draw_faults(draw, s);
  return s;
}

std::vector<tier_verb> draw_tier_deck(dice& draw, const tier_setup& s) {
  struct weight {
    tier_verb what;
    std::uint32_t cards;
    bool is_on;
  };
  const bool chaos = !s.is_plain();
  const bool troubles = s.remote_faults_at_times.any() || s.disk_faults.are_lies() ||
                        s.disk_faults.read_error + s.disk_faults.write_error +
                                s.disk_faults.no_room + s.disk_faults.sync_failure +
                                s.disk_faults.flipped_read + s.disk_faults.slow +
                                s.disk_faults.misdirected_read + s.disk_faults.stale_read !=
                            0;
  const weight weights[] = {
      {tier_verb::start, 4, true},
      {tier_verb::say, 4, true},
      {tier_verb::branch, 3, true},
      {tier_verb::submit, 16, true},
      {tier_verb::herd, 2, true},
      {tier_verb::step, 24, true},
      {tier_verb::run, 24, true},
      {tier_verb::cancel, 4, draw.below(4) != 0},
      {tier_verb::preempt, 3, draw.below(3) != 0},
      {tier_verb::evict_full, 12, draw.below(8) != 0},
      {tier_verb::evict_window, 4, draw.below(3) != 0},
      {tier_verb::drop_session, 2, draw.one_in(2)},
      {tier_verb::drop_tenant, 1, draw.one_in(2)},
      {tier_verb::drop_space, 1, draw.one_in(2)},
      {tier_verb::wait, 6, true},
      {tier_verb::jump, 1, s.clock_jumps},
      {tier_verb::freeze, 1, s.clock_jumps},
      {tier_verb::trouble, 5, troubles},
      {tier_verb::restart, 4, draw.one_in(2)},
      {tier_verb::kill, 2, chaos && s.disk_tears},
      {tier_verb::starve, 14, s.no_memory},
      {tier_verb::break_device, 1, s.device_breaks},
      {tier_verb::block_sink, 4, s.sink_blocks},
  };
  std::vector<tier_verb> deck;
  for (const weight& w : weights) {
    deck.insert(deck.end(), w.is_on ? w.cards : 0, w.what);
  }
  return deck;
}

tier_operation draw_tier_operation(dice& draw, const tier_setup& s, tier_verb what) {
  tier_operation op{.what = what, .a = draw.below(8), .salt = draw.below(1u << 30)};
  switch (what) {
    case tier_verb::start:
      op.b = draw.below(s.device.tenants);
      op.c = draw.zipf(4);
      op.d = draw.below(s.device.context / 3 + 1);
      break;
    case tier_verb::say:
      op.d = draw.between(1, 2 * s.device.page_size + 2);
      break;
    case tier_verb::branch:
      op.b = draw.below(8);
      op.c = draw.below(1001);
      break;
    case tier_verb::submit:
    case tier_verb::herd:
      op.a = draw.one_in(2) ? op.a : draw.below(3);
      op.b = draw.below(2 * s.device.page_size + 2);
      op.c = draw.between(2, 5);
      break;
    case tier_verb::run:
      op.a = draw.between(1, 20);
      break;
    case tier_verb::evict_full:
      op.a = draw.one_in(2) ? 1000 : draw.below(6);
      break;
    case tier_verb::evict_window:
      op.b = draw.one_in(4) ? 1000 : draw.below(6);
      break;
    case tier_verb::wait:
      op.b = draw.zipf(20'000);
      break;
    case tier_verb::jump:
      op.b = draw.zipf(100'000);
      break;
    case tier_verb::freeze:
      op.b = draw.below(5'000);
      break;
    case tier_verb::kill:
      op.b = draw.below(2);
      break;
    case tier_verb::starve:
      op.b = draw.zipf(100);
      break;
    case tier_verb::block_sink:
      op.b = draw.between(1, 30);
      break;
    default:
      break;
  }
  return op;
}

}  // namespace

tier_scenario make_tier_scenario(std::uint64_t seed) {
  dice draw(seed * 2 + 0x7135);
  tier_scenario made{.sizes = draw_tier_setup(draw, seed), .operations = {}};
  const std::vector<tier_verb> deck = draw_tier_deck(draw, made.sizes);
  for (std::uint32_t session = 0; session < 3; ++session) {
    tier_operation op = draw_tier_operation(draw, made.sizes, tier_verb::start);
    op.a = session;
    made.operations.push_back(op);
  }
  if (draw.one_in(2)) {  // Trouble from the beginning.
    made.operations.push_back({.what = tier_verb::trouble});
  }
  for (std::uint32_t count = draw.between(60, 300); count > 0; --count) {
    const tier_verb what = deck[draw.below(static_cast<std::uint32_t>(deck.size()))];
    made.operations.push_back(draw_tier_operation(draw, made.sizes, what));
  }
  return made;
}

std::string describe(const tier_operation& op) {
  static constexpr const char* names[] = {
      "start",       "say",        "branch",  "submit",       "herd",         "step",
      "run",         "cancel",     "preempt", "evict_full",   "evict_window", "drop_session",
      "drop_tenant", "drop_space", "wait",    "jump",         "freeze",       "trouble",
      "restart",     "kill",       "starve",  "break_device", "block_sink"};
  std::ostringstream text;
  text << names[static_cast<std::size_t>(op.what)] << " a=" << op.a << " b=" << op.b
       << " c=" << op.c << " d=" << op.d << " salt=" << op.salt;
  return text.str();
}

std::string describe(const tier_setup& s) {
  std::ostringstream text;
  const auto tier = [&](const char* name, const tier_habit& t) {
    if (t.is_there) {
      text << ' ' << name << '=' << oriel::name_of(t.writes);
    }
  };
  text << describe(s.device) << "\n ";
  tier("host", s.host);
  tier("disk", s.disk);
  tier("remote", s.remote);
  text << " host_pages=" << s.host_pages
       << " segments=" << s.segments.capacity_bytes / s.segments.segment_bytes
       << " copies=" << s.limits.copies_max << " fetches=" << s.limits.fetches_max
       << " fetch_us=" << s.limits.fetch_us_min << ".." << s.limits.fetch_us_max
       << " ttl_us=" << s.limits.ttl_us << (s.computes_fast ? " fast" : "")
       << (s.shares_fetches ? "" : " twins") << (s.is_extreme ? " extreme" : "")
       << (s.disk_tears ? " kills" : "") << (s.disk_has_holes ? " holes" : "")
       << (s.slabs_fail ? " F23" : "") << (s.no_memory ? " F24" : "")
       << (s.device_breaks ? " F25" : "") << (s.clock_jumps ? " F19" : "")
       << (s.sink_blocks ? " F37" : "");
  return text.str();
}

}  // namespace sim
