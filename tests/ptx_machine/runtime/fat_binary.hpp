// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What nvcc puts into a host's object for a unit's kernels.
#pragma once

#include <string>

namespace oriel::ptx_machine {

/// The text of PTX in a fat binary, by the wrapper that a unit registers.
/// @throws machine_error where there is none that can be read
[[nodiscard]] std::string ptx_of(const void* wrapper);

/// The name of the unit's source.
[[nodiscard]] std::string unit_name_of(const void* wrapper);

}  // namespace oriel::ptx_machine
