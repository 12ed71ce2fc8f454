// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `fleet_page`: a fleet's report as one HTML page that needs nothing else: no script, no network.
#pragma once

#include <replay/fleet_report.hpp>

#include <string>

namespace oriel::replay {

/// UTF-8. Reads well from 360 pixels of width on, in light and dark.
/// @pre report is summarised, and has a policy
[[nodiscard]] std::string fleet_page(const fleet_report& report);

}  // namespace oriel::replay
