// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `read_cache_folder`: what lies in the folder of a disk tier, read record by record without a
/// store, so that nothing is changed.
#pragma once

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/page_record.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace oriel::cli {

/// A folder that is there and has a lock; nothing is made.
/// @throws engine::error that says what is wrong with it and what to do
[[nodiscard]] directory_disk open_cache_folder(const std::string& folder, disk_access access);

/// Bytes that should have been a record, or part of one.
struct cache_damage {
  std::string file;
  std::uint64_t offset = 0, bytes = 0;  ///< in it
  std::string kind;  ///< "header", "slice", "identity", "misplaced", "version", "no record",
                     ///< "cut off", "unreadable"
};

/// The pages of one tenant in one namespace that a store would find.
struct cache_group {
  page_digest name_space;
  std::uint64_t tenant = 0;
  std::set<std::uint64_t> sessions = {};  ///< 0: pages that no session owns
  std::uint64_t full_pages = 0, window_pages = 0;
  std::uint64_t tokens = 0;  ///< of full pages
  std::uint64_t bytes = 0;   ///< of records
  /// Seconds since the segments were last written that hold the oldest and the youngest of them.
  double oldest_s = 0, youngest_s = 0;
  std::optional<double> next_expiry_s = {};  ///< from now; of those that expire at all
};

struct cache_contents {
  std::vector<cache_group> groups;  ///< by namespace, then by tenant
  std::uint64_t segments = 0, segment_bytes = 0;
  std::uint64_t records = 0;           ///< sound ones, of all kinds, also those that are over
  std::uint64_t pages = 0, bytes = 0;  ///< alive
  std::uint64_t over_pages = 0;        ///< records of pages that were replaced, erased or expired
  std::uint64_t tombstones = 0;
  std::uint64_t read_bytes = 0;
  std::vector<cache_damage> damage;
};

/// @param checks_all  reads slices too, and compares checksums and identities; else headers alone
/// @throws engine::error if the folder cannot be listed, std::bad_alloc
[[nodiscard]] cache_contents read_cache_folder(directory_disk& disk, bool checks_all);

/// 64 hex digits.
[[nodiscard]] std::string digest_text(const page_digest& digest);
/// 16 hex digits.
[[nodiscard]] std::string tenant_text(std::uint64_t id);

}  // namespace oriel::cli
