// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/sample_kernels.hpp"
#include "detail/workspace.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/sample.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace oriel::host {
namespace {

using detail::sample_block;

constexpr std::uint32_t vocabulary_max = 1u << 19;  ///< mass_of: sums stay below 2^63
constexpr float lowest = -std::numeric_limits<float>::infinity();

constexpr std::uint32_t blocks_of(std::uint32_t vocabulary) noexcept {
  return (vocabulary + sample_block - 1) / sample_block;
}

/// A token as an integer: the greater key comes first (larger logit, then lower id).
using token_key = std::uint64_t;

token_key key_of(float logit, std::uint32_t id) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);  // -0 becomes 0.
  const std::uint32_t ordered = (bits & 0x8000'0000u) != 0 ? ~bits : bits | 0x8000'0000u;
  return (std::uint64_t{ordered} << 32) | ~id;
}

std::uint32_t id_of(token_key key) noexcept {
  return ~static_cast<std::uint32_t>(key);
}

/// A candidate for a prefix of given mass.
struct keyed_mass {
  token_key key;
  std::uint64_t mass;

  friend bool operator>(const keyed_mass& a, const keyed_mass& b) noexcept { return a.key > b.key; }
};

/// The last token of the fewest first ones that hold `target` together. Halves the candidates until
/// few are left: O(candidates), and they are never sorted as a whole. @pre all together hold
/// `target`
token_key last_of_mass(std::span<keyed_mass> candidates, std::uint64_t target) noexcept {
  while (candidates.size() > 16) {
    const std::size_t half = candidates.size() / 2;
    std::nth_element(candidates.begin(),
                     candidates.begin() + static_cast<std::ptrdiff_t>(half),
                     candidates.end(),
                     std::greater<>{});
    std::uint64_t mass = 0;
    for (const keyed_mass& c : candidates.first(half)) {
      mass += c.mass;
    }
    if (mass >= target) {
      candidates = candidates.first(half);
    } else {
      target -= mass;
      candidates = candidates.subspan(half);
    }
  }
  std::sort(candidates.begin(), candidates.end(), std::greater<>{});
  std::size_t last = 0;
  for (std::uint64_t mass = candidates[0].mass; mass < target; mass += candidates[last].mass) {
    ++last;
  }
  return candidates[last].key;
}

/// One row on its way through the filters. Filters shorten `keys_`, the kept tokens by ascending
/// id.
class row_filter {
 public:
  row_filter(const sample_plan& plan,
             const float* logits,
             const sample_filters& filters,
             std::span<std::byte> workspace) noexcept
      : kernels_(detail::sample_kernels_for(plan.path)),
        logits_(logits),
        vocabulary_(plan.vocabulary),
        filters_(filters),
        inverse_temperature_(1.0f / filters.temperature) {
    detail::workspace_cutter cutter(workspace);
    maxima_ = cutter.take<float>(blocks_of(vocabulary_));
    selection_ = cutter.take<float>(blocks_of(vocabulary_));
    weights_ = cutter.take<float>(vocabulary_);
    ids_ = cutter.take<std::uint32_t>(vocabulary_);
    keys_ = cutter.take<token_key>(vocabulary_);
    candidates_ = cutter.take<keyed_mass>(vocabulary_);
  }

  token_distribution operator()() noexcept {
    largest_ = kernels_.block_maxima(logits_, vocabulary_, maxima_.data());
    if (!(largest_ > lowest)) {
      return {.ids = {}, .weights = {}, .total = 0};
    }
    const bool all = filters_.top_k == 0 || filters_.top_k >= vocabulary_;
    if (filters_.temperature == 0.0f) {
      keep_first(1);
    } else if (!all) {
      keep_first(filters_.top_k);
      if (filters_.top_p < 1.0f) {
        keep_top_p_of_kept();
      }
    } else if (filters_.top_p < 1.0f) {
      keep_top_p_of_all();
    } else if (filters_.min_p > 0.0f) {
      keep_from(min_p_bound());
    } else {
      return {.ids = {}, .weights = weights_, .total = weigh_all()};
    }
    return distribution_of_kept();
  }

 private:
  std::uint64_t weigh_all() noexcept {
    return kernels_.weigh(logits_, vocabulary_, largest_, inverse_temperature_, weights_.data());
  }

  /// Keeps the tokens with logit >= bound, ascending by id; -infinity and NaN never. Blocks whose
  /// maximum is below the bound are not read.
  void keep_from(float bound) noexcept {
    kept_ = 0;
    for (std::uint32_t block = 0; block < maxima_.size(); ++block) {
      if (maxima_[block] < bound || maxima_[block] == lowest) {
        continue;
      }
      const std::uint32_t end = std::min((block + 1) * sample_block, vocabulary_);
      for (std::uint32_t id = block * sample_block; id < end; ++id) {
        if (logits_[id] >= bound && logits_[id] > lowest) {
          keys_[kept_++] = key_of(logits_[id], id);
        }
      }
    }
  }

