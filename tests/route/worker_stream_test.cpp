// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Events that are lost, doubled, late and out of order, workers that restart and go: what the index
// says of a worker is what that worker had after the last event that was applied, or less.
#include "route/index_model.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <optional>

namespace worker_stream_test {

using namespace oriel;

namespace {

using kind = worker_event_kind;

/// An event that owns its links.
struct letter {
  worker_event event;
  std::vector<chain_hash> links;
  [[nodiscard]] worker_event sent() const {
    worker_event copy = event;
    copy.links = links;
    return copy;
  }
};

/// A worker that remembers everything it said.
struct speaker {
  std::uint32_t worker = 0;
  std::uint64_t epoch = 1;
  std::vector<letter> said = {};  // of this epoch; sequence number - 1

  const letter& say(kind what,
                    std::uint8_t tier,
                    std::uint32_t pool,
                    std::span<const chain_hash> chain,
                    std::uint32_t first,
                    std::uint32_t end) {
    const worker_event event{.worker = worker_id{worker},
                             .kind = what,
                             .tier = tier,
                             .pool = pool,
                             .first_page = first,
                             .epoch = epoch,
                             .sequence = said.size() + 1,
                             .parent = first > 0 ? chain[first - 1] : chain_hash{},
                             .links = {}};
    const auto links = chain.subspan(first, end - first);
    said.push_back({event, {links.begin(), links.end()}});
    return said.back();
  }
  /// What it had after so many events.
  [[nodiscard]] obvious_pages had(std::uint64_t sequence) const {
    obvious_pages pages;
    for (std::uint64_t i = 0; i < sequence; ++i) {
      pages.apply(said[i].sent());
    }
    return pages;
  }
  /// All that it has, as a replay. Page by page, so that no order is a help.
  [[nodiscard]] std::vector<letter> replay() const {
    const worker_event frame{
        .worker = worker_id{worker}, .kind = kind::replay_begin, .epoch = epoch};
    std::vector<letter> letters{{frame, {}}};
    const obvious_pages now = had(said.size());
    for (const auto& [tier, pool, position, low, high] : now.pages()) {
      worker_event event = frame;
      event.kind = kind::stored;
      event.is_replay = true;
      event.tier = tier;
      event.pool = pool;
      event.first_page = position;
      letters.push_back({event, {{low, high}}});
    }
    letters.push_back({frame, {}});
    letters.back().event.kind = kind::replay_end;
    letters.back().event.sequence = said.size();
    letters.back().event.replay_events = now.pages().size();
    return letters;
  }
};

struct trouble {
  std::uint32_t lost, doubled, late;  // of 1000
  bool asks_again;                    // for what is missing
};

/// A network between the workers and the index.
struct network {
  prefix_index index;
  std::vector<speaker> speakers;
  trouble with;
  std::vector<letter> under_way = {};
  std::uint64_t losses = 0, replays = 0;

