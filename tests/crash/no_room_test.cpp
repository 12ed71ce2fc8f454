// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Stores on real file systems that are full, or become read-only: writes pause with the system's
// reason, reads go on, and when the trouble is over writes come back by themselves. Each in a child
// process that takes its mounts with it.
#include "crash/crash_page.hpp"
#include "support/system_faults.hpp"
#include "support/temporary_directory.hpp"
#include "tier/redis_server.hpp"

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_store.hpp>

#include <catch2/catch.hpp>

#include <filesystem>
#include <memory>
#include <string>

namespace no_room_test {

using namespace oriel;
using real_store = segment_store<directory_disk>;

namespace {

segment_store_options small_options() {
  segment_store_options o;
  o.segment_bytes = 256 * 1024;
  o.capacity_bytes = 64 * o.segment_bytes;
  o.bounce_bytes = 1 << 20;
  o.batch_bytes = 128 * 1024;
  o.probe_interval_us = 1'000;
  return o;
}

/// A page, with memory for it.
struct page_room {
  explicit page_room(std::uint32_t number) : memory(16'384), names(number) {
    names.slices = {memory.bytes().first(16'384)};
  }
  oriel_test::aligned_bytes memory;
  crash::named_page names;
};

store_completion put(real_store& store, std::uint32_t page) {
  page_room room(page);
  crash::fill(room.names.slices, page, 1 + page);
  return oriel_test::carry_out_one(store, room.names.item(store_op::put, page));
}

/// Are pages [0, count) there, with their bytes?
bool has_all(real_store& store, std::uint32_t count) {
  for (std::uint32_t page = 0; page < count; ++page) {
    page_room got(page), right(page);
    crash::fill(right.names.slices, page, 1 + page);
    const store_completion c =
        oriel_test::carry_out_one(store, got.names.item(store_op::get, page));
    if (c.outcome != store_outcome::done ||
        !std::ranges::equal(got.names.slices[0], right.names.slices[0])) {
      return false;
    }
  }
  return true;
}

/// Nothing is done but to put again.
bool resumes(real_store& store, std::uint32_t page) {
  return eventually([&] { return put(store, page).outcome == store_outcome::done; }) &&
         store.stats().health == store_health::healthy;
}

void mount_tmpfs(const std::string& root) {
  if (!own_mounts() || ::mount("none", root.c_str(), "tmpfs", 0, "size=2m,mode=0700") != 0) {
    ::_exit(not_permitted);
  }
}

void report(const std::optional<std::string>& complaints) {
  if (!complaints) {
    WARN("skipped: the system does not let us make this fault");
    return;
  }
  CHECK(*complaints == "");
}

/// Puts from `first` on end refused with `native`, also many of them, and never stop the reads.
void check_paused(const child_checks& check,
                  real_store& store,
                  std::uint32_t first,
                  std::uint32_t written,
                  int native) {
  for (std::uint32_t i = 0; i < 40; ++i) {
    const store_completion c = put(store, first + i % 8);
    check(c.outcome == store_outcome::refused && c.native == native,
          std::string("a put ends ") + name_of(c.outcome) + ", errno " + std::to_string(c.native));
  }
  check(store.stats().health == store_health::write_paused, "writes are paused, and no more");
  check(store.last_fault().native == native, "the fault is named");
  check(store.last_fault().where.find("segment-") != std::string::npos, "and its file");
  check(has_all(store, written), "reads go on, and are right");
}

}  // namespace

TEST_CASE("a store on a full file system pauses its writes, and resumes by itself", "[crash]") {
  for (const disk_backend backend : {disk_backend::any, disk_backend::threads}) {
    const temporary_directory place;
    report(in_child([&](const child_checks& check) {
      const std::string root = place.path().string();
      mount_tmpfs(root);
      auto disk = directory_disk::open({.directory = root + "/kv", .backend = backend});
      if (!check(disk.has_value(), "opens")) {
        return;
      }
      real_store store(*disk, small_options());
      write_file(root + "/filler", std::string(1 << 20, 'f'));
      std::uint32_t written = 0;
      while (written < 80 && put(store, written).outcome == store_outcome::done) {
        ++written;
      }
      check(written > 8 && written < 80, "takes what fits: " + std::to_string(written));
      check_paused(check, store, written, written, ENOSPC);
      std::filesystem::remove(root + "/filler");
      check(resumes(store, written), "writes come back");
      check(has_all(store, written + 1), "with all that was there");
    }));
  }
}

TEST_CASE("a segment that somebody removed by hand stands in nobody's way", "[crash]") {
  const temporary_directory place;
  const std::string folder = place.path() / "kv";
  auto disk = directory_disk::open({.directory = folder});
  REQUIRE(disk);
  segment_store_options options = small_options();
  options.capacity_bytes = 8 * options.segment_bytes;
  real_store store(*disk, options);
  REQUIRE(put(store, 0).outcome == store_outcome::done);
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().filename().string().starts_with("segment-")) {
      std::filesystem::remove(file.path());
    }
  }
  for (std::uint32_t page = 1; page < 400; ++page) {  // Until its turn to be reclaimed has come.
    REQUIRE(put(store, page).outcome == store_outcome::done);
  }
  CHECK(store.state().reclaimed_segments >= 2);
  CHECK(store.stats().health == store_health::healthy);
}

TEST_CASE("a store on a read-only file system serves reads, and writes once it may", "[crash]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    const std::string root = place.path().string();
    mount_tmpfs(root);
    constexpr std::uint32_t written = 12;
    {
      auto disk = directory_disk::open({.directory = root});
      real_store store(*disk, small_options());
      for (std::uint32_t page = 0; page < written; ++page) {
        check(put(store, page).outcome == store_outcome::done, "puts");
      }
    }
    const auto remount = [&](unsigned long more) {
      if (::mount("none", root.c_str(), nullptr, MS_REMOUNT | more, "size=2m") != 0) {
        ::_exit(not_permitted);
      }
    };
    remount(MS_RDONLY);
    auto disk = directory_disk::open({.directory = root});
    if (!check(disk.has_value(), "opens")) {
      return;
    }
    real_store store(*disk, small_options());
    check(has_all(store, written), "what was put is there");
    check_paused(check, store, written, written, EROFS);
    remount(0);
    check(resumes(store, written), "writes come back");
    check(has_all(store, written + 1), "with all that was there");
  }));
}