  /// Drops the kept tokens after `last`.
  void cut_after(token_key last) noexcept {
    const auto end = keys_.begin() + kept_;
    const auto cut = std::remove_if(keys_.begin(), end, [last](token_key k) { return k < last; });
    kept_ = static_cast<std::uint32_t>(cut - keys_.begin());
  }

  /// A logit that none of the `count` first tokens is below: the count-th largest block maximum,
  /// because `count` blocks hold a token at least as large.
  float bound_of_first(std::uint32_t count) noexcept {
    if (count > maxima_.size()) {
      return lowest;
    }
    std::copy(maxima_.begin(), maxima_.end(), selection_.begin());
    const auto nth = selection_.begin() + (count - 1);
    std::nth_element(selection_.begin(), nth, selection_.end(), std::greater<>{});
    return *nth;
  }

  void keep_first(std::uint32_t count) noexcept {
    keep_from(bound_of_first(count));
    if (kept_ > count) {
      const auto candidates = candidates_.first(kept_);
      fill_candidates([](std::uint32_t) { return 0.0f; });
      const auto last = candidates.begin() + (count - 1);
      std::nth_element(candidates.begin(), last, candidates.end(), std::greater<>{});
      cut_after(last->key);
    }
  }

  /// Makes the kept tokens candidates; number i has weight `weight(i)`. @returns their mass
  template <class F>
  std::uint64_t fill_candidates(F&& weight) noexcept {
    std::uint64_t total = 0;
    for (std::uint32_t i = 0; i < kept_; ++i) {
      candidates_[i] = {.key = keys_[i], .mass = mass_of(weight(i))};
      total += candidates_[i].mass;
    }
    return total;
  }

  /// The mass that a top_p prefix of tokens with this total must reach.
  [[nodiscard]] std::uint64_t top_p_target(std::uint64_t total) const noexcept {
    return static_cast<std::uint64_t>(double{filters_.top_p} * static_cast<double>(total));
  }

  void keep_top_p_of_kept() noexcept {
    weigh_kept();
    const std::uint64_t total = fill_candidates([this](std::uint32_t i) { return weights_[i]; });
    cut_after(last_of_mass(candidates_.first(kept_), top_p_target(total)));
  }

  /// Looks for the mass among few tokens first: they hold it in most rows of a language model.
  void keep_top_p_of_all() noexcept {
    const std::uint64_t target = top_p_target(weigh_all());
    for (const std::uint32_t count : {64u, 1'024u, vocabulary_}) {
      keep_from(bound_of_first(count));
      const std::uint64_t mass =
          fill_candidates([this](std::uint32_t i) { return weights_[id_of(keys_[i])]; });
      if (mass >= target) {
        break;
      }
    }
    cut_after(last_of_mass(candidates_.first(kept_), target));
  }

  /// A logit that no token with weight >= min_p is below: their logarithm, and a margin for the
  /// exponential's error.
  [[nodiscard]] float min_p_bound() const noexcept {
    const double z = std::log(double{filters_.min_p}) - 1e-3;
    const double bound = double{largest_} + z * double{filters_.temperature};
    return std::nextafter(static_cast<float>(bound), lowest);
  }

  /// weights_[i] = weight of kept token i. @returns their mass
  std::uint64_t weigh_kept() noexcept {
    for (std::uint32_t i = 0; i < kept_; ++i) {
      weights_[i] = logits_[id_of(keys_[i])];
    }
    return kernels_.weigh(weights_.data(), kept_, largest_, inverse_temperature_, weights_.data());
  }

  token_distribution distribution_of_kept() noexcept {
    std::uint64_t total = weigh_kept();
    for (std::uint32_t i = 0; i < kept_; ++i) {
      ids_[i] = id_of(keys_[i]);
    }
    if (filters_.min_p > 0.0f) {
      total = drop_below_min_p();
    }
    return {.ids = ids_.first(kept_), .weights = weights_.first(kept_), .total = total};
  }

  std::uint64_t drop_below_min_p() noexcept {
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < kept_; ++i) {
      if (weights_[i] >= filters_.min_p) {
        ids_[kept] = ids_[i];
        weights_[kept++] = weights_[i];
      }
    }
    kept_ = kept;
    return kernels_.mass(weights_.data(), kept_);
  }

