// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Strong identifiers. An id is never arithmetic by accident; a count always carries its unit.
#pragma once

#include <compare>
#include <cstdint>

namespace oriel {

/// One vocabulary entry.
enum class token_id : std::uint32_t {};

[[nodiscard]] constexpr std::uint32_t to_index(token_id id) noexcept {
  return static_cast<std::uint32_t>(id);
}

/// Index of one KV page inside one pool, in [0, capacity).
enum class page_id : std::uint32_t {};

/// "No page": a block-table entry that was never filled, or slid out of the window.
inline constexpr page_id null_page{0xFFFF'FFFFu};

[[nodiscard]] constexpr std::uint32_t to_index(page_id id) noexcept {
  return static_cast<std::uint32_t>(id);
}

/// A page and the generation in which it was handed out. The generation of a page grows each time
/// it is released for good, so a stale handle is recognised instead of reading another's bytes.
struct page_handle {
  page_id id = null_page;
  std::uint32_t generation = 0;

  friend constexpr bool operator==(page_handle, page_handle) noexcept = default;
  [[nodiscard]] constexpr explicit operator bool() const noexcept { return id != null_page; }
};

/// What a client asked for; unique while the engine lives.
enum class request_id : std::uint64_t {};

}  // namespace oriel
