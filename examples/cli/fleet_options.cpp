// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "fleet_options.hpp"
#include "parsed.hpp"
#include "validators.hpp"

#include <oriel/core/thread_pool.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace oriel::cli {
namespace {

constexpr const char* router_names =
    "predicted_seconds, match_minus_load, session_hash, plain_hash, threshold_gate, least_load, "
    "round_robin";
constexpr const char* order_names = "fcfs, longest_prefix, least_tokens, least_seconds";
constexpr std::uint32_t workers_max = 1'024;
constexpr const char* group = "Of a fleet";

std::optional<double> finite(std::string_view text) {
  const auto value = parsed<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

/// The parts between commas; at least one.
std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(comma + 1);
  }
}

/// "1.5M" with M for so much, or nothing.
std::optional<std::uint64_t> parse_count(std::string_view text, double kilo) {
  double factor = 1;
  for (const auto& [suffix, value] :
       {std::pair{'k', kilo}, {'K', kilo}, {'M', kilo * kilo}, {'G', kilo * kilo * kilo}}) {
    if (text.ends_with(suffix)) {
      factor = value;
      text.remove_suffix(1);
      break;
    }
  }
  const auto number = finite(text);
  constexpr double most = 1099511627776.0;
  return number && *number >= 0 && *number * factor <= most
             ? std::optional{static_cast<std::uint64_t>(*number * factor)}
             : std::nullopt;
}

std::optional<sim::router_kind> parse_router(std::string_view text) {
  for (std::size_t i = 0; i < sim::router_kinds; ++i) {
    if (const auto kind = static_cast<sim::router_kind>(i); text == sim::name_of(kind)) {
      return kind;
    }
  }
  return std::nullopt;
}

std::optional<order_kind> parse_order(std::string_view text) {
  for (const auto kind : {order_kind::fcfs,
                          order_kind::longest_prefix,
                          order_kind::least_tokens,
                          order_kind::least_seconds}) {
    if (text == name_of(kind)) {
      return kind;
    }
  }
  return std::nullopt;
}

/// An option whose text `parse` takes, or refuses with `wrong`.
template <class Parse, class Take>
CLI::Option* add_parsed(CLI::App& command,
                        const char* name,
                        const char* help,
                        const char* wrong,
                        Parse parse,
                        Take take) {
  const auto check = [parse, wrong](std::string& text) -> std::string {
    return parse(text) ? "" : fmt::format("'{}' is not {}", text, wrong);
  };
  return command
      .add_option_function<std::string>(
          name, [parse, take](const std::string& text) { take(*parse(text)); }, help)
      ->check(CLI::Validator{check, ""});
}

std::string wrong_policy(std::string_view text) {
  return fmt::format(
      "'{}' is not a policy: ROUTER or ROUTER+ORDER, of the routers {} and the orders {}",
      text,
      router_names,
      order_names);
}

std::string wrong_comparison(std::string_view text) {
  const auto parts = parts_of(text);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!parse_policy(parts[i], order_kind::fcfs)) {
      return wrong_policy(parts[i]);
    }
    if (std::find(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(i), parts[i]) !=
        parts.begin() + static_cast<std::ptrdiff_t>(i)) {
      return fmt::format("'{}' is there twice: it would be compared with itself", parts[i]);
    }
  }
  return {};
}

std::vector<CLI::Option*> add_policy(CLI::App& command, fleet_options& o) {
  auto* router =
      add_parsed(command,
                 "--router",
                 "who chooses the worker [predicted_seconds]",
                 "a router: predicted_seconds, match_minus_load, session_hash, plain_hash, "
                 "threshold_gate, least_load or round_robin",
                 parse_router,
                 [&o](sim::router_kind kind) { o.policy.router = kind; });
  auto* order = add_parsed(command,
                           "--order",
                           "in which a worker serves [least_seconds]",
                           "an order: fcfs, longest_prefix, least_tokens or least_seconds",
                           parse_order,
                           [&o](order_kind kind) { o.policy.order = kind; });
  const auto check = [](std::string& text) { return wrong_comparison(text); };
  auto* compare = command
                      .add_option_function<std::string>(
                          "--compare",
                          [&o](const std::string& text) {
                            for (const std::string_view part : parts_of(text)) {
                              o.compared.emplace_back(part);
                            }
                          },
                          "instead of --router: A,B+ORDER,C, each a router, or one and an order; "
                          "compared with the first")
                      ->check(CLI::Validator{check, ""})
                      ->excludes(router);
  auto* guard =
      add_parsed(command,
                 "--guard",
                 "no wait longer than max(D s, k * the work ahead), as D,k; or off [60,2]",
                 "off or D,k: D >= 0 seconds that nobody minds, and k >= 1 times the work "
                 "ahead, as 60,2",
                 parse_guard,
                 [&o](const guard_choice& choice) { o.guard = choice.guard; });
  auto* ahead = command
                    .add_option("--ahead-max",
                                o.ahead_max_s,
                                "refuse where more estimated seconds are ahead [no limit]")
                    ->check(number(0, 1e9));
  return {router, order, compare, guard, ahead};
}

