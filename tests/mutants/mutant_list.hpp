// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the programs that try planted bugs have in common: which bugs are on, what is printed of
/// each, and the walk over the list. In one unit of a program: it defines `mutant_was_chosen`.
#pragma once

#include <oriel/core/mutation.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <string_view>

namespace mutants {

/// The names that are on, parted by +.
inline std::string chosen;

/// Allocates nothing: it is asked where allocations fail.
inline bool is_chosen(std::string_view name) noexcept {
  const std::string_view all = chosen;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = std::min(all.find('+', at), all.size());
    if (all.substr(at, end - at) == name) {
      return true;
    }
    at = end + 1;
  }
  return false;
}

inline const char* shown(const char* name) {
  return name[0] == '\0' ? "(none)" : name;
}

/// Until a child counts as hanging. Only a mutant hangs: what is sound may take its time on a busy
/// machine.
template <class Mutant>
unsigned seconds_for(const Mutant& m, unsigned of_a_mutant) {
  return m.is_harmless ? 1'800 : of_a_mutant;
}

/// Switches a mutant on, and prints what became of it.
/// @param kill  kill(mutant) says how it was found; empty: it was not. What it throws says why the
///              mutant was not tried, which is no find, whatever the mutant
/// @returns is that as it should be?
template <class Mutant, class Kill>
bool is_as_it_should(const Mutant& m, Kill&& kill) {
  chosen = m.name;
  std::string how;
  bool is_tried = true;
  try {
    how = kill(m);
  } catch (const std::exception& e) {
    how = std::string("not tried: ") + e.what();
    is_tried = false;
  }
  const bool is_fine = is_tried && how.empty() == m.is_harmless;
  std::printf("%-5s %-44s %s\n    %s\n",
              !is_tried ? "ERROR"
              : is_fine ? "ok"
                        : "HOLE",
              shown(m.name),
              m.kin,
              how.empty() ? "survives" : how.c_str());
  std::fflush(stdout);
  return is_fine;
}

/// All mutants, or the one of that name, as `check(mutant)` finds them. @returns for main
template <class Mutant, class Check>
int run_all(std::span<const Mutant> all, int count, char** arguments, Check&& check) {
  int holes = 0, met = 0;
  for (const Mutant& m : all) {
    if (count < 2 || std::string_view(arguments[1]) == m.name) {
      ++met;
      holes += check(m) ? 0 : 1;
    }
  }
  if (met == 0) {
    std::fprintf(stderr, "no mutant has that name\n");
    return 2;
  }
  return holes == 0 ? 0 : 1;
}

}  // namespace mutants

bool oriel::detail::mutant_was_chosen(const char* name) noexcept {
  return !mutants::chosen.empty() && mutants::is_chosen(name);
}
