// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "dice.hpp"
#include "scenario.hpp"

#include <oriel/kv/ring_geometry.hpp>

#include <algorithm>
#include <sstream>

namespace sim {
namespace {

void draw_layers(dice& draw, setup& s) {
  const std::uint32_t kinds = draw.one_of<6>({1, 1, 1, 2, 3, 4});
  while (s.windows.size() < kinds) {
    const std::uint32_t window = draw.one_in(8) ? 1 : draw.between(1, 3 * s.page_size + 3);
    if (std::ranges::find(s.windows, window) == s.windows.end()) {
      s.windows.push_back(window);
    }
  }
  const std::uint32_t full = draw.between(1, 2);
  std::vector<std::uint32_t> layers(full, 0);
  layers.insert(layers.end(), s.windows.begin(), s.windows.end());
  for (std::uint32_t more = draw.below(3); more > 0; --more) {
    layers.push_back(s.windows[draw.below(kinds)]);
  }
  for (std::uint32_t i = static_cast<std::uint32_t>(layers.size()); i > 1; --i) {
    std::swap(layers[i - 1], layers[draw.below(i)]);
  }
  s.layers = layers;
  s.windows.clear();
  for (const std::uint32_t window : layers) {
    if (window != 0 && std::ranges::find(s.windows, window) == s.windows.end()) {
      s.windows.push_back(window);
    }
  }
}

void draw_pools(dice& draw, setup& s) {
  const std::uint32_t longest = (s.context + s.page_size - 1) / s.page_size;
  // Tiny pools hold one sequence and nothing else; plain ones never fill.
  const std::uint32_t room = draw.below(6);
  const auto pages = [&](std::uint32_t least) {
    return s.plain     ? 24 * least + 300
           : room == 0 ? least
           : room == 1 ? least + draw.below(least + 1)
                       : draw.between(2 * least, 6 * least);
  };
  s.pages.assign(1, pages(longest));
  for (const std::uint32_t window : s.windows) {
    const oriel::ring_geometry ring{s.page_size, window, s.step_tokens, s.ring_slack};
    s.pages.push_back(pages(std::min(ring.ring_pages(), longest)));
  }
  if (!s.plain && draw.one_in(12)) {
    s.pages[0] = std::max(1u, s.pages[0] / 2);  // Then some requests are too large for ever.
  }
}

}  // namespace

setup draw_setup(dice& draw) {
  setup s;
  s.plain = draw.one_in(8);
  s.page_size = draw.one_of<8>({1, 2, 3, 4, 4, 4, 5, 8});
  draw_layers(draw, s);
  s.ring_slack = draw.below(3);
  s.tree_slack = draw.below(3);
  s.heal_slack = draw.below(s.ring_slack + 1);
  s.step_tokens = draw.between(1, 3 * s.page_size + 4);
  s.context = s.page_size * draw.between(4, draw.one_in(4) ? 48 : 16);
  s.context += draw.below(s.page_size);
  draw_pools(draw, s);
  s.alphabet = draw.one_of<4>({2, 3, 10, 1000});
  s.tenants = draw.one_of<4>({1, 1, 2, 3});
  s.leases_max = s.plain || !draw.one_in(8) ? 64 : draw.between(1, 3);
  s.namespaces_max = s.plain || !draw.one_in(8) ? 8 : draw.between(1, 2);
  s.tenant_shares = draw.one_in(3) ? draw.between(1, 3) : 1;
  s.order = draw.below(4);
  s.with_events = draw.one_in(2);
  s.with_chain = s.with_events || draw.one_in(2);
  s.heals = !draw.one_in(5);
  s.writes_garbage = draw.one_in(2);
  s.keep_every = draw.one_in(3) ? s.page_size * draw.between(1, 4) : 0;
  s.dense_head = draw.one_in(4) ? draw.below(s.context / 2) : 0;
  s.branch_points = draw.one_in(3);
  return s;
}

namespace {

/// How often each verb comes, by seed: some never do.
std::vector<verb> draw_deck(dice& draw, const setup& s) {
  struct weight {
    verb what;
    std::uint32_t cards;
    bool also_plain;
  };
  const weight weights[] = {
      {verb::start, 4, true},   {verb::say, 4, true},         {verb::edit, 2, true},
      {verb::branch, 2, true},  {verb::submit, 16, true},     {verb::resume, 3, true},
      {verb::step, 46, true},   {verb::publish, 6, true},     {verb::reserve, 4, true},
      {verb::commit, 3, true},  {verb::abort, 2, true},       {verb::drop_windows, 2, true},
      {verb::trim, 2, true},    {verb::finish, 7, true},      {verb::cancel, 2, false},
      {verb::preempt, 3, true}, {verb::evict_full, 3, false}, {verb::evict_window, 4, false},
      {verb::probe, 4, true},   {verb::drop_space, 1, false}, {verb::clear, 1, false},
  };
  std::vector<verb> deck;
  for (const weight& w : weights) {
    const bool needed = w.what == verb::start || w.what == verb::submit || w.what == verb::step ||
                        w.what == verb::finish;
    if ((s.plain && !w.also_plain) || (!needed && draw.one_in(4))) {
      continue;
    }
    const bool rare = w.what == verb::clear || w.what == verb::drop_space;
    deck.insert(deck.end(), rare && !draw.one_in(4) ? 0 : w.cards, w.what);
  }
  return deck;
}

operation draw_operation(dice& draw, const setup& s, verb what) {
  operation op{.what = what, .a = draw.below(8), .salt = draw.below(1u << 30)};
  switch (what) {
    case verb::start:
      op.b = draw.below(s.tenants);
      op.c = draw.zipf(4);
      op.d = draw.below(s.context / 3 + 1);
      break;
    case verb::say:
      op.d = draw.between(1, 2 * s.page_size + 2);
      break;
    case verb::edit:
      op.b = draw.below(1000);
      break;
    case verb::branch:
      op.b = draw.below(8);
      op.c = draw.below(1001);
      break;
    case verb::submit:
      op.b = draw.below(3 * s.page_size + 2);
      op.c = draw.below(16);
      op.d = draw.below(8);
      break;
    case verb::step:
      op.b = draw.one_in(3) ? draw.below(s.step_tokens + 1) : s.step_tokens;
      op.c = draw.below(s.step_tokens);
      op.d = draw.below(op.c + 1);
      break;
    case verb::finish:
      op.b = draw.below(4);
      op.c = draw.below(4);
      break;
    case verb::evict_full:
      op.a = draw.one_in(6) ? 1000 : draw.below(6);
      break;
    case verb::evict_window:
      op.b = draw.one_in(6) ? 1000 : draw.below(6);
      break;
    case verb::probe:
      op.b = draw.below(s.tenants);
      op.c = draw.below(1001);
      break;
    default:
      break;
  }
  return op;
}

}  // namespace

scenario make_scenario(std::uint64_t seed) {
  dice draw(seed);
  scenario made{.seed = seed, .sizes = draw_setup(draw), .operations = {}};
  const std::vector<verb> deck = draw_deck(draw, made.sizes);
  for (std::uint32_t session = 0; session < 3; ++session) {
    operation op = draw_operation(draw, made.sizes, verb::start);
    op.a = session;
    made.operations.push_back(op);
  }
  for (std::uint32_t count = draw.between(80, 400); count > 0; --count) {
    const verb what = deck[draw.below(static_cast<std::uint32_t>(deck.size()))];
    made.operations.push_back(draw_operation(draw, made.sizes, what));
  }
  return made;
}

std::string describe(const operation& op) {
  static constexpr const char* names[] = {
      "start",   "say",     "edit",       "branch",       "submit",       "resume",     "step",
      "publish", "reserve", "commit",     "abort",        "drop_windows", "trim",       "finish",
      "cancel",  "preempt", "evict_full", "evict_window", "probe",        "drop_space", "clear"};
  std::ostringstream text;
  text << names[static_cast<std::size_t>(op.what)] << " a=" << op.a << " b=" << op.b
       << " c=" << op.c << " d=" << op.d << " salt=" << op.salt;
  return text.str();
}

std::string describe(const setup& s) {
  std::ostringstream text;
  const auto list = [&](const char* name, const std::vector<std::uint32_t>& values) {
    text << name << "=[";
    for (std::size_t i = 0; i < values.size(); ++i) {
      text << (i != 0 ? " " : "") << values[i];
    }
    text << "] ";
  };
  text << "page_size=" << s.page_size << ' ';
  list("layers", s.layers);
  list("pool pages", s.pages);
  text << "slack ring=" << s.ring_slack << " tree=" << s.tree_slack << " heal=" << s.heal_slack
       << " step=" << s.step_tokens << " context=" << s.context << " alphabet=" << s.alphabet
       << " tenants=" << s.tenants << " leases=" << s.leases_max
       << " namespaces=" << s.namespaces_max << " shares=" << s.tenant_shares
       << " order=" << s.order << " keep_every=" << s.keep_every << " dense_head=" << s.dense_head
       << (s.branch_points ? " forks" : "") << (s.with_events ? " events" : "")
       << (s.with_chain ? " chain" : "") << (s.heals ? " heals" : "")
       << (s.writes_garbage ? " garbage" : "") << (s.plain ? " plain" : "");
  return text.str();
}

}  // namespace sim
