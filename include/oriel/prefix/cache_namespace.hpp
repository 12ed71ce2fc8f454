// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `cache_namespace`: whose KV, made by which model and which arithmetic. Part of every key.
#pragma once

#include <oriel/core/hash.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace oriel {

/// Everything besides tokens that the bytes of a KV page depend on, and whom they belong to. Two
/// requests share pages only if all of it is equal.
struct namespace_fields {
  /// Chosen by the trusted side for each tenant; shared_salt asks for sharing by name.
  std::string_view tenant_salt = {};
  std::string_view model = {};    ///< digest of config and weights
  std::string_view adapter = {};  ///< LoRA or other; empty: none
  std::string_view rope = {};     ///< scaling chosen at run time; empty: the model's own
  std::string_view arithmetic =
      {};  ///< instruction path, kernel order, KV dtype and layout, device
};

/// The salt of those who want to share across tenants.
inline constexpr std::string_view shared_salt = "oriel: shared";

/// A framed, comparable key. Fields are length-prefixed: ("org_1", "2345") and ("org_12345", "")
/// never meet.
class cache_namespace {
 public:
  /// @throws std::bad_alloc
  explicit cache_namespace(const namespace_fields& fields);

  /// The framed fields; equality of namespaces is equality of these.
  [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }
  /// Where the hash chains of its pages start.
  [[nodiscard]] chain_hash digest() const noexcept { return digest_; }
  /// Stands for the tenant's salt: namespaces of one tenant share its share of a cache.
  [[nodiscard]] std::uint64_t tenant() const noexcept { return tenant_; }

  friend bool operator==(const cache_namespace& a, const cache_namespace& b) noexcept {
    return a.bytes_ == b.bytes_;
  }

 private:
  std::string bytes_;
  chain_hash digest_;
  std::uint64_t tenant_ = 0;
};

}  // namespace oriel
