// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// ORIEL_MUTANT(name): a planted bug, for the tests of the tests. `false` everywhere but in the one
/// test build that defines ORIEL_MUTANTS, where a mutant is switched on by name at run time and
/// some test must then fail (tests/mutants).
#pragma once

#ifdef ORIEL_MUTANTS
#include <type_traits>

namespace oriel::detail {
/// Is this the mutant that was chosen? Defined by tests/mutants.
[[nodiscard]] bool mutant_was_chosen(const char* name) noexcept;

/// The same, and false where a constant is evaluated: a mutant must be part of an expression that
/// is none without it.
[[nodiscard]] constexpr bool mutant_is_on(const char* name) noexcept {
  if (std::is_constant_evaluated()) {
    return false;
  }
  return mutant_was_chosen(name);
}
}  // namespace oriel::detail
#define ORIEL_MUTANT(name) (::oriel::detail::mutant_is_on(#name))
#else
#define ORIEL_MUTANT(name) false
#endif
