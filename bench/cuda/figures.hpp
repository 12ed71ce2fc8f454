// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the programs of bench/cuda have in common and that needs no device: contestants that take
/// turns, medians, and the line of a figure for bench/cuda/table.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace oriel::bench {

/// The middle one; of an even number the mean of the two in the middle. @pre not empty
[[nodiscard]] inline double median(std::vector<double> x) {
  if (x.empty()) {
    throw std::invalid_argument("the median of nothing");
  }
  const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  return x.size() % 2 != 0 ? *middle : (*middle + *std::max_element(x.begin(), middle)) / 2;
}

/// Contestants that take turns, so that whatever else the machine does hits all alike.
class race {
 public:
  /// @param once  runs it once, with inputs of its own choice, and says how long it took
  /// @returns its number
  std::size_t add(std::function<double()> once) {
    contestants_.push_back({std::move(once), {}});
    return contestants_.size() - 1;
  }

  /// All once to warm up, then `rounds` times; each round begins with the next one of them.
  void run(std::uint32_t rounds) {
    for (contestant& c : contestants_) {
      c.once();
    }
    for (std::uint32_t round = 0; round < rounds; ++round) {
      for (std::size_t i = 0; i < contestants_.size(); ++i) {
        contestant& c = contestants_[(round + i) % contestants_.size()];
        c.took.push_back(c.once());
      }
    }
  }

  /// What `i` took, the median of all rounds.
  [[nodiscard]] double took(std::size_t i) const { return median(contestants_.at(i).took); }

  /// What `a` took beside what `b` took in the same round, the median of all rounds.
  [[nodiscard]] double ratio(std::size_t a, std::size_t b) const {
    std::vector<double> ratios = contestants_.at(a).took;
    for (std::size_t round = 0; round < ratios.size(); ++round) {
      ratios[round] /= contestants_.at(b).took.at(round);
    }
    return median(std::move(ratios));
  }

 private:
  struct contestant {
    std::function<double()> once;
    std::vector<double> took;  // [rounds]
  };
  std::vector<contestant> contestants_;
};

/// One figure. `id` is that of a row of bench/cuda/table.py; a peer's figure has its row's id.
struct figure {
  std::string id;
  std::string peer;        ///< whose figure it is; empty: ours
  double value;            ///< in `unit`
  std::string unit;        ///< GB/s, TFLOP/s, us, ...
  std::string limit = {};  ///< what `ratio` is against; empty: nothing
  double limit_value = 0;  ///< in `unit`
  double ratio = 0;
};

/// One line of JSON for table.py. @pre no text needs escapes
inline std::string line_of(const figure& f) {
  char numbers[160];
  std::snprintf(numbers,
                sizeof numbers,
                "\"value\": %.6g, \"limit_value\": %.6g, \"ratio\": %.5g",
                f.value,
                f.limit_value,
                f.ratio);
  return "{\"id\": \"" + f.id + "\", \"peer\": \"" + f.peer + "\", \"unit\": \"" + f.unit +
         "\", \"limit\": \"" + f.limit + "\", " + numbers + "}";
}

/// A figure that could not be had, and why.
inline std::string line_of_missing(const std::string& id,
                                   const std::string& peer,
                                   std::string why) {
  std::ranges::replace_if(
      why, [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 32; }, ' ');
  return "{\"id\": \"" + id + "\", \"peer\": \"" + peer + "\", \"missing\": \"" + why + "\"}";
}

/// So many copies of inputs of `bytes` that a run meets none in a cache of `cache_bytes`: four
/// caches full of others lie between two runs over the same.
[[nodiscard]] constexpr std::size_t cold_copies(std::size_t bytes, std::size_t cache_bytes) {
  return bytes >= 4 * cache_bytes ? 1 : 4 * cache_bytes / std::max<std::size_t>(bytes, 1) + 2;
}

/// FLOPs of causal attention: each row sees itself and all keys before it. A multiplication and an
/// addition for each of dk and dv, each visible key and query head.
[[nodiscard]] constexpr double causal_flops(std::uint64_t rows,
                                            std::uint64_t first_position,
                                            std::uint32_t q_heads,
                                            std::uint32_t head_dims) {
  const double keys = static_cast<double>(rows) * static_cast<double>(first_position) +
                      static_cast<double>(rows) * static_cast<double>(rows + 1) / 2;
  return 2.0 * keys * q_heads * head_dims;
}

/// `n` lengths whose neighbours have one ratio, the longest `skew` times the shortest, of about
/// `mean` on average.
[[nodiscard]] inline std::vector<std::uint32_t> skewed_lengths(std::uint32_t n,
                                                               double skew,
                                                               double mean) {
  std::vector<double> x(n, 1.0);
  double sum = 0;
  for (std::uint32_t i = 0; i < n; ++i) {
    x[i] = n == 1 ? 1.0 : std::pow(skew, static_cast<double>(i) / (n - 1));
    sum += x[i];
  }
  std::vector<std::uint32_t> lengths(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    lengths[i] = std::max(1u, static_cast<std::uint32_t>(std::lround(x[i] * mean * n / sum)));
  }
  return lengths;
}

/// Rows of `groups` by Zipf's law, in an order of no meaning, `rows` together.
[[nodiscard]] inline std::vector<std::uint32_t> zipf_rows(std::uint32_t groups,
                                                          std::uint32_t rows) {
  double sum = 0;
  for (std::uint32_t i = 1; i <= groups; ++i) {
    sum += 1.0 / i;
  }
  std::vector<std::uint32_t> of(groups);
  std::uint32_t left = rows;
  for (std::uint32_t i = 0; i < groups; ++i) {
    const auto share = static_cast<std::uint32_t>(rows / (sum * (i + 1)));
    of[std::uint64_t{i} * 37 % groups] += std::min(left, share);
    left -= std::min(left, share);
  }
  of[0] += left;
  return of;
}

}  // namespace oriel::bench
