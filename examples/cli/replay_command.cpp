// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel replay`: what a prefix cache would reach on a trace of real requests.
#include "commands.hpp"
#include "support.hpp"

#include <oriel/model/presets.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <replay/cache_sizes.hpp>
#include <replay/read_trace.hpp>
#include <replay/reference_cache.hpp>

#include <cstdint>
#include <string>

namespace oriel::cli {
namespace {

constexpr double gib = 1024.0 * 1024.0 * 1024.0;

/// Everything that is printed, in both forms.
struct report {
  std::string model;
  std::uint32_t page_tokens = 0;
  std::size_t requests = 0;
  std::uint64_t input_tokens = 0;
  std::uint64_t capacity_tokens = 0;  // of the full pool
  std::uint64_t capacity_bytes = 0;
  replay::hit_count lru, clairvoyant, infinite;
};

/// A line on stderr, if that is a terminal, that tells what is being done; gone afterwards.
class activity {
 public:
  explicit activity(const char* what) : shown_(shows_progress()) {
    if (shown_) {
      note("\r\x1b[K{}", what);
    }
  }
  activity(const activity&) = delete;
  activity& operator=(const activity&) = delete;
  ~activity() {
    if (shown_) {
      note("\r\x1b[K");
    }
  }

 private:
  bool shown_;
};

replay::cache_sizes sizes_of(const replay_options& o, std::uint32_t page_tokens) {
  constexpr double default_gib = 400;
  const double asked_gib = o.capacity_gib.value_or(default_gib);
  const auto sizes = replay::plan_cache(
      preset(o.preset).value().layers,  // The command line is checked for it.
      {.capacity_bytes = static_cast<std::uint64_t>(asked_gib * gib),
       .capacity_tokens = o.capacity_tokens.value_or(0),
       .pools = o.pools == "dual" ? replay::pool_form::dual : replay::pool_form::uniform,
       .page_tokens = page_tokens});
  if (!sizes) {
    throw engine::error(
        fmt::format("{} for {} with pages of {} tokens: {}; change the capacity, or --page",
                    o.capacity_tokens ? fmt::format("--capacity-tokens {}", *o.capacity_tokens)
                                      : fmt::format("--capacity-gib {}", asked_gib),
                    o.preset,
                    page_tokens,
                    sizes.error().detail));
  }
  return *sizes;
}

report make_report(const replay_options& o) {
  const replay::trace trace = [&] {
    const activity reading{"reading the trace"};
    return replay::read_trace(o.trace, {.hours = o.hours});
  }();
  const std::uint32_t page_tokens = o.page_tokens == 0 ? trace.page_tokens : o.page_tokens;
  const replay::cache_sizes sizes = sizes_of(o, page_tokens);
  const auto pages = static_cast<std::uint32_t>(sizes.capacity_tokens / trace.page_tokens);
  const activity comparing{"replaying reference caches"};
  return {.model = o.preset,
          .page_tokens = page_tokens,
          .requests = trace.requests.size(),
          .input_tokens = trace.input_tokens(),
          .capacity_tokens = sizes.capacity_tokens,
          .capacity_bytes = sizes.bytes,
          .lru = replay::lru_cache(trace, pages),
          .clairvoyant = replay::clairvoyant_cache(trace, pages),
          .infinite = replay::infinite_cache(trace)};
}

void print_json(const report& r) {
  const nlohmann::ordered_json object{{"model", r.model},
                                      {"page_tokens", r.page_tokens},
                                      {"capacity_tokens", r.capacity_tokens},
                                      {"capacity_bytes", r.capacity_bytes},
                                      {"requests", r.requests},
                                      {"input_tokens", r.input_tokens},
                                      {"lru_token_hit_rate", r.lru.rate()},
                                      {"clairvoyant_token_hit_rate", r.clairvoyant.rate()},
                                      {"infinite_token_hit_rate", r.infinite.rate()}};
  print_out("{}\n", object.dump());
}

void print_table(const report& r) {
  print_out("{} requests, {:.1f} M input tokens; {} for {} hold {:.2f} M tokens\n\n",
            r.requests,
            static_cast<double>(r.input_tokens) / 1e6,
            bytes_text(r.capacity_bytes),
            r.model,
            static_cast<double>(r.capacity_tokens) / 1e6);
  print_out("Token hit rate of simple caches of that many tokens\n");
  print_out("  least recently used     {:.4f}\n", r.lru.rate());
  print_out("  clairvoyant             {:.4f}\n", r.clairvoyant.rate());
  print_out("  infinite                {:.4f}\n", r.infinite.rate());
}

}  // namespace

int replay(const replay_options& o) {
  const report r = make_report(o);
  if (o.json) {
    print_json(r);
  } else {
    print_table(r);
  }
  return exit_ok;
}

}  // namespace oriel::cli