TEST_CASE("a file system that turns read-only under a running store costs writes alone",
          "[crash]") {
  if (is_missing("mkfs.ext4") || is_missing("mount")) {
    return;
  }
  for (const disk_backend backend : {disk_backend::any, disk_backend::threads}) {
    const temporary_directory place;
    report(in_child([&](const child_checks& check) {
      const std::string root = place.path().string(), image = root + "/image", at = root + "/at";
      write_file(image, "");
      std::filesystem::resize_file(image, 16 << 20);
      std::filesystem::create_directory(at);
      if (!own_mounts() || !run_to_end({find_program("mkfs.ext4"), "-q", image}) ||
          !run_to_end({find_program("mount"), "-o", "loop,errors=remount-ro", image, at})) {
        ::_exit(not_permitted);
      }
      auto disk = directory_disk::open({.directory = at + "/kv", .backend = backend});
      if (!check(disk.has_value(), "opens")) {
        return;
      }
      real_store store(*disk, small_options());
      constexpr std::uint32_t written = 12;
      for (std::uint32_t page = 0; page < written; ++page) {
        check(put(store, page).outcome == store_outcome::done, "puts");
      }
      // What ext4 does when it finds itself damaged, files open or not.
      if (::mount(nullptr, at.c_str(), nullptr, MS_REMOUNT, "abort") != 0) {
        ::_exit(not_permitted);
      }
      check_paused(check, store, written, written, EROFS);
    }));
  }
}

}  // namespace no_room_test