  const detail::sample_kernels& kernels_;
  const float* logits_;
  std::uint32_t vocabulary_;
  sample_filters filters_;
  float inverse_temperature_;
  float largest_ = lowest;
  std::span<float> maxima_;     ///< of blocks of logits
  std::span<float> selection_;  ///< scratch of the same length
  std::span<float> weights_;
  std::span<std::uint32_t> ids_;
  std::span<token_key> keys_;         ///< the first kept_ are kept
  std::span<keyed_mass> candidates_;  ///< scratch
  std::uint32_t kept_ = 0;
};

sampled_token sample_one(const sample_plan& plan,
                         const float* logits,
                         const sample_row& row,
                         std::span<std::byte> workspace) noexcept {
  if (!row.adjustments.change_nothing()) {
    detail::workspace_cutter cutter(workspace.subspan(plan.filter_bytes));
    const auto adjusted = cutter.take<float>(plan.vocabulary);
    adjust_logits({logits, plan.vocabulary}, row.adjustments, adjusted);
    logits = adjusted.data();
  }
  if (row.filters.temperature == 0.0f) {
    return greedy_token(plan, logits);
  }
  const token_distribution d = filter_logits(plan, logits, row.filters, workspace);
  if (d.total == 0) {
    return {.id = token_id{0}, .probability = 0.0f};
  }
  const token_id id = draw(d, sample_random(row.seed, row.position));
  return {.id = id, .probability = probability_of(d, id)};
}

}  // namespace

result<sample_plan> plan_sample(std::uint32_t vocabulary,
                                std::uint32_t concurrency,
                                isa path) noexcept {
  if (vocabulary == 0 || vocabulary > vocabulary_max || concurrency == 0 || !is_supported(path)) {
    return failure{errc::unsupported_shape, 0, "sample: vocabulary out of range or missing path"};
  }
  const std::size_t n = vocabulary;
  const std::size_t filter_bytes =
      2 * detail::whole_lines(blocks_of(vocabulary) * sizeof(float)) +
      detail::whole_lines(n * sizeof(float)) + detail::whole_lines(n * sizeof(std::uint32_t)) +
      detail::whole_lines(n * sizeof(token_key)) + detail::whole_lines(n * sizeof(keyed_mass));
  const std::size_t row_bytes = detail::whole_lines(n * sizeof(float));
  return sample_plan{.vocabulary = vocabulary,
                     .concurrency = concurrency,
                     .path = path,
                     .filter_bytes = filter_bytes,
                     .row_bytes = row_bytes,
                     .workspace_bytes = (filter_bytes + row_bytes) * concurrency};
}

token_distribution filter_logits(const sample_plan& plan,
                                 const float* logits,
                                 const sample_filters& filters,
                                 std::span<std::byte> workspace) noexcept {
  ORIEL_EXPECTS(workspace.size() >= plan.filter_bytes);
  ORIEL_EXPECTS(filters.temperature >= 0.0f && filters.top_p > 0.0f && filters.min_p <= 1.0f);
  return row_filter(plan, logits, filters, workspace)();
}

sampled_token greedy_token(const sample_plan& plan, const float* logits) noexcept {
  constexpr std::uint32_t stride = 64 * sample_block;
  const detail::sample_kernels& kernels = detail::sample_kernels_for(plan.path);
  float largest = lowest, maxima[64];
  std::uint32_t first = 0;
  for (std::uint32_t at = 0; at < plan.vocabulary; at += stride) {
    const std::uint32_t count = std::min(stride, plan.vocabulary - at);
    const float of_part = kernels.block_maxima(logits + at, count, maxima);
    if (of_part > largest) {
      largest = of_part;
      first = at;
    }
  }
  if (!(largest > lowest)) {
    return {.id = token_id{0}, .probability = 0.0f};
  }
  const float* found = std::find(logits + first, logits + plan.vocabulary, largest);
  return {.id = token_id{static_cast<std::uint32_t>(found - logits)}, .probability = 1.0f};
}

void run_sample(const sample_plan& plan,
                const sample_args& args,
                std::span<std::byte> workspace,
                executor_ref executor) noexcept {
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  ORIEL_EXPECTS(args.out.size() == args.rows.size());
  const std::size_t worker_bytes = plan.filter_bytes + plan.row_bytes;
  const auto sample_row_at = [&](std::uint32_t row, std::uint32_t worker) {
    args.out[row] = sample_one(plan,
                               args.logits + row * args.logits_stride,
                               args.rows[row],
                               workspace.subspan(worker * worker_bytes, worker_bytes));
  };
  if (args.rows.size() == 1) {
    sample_row_at(0, 0);
    return;
  }
  ORIEL_EXPECTS(executor.concurrency() <= plan.concurrency);
  executor.for_each(static_cast<std::uint32_t>(args.rows.size()), sample_row_at);
}

}  // namespace oriel::host
