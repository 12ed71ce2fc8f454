// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/fetch_plan.hpp>

#include <algorithm>

namespace oriel {
namespace {

/// Sums up what a plan moves, by tier.
class transfer_time {
 public:
  explicit transfer_time(std::span<const transfer_rates> tiers)
      : tiers_(tiers), bytes_(tiers.size()) {}

  void add(std::uint8_t tier, std::uint64_t bytes) { bytes_[tier] += static_cast<double>(bytes); }
  /// One tier after the other: they share the way into the device's memory.
  [[nodiscard]] double seconds() const {
    double sum = 0.0;
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      if (bytes_[i] != 0.0) {
        sum += tiers_[i].latency_s + bytes_[i] / tiers_[i].bytes_per_s;
      }
    }
    return sum;
  }

 private:
  std::span<const transfer_rates> tiers_;
  std::vector<double> bytes_;  // [tiers]
};

class planner {
 public:
  planner(const fetch_model& model,
          const compute_rates& rates,
          const prefix_match& device,
          std::uint32_t prompt_tokens,
          const tier_coverage& coverage,
          std::span<const transfer_rates> tiers)
      : model_(model),
        rates_(rates),
        device_(device),
        prompt_tokens_(prompt_tokens),
        page_size_(model.healing.page_size),
        coverage_(coverage),
        tiers_(tiers) {}

  [[nodiscard]] fetch_plan choose() const {
    const std::uint32_t most = (prompt_tokens_ - 1) / page_size_;
    std::uint32_t end = device_.full_tokens / page_size_;
    while (end < std::min<std::size_t>(most, coverage_.full.size()) &&
           coverage_.full[end] != no_tier) {
      ++end;
    }
    end = std::min(end, most);
    fetch_plan best;
    best.length = device_.window_safe_tokens;
    best.seconds = best.seconds_without =
        start_seconds(device_.full_tokens, device_.window_safe_tokens);
    const std::uint32_t safe = deepest_safe(end);
    if (safe * page_size_ > device_.window_safe_tokens) {
      keep_better(best, plan_of(fetch_way::window_safe, safe));
    }
    if (model_.may_heal && end * page_size_ > device_.full_tokens) {
      keep_better(best, plan_of(fetch_way::full_and_heal, end));
    }
    return best;
  }

 private:
  /// Resuming somewhere and computing the rest, if full KV is there up to `full` and S is `safe`.
  [[nodiscard]] double start_seconds(std::uint32_t full, std::uint32_t safe) const {
    const heal_bounds bounds{
        .full_length = full, .prompt_tokens = prompt_tokens_, .safe_length = safe};
    const std::uint32_t healed = std::min(full, prompt_tokens_ - 1) / page_size_ * page_size_;
    const double from_safe =
        seconds_of(recompute_flops(*model_.model, safe, prompt_tokens_), rates_);
    if (!model_.may_heal || healed <= safe) {
      return from_safe;
    }
    const double with_heal =
        seconds_of(heal_flops(*model_.model, model_.healing, bounds), rates_) +
        seconds_of(recompute_flops(*model_.model, healed, prompt_tokens_), rates_);
    return std::min(from_safe, with_heal);
  }

  /// The largest boundary <= `end`, in pages, whose windows some tier has, in every kind.
  [[nodiscard]] std::uint32_t deepest_safe(std::uint32_t end) const {
    for (std::uint32_t pages = end; pages > 0; --pages) {
      bool is_safe = true;
      for (std::size_t kind = 0; is_safe && kind < model_.windows.size(); ++kind) {
        if (kind == model_.soft_kind) {
          continue;
        }
        const page_range need = needed_windows(
            model_.windows[kind], page_size_, 0, pages - ORIEL_MUTANT(fetch_needs_one_page_less));
        const std::vector<std::uint8_t>& have = coverage_.windows[kind];
        is_safe = need.end <= have.size() &&
                  std::none_of(have.begin() + need.first, have.begin() + need.end, [](auto tier) {
                    return tier == no_tier;
                  });
      }
      if (is_safe) {
        return pages;
      }
    }
    return 0;
  }

