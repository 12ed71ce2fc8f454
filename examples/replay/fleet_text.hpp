// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Figures of a fleet as people read them: three digits, a unit, and how sure they are.
#pragma once

#include <replay/fleet_report.hpp>
#include <replay/paired.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace oriel::replay {

/// Where there is no figure.
inline constexpr const char* no_figure = "-";

/// "8.21 s", "412 ms", "94.6 %", "12.3 M", "148 K/s".
[[nodiscard]] std::string quantity_text(fleet_metric::unit in, double value);
/// The same with the interval in the same unit: "8.21 ± 0.34 s"; "-" where there is none.
[[nodiscard]] std::string mean_text(fleet_metric::unit in, const std::optional<sample_mean>& value);
/// "0.412× (0.38-0.44)"; "-" where there is none.
[[nodiscard]] std::string ratio_text(const std::optional<sample_ratio>& ratio);
/// "412 ms", "8.21 s", "12.3 min"; "-" where there is none.
[[nodiscard]] std::string duration_text(std::optional<double> ms);
/// Two or three digits, never an exponent: "0.041", "8.2", "312".
[[nodiscard]] std::string short_number(double value);

/// What a ratio says of a policy: "better", "worse", or "same" where the seeds do not tell.
[[nodiscard]] std::string_view verdict(const sample_ratio& ratio, bool more_is_better) noexcept;

/// Lines of people's words about a report, each a sentence.
[[nodiscard]] std::string comparison_sentence(const fleet_report& report);
[[nodiscard]] std::string bucket_sentence(const fleet_report& report);
[[nodiscard]] std::string cold_sentence(const fleet_report& report);
[[nodiscard]] std::string hits_sentence(const fleet_report& report);
[[nodiscard]] std::string load_sentence(const fleet_report& report);
[[nodiscard]] std::string wait_sentence(const fleet_report& report);
[[nodiscard]] std::string calibration_sentence(const fleet_report& report);

/// Mean over those seeds of a policy that have the figure; none: no seed has.
/// @param of  of one run, a number or an optional one
template <class Of>
[[nodiscard]] std::optional<double> seed_mean(const fleet_report& report,
                                              std::size_t policy,
                                              Of of) {
  double sum = 0, runs = 0;
  for (const run_figures& run : report.runs_of(policy)) {
    if (const std::optional<double> value = of(run); value) {
      sum += *value;
      runs += 1;
    }
  }
  return runs == 0 ? std::nullopt : std::optional(sum / runs);
}

/// A time to first token of some requests; none without requests.
[[nodiscard]] inline std::optional<double> time_of(const ttft_figures& of,
                                                   double ttft_figures::*ms) noexcept {
  return of.requests == 0 ? std::nullopt : std::optional(of.*ms);
}
/// Of the input, what a tier had, or with hit_tiers what was computed; none without input.
[[nodiscard]] inline std::optional<double> source_share(const run_figures& r,
                                                        std::size_t tier) noexcept {
  return r.input_tokens == 0
             ? std::nullopt
             : std::optional(tier == hit_tiers ? 1 - r.token_hit_rate() : r.hit_share(tier));
}

}  // namespace oriel::replay