std::vector<CLI::Option*> add_nodes(CLI::App& command, fleet_options& o) {
  auto* ranks = command.add_option("--ranks", o.ranks, "data-parallel ranks of a worker")
                    ->transform(whole_number(1, 64))
                    ->capture_default_str();
  auto* sticky =
      command.add_flag("--sticky", o.sticky_ranks, "with --ranks: a session's KV is on one rank");
  sticky->needs(ranks);
  auto* buckets = add_parsed(command,
                             "--buckets",
                             "workers of their own for lengths: bounds in tokens, as 64k,256k",
                             "bounds: ascending numbers of tokens with commas between, as 64k,256k",
                             parse_buckets,
                             [&o](const length_buckets& b) { o.buckets = b; });
  auto* lengths =
      add_parsed(command,
                 "--lengths",
                 "that the report tells apart, bounds in tokens [--buckets, or 64k,256k]",
                 "bounds: ascending numbers of tokens with commas between, as 64k,256k",
                 parse_buckets,
                 [&o](const length_buckets& b) { o.lengths = b; });
  auto* routers = command.add_option("--routers", o.routers, "routers that share one truth")
                      ->transform(whole_number(1, 64))
                      ->capture_default_str();
  auto* step = command.add_option("--step-ms", o.step_ms, "t0: of each step, assumed")
                   ->check(number(0, 100))
                   ->capture_default_str();
  return {ranks, sticky, buckets, lengths, routers, step};
}

