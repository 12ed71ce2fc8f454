// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A fleet's report on stdout: tables, or a JSON object.
#pragma once

#include "commands.hpp"

#include <replay/fleet_report.hpp>

namespace oriel::cli {

/// What the question was, that the report does not tell.
struct fleet_question {
  const replay_options& options;
  double hours = 0;  ///< over which sessions start
  std::uint32_t clones = 1;
  std::uint32_t page_tokens = 0;
};

void print_fleet_table(const replay::fleet_report& report);
/// One line.
void print_fleet_json(const replay::fleet_report& report, const fleet_question& question);

}  // namespace oriel::cli
