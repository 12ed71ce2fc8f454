// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The law of kv_store over segments in a real folder.
#include "conformance/kv_store_suite.hpp"
#include "support/scale.hpp"
#include "support/temporary_directory.hpp"

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_store.hpp>

#include <chrono>
#include <memory>
#include <thread>
#include <utility>

namespace segment_law_test {

using namespace oriel;

namespace {

struct segment_subject {
  segment_subject(disk_backend through, segment_store_options with)
      : backend(through), options(with), place(std::make_unique<temporary_directory>()) {
    open();
  }
  segment_store<directory_disk>& store() { return *tested; }
  std::uint64_t now_us() const { return disk->now_us(); }
  void advance(std::uint64_t us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); }
  void reopen() {
    tested.reset();
    disk.reset();
    open();
  }
  void open() {
    auto opened = directory_disk::open(
        {.directory = (place->path() / "kv").string(), .backend = backend, .threads = 2});
    REQUIRE(opened);
    disk = std::make_unique<directory_disk>(std::move(*opened));
    tested = std::make_unique<segment_store<directory_disk>>(*disk, options);
  }

  disk_backend backend;
  segment_store_options options;
  std::unique_ptr<temporary_directory> place;
  std::unique_ptr<directory_disk> disk;
  std::unique_ptr<segment_store<directory_disk>> tested;
};

}  // namespace

TEST_CASE("segment_store in a folder is a kv_store", "[tier][segment]") {
  const kv_store_law law{
      .keeps_over_reopen = true, .expiry_us = 300'000, .random_items = scaled(4'000), .seeds = 2};
  for (const disk_backend backend : {disk_backend::any, disk_backend::threads}) {
    check_kv_store(
        [&] {
          return segment_subject(
              backend, {.capacity_bytes = 64u << 20, .segment_bytes = 4u << 20, .queue_items = 64});
        },
        law);
  }
}

TEST_CASE("segment_store with little room is a kv_store with slices of odd sizes",
          "[tier][segment]") {
  const kv_store_law law{.slice_bytes = {{1, 4097, 70'001, 3}, {13}},
                         .page_size = 3,
                         .may_evict = true,
                         .may_refuse = true,
                         .keeps_over_reopen = true,
                         .expiry_us = 300'000,
                         .random_items = scaled(2'000),
                         .seeds = 2};
  check_kv_store(
      [&] {
        return segment_subject(
            disk_backend::any,
            {.capacity_bytes = 8u << 20, .segment_bytes = 1u << 20, .queue_items = 7});
      },
      law);
}

}  // namespace segment_law_test
