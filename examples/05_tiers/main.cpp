// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 05: KV below the device pools. A page has a name that commits to every token before it; a
// store takes its bytes, gives them back or says no, and never makes its caller wait. What a folder
// keeps outlives the program, and a damaged page is a miss.
// Next: 06_buckets serves prompts of like length together.
#include <oriel/tier/any_store.hpp>
#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/segment_store.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace oriel;

constexpr std::uint32_t page = 16;  // tokens
const page_shape shape{.page_size = page, .slice_bytes = {{4096, 4096}}};

/// A sequence whose pages have names.
struct sequence {
  std::vector<token_id> tokens;
  page_digest start = chain_start(cache_namespace({.tenant_salt = "tenant", .model = "m"}), shape);
  std::vector<page_digest> links;

  explicit sequence(std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
      tokens.push_back(token_id{i});
    }
    extend_chain(start, tokens, page, links);
  }
  [[nodiscard]] page_identity identity(std::uint32_t i) const {
    return {.name_space = start,
            .parent = i == 0 ? start : links[i - 1],
            .first_token = i * page,
            .tokens = std::span(tokens).subspan(std::size_t{i} * page, page)};
  }
};

/// Puts or gets one page of two layers, and waits for the answer.
template <kv_store Store>
store_outcome carry_out(
    Store& store, store_op op, const sequence& s, std::uint32_t i, std::span<std::byte> bytes) {
  const page_identity identity = s.identity(i);
  const std::span<std::byte> layers[]{bytes.first(4096), bytes.subspan(4096, 4096)};
  const store_item item{.op = op, .key = {s.links[i], 0}, .identity = &identity, .slices = layers};
  if (store.submit({&item, 1}, no_deadline) != 1) {
    return store_outcome::refused;
  }
  store_completion done;
  while (store.poll({&done, 1}) == 0) {
    store.wait(no_deadline);  // An engine does something else here.
  }
  return done.outcome;
}

template <kv_store Store>
void show(const char* what, Store& store, const sequence& s) {
  std::printf("%-42s", what);
  for (std::uint32_t i = 0; i < s.links.size(); ++i) {
    std::vector<std::byte> bytes(8192);
    const store_outcome outcome = carry_out(store, store_op::get, s, i, bytes);
    const bool is_right = bytes[0] == std::byte(i + 1) && bytes[8191] == std::byte(i + 1);
    std::printf(
        " page %u: %s%s",
        i,
        name_of(outcome),
        outcome == store_outcome::done ? (is_right ? ", its bytes;" : ", WRONG BYTES;") : ";");
  }
  std::puts("");
}

template <kv_store Store>
void fill(Store& store, const sequence& s) {
  for (std::uint32_t i = 0; i < s.links.size(); ++i) {
    std::vector<std::byte> bytes(8192, std::byte(i + 1));
    carry_out(store, store_op::put, s, i, bytes);
  }
}

void in_folder(const std::string& folder, const char* what, const sequence& s, bool fills) {
  auto disk = directory_disk::open({.directory = folder});
  if (!disk) {
    std::printf("%s: %s\n", folder.c_str(), disk.error().detail);
    std::exit(1);
  }
  segment_store store(*disk, {.capacity_bytes = 8u << 20, .segment_bytes = 1u << 20});
  if (fills) {
    fill(store, s);
  }
  show(what, store, s);
}

}  // namespace

int main() {
  const sequence mine(3 * page);
  sequence other = mine;
  other.tokens[20] = token_id{999};  // Differs in page 1: that link changes, and all behind it.
  other.links.clear();
  extend_chain(other.start, other.tokens, page, other.links);

  memory_store<> host(
      {.page_size = page, .slice_bytes = shape.slice_bytes, .capacity_bytes = 1 << 20});
  fill(host, mine);
  show("host memory", host, mine);
  show("another prompt, from its second page on", host, other);

  std::string folder = (std::filesystem::temp_directory_path() / "oriel-05-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    std::puts("no temporary folder");
    return 1;
  }
  in_folder(folder, "a folder", mine, true);
  in_folder(folder, "the folder, opened again", mine, false);

  // One byte of the first page's KV changes on the disk.
  const std::string segment = folder + "/segment-00000000";
  std::vector<char> bytes(std::filesystem::file_size(segment));
  std::ifstream(segment, std::ios::binary).read(bytes.data(), static_cast<long>(bytes.size()));
  for (std::size_t at = 0; at + 4096 <= bytes.size(); at += 4096) {
    if (bytes[at] == 1 && bytes[at + 4095] == 1) {  // A layer of page 0.
      bytes[at + 7] = 2;
      break;
    }
  }
  std::ofstream(segment, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
  in_folder(folder, "after one byte of page 0 was changed", mine, false);
  std::filesystem::remove_all(folder);
}
