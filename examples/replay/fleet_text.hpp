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

/// "8.21 s", "412 ms", "94.6 %", "12.3 M", "148 K/s".
[[nodiscard]] std::string quantity_text(fleet_metric::unit in, double value);
/// The same with the interval in the same unit: "8.21 ± 0.34 s".
[[nodiscard]] std::string mean_text(fleet_metric::unit in, const sample_mean& value);
/// "0.412× (0.38-0.44)"; "-" where there is none.
[[nodiscard]] std::string ratio_text(const std::optional<sample_ratio>& ratio);
/// "412 ms", "8.21 s", "12.3 min".
[[nodiscard]] std::string duration_text(double ms);
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

/// Mean over the seeds of a policy. @param of  of one run
template <class Of>
[[nodiscard]] double seed_mean(const fleet_report& report, std::size_t policy, Of of) {
  double sum = 0;
  for (const run_figures& run : report.runs_of(policy)) {
    sum += of(run);
  }
  return sum / static_cast<double>(report.seeds);
}

}  // namespace oriel::replay
