// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a terminal shows while a command works; gone afterwards.
#pragma once

#include "support.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>

namespace oriel::cli {

/// A line on stderr, if that is a terminal, that tells what is being done; gone afterwards.
class activity {
 public:
  explicit activity(const char* what) : shown_(shows_progress()) { say(what); }
  activity(const activity&) = delete;
  activity& operator=(const activity&) = delete;
  ~activity() {
    if (shown_) {
      note("\r\x1b[K");
    }
  }

  void say(std::string_view what) const {
    if (shown_) {
      note("\r\x1b[K{}", what);
    }
  }

 private:
  bool shown_;
};

/// A bar on stderr of how much is done, drawn ten times a second; gone afterwards.
class progress_bar {
 public:
  explicit progress_bar(std::size_t total) : total_(total) {}
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;
  ~progress_bar() { note("\r\x1b[K"); }

  /// How fast, too.
  void show(std::size_t done) {
    const double seconds = std::chrono::duration<double>(clock::now() - began_).count();
    draw(done, [&] {
      return fmt::format("{} of {} requests  {:.0f}/s",
                         done,
                         total_,
                         static_cast<double>(done) / std::max(seconds, 1e-3));
    });
  }
  /// @param words  () -> string, of what is being done
  template <class Words>
  void draw(std::size_t done, Words words) {
    const auto now = clock::now();
    if (done != total_ && now - drawn_ < std::chrono::milliseconds{100}) {
      return;
    }
    drawn_ = now;
    constexpr std::size_t width = 30;
    note("\r\x1b[K[{:<{}}] {:>3} %  {}",
         std::string(width * done / total_, '#'),
         width,
         100 * done / total_,
         words());
  }

 private:
  using clock = std::chrono::steady_clock;
  std::size_t total_;
  clock::time_point began_ = clock::now(), drawn_;
};

}  // namespace oriel::cli
