// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What a router records is a trace that read_trace reads: the same times, tokens and shared
// prefixes.
#include "route/router_world.hpp"
#include "support/temporary_directory.hpp"

#include <oriel/route/trace_recorder.hpp>

#include <catch2/catch.hpp>
#include <replay/read_trace.hpp>

#include <fstream>

using namespace oriel_test;

TEST_CASE("requests that a router records are read back as they were") {
  const prompt trunk(40, 1);  // 2,560 tokens: five blocks of 512
  const prompt prompts[] = {trunk, trunk.longer(8, 1), trunk.longer(8, 2), prompt(3, 9)};
  trace_recorder recorder(page_tokens);
  std::string lines;
  for (std::uint64_t id = 0; id < 4; ++id) {
    const prompt& p = prompts[id];
    route_request r{.id = id, .prompt_tokens = p.tokens(), .links = p.links};
    recorder.arrived(r, 50.0 + 0.25 * static_cast<double>(id));
    recorder.arrived(r, 99.0);  // asked again: the same request
  }
  const std::vector<chain_hash> links(7);
  recorder.arrived({.id = 9, .prompt_tokens = 512, .links = links}, 60.0);  // ends with its block
  recorder.arrived({.id = 10, .prompt_tokens = 512, .links = links}, 61.0);
  recorder.arrived({.id = 11, .prompt_tokens = 700, .links = links}, 61.0);
  recorder.forget(11);                                        // refused
  for (const std::uint64_t id : {3u, 1u, 2u, 0u, 9u, 10u}) {  // they end in another order
    CHECK(recorder.ended(id, static_cast<std::uint32_t>(id + 1), lines));
  }
  CHECK(!recorder.ended(3, 1, lines));
  CHECK(!recorder.ended(11, 1, lines));
  CHECK(recorder.open() == 0);

  const temporary_directory folder;
  const auto file = folder.path() / "trace.jsonl";
  std::ofstream(file) << lines;
  const replay::trace trace = replay::read_trace(file);
  REQUIRE(trace.requests.size() == 6);
  CHECK(trace.page_tokens == 512);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(trace.requests[i].arrival_us == 250'000 * i);
    CHECK(trace.requests[i].input_tokens == prompts[i].tokens());
    CHECK(trace.requests[i].output_tokens == i + 1);
  }
  const auto pages = [&](std::size_t i) { return trace.pages_of(trace.requests[i]); };
  CHECK(pages(0).size() == 5);
  CHECK(pages(1).size() == 6);
  CHECK(pages(3).empty());
  CHECK(std::ranges::equal(pages(0), pages(1).first(5)));
  CHECK(std::ranges::equal(pages(1).first(5), pages(2).first(5)));
  CHECK(pages(1)[5] != pages(2)[5]);
  CHECK(pages(4)[0] != pages(5)[0]);
}
