// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs a program that plants a bug in what it tests, and says so, until a case fails.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mutants {

/// What a program said, as far as it matters here.
struct program_words {
  bool is_planted = false;  ///< a bug, so it said
  std::string found;        ///< first line with FAILED, or of the PTX machine's own
  std::string last;         ///< last line that is not empty
};

inline void read_line(std::string_view line, program_words& out) {
  line = line.substr(0, line.find('\n'));
  const bool tells_of_plants = line.find("instructions are mutants") != line.npos;
  out.is_planted = out.is_planted || tells_of_plants;
  if (out.found.empty() && ((line.starts_with("ptx machine: ") && !tells_of_plants) ||
                            line.find("FAILED") != line.npos)) {
    out.found = line;
  }
  if (!line.empty()) {
    out.last = line;
  }
}

/// @param command  for the shell
/// @param plants   a bug is to be planted
/// @returns what found it; empty: all passed, or nothing was said before its time was up
/// @throws std::runtime_error when that says nothing of the bug: the program does not start, finds
///         no device or no case, or plants nothing
inline std::string kill_by_program(const std::string& command, bool plants) {
  std::FILE* const output = ::popen((command + " 2>&1").c_str(), "r");
  if (output == nullptr) {
    throw std::runtime_error("no process");
  }
  program_words words;
  char line[4096];
  while (std::fgets(line, sizeof line, output) != nullptr) {
    read_line(line, words);
  }
  const int status = ::pclose(output);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  const bool is_run = code != 77 && (code < 125 || code > 127) &&  // 125 and up are the shell's.
                      words.last != "No tests ran";
  if (!is_run || words.is_planted != plants) {
    throw std::runtime_error(std::string(!is_run  ? "no case is run"
                                         : plants ? "no bug is planted"
                                                  : "a bug is planted") +
                             ", exit code " + std::to_string(code) + ": " + words.last);
  }
  const std::string& why = words.found.empty() && !plants ? words.last : words.found;
  return status == 0 || why.empty() ? "" : "it fails: " + why;
}

}  // namespace mutants