  /// Behind the last page of `range` that no tier has.
  [[nodiscard]] static std::uint32_t last_gap(std::span<const std::uint8_t> have,
                                              page_range range) {
    std::uint32_t first = range.end;
    while (first > range.first && first <= have.size() && have[first - 1] != no_tier) {
      --first;
    }
    return first;
  }

  [[nodiscard]] fetch_plan plan_of(fetch_way way, std::uint32_t pages) const {
    fetch_plan plan{.way = way, .length = pages * page_size_};
    const std::uint32_t device_pages = device_.full_tokens / page_size_;
    transfer_time moved(tiers_);
    plan.full = {std::min(device_pages, pages), pages};
    for (std::uint32_t page = plan.full.first; page < plan.full.end; ++page) {
      moved.add(coverage_.full[page], model_.page_bytes[0]);
    }
    plan.windows.resize(model_.windows.size());
    for (std::size_t kind = 0; way == fetch_way::window_safe && kind < model_.windows.size();
         ++kind) {
      page_range& range = plan.windows[kind];
      range = needed_windows(model_.windows[kind], page_size_, 0, pages);
      if (kind == model_.soft_kind) {
        range = {last_gap(coverage_.windows[kind], range), pages};
      }
      const page_range with_slack =
          needed_windows(model_.windows[kind], page_size_, model_.healing.slack_pages, pages);
      while (kind != model_.soft_kind && range.first > with_slack.first &&
             coverage_.windows[kind][range.first - 1] != no_tier) {
        --range.first;
      }
      for (std::uint32_t page = range.first; page < range.end; ++page) {
        moved.add(coverage_.windows[kind][page], model_.page_bytes[kind + 1]);
      }
    }
    plan.seconds =
        moved.seconds() +
        (way == fetch_way::window_safe
             ? seconds_of(recompute_flops(*model_.model, plan.length, prompt_tokens_), rates_)
             : start_seconds(plan.length, device_.window_safe_tokens));
    return plan;
  }

  static void keep_better(fetch_plan& best, fetch_plan other) {
    if (other.seconds < best.seconds) {
      other.seconds_without = best.seconds_without;
      best = std::move(other);
    }
  }

  const fetch_model& model_;
  const compute_rates& rates_;
  const prefix_match& device_;
  std::uint32_t prompt_tokens_, page_size_;
  const tier_coverage& coverage_;
  std::span<const transfer_rates> tiers_;
};

}  // namespace

const char* name_of(fetch_way way) noexcept {
  switch (way) {
    case fetch_way::nothing:
      return "nothing";
    case fetch_way::window_safe:
      return "window_safe";
    case fetch_way::full_and_heal:
      return "full_and_heal";
  }
  return "unknown";
}

page_range needed_windows(std::uint32_t window_tokens,
                          std::uint32_t page_size,
                          std::uint32_t slack_pages,
                          std::uint32_t pages) noexcept {
  if (window_tokens <= 1) {
    return {pages, pages};  // A query sees itself alone.
  }
  const std::uint32_t boundary = (pages - std::min(pages, slack_pages)) * page_size;
  return {(boundary - std::min(boundary, window_tokens - 1)) / page_size, pages};
}

fetch_model fetch_model_of(const model_geometry& model, const pool_plan& plan) {
  fetch_model made{
      .model = &model, .healing = heal_model_of(model, plan), .soft_kind = plan.soft_kind()};
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    made.page_bytes.push_back(plan.layout(pool_id{pool}).page_bytes());
    if (pool != 0) {
      made.windows.push_back(plan.ring(pool - 1).window_tokens);
    }
  }
  for (std::uint32_t layer = 0; layer < plan.layers(); ++layer) {
    made.layers.push_back(plan.home(layer));
  }
  return made;
}

fetch_plan plan_fetch(const fetch_model& model,
                      const compute_rates& rates,
                      const prefix_match& device,
                      std::uint32_t prompt_tokens,
                      const tier_coverage& coverage,
                      std::span<const transfer_rates> tiers) {
  ORIEL_EXPECTS(prompt_tokens > 0 && coverage.windows.size() == model.windows.size());
  ORIEL_EXPECTS(model.page_bytes.size() == model.windows.size() + 1);
  return planner(model, rates, device, prompt_tokens, coverage, tiers).choose();
}

}  // namespace oriel
