// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `safetensors_store`: every tensor of a checkpoint directory by name, its bytes mapped.
///
///     file:   | u64 length n | JSON header, n bytes | tensor bytes ...            |
///     header: { "name": { "dtype": "BF16", "shape": [r, c], "data_offsets": [begin, end] }, ... }
///
/// Headers are not trusted: lengths, types, shapes against bytes, bounds, overlaps, holes and
/// duplicate names are checked before any tensor is handed out.
#pragma once

#include <oriel/core/dtype.hpp>

#include <engine/file_bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// Upper bounds, checked before memory is taken.
struct safetensors_limits {
  std::uint64_t header_bytes = 100u << 20;
  std::uint64_t index_bytes = 100u << 20;
  std::uint32_t files = 4096;
  std::uint32_t rank = 8;
};

/// Where a tensor lies. Offsets count from the start of the file.
struct tensor_entry {
  std::string name;
  std::string stored_as;      ///< the file's word for the type: "BF16", "F8_E4M3", ...
  std::optional<dtype> type;  ///< none for a type that Oriel does not compute with
  std::vector<std::uint64_t> shape;
  std::uint32_t file = 0;
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
};

/// The tensors of one or several files; move only.
class safetensors_store {
 public:
  /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names, and
  /// `model_mtp.safetensors` where it lies beside them.
  /// @throws error
  [[nodiscard]] static safetensors_store open(const std::filesystem::path& directory,
                                              const safetensors_limits& limits = {});

  /// Opens one file, whatever its name.
  /// @throws error
  [[nodiscard]] static safetensors_store open_file(const std::filesystem::path& file,
                                                   const safetensors_limits& limits = {});

  [[nodiscard]] const std::filesystem::path& directory() const noexcept { return directory_; }
  /// Sorted by name.
  [[nodiscard]] std::span<const tensor_entry> entries() const noexcept { return entries_; }
  /// Null when there is no such tensor. O(log n).
  [[nodiscard]] const tensor_entry* find(std::string_view name) const noexcept;

  /// The stored bytes; not aligned to anything.
  [[nodiscard]] std::span<const std::byte> bytes(const tensor_entry& entry) const noexcept;
  /// What was read of the tensor's file is not needed soon: see mapped_file::drop.
  void drop(const tensor_entry& entry) const noexcept;

  [[nodiscard]] const std::filesystem::path& file_of(const tensor_entry& entry) const noexcept;
  /// Bytes of all tensors.
  [[nodiscard]] std::uint64_t size_bytes() const noexcept;

 private:
  struct opened_file {
    std::filesystem::path path;
    mapped_file map;
  };

  std::filesystem::path directory_;
  std::vector<opened_file> files_;
  std::vector<tensor_entry> entries_;

  void add_file(const std::filesystem::path& path, const safetensors_limits& limits);
  void add_indexed(const std::filesystem::path& directory,
                   const std::filesystem::path& index,
                   const safetensors_limits& limits);
  void sort_and_check_names();
};

/// "[27136, 6144]".
[[nodiscard]] std::string shape_words(std::span<const std::uint64_t> shape);

}  // namespace oriel::engine
