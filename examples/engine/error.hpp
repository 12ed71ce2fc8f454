// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `engine::error`: what loading throws. The message says what was wrong, in which file and key or
/// tensor, and what was expected there.
#pragma once

#include <stdexcept>

namespace oriel::engine {

class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace oriel::engine
