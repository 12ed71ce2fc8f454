// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `find_hours`: how closely sessions must follow each other for a fleet to be so busy.
#pragma once

#include <oriel/core/contract.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace oriel::sim {

struct load_options {
  double first_hours = 8.0;     ///< where to look first; > 0
  double tolerance = 0.005;     ///< of the utilisation: near enough; > 0
  std::uint32_t runs_max = 16;  ///< > 0
};

/// What was found: the hours of all runs whose utilisation was nearest.
struct load_found {
  double hours = 0.0;
  double utilisation = 0.0;  ///< of that run
  std::uint32_t runs = 0;
  bool is_near = false;  ///< within the tolerance
};

/// Looks for H such that utilisation(H) is the target, as it falls with H: fewer sessions at once.
/// Utilisation is about work / H: that gives the next H, a tenth too far and then further, until
/// two runs have the target between them. Then each run is where that law puts it between the two,
/// or, every other time, at their geometric mean, so that a curve of any shape ends. The same calls
/// give the same H.
///
/// @param utilisation  (double hours) -> double: a run of the reference policies, session hash and
///                     fcfs, with the same seeds for every H
/// @pre target in (0, 1)
template <class Utilisation>
[[nodiscard]] load_found find_hours(double target,
                                    Utilisation&& utilisation,
                                    const load_options& options = {}) {
  ORIEL_EXPECTS(target > 0.0 && target < 1.0);
  ORIEL_EXPECTS(options.first_hours > 0.0 && options.tolerance > 0.0 && options.runs_max > 0);
  load_found best;
  double busy_hours = 0.0, busy = 0.0;  // Too busy: the most hours of such a run; 0: none yet.
  double idle_hours = 0.0, idle = 0.0;  // Not busy enough: the fewest.
  double hours = options.first_hours, reach = 1.1;
  while (best.runs < options.runs_max) {
    const double found = utilisation(hours);
    const bool is_better =
        best.runs == 0 || std::abs(found - target) < std::abs(best.utilisation - target);
    ++best.runs;
    if (is_better) {
      best.hours = hours;
      best.utilisation = found;
    }
    if (std::abs(found - target) <= options.tolerance) {
      best.is_near = true;
      break;
    }
    if (found > target) {
      busy_hours = hours;
      busy = found;
    } else {
      idle_hours = hours;
      idle = found;
    }
    if (busy_hours == 0.0 || idle_hours == 0.0) {
      const double guess = std::clamp(found / target, 0.125, 8.0);
      hours *= found > target ? reach * guess : guess / reach;
      reach *= 2.0;
    } else if (best.runs % 2 == 0) {
      const double weight = (target - idle) / (busy - idle);  // linear in 1 / H
      hours = 1.0 / (weight / busy_hours + (1.0 - weight) / idle_hours);
    } else {
      hours = std::sqrt(busy_hours * idle_hours);
    }
  }
  return best;
}

}  // namespace oriel::sim
