// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs test cases in a child until one fails.
#pragma once

#include <string>

namespace mutants {

/// @param cases    as on Catch2's command line; empty: all
/// @param seconds  until a child counts as hanging: some mutants wait for what never comes
/// @returns the case that failed, or how the child died; empty: neither
/// @throws std::runtime_error when no case was run: no child, no session, none of that name
std::string kill_by_cases(const char* program, const std::string& cases, unsigned seconds);

}  // namespace mutants
