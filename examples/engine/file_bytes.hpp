// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Files as bytes: small ones read whole, large ones mapped and dropped piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace oriel::engine {

/// The whole file.
/// @throws error when it cannot be read or has more than `bytes_max` bytes
[[nodiscard]] std::string read_file(const std::filesystem::path& file, std::uint64_t bytes_max);

/// A regular file, mapped read-only; move only. Another program must not truncate it meanwhile.
class mapped_file {
 public:
  /// @throws error
  explicit mapped_file(const std::filesystem::path& file);
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&& other) noexcept;
  ~mapped_file();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {first_, size_}; }

  /// Takes the file's pages out of this process's resident memory; reading brings them back. All of
  /// them, since the kernel maps more around a read than was asked for. O(resident pages).
  void drop() const noexcept;

 private:
  const std::byte* first_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace oriel::engine
