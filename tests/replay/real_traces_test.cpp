// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The figures published with the real traces. They are no part of the project: they are looked for
// in the folder that ORIEL_TRACES names, or in shared/traces beside the project.
#include <catch2/catch.hpp>
#include <replay/read_trace.hpp>
#include <replay/reference_cache.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

using namespace oriel;
using namespace oriel::replay;

namespace {

/// Nothing, and a message, if the file is not there or this program cannot unpack it.
std::optional<trace> real_trace(const std::string& name) {
  const char* const folder = std::getenv("ORIEL_TRACES");
  const std::filesystem::path root =
      folder != nullptr ? std::filesystem::path{folder}
                        : std::filesystem::path{ORIEL_TEST_DIR} / ".." / ".." / "shared" / "traces";
  const std::filesystem::path file = root / name;
#ifndef ORIEL_HAS_ZSTD
  WARN("skipped: built without libzstd, which " << name << " needs");
  return std::nullopt;
#endif
  if (!std::filesystem::exists(file)) {
    WARN("skipped: there is no " << file.lexically_normal().string()
                                 << "; ORIEL_TRACES names the folder");
    return std::nullopt;
  }
  return read_trace(file);
}

std::uint32_t pages(const trace& t, double million_tokens) {
  return static_cast<std::uint32_t>(million_tokens * 1e6 / t.page_tokens);
}

struct point {
  double million_tokens;
  double rate;
};

constexpr double four_digits = 0.5e-4;
/// Three were rounded from four: 0.69946 became 0.6995 and then 0.700.
constexpr double three_digits = 0.55e-3;

/// Sanitizers take the first point alone: each is a pass over 49 million pages.
template <class Cache, std::size_t N>
void check_curve(const trace& t, Cache cache, const point (&curve)[N], double tolerance) {
  for (std::size_t i = 0; i < std::min<std::size_t>(N, scaled(N)); ++i) {
    CAPTURE(curve[i].million_tokens);
    CHECK(std::abs(cache(t, pages(t, curve[i].million_tokens)).rate() - curve[i].rate) <=
          tolerance);
  }
}

}  // namespace

TEST_CASE("the agentic trace gives the published figures") {
  const auto t = real_trace("agentic/sessions.jsonl.zst");
  if (!t) {
    return;
  }
  CHECK(t->requests.size() == 27'108);
  CHECK(t->sessions.size() == 428);
  CHECK(t->page_tokens == 64);
  CHECK(t->input_tokens() == 3'158'464'052);
  CHECK(std::abs(t->distinct_pages * 64e-6 - 121.8) < 0.05);
  CHECK(std::abs(infinite_cache(*t).rate() - 0.9612) <= four_digits);
  check_curve(*t,
              lru_cache,
              {{0.5, 0.1624}, {1, 0.3569}, {2, 0.6609}, {4, 0.8781}, {8, 0.9449}, {16, 0.9578}},
              four_digits);
  check_curve(*t,
              clairvoyant_cache,
              {{0.5, 0.457}, {1.2, 0.700}, {2, 0.824}, {4, 0.929}, {8.4, 0.959}},
              three_digits);
  const auto count = [&](request_end end) {
    return std::ranges::count(t->requests, end, &trace_request::ended);
  };
  CHECK(count(request_end::tool_call) == 22'681);
  CHECK(count(request_end::end_of_turn) == 1'514);
  CHECK(count(request_end::unknown) == 2'913);
}

TEST_CASE("the conversation trace gives the published figures") {
  const auto t = real_trace("conversation/conversation_trace.jsonl.zst");
  if (!t) {
    return;
  }
  CHECK(t->requests.size() == 12'031);
  CHECK(t->requests.back().arrival_us / 1'000'000 == 3'536);
  CHECK(std::abs(infinite_cache(*t).rate() - 0.3736) <= four_digits);
  check_curve(
      *t,
      lru_cache,
      {{0.5, .045}, {1, .054}, {2, .087}, {4, .178}, {8, .266}, {16, .336}, {32, .366}, {64, .373}},
      three_digits);
}
