// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Catch2's session. It takes long to compile: once for all test programs.
#pragma once

namespace oriel_test {

/// Runs the program's test cases.
/// @param arguments  as of main
/// @returns the exit code: 0 where nothing failed
int run_session(int count, const char* const* arguments);

}  // namespace oriel_test
