// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a simulation throws when something does not hold.
#pragma once

#include <stdexcept>

namespace sim {

class violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// @throws violation saying `what`
inline void require(bool holds, const char* what) {
  if (!holds) {
    throw violation(what);
  }
}

}  // namespace sim
