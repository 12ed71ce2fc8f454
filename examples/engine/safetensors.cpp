// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/error.hpp>
#include <engine/printable.hpp>
#include <engine/safetensors.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <utility>

#include <simdjson.h>

namespace oriel::engine {
namespace {

namespace fs = std::filesystem;

struct stored_type {
  std::string_view name;
  std::uint64_t size_bytes;
  std::optional<dtype> type;
};

constexpr std::array<stored_type, 15> stored_types{{{"F32", 4, dtype::f32},
                                                    {"BF16", 2, dtype::bf16},
                                                    {"F8_E4M3", 1, dtype::e4m3},
                                                    {"F16", 2, {}},
                                                    {"F64", 8, {}},
                                                    {"F8_E5M2", 1, {}},
                                                    {"F8_E8M0", 1, {}},
                                                    {"BOOL", 1, {}},
                                                    {"I8", 1, {}},
                                                    {"U8", 1, {}},
                                                    {"I16", 2, {}},
                                                    {"U16", 2, {}},
                                                    {"I32", 4, {}},
                                                    {"I64", 8, {}},
                                                    {"U64", 8, {}}}};

/// One file's header, read entry by entry; `where` names the file in messages.
struct header_reader {
  std::string where;
  std::uint64_t data_offset;  ///< where tensor bytes start in the file
  std::uint64_t data_bytes;
  std::uint32_t file;
  std::uint32_t rank_max;

  [[noreturn]] void refuse(const std::string& what) const {
    throw error(fmt::format("{}: {}", where, what));
  }
  [[noreturn]] void refuse(std::string_view name, const std::string& what) const {
    refuse(fmt::format("tensor {}: {}", printable(name), what));
  }

  tensor_entry entry(std::string_view name, simdjson::dom::element value) const;
  std::vector<std::uint64_t> integers(std::string_view name,
                                      simdjson::dom::object fields,
                                      const char* key,
                                      std::size_t size_max) const;
  void check_coverage(std::span<const tensor_entry> entries) const;
};

std::vector<std::uint64_t> header_reader::integers(std::string_view name,
                                                   simdjson::dom::object fields,
                                                   const char* key,
                                                   std::size_t size_max) const {
  simdjson::dom::array list;
  if (fields.at_key(key).get(list) != simdjson::SUCCESS || list.size() > size_max) {
    refuse(name, fmt::format("{} must be a list of at most {} integers", key, size_max));
  }
  std::vector<std::uint64_t> values;
  for (const simdjson::dom::element entry : list) {
    std::uint64_t n = 0;
    if (entry.get(n) != simdjson::SUCCESS) {
      refuse(name, fmt::format("{} must hold non-negative integers", key));
    }
    values.push_back(n);
  }
  return values;
}

tensor_entry header_reader::entry(std::string_view name, simdjson::dom::element value) const {
  simdjson::dom::object fields;
  std::string_view stored_as;
  if (value.get(fields) != simdjson::SUCCESS || fields.size() != 3 ||
      fields.at_key("dtype").get(stored_as) != simdjson::SUCCESS) {
    refuse(name, "expected dtype, shape and data_offsets, each once");
  }
  const auto known = std::find_if(
      stored_types.begin(), stored_types.end(), [&](const auto& t) { return t.name == stored_as; });
  if (known == stored_types.end()) {
    refuse(name, fmt::format("unknown dtype {}", printable(stored_as)));
  }
  tensor_entry entry{.name = std::string(name),
                     .stored_as = std::string(stored_as),
                     .type = known->type,
                     .shape = integers(name, fields, "shape", rank_max),
                     .file = file};
  const auto offsets = integers(name, fields, "data_offsets", 2);
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes) {
    refuse(name,
           fmt::format("data_offsets {} do not lie in the file's {} bytes of data (is the file "
                       "truncated?)",
                       shape_words(offsets),
                       data_bytes));
  }
  std::uint64_t size = known->size_bytes;
  for (const std::uint64_t extent : entry.shape) {
    if (__builtin_mul_overflow(size, extent, &size)) {
      refuse(name, fmt::format("shape {} is absurd", shape_words(entry.shape)));
    }
  }
  if (size != offsets[1] - offsets[0]) {
    refuse(name,
           fmt::format("{} {} needs {} bytes, but data_offsets span {}",
                       stored_as,
                       shape_words(entry.shape),
                       size,
                       offsets[1] - offsets[0]));
  }
  entry.offset_bytes = data_offset + offsets[0];
  entry.size_bytes = size;
  return entry;
}

/// Tensors must tile the data: no byte twice, no byte unnamed.
void header_reader::check_coverage(std::span<const tensor_entry> entries) const {
  std::vector<const tensor_entry*> in_order;
  for (const tensor_entry& e : entries) {
    in_order.push_back(&e);
  }
  std::sort(in_order.begin(), in_order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->offset_bytes, a->size_bytes) < std::pair(b->offset_bytes, b->size_bytes);
  });
  std::uint64_t end = data_offset;
  for (const tensor_entry* e : in_order) {
    if (e->offset_bytes != end) {
      refuse(
          e->name,
          e->offset_bytes < end ? "overlaps the tensor before it" : "unnamed bytes lie before it");
    }
    end += e->size_bytes;
  }
  if (end != data_offset + data_bytes) {
    refuse(fmt::format("{} bytes at the end belong to no tensor", data_offset + data_bytes - end));
  }
}

