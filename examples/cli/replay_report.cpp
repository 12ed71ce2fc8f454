// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "replay_report.hpp"
#include "support.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <replay/grouped.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace oriel::cli {
namespace {

using json = nlohmann::ordered_json;
using replay::grouped;

std::string millions(double tokens) {
  return fmt::format("{:.2f} M", tokens / 1e6);
}

std::string millions(std::uint64_t tokens) {
  return millions(static_cast<double>(tokens));
}

template <class T>
json or_null(bool known, const T& value) {
  return known ? json(value) : json(nullptr);
}

std::string retention_text(const replay::retain_choice& retain) {
  std::string text = "tail";
  if (retain.every_tokens != 0) {
    text += fmt::format(",every:{}", retain.every_tokens);
  }
  if (retain.branch_points) {
    text += ",branch";
  }
  if (retain.dense_head_tokens != 0) {
    text += fmt::format(",dense:{}", retain.dense_head_tokens);
  }
  return text;
}

void print_pools(const replay_report& r) {
  const replay_options& o = r.options;
  const pool_plan& plan = r.sizes.plan;
  print_out("{} requests, {} input tokens. {}, pages of {} tokens:\n",
            grouped(r.requests),
            millions(r.cache.input_tokens),
            o.preset,
            r.page_tokens);
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    const std::uint32_t pages = r.sizes.sizes.pages[pool];
    print_out("  {:<22}  {:>11} pages {:>11}{}\n",
              pool == 0 ? std::string("full pool")
                        : fmt::format("window pool, W = {}", plan.ring(pool - 1).window_tokens),
              grouped(pages),
              bytes_text(pages * std::uint64_t{plan.layout(pool_id{pool}).page_bytes()}),
              pool == 0 ? fmt::format("  {} tokens", millions(r.sizes.capacity_tokens)) : "");
  }
  print_out("  evict {}, retain {}, heal {}; ", o.evict, retention_text(o.retain), o.heal);
  if (r.working_bytes == 0) {
    print_out("the running request is paid from the pools\n\n");
  } else {
    print_out("the running request has {} beside the pools\n\n", bytes_text(r.working_bytes));
  }
}

void print_cache(const replay_report& r) {
  const replay::cache_outcome& c = r.cache;
  print_out("Token hit rate             {:.4f}\n", c.hit_rate());
  print_out("  net of heals             {:.4f}\n", c.net_hit_rate());
  if (r.sessions != 0) {
    print_out("  busiest 10 % of sessions {:.4f}\n", c.top_decile_hit_rate());
  }
  print_out("  hit                      {} tokens\n", millions(c.hit_tokens));
  print_out("  clipped                  {} tokens\n", grouped(c.clipped_tokens));
  print_out("  heals                    {}: {} tokens, at the cost of {}\n",
            grouped(c.heals),
            millions(c.healed_tokens),
            millions(c.heal_token_equivalents));
  print_out("  evicted                  {} full pages, {} window pages alone\n",
            grouped(c.evicted_full_pages),
            grouped(c.evicted_window_pages));
  print_out("  peak                     {}\n\n", bytes_text(c.peak_bytes));
}

constexpr std::array<const char*, 3> level_names{"device", "host", "disk"};

/// Bytes of a level, as asked for; 0: it is not there.
std::uint64_t level_bytes(const replay_report& r, std::size_t level) {
  return level == 0 ? r.sizes.bytes : level == 1 ? r.tiers->host_bytes : r.tiers->disk_bytes;
}

std::string age_text(const replay::level_outcome& level) {
  const auto age = level.mean_age_at_eviction_s();
  return age ? fmt::format("{:.0f} s", *age) : "-";
}

void print_levels(const replay_report& r) {
  print_out("{:<8}{:>11}{:>10}{:>12}{:>12}{:>12}{:>12}{:>13}\n",
            "level",
            "size",
            "hit rate",
            "hit tokens",
            "pages",
            "evicted",
            "their age",
            "brought up");
  for (std::size_t i = 0; i < level_names.size(); ++i) {
    const replay::level_outcome& level = r.cache.levels[i];
    if (level_bytes(r, i) == 0) {
      continue;
    }
    print_out("{:<8}{:>11}{:>10.4f}{:>12}{:>12}{:>12}{:>12}{:>13}\n",
              level_names[i],
              bytes_text(level_bytes(r, i)),
              r.cache.rate_of(level.hit_tokens),
              millions(level.hit_tokens),
              grouped(level.pages),
              grouped(level.evicted_pages),
              age_text(level),
              i == 0 ? "-" : bytes_text(level.fetched_bytes));
  }
  const replay::cache_outcome& c = r.cache;
  print_out(
      "  writes {}: {} requests got pages from below, {} each; {} if every layer kept every row\n",
      r.options.tier_writes,
      grouped(c.fetches),
      bytes_text(c.bytes_per_fetch()),
      bytes_text(c.fetches == 0 ? 0 : c.fetched_bytes_uniform / c.fetches));
  print_out("  {} pages of hits had the bytes of their tokens, {} copies were dropped\n\n",
            grouped(c.checked_pages),
            grouped(c.dropped_copies));
}