  network(const prefix_index_options& options, const trouble& t)
      : index(options), speakers(options.workers), with(t) {
    for (std::uint32_t worker = 0; worker < options.workers; ++worker) {
      speakers[worker].worker = worker;
    }
  }
  void deliver(const letter& l, random_stream& draw) {
    if (draw.next_below(1000) < with.lost) {
      return;
    }
    if (draw.next_below(1000) < with.late) {
      under_way.push_back(l);
      return;
    }
    losses += index.apply(l.sent()) == event_outcome::lost;
    if (draw.next_below(1000) < with.doubled) {
      under_way.push_back(l);
    }
  }
  void deliver_late(random_stream& draw) {
    while (!under_way.empty() && draw.next_below(3) == 0) {
      const auto at = draw.next_below(static_cast<std::uint32_t>(under_way.size()));
      losses += index.apply(under_way[at].sent()) == event_outcome::lost;
      under_way.erase(under_way.begin() + at);
    }
  }
  /// Events overtake the replay, and it loses some of its own.
  void replay(speaker& s, random_stream& draw, std::span<const chain_hash> chain) {
    ++replays;
    for (const letter& l : s.replay()) {
      if (!l.event.is_replay || draw.next_below(1000) >= with.lost) {
        index.apply(l.sent());
      }
      if (draw.next_below(8) == 0) {
        const std::uint32_t first = draw.next_below(static_cast<std::uint32_t>(chain.size()));
        deliver(s.say(draw.next_below(2) == 0 ? kind::stored : kind::removed,
                      0,
                      0,
                      chain,
                      first,
                      first + 1),
                draw);
      }
    }
  }
  void check(std::span<const chain_hash> prompt) {
    prefix_answer answer;
    index.look_up(prompt, answer);
    for (const speaker& s : speakers) {
      const worker_id id{s.worker};
      const worker_state state = index.state(id);
      if (state == worker_state::absent || state == worker_state::replaying) {
        continue;
      }
      REQUIRE(index.sequence(id) <= s.said.size());
      const worker_prefix had = s.had(index.sequence(id)).row(index.options(), prompt);
      INFO("worker " << s.worker << ", applied " << index.sequence(id) << " of " << s.said.size());
      if (state == worker_state::sure) {
        REQUIRE(is_same(answer[id], had));
      } else {
        REQUIRE(is_at_most(answer[id], had));
      }
    }
  }
};

void a_worker_acts(network& net,
                   speaker& s,
                   random_stream& draw,
                   std::span<const chain_hash> chain) {
  const auto pages = static_cast<std::uint32_t>(chain.size());
  const std::uint32_t first = draw.next_below(pages);
  const std::uint32_t end = first + 1 + draw.next_below(pages - first);
  const auto tier = static_cast<std::uint8_t>(draw.next_below(2));
  const std::uint32_t pool = draw.next_below(2);
  const std::uint32_t what = draw.next_below(100);
  net.deliver(what < 65   ? s.say(kind::stored, tier, pool, chain, draw.next_below(first + 1), end)
              : what < 98 ? s.say(kind::removed, tier, pool, chain, first, end)
                          : s.say(kind::cleared, tier, 0, chain, 0, 0),
              draw);
}

/// @returns how often events were lost for good
std::uint64_t live(const trouble& with, std::uint64_t seed, std::uint64_t operations) {
  random_stream draw(seed);
  const auto chains = forking_chains(draw, 5, 16, false);
  network net({.page_size = 64, .windows = {128}, .workers = 3, .held_events = 6, .held_links = 60},
              with);
  for (std::uint64_t i = 0; i < operations; ++i) {
    INFO("operation " << i);
    const auto& chain = chains[draw.next_below(5)];
    speaker& s = net.speakers[draw.next_below(3)];
    a_worker_acts(net, s, draw, chain);
    net.deliver_late(draw);
    const auto missing = net.index.missing(worker_id{s.worker});
    for (std::uint64_t n = missing.first; with.asks_again && n < missing.end; ++n) {
      net.deliver(s.said[n - 1], draw);
    }
    if (net.index.state(worker_id{s.worker}) == worker_state::unsure && draw.next_below(4) == 0) {
      net.replay(s, draw, chain);
    }
    if (draw.next_below(60) == 0) {  // A new start, of which the network may tell late.
      ++s.epoch;
      s.said.clear();
      if (draw.next_below(2) == 0) {
        net.index.remove(worker_id{s.worker});
      } else if (net.index.apply(s.say(kind::cleared, 0, 0, chain, 0, 0).sent()) !=
                 event_outcome::applied) {
        FAIL("the first event of an epoch is not applied");
      }
    }
    if (net.index.state(worker_id{s.worker}) != worker_state::absent) {
      net.check(chains[draw.next_below(5)]);
    }
    if (i % 64 == 0) {
      REQUIRE(net.index.is_sound());
    }
  }
  for (std::uint32_t worker = 0; worker < 3; ++worker) {
    net.index.remove(worker_id{worker});
  }
  const prefix_index_memory memory = net.index.memory();
  CHECK(memory.pages + memory.strands + memory.holders == 0);
  CHECK(memory.link_bytes + memory.holder_bytes + memory.held_bytes == 0);
  return net.losses;
}

std::vector<chain_hash> a_chain(std::uint32_t pages) {
  random_stream draw(1);
  std::vector<chain_hash> chain(pages);
  for (chain_hash& link : chain) {
    link = {draw.next_bits() | std::uint64_t{draw.next_bits()} << 32, 7};
  }
  return chain;
}

std::uint32_t full_pages(const prefix_index& index, std::span<const chain_hash> prompt) {
  prefix_answer answer;
  index.look_up(prompt, answer);
  return answer[worker_id{0}].full_pages[0];
}

}  // namespace

TEST_CASE("a sure row is the worker's truth at its sequence number, an unsure one no more") {
  const trouble troubles[] = {
      {0, 0, 0, false},
      {0, 300, 0, false},
      {0, 200, 200, false},
      {40, 100, 100, true},
      {40, 100, 100, false},
  };
  for (const trouble& with : troubles) {
    std::uint64_t losses = 0;
    for (std::uint64_t seed = 1; seed <= std::max<std::uint64_t>(2, scaled(6)); ++seed) {
      INFO("lost " << with.lost << ", doubled " << with.doubled << ", late " << with.late
                   << ", asks " << with.asks_again << ", seed " << seed);
      losses += live(with, seed, std::max<std::uint64_t>(300, scaled(1000)));
    }
    // Who asks for what is missing needs no replay.
    CHECK((losses > 0) == (with.late > 0 && !with.asks_again));
  }
}

TEST_CASE("late events fill the gap; lost ones cost all that was known, until a replay") {
  prefix_index index({.page_size = 64, .windows = {}, .workers = 1, .held_events = 2});
  const auto chain = a_chain(10);
  speaker s;
  for (std::uint32_t page = 0; page < 10; ++page) {
    s.say(kind::stored, 0, 0, chain, page, page + 1);
  }
  const worker_id id{0};
  CHECK(index.apply(s.said[0].sent()) == event_outcome::applied);
  CHECK(index.apply(s.said[2].sent()) == event_outcome::held);
  CHECK(index.apply(s.said[2].sent()) == event_outcome::duplicate);
  CHECK(index.missing(id).first == 2);
  CHECK(index.missing(id).end == 3);
  CHECK(full_pages(index, chain) == 1);
  CHECK(index.apply(s.said[1].sent()) == event_outcome::applied);
  CHECK(full_pages(index, chain) == 3);
  CHECK(index.apply(s.said[1].sent()) == event_outcome::duplicate);

  CHECK(index.apply(s.said[4].sent()) == event_outcome::held);
  CHECK(index.apply(s.said[5].sent()) == event_outcome::held);
  CHECK(index.state(id) == worker_state::sure);
  CHECK(index.apply(s.said[6].sent()) == event_outcome::lost);
  CHECK(index.state(id) == worker_state::unsure);
  CHECK(full_pages(index, chain) == 0);
  CHECK(index.memory().pages == 3);  // what came since: pages 4 to 6
  for (const letter& l : s.replay()) {
    CHECK(index.apply(l.sent()) == event_outcome::applied);
  }
  CHECK(index.state(id) == worker_state::sure);
  CHECK(index.sequence(id) == 10);
  CHECK(full_pages(index, chain) == 10);
}

TEST_CASE("a replay that lost a part of itself makes nobody sure") {
  prefix_index index({.page_size = 64, .windows = {}, .workers = 1});
  const auto chain = a_chain(4);
  speaker s;
  index.apply(s.say(kind::stored, 0, 0, chain, 0, 4).sent());
  std::vector<letter> letters = s.replay();
  letters.erase(letters.begin() + 2);
  for (const letter& l : letters) {
    CHECK(index.apply(l.sent()) ==
          (l.event.kind == kind::replay_end ? event_outcome::lost : event_outcome::applied));
  }
  CHECK(index.state(worker_id{0}) == worker_state::unsure);
  CHECK(full_pages(index, chain) == 1);
  CHECK(index.apply(letters[1].sent()) == event_outcome::stale);
}

TEST_CASE("a new epoch begins with nothing; the old one and a removed worker are not heard") {
  prefix_index index({.page_size = 64, .windows = {}, .workers = 1});
  const auto chain = a_chain(4);
  speaker old, fresh{.epoch = 2};
  index.apply(old.say(kind::stored, 0, 0, chain, 0, 4).sent());
  CHECK(full_pages(index, chain) == 4);
  CHECK(index.apply(fresh.say(kind::stored, 0, 0, chain, 0, 1).sent()) == event_outcome::applied);
  CHECK(full_pages(index, chain) == 1);
  CHECK(index.apply(old.say(kind::stored, 0, 0, chain, 1, 4).sent()) == event_outcome::stale);
  index.remove(worker_id{0});
  CHECK(index.state(worker_id{0}) == worker_state::absent);
  CHECK(index.apply(fresh.say(kind::stored, 0, 0, chain, 1, 2).sent()) == event_outcome::stale);
  CHECK(full_pages(index, chain) == 0);
  CHECK(index.counters().epochs == 2);
  CHECK(index.counters().stale == 2);
}

TEST_CASE("an event with a field out of range is refused, whatever it is") {
  prefix_index index({.page_size = 64, .windows = {128}, .workers = 4});
  const auto chain = a_chain(4);
  worker_event good{.worker = worker_id{0}, .epoch = 1, .sequence = 1, .links = chain};
  std::vector<worker_event> bad(7, good);
  bad[0].worker = worker_id{4};
  bad[1].tier = page_tiers;
  bad[2].pool = 2;
  bad[3].first_page = 0xFF'FFFF;
  bad[4].first_page = 0xFF'FFFC;
  bad[5].kind = static_cast<kind>(5);
  bad[6].kind = kind::removed;
  bad[6].is_replay = true;
  for (const worker_event& event : bad) {
    CHECK(index.apply(event) == event_outcome::invalid);
  }
  CHECK(index.state(worker_id{0}) == worker_state::absent);
  CHECK(index.apply(good) == event_outcome::applied);
}

}  // namespace worker_stream_test
