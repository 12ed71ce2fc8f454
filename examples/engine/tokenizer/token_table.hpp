// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `token_table`: the bytes of each id, in one block. `token_index`: from bytes back to an id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// A 64-bit hash of bytes, quick on short strings. Not for untrusted keys that never stop coming:
/// here the keys are one file's vocabulary.
[[nodiscard]] std::uint64_t hash_bytes(std::string_view bytes) noexcept;

/// Strings by id, held end to end.
class token_table {
 public:
  /// The next id's string.
  void push_back(std::string_view token);

  [[nodiscard]] std::uint32_t size() const noexcept {
    return static_cast<std::uint32_t>(ends_.size() - 1);
  }

  /// @pre id < size()
  [[nodiscard]] std::string_view operator[](std::uint32_t id) const noexcept {
    return std::string_view(text_).substr(ends_[id], ends_[id + 1] - ends_[id]);
  }

 private:
  std::string text_;
  std::vector<std::size_t> ends_{0};
};

/// Finds the id of a string of a `token_table`. Open addressing, at most half full.
class token_index {
 public:
  token_index() = default;
  /// Room for `count` strings.
  explicit token_index(std::size_t count);

  /// @returns false, and changes nothing, if the same string is already there
  bool insert(const token_table& table, std::uint32_t id);

  /// O(1).
  [[nodiscard]] std::optional<std::uint32_t> find(const token_table& table,
                                                  std::string_view token) const noexcept;

 private:
  struct slot {
    std::uint32_t id = 0xFFFF'FFFFu;  ///< all ones: empty
    std::uint32_t tag = 0;            ///< upper half of the hash
  };
  std::vector<slot> slots_;
  std::uint64_t mask_ = 0;
};

}  // namespace oriel::engine