json level_json(const replay_report& r, std::size_t i) {
  const replay::level_outcome& level = r.cache.levels[i];
  const auto age = level.mean_age_at_eviction_s();
  json object{{"capacity_bytes", level_bytes(r, i)},
              {"hit_tokens", level.hit_tokens},
              {"token_hit_rate", r.cache.rate_of(level.hit_tokens)},
              {"pages", level.pages},
              {"evicted_pages", level.evicted_pages},
              {"mean_age_at_eviction_s", age ? json(*age) : json(nullptr)}};
  if (i != 0) {
    object["fetches"] = level.fetches;
    object["fetched_pages"] = level.fetched_pages;
    object["fetched_bytes"] = level.fetched_bytes;
    object["bytes_per_fetch"] =
        or_null(level.fetches != 0, level.fetches == 0 ? 0 : level.fetched_bytes / level.fetches);
    object["copied_pages"] = level.copied_pages;
    object["copied_bytes"] = level.copied_bytes;
    object["refused_copies"] = level.refused_copies;
  }
  return object;
}

/// What --tiers adds.
void add_levels(json& object, const replay_report& r) {
  object["tier_writes"] = r.options.tier_writes;
  json levels = json::object();
  for (std::size_t i = 0; i < level_names.size(); ++i) {
    if (level_bytes(r, i) != 0) {
      levels[level_names[i]] = level_json(r, i);
    }
  }
  object["levels"] = std::move(levels);
  const replay::cache_outcome& c = r.cache;
  object["fetches"] = c.fetches;
  object["bytes_per_fetch"] = or_null(c.fetches != 0, c.bytes_per_fetch());
  object["bytes_per_fetch_uniform"] =
      or_null(c.fetches != 0, c.fetches == 0 ? 0 : c.fetched_bytes_uniform / c.fetches);
  object["dropped_copies"] = c.dropped_copies;
  object["checked_pages"] = c.checked_pages;
}

void print_references(const replay_report& r) {
  print_out("Simple caches of {} tokens\n", millions(r.sizes.capacity_tokens));
  print_out("  least recently used      {:.4f}\n", r.lru.rate());
  print_out("  clairvoyant              {:.4f}\n", r.clairvoyant.rate());
  if (const auto closed = r.gap_closed()) {
    print_out("  gap between them closed  {:.1f} %\n", 100 * *closed);
  }
  print_out("An infinite one            {:.4f}\n", r.infinite.rate());
  if (r.uniform_lru) {
    print_out("A uniform one of {}, {} tokens, least recently used: {:.4f}\n",
              bytes_text(r.sizes.bytes),
              millions(r.uniform_tokens),
              r.uniform_lru->rate());
  }
}

}  // namespace

std::optional<double> replay_report::gap_closed() const noexcept {
  const double gap = clairvoyant.rate() - lru.rate();
  return gap > 0 ? std::optional{(cache.hit_rate() - lru.rate()) / gap} : std::nullopt;
}

void print_json(const replay_report& r) {
  const replay::cache_outcome& c = r.cache;
  const std::vector<std::uint32_t>& pages = r.sizes.sizes.pages;
  const auto closed = r.gap_closed();
  json object{
      {"model", r.options.preset},
      {"pools", r.options.pools},
      {"evict", r.options.evict},
      {"retain", retention_text(r.options.retain)},
      {"heal", r.options.heal == "on"},
      {"page_tokens", r.page_tokens},
      {"capacity_tokens", r.sizes.capacity_tokens},
      {"capacity_bytes", r.sizes.bytes},
      {"working_bytes", r.working_bytes},
      {"full_pages", pages.front()},
      {"window_pages", std::vector<std::uint32_t>(pages.begin() + 1, pages.end())},
      {"requests", r.requests},
      {"sessions", or_null(r.sessions != 0, r.sessions)},
      {"input_tokens", c.input_tokens},
      {"token_hit_rate", c.hit_rate()},
      {"net_token_hit_rate", c.net_hit_rate()},
      {"top_decile_token_hit_rate", or_null(r.sessions != 0, c.top_decile_hit_rate())},
      {"lru_token_hit_rate", r.lru.rate()},
      {"clairvoyant_token_hit_rate", r.clairvoyant.rate()},
      {"infinite_token_hit_rate", r.infinite.rate()},
      {"uniform_lru_token_hit_rate", r.uniform_lru ? json(r.uniform_lru->rate()) : json(nullptr)},
      {"gap_closed", closed ? json(*closed) : json(nullptr)},
      {"clipped_tokens", c.clipped_tokens},
      {"heals", c.heals},
      {"healed_tokens", c.healed_tokens},
      {"heal_token_equivalents", c.heal_token_equivalents},
      {"evicted_full_pages", c.evicted_full_pages},
      {"evicted_window_pages", c.evicted_window_pages},
      {"cached_pages", c.cached_pages},
      {"index_bytes", c.index_bytes},
      {"peak_bytes", c.peak_bytes}};
  if (r.tiers) {
    add_levels(object, r);
  }
  print_out("{}\n", object.dump());
}

void print_table(const replay_report& r) {
  print_pools(r);
  print_cache(r);
  if (r.tiers) {
    print_levels(r);
  }
  print_references(r);
}

}  // namespace oriel::cli
