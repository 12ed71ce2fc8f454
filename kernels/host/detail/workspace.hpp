// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Cuts a caller's workspace into 64-byte aligned arrays, first sized, then carved, by the same
/// code.
#pragma once

#include <oriel/core/contract.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel::detail {

/// Bytes up to the next multiple of a cache line.
[[nodiscard]] constexpr std::size_t whole_lines(std::size_t bytes) noexcept {
  return (bytes + 63) / 64 * 64;
}

/// Hands out consecutive parts of a workspace.
class workspace_cutter {
 public:
  /// @pre workspace is 64-byte aligned
  explicit workspace_cutter(std::span<std::byte> workspace) noexcept : left_(workspace) {
    ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(workspace.data()) % 64 == 0);
  }

  /// The next `count` elements. @pre they fit
  template <class T>
  [[nodiscard]] std::span<T> take(std::size_t count) noexcept {
    const std::size_t bytes = whole_lines(count * sizeof(T));
    ORIEL_EXPECTS(bytes <= left_.size());
    auto* first = reinterpret_cast<T*>(left_.data());
    left_ = left_.subspan(bytes);
    return {first, count};
  }

 private:
  std::span<std::byte> left_;
};

}  // namespace oriel::detail
