// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The plots of a fleet's report: small panels of one width, so that the same drawing reads well
/// three abreast and alone on a phone. A policy is named where it is drawn.
#pragma once

#include <replay/fleet_report.hpp>

#include <string>
#include <vector>

namespace oriel::replay {

/// Panels of one figure, and the key to its marks.
struct figure_panels {
  std::string key;  ///< an svg
  std::vector<std::string> panels;
};

/// p50, p90 and p99 of the time to first token, a panel for each length.
[[nodiscard]] figure_panels ttft_by_bucket_plot(const fleet_report& report);
/// The same for cold and hot requests.
[[nodiscard]] figure_panels ttft_by_class_plot(const fleet_report& report);
/// Ratios to the first policy, with intervals, a panel for each figure.
[[nodiscard]] figure_panels comparison_plot(const fleet_report& report);
/// Where the tokens of the inputs came from.
[[nodiscard]] figure_panels hits_plot(const fleet_report& report);
/// Busy workers over time, a panel for each policy.
[[nodiscard]] figure_panels load_plot(const fleet_report& report);

}  // namespace oriel::replay