std::vector<tensor_entry> read_header(const fs::path& path,
                                      std::span<const std::byte> bytes,
                                      std::uint32_t file,
                                      const safetensors_limits& limits) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) {
    throw error(fmt::format("{}: shorter than a safetensors header", path.string()));
  }
  std::memcpy(&length, bytes.data(), sizeof length);  // Little-endian, as this host must be.
  if (length > limits.header_bytes || length > bytes.size() - sizeof length) {
    throw error(
        fmt::format("{}: header of {} bytes in a file of {} (limit {}): truncated, or not a "
                    "safetensors file",
                    path.string(),
                    length,
                    bytes.size(),
                    limits.header_bytes));
  }
  const std::uint64_t data_offset = sizeof length + length;
  const header_reader reader{
      path.string(), data_offset, bytes.size() - data_offset, file, limits.rank};
  simdjson::dom::parser parser;
  simdjson::dom::object header;
  const auto* const text = reinterpret_cast<const char*>(bytes.data()) + sizeof length;
  if (const auto failed = parser.parse(text, length).get(header)) {
    reader.refuse(fmt::format("bad header: {}", simdjson::error_message(failed)));
  }
  std::vector<tensor_entry> entries;
  for (const auto field : header) {
    if (field.key != "__metadata__") {
      entries.push_back(reader.entry(field.key, field.value));
    }
  }
  reader.check_coverage(entries);
  return entries;
}

using weight_map = std::map<std::string, std::string, std::less<>>;

weight_map read_index(const fs::path& index, const safetensors_limits& limits) {
  const std::string text = read_file(index, limits.index_bytes);
  const auto refuse = [&](const std::string& what) {
    throw error(fmt::format("{}: {}", index.string(), what));
  };
  simdjson::dom::parser parser;
  simdjson::dom::object files;
  if (const auto failed = parser.parse(text).at_key("weight_map").get(files)) {
    refuse(fmt::format("no weight_map: {}", simdjson::error_message(failed)));
  }
  weight_map map;
  for (const auto field : files) {
    std::string_view file;
    if (field.value.get(file) != simdjson::SUCCESS || file.empty() || file.front() == '.' ||
        file.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos) {
      refuse(fmt::format("tensor {}: expected a plain file name", printable(field.key)));
    }
    if (!map.emplace(field.key, file).second) {
      refuse(fmt::format("tensor {} appears twice", printable(field.key)));
    }
  }
  return map;
}

}  // namespace

