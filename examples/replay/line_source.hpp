// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `line_source`: the lines of a text file, plain or zstd-compressed (told by its first bytes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace oriel::replay {

/// Yields text piece by piece. Implementations throw trace_error.
class byte_source {
 public:
  virtual ~byte_source() = default;
  /// Appends some bytes to `text`. @returns false at the end of the file
  [[nodiscard]] virtual bool read(std::string& text) = 0;
};

/// Opens a file, and decompresses it if it begins as zstd does.
/// @throws trace_error
[[nodiscard]] std::unique_ptr<byte_source> open_bytes(const std::filesystem::path& file);

class line_source {
 public:
  /// Refuses lines and files with more bytes. @throws trace_error
  line_source(const std::filesystem::path& file,
              std::uint64_t line_bytes_max,
              std::uint64_t file_bytes_max);

  /// Goes to the next line that is not blank. @returns false if there is none @throws trace_error
  [[nodiscard]] bool next();

  /// Without its end; valid until `next`.
  [[nodiscard]] std::string_view line() const noexcept { return line_; }
  /// "FILE:LINE", from 1.
  [[nodiscard]] std::string place() const;

 private:
  [[nodiscard]] bool next_any();
  void read_more();

  std::string name_;
  std::uint64_t line_bytes_max_;
  std::uint64_t file_bytes_max_;
  std::unique_ptr<byte_source> bytes_;
  std::string text_;          // What was read and not yet dropped.
  std::size_t begin_ = 0;     // Of what has not been yielded, in text_.
  std::uint64_t read_ = 0;    // Bytes so far.
  std::uint64_t number_ = 0;  // Of line_.
  bool ended_ = false;
  std::string_view line_;
};

}  // namespace oriel::replay