std::vector<CLI::Option*> add_arrivals(CLI::App& command, fleet_options& o) {
  auto* load = command
                   .add_option("--load",
                               o.load,
                               "instead of --hours: so many that session_hash + fcfs keeps "
                               "workers busy this share of the time")
                   ->check(number(0, 2, false))
                   ->excludes(command.get_option("--hours"));
  auto* clones = command.add_option("--clones", o.clones, "each session so many times, unrelated")
                     ->transform(whole_number(1, 100'000))
                     ->capture_default_str();
  auto* open = command.add_flag(
      "--open", o.is_open, "requests come when the trace says, whatever became of those before");
  auto* seeds =
      command.add_option("--seeds", o.seeds, "runs of each policy, with seeds from -s on")
          ->transform(whole_number(1, 1'000))
          ->capture_default_str();
  return {load, clones, open, seeds};
}

std::vector<CLI::Option*> add_faults(CLI::App& command, fleet_options& o) {
  auto* loss = command
                   .add_option("--event-loss",
                               o.event_loss,
                               "share of what workers tell of their caches that gets lost")
                   ->check(number(0, 1))
                   ->capture_default_str();
  auto* delay = command
                    .add_option("--event-delay",
                                o.delay_s,
                                "seconds that events and reports take, and routers to hear of each "
                                "other")
                    ->check(number(0, 3'600))
                    ->capture_default_str();
  auto* outage =
      add_parsed(command,
                 "--outage",
                 "WHO@SHARE or WHO@SHARE+SECONDS: worker2, router0 or store is away from "
                 "that share of the measured time on; may be repeated",
                 "an outage: workerN, routerN or store, @, a share of the measured time "
                 "in [0, 1], and for a while + its seconds, as store@0.5+30",
                 parse_outage,
                 [&o](const fleet_outage& one) { o.outages.push_back(one); })
          ->trigger_on_parse();
  return {loss, delay, outage};
}

}  // namespace

std::optional<fleet_policy> parse_policy(std::string_view text, order_kind otherwise) {
  const std::size_t plus = text.find('+');
  const auto router = parse_router(text.substr(0, plus));
  const auto order = plus == std::string_view::npos ? std::optional{otherwise}
                                                    : parse_order(text.substr(plus + 1));
  return router && order ? std::optional{fleet_policy{*router, *order}} : std::nullopt;
}

std::optional<guard_choice> parse_guard(std::string_view text) {
  if (text == "off") {
    return guard_choice{};
  }
  const auto parts = parts_of(text);
  if (parts.size() != 2) {
    return std::nullopt;
  }
  const auto wait = finite(parts[0]), factor = finite(parts[1]);
  return wait && factor && *wait >= 0 && *factor >= 1
             ? std::optional{guard_choice{guard_options{.least_wait_s = *wait, .factor = *factor}}}
             : std::nullopt;
}

std::optional<length_buckets> parse_buckets(std::string_view text) {
  std::vector<std::uint32_t> bounds;
  for (const std::string_view part : parts_of(text)) {
    const auto bound = parse_count(part, 1'024);
    if (!bound || *bound > 0xFFFF'FFFFu || *bound <= (bounds.empty() ? 0 : bounds.back())) {
      return std::nullopt;
    }
    bounds.push_back(static_cast<std::uint32_t>(*bound));
  }
  return length_buckets{std::move(bounds)};
}

std::optional<sim::tier_sizes> parse_fleet_tiers(std::string_view text) {
  sim::tier_sizes sizes;
  sizes.host_tokens = 0;
  bool has_device = false, has_host = false, has_l3 = false;
  for (const std::string_view part : parts_of(text)) {
    const std::size_t equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    bool& is_given = name == "device" ? has_device : name == "host" ? has_host : has_l3;
    std::uint64_t& tokens = name == "device" ? sizes.device_tokens
                            : name == "host" ? sizes.host_tokens
                                             : sizes.shared_tokens;
    const std::uint64_t size = equals == std::string_view::npos
                                   ? 0
                                   : parse_count(part.substr(equals + 1), 1'000).value_or(0);
    if ((name != "device" && name != "host" && name != "l3") || is_given || size == 0) {
      return std::nullopt;
    }
    is_given = true;
    tokens = size;
  }
  return has_device ? std::optional{sizes} : std::nullopt;
}

std::optional<fleet_outage> parse_outage(std::string_view text) {
  fleet_outage made;
  const std::size_t at = text.find('@');
  if (at == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view who = text.substr(0, at), when = text.substr(at + 1);
  if (who != "store") {
    made.what = who.starts_with("worker") ? fleet_outage::part::worker : fleet_outage::part::router;
    if (!who.starts_with("worker") && !who.starts_with("router")) {
      return std::nullopt;
    }
    const auto index = parsed<std::uint32_t>(who.substr(6));
    if (!index) {
      return std::nullopt;
    }
    made.index = *index;
  }
  const std::size_t plus = when.find('+');
  const auto share = finite(when.substr(0, plus));
  if (!share || *share < 0 || *share > 1) {
    return std::nullopt;
  }
  made.from_share = *share;
  if (plus != std::string_view::npos) {
    made.seconds = finite(when.substr(plus + 1));
    if (!made.seconds || *made.seconds <= 0) {
      return std::nullopt;
    }
  }
  return made;
}

CLI::Validator fleet_tiers() {
  const auto check = [](std::string& text) -> std::string {
    return parse_fleet_tiers(text)
               ? ""
               : fmt::format(
                     "'{}' does not say device=TOKENS, and host=TOKENS, l3=TOKENS or both, once "
                     "each, with "
                     "commas between, as device=2M,host=30M,l3=1G; up to 2^40 tokens",
                     text);
  };
  return CLI::Validator{check, ""};
}

void check_fleet(const replay_options& o) {
  const fleet_options& f = o.fleet;
  if (o.preset != "mimo-v2.5-pro") {
    throw CLI::ValidationError(
        "--preset",
        fmt::format("a fleet's nodes are fitted to published speeds of mimo-v2.5-pro; of {} "
                    "there are none",
                    o.preset));
  }
  for (const fleet_outage& outage : f.outages) {
    const bool is_worker = outage.what == fleet_outage::part::worker;
    const std::uint32_t count = is_worker ? f.workers : f.routers;
    if (outage.what != fleet_outage::part::store && outage.index >= count) {
      throw CLI::ValidationError("--outage",
                                 fmt::format("there is no {0}{1}: they are {0}0 to {0}{2}",
                                             is_worker ? "worker" : "router",
                                             outage.index,
                                             count - 1));
    }
  }
  if (f.buckets && f.buckets->size() > f.workers) {
    throw CLI::ValidationError(
        "--buckets",
        fmt::format("{} buckets need as many workers, there are {}", f.buckets->size(), f.workers));
  }
}

CLI::Option* add_workers(CLI::App& command, fleet_options& o) {
  return command
      .add_option(
          "--workers", o.workers, "replay a fleet of so many nodes of 8 GPUs instead of one cache")
      ->transform(whole_number(1, workers_max))
      ->group(group);
}

void add_fleet(CLI::App& command,
               fleet_options& o,
               CLI::Option& workers,
               const std::vector<CLI::Option*>& cache_only) {
  auto* threads =
      command.add_option("-t,--threads", o.threads, "runs at the same time [all cores]")
          ->transform(whole_number(0, thread_pool::threads_max));
  auto* page = command.add_option("--html", o.page_file, "write the report as a page to this file")
                   ->check(some_text());
  std::vector<CLI::Option*> all{threads, page};
  for (const auto& some : {add_policy(command, o),
                           add_nodes(command, o),
                           add_arrivals(command, o),
                           add_faults(command, o)}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  for (CLI::Option* const option : all) {
    option->group(group)->needs(&workers);
  }
  for (CLI::Option* const option : cache_only) {
    option->excludes(&workers);
  }
}

}  // namespace oriel::cli