std::string shape_words(std::span<const std::uint64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void safetensors_store::add_file(const fs::path& path, const safetensors_limits& limits) {
  mapped_file map(path);
  auto added = read_header(path, map.bytes(), static_cast<std::uint32_t>(files_.size()), limits);
  files_.push_back({path, std::move(map)});
  entries_.insert(
      entries_.end(), std::make_move_iterator(added.begin()), std::make_move_iterator(added.end()));
}

void safetensors_store::sort_and_check_names() {
  std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return a.name < b.name;
  });
  const auto twice = std::adjacent_find(
      entries_.begin(), entries_.end(), [](auto& a, auto& b) { return a.name == b.name; });
  if (twice != entries_.end()) {
    throw error(fmt::format("tensor {} appears twice: in {} and in {}",
                            printable(twice->name),
                            file_of(*twice).string(),
                            file_of(*(twice + 1)).string()));
  }
}

void safetensors_store::add_indexed(const fs::path& directory,
                                    const fs::path& index,
                                    const safetensors_limits& limits) {
  const weight_map map = read_index(index, limits);
  std::vector<std::string> names;
  for (const auto& [tensor, file] : map) {
    names.push_back(file);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (names.size() > limits.files) {
    throw error(fmt::format(
        "{}: {} files; at most {} are accepted", index.string(), names.size(), limits.files));
  }
  for (const std::string& name : names) {
    add_file(directory / name, limits);
  }
  sort_and_check_names();
  for (const tensor_entry& e : entries_) {
    const auto place = map.find(e.name);
    if (place == map.end() || directory / place->second != file_of(e)) {
      throw error(fmt::format("{}: tensor {} of {} is not listed there",
                              index.string(),
                              printable(e.name),
                              file_of(e).string()));
    }
  }
  for (const auto& [tensor, file] : map) {
    if (find(tensor) == nullptr) {
      throw error(fmt::format(
          "{}: tensor {} is not in {}", index.string(), printable(tensor), printable(file)));
    }
  }
}

safetensors_store safetensors_store::open_file(const fs::path& file,
                                               const safetensors_limits& limits) {
  safetensors_store store;
  store.directory_ = file.parent_path();
  store.add_file(file, limits);
  store.sort_and_check_names();
  return store;
}

safetensors_store safetensors_store::open(const fs::path& directory,
                                          const safetensors_limits& limits) {
  safetensors_store store;
  store.directory_ = directory;
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  const fs::path mtp = directory / "model_mtp.safetensors";
  std::error_code ignored;
  if (fs::exists(single, ignored)) {
    store.add_file(single, limits);
  } else if (fs::exists(index, ignored)) {
    store.add_indexed(directory, index, limits);
  } else {
    throw error(
        fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is there",
                    directory.string()));
  }
  const bool opened = std::any_of(
      store.files_.begin(), store.files_.end(), [&](const auto& f) { return f.path == mtp; });
  if (!opened && fs::exists(mtp, ignored)) {
    store.add_file(mtp, limits);
  }
  store.sort_and_check_names();
  return store;
}

const tensor_entry* safetensors_store::find(std::string_view name) const noexcept {
  const auto at = std::lower_bound(
      entries_.begin(), entries_.end(), name, [](const tensor_entry& e, std::string_view n) {
        return e.name < n;
      });
  return at != entries_.end() && at->name == name ? &*at : nullptr;
}

std::span<const std::byte> safetensors_store::bytes(const tensor_entry& entry) const noexcept {
  return files_[entry.file].map.bytes().subspan(entry.offset_bytes, entry.size_bytes);
}

void safetensors_store::drop(const tensor_entry& entry) const noexcept {
  files_[entry.file].map.drop();
}

const fs::path& safetensors_store::file_of(const tensor_entry& entry) const noexcept {
  return files_[entry.file].path;
}

std::uint64_t safetensors_store::size_bytes() const noexcept {
  std::uint64_t total = 0;
  for (const tensor_entry& e : entries_) {
    total += e.size_bytes;
  }
  return total;
}

}  // namespace oriel::engine
