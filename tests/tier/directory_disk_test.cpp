// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/segment_disk_suite.hpp"
#include "support/death.hpp"
#include "support/temporary_directory.hpp"

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/io_budget.hpp>
#include <oriel/tier/thread_disk.hpp>
#include <oriel/tier/uring_disk.hpp>

#include <catch2/catch.hpp>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace directory_disk_test {

using namespace oriel;
using oriel_conformance::disk_block_bytes;
using oriel_conformance::disk_bytes;
using oriel_conformance::move_blocks;
using oriel_conformance::same_bytes;
using oriel_conformance::sync_file;

namespace {

template <class Disk>
bool can_run() {
  const temporary_directory place;
  const auto disk = Disk::open({.directory = place.path().string()});
  if (!disk) {
    WARN("skipped: io_uring is not to be had here: " << disk.error().detail);
  }
  return disk.has_value();
}

// New, empty places below one directory.
class places {
 public:
  explicit places(std::string root) : root_(std::move(root)) {}
  std::string next() { return root_ + "/" + std::to_string(count_++); }

 private:
  std::string root_;
  int count_ = 0;
};

template <class Disk>
void check_law(const std::string& root, disk_options options) {
  places place(root);
  check_segment_disk([&] {
    options.directory = place.next();
    auto disk = Disk::open(options);
    REQUIRE(disk);
    return std::move(*disk);
  });
}

unsigned mode_of(const std::filesystem::path& file) {
  struct stat is = {};
  REQUIRE(::lstat(file.c_str(), &is) == 0);
  return is.st_mode & 07777;
}

}  // namespace

TEMPLATE_TEST_CASE("a directory is a segment_disk", "[tier]", thread_disk, uring_disk) {
  if (!can_run<TestType>()) {
    return;
  }
  const temporary_directory root;
  check_law<TestType>(root.path().string(), {});
}

TEMPLATE_TEST_CASE("a directory behind the page cache is a segment_disk",
                   "[tier]",
                   thread_disk,
                   uring_disk) {
  if (!can_run<TestType>()) {
    return;
  }
  const temporary_directory root;
  check_law<TestType>(root.path().string(), {.queue_depth = 24, .threads = 3, .direct = false});
}

TEST_CASE("a directory says what it is", "[tier]") {
  const temporary_directory place;
  const std::string directory = (place.path() / "new").string();
  auto disk = directory_disk::open({.directory = directory, .backend = disk_backend::threads});
  REQUIRE(disk);
  CHECK(disk->backend() == disk_backend::threads);
  CHECK(disk->where(42) == directory + "/segment-0000002a");
  directory_disk moved = std::move(*disk);
  REQUIRE(moved.create(42, 0));
  CHECK(std::filesystem::exists(moved.where(42)));
  auto other = directory_disk::open({.directory = directory + "2", .direct = false});
  REQUIRE(other);
  CHECK_FALSE(other->direct());
  moved = std::move(*other);
  CHECK(moved.where(1) == directory + "2/segment-00000001");
  CHECK(std::string(name_of(disk_backend::io_uring)) == "io_uring");
}

TEST_CASE("files and directories are private, and foreign names are left alone", "[tier]") {
  const temporary_directory place;
  const std::filesystem::path directory = place.path() / "tier";
  const mode_t before = ::umask(0);
  {
    auto disk = directory_disk::open({.directory = directory.string()});
    REQUIRE(disk);
    REQUIRE(disk->create(1, disk_block_bytes));
    REQUIRE(disk->write_small("snapshot", {}));
    for (const char* const name :
         {"segment-1", "segment-0000000G", "segment-0000000A", "segment-000000001", "notes"}) {
      write_file(directory / name, "x");
    }
    const auto files = disk->list();
    REQUIRE(files);
    CHECK(files->size() == 1);
  }
  ::umask(before);
  CHECK(mode_of(directory) == 0700);
  for (const char* const name : {"lock", "segment-00000001", "snapshot"}) {
    CHECK(mode_of(directory / name) == 0600);
  }
  CHECK(std::filesystem::exists(directory / "notes"));
}

TEST_CASE("a directory that others can enter is refused as it is", "[tier]") {
  const temporary_directory place;
  for (const unsigned mode : {0755u, 0770u, 0701u, 01777u}) {
    REQUIRE(::chmod(place.path().c_str(), mode) == 0);
    const auto disk = directory_disk::open({.directory = place.path().string()});
    REQUIRE_FALSE(disk);
    CHECK(disk.error().code == errc::invalid_argument);
    CHECK(disk.error().native == EACCES);
    CHECK(mode_of(place.path()) == mode);
    CHECK_FALSE(std::filesystem::exists(place.path() / "lock"));
  }
}

TEST_CASE("a directory that cannot be is refused with errno", "[tier]") {
  const temporary_directory place;
  const auto native_of = [](const std::string& directory) {
    const auto disk = directory_disk::open({.directory = directory});
    REQUIRE_FALSE(disk);
    CHECK(disk.error().code == errc::io_failure);
    return disk.error().native;
  };
  CHECK(native_of((place.path() / "no" / "parent").string()) == ENOENT);
  CHECK(native_of("") == ENOENT);
  write_file(place.path() / "file", "");
  CHECK(native_of((place.path() / "file").string()) == ENOTDIR);
}

TEST_CASE("who only looks makes nothing and changes nothing", "[tier]") {
  const temporary_directory place;
  const std::filesystem::path directory = place.path() / "tier";
  const auto open = [&](disk_access access) {
    return directory_disk::open({.directory = directory.string(), .access = access});
  };
  for (const disk_access access : {disk_access::existing, disk_access::read_only}) {
    auto missing = open(access);
    REQUIRE_FALSE(missing);
    CHECK(missing.error().native == ENOENT);
    CHECK_FALSE(std::filesystem::exists(directory));
    std::filesystem::create_directory(directory);
    REQUIRE(::chmod(directory.c_str(), 0700) == 0);
    missing = open(access);  // A directory without a lock is none of ours.
    REQUIRE_FALSE(missing);
    CHECK(missing.error().native == ENOENT);
    CHECK(std::filesystem::is_empty(directory));
    std::filesystem::remove(directory);
  }
  const disk_bytes written(2, 9), read(2);
  {
    auto disk = open(disk_access::make);
    REQUIRE(disk);
    REQUIRE(disk->create(1, 2 * disk_block_bytes));
    REQUIRE(move_blocks(*disk, disk_op::write, 1, 0, written.all()) == 0);
    REQUIRE(disk->write_small("snapshot", written.all()));
    CHECK(disk->remove_small("nothing"));
    CHECK(open(disk_access::read_only).error().code == errc::locked);
  }
  REQUIRE(::chmod((directory / "segment-00000001").c_str(), 0640) == 0);
  {
    auto disk = open(disk_access::read_only);
    REQUIRE(disk);
    CHECK(open(disk_access::make).error().code == errc::locked);
    REQUIRE(move_blocks(*disk, disk_op::read, 1, 0, read.all()) == 0);
    CHECK(same_bytes(read.all(), written.all()));
    CHECK(move_blocks(*disk, disk_op::write, 1, 0, written.all()) == EROFS);
    CHECK(disk->create(2, 0).error().native == EROFS);
    CHECK(disk->remove(1).error().native == EROFS);
    CHECK(disk->write_small("snapshot", {}).error().native == EROFS);
    CHECK(disk->remove_small("snapshot").error().native == EROFS);
    CHECK(disk->read_small("snapshot")->size() == 2 * disk_block_bytes);
  }
  CHECK(mode_of(directory / "segment-00000001") == 0640);
  auto disk = open(disk_access::existing);
  REQUIRE(disk);
  REQUIRE(disk->create(2, 0));
  REQUIRE(disk->remove_small("snapshot"));
  CHECK_FALSE(std::filesystem::exists(directory / "snapshot"));
}

TEST_CASE("no symbolic link is followed", "[tier]") {
  const temporary_directory place;
  const std::filesystem::path real = place.path() / "real", victim = place.path() / "victim";
  write_file(victim, std::string(disk_block_bytes, 'v'));
  const auto open = [](const std::filesystem::path& directory) {
    return directory_disk::open({.directory = directory.string()});
  };
  REQUIRE(open(real));
  SECTION("the directory") {
    std::filesystem::create_directory_symlink(real, place.path() / "link");
    for (const char* const name : {"link", "link/", "link//"}) {
      const auto disk = open(place.path() / name);
      REQUIRE_FALSE(disk);
      CHECK((disk.error().native == ELOOP || disk.error().native == ENOTDIR));
    }
    std::filesystem::create_directory_symlink(place.path(), place.path() / "above");
    CHECK(open(place.path() / "above" / "real"));  // Its parents are the owner's business.
  }
  SECTION("the lock") {
    std::filesystem::remove(real / "lock");
    for (const std::filesystem::path& target : {victim, place.path() / "dangling"}) {
      std::filesystem::create_symlink(target, real / "lock");
      const auto disk = open(real);
      REQUIRE_FALSE(disk);
      CHECK(disk.error().native == ELOOP);
      std::filesystem::remove(real / "lock");
    }
    CHECK_FALSE(std::filesystem::exists(place.path() / "dangling"));
    REQUIRE(::mkfifo((real / "lock").c_str(), 0600) == 0);
    CHECK_FALSE(open(real));
  }
  SECTION("a segment") {
    auto disk = open(real);
    REQUIRE(disk);
    std::filesystem::create_symlink(victim, disk->where(1));
    const disk_bytes bytes(1);
    CHECK(move_blocks(*disk, disk_op::read, 1, 0, bytes.all()) == ELOOP);
    CHECK(move_blocks(*disk, disk_op::write, 1, 0, bytes.all()) == ELOOP);
    const auto files = disk->list();
    REQUIRE_FALSE(files);
    CHECK(files.error().native == ELOOP);
    const status made = disk->create(1, 0);
    REQUIRE_FALSE(made);
    CHECK(made.error().native == EEXIST);
  }
  SECTION("a small file") {
    auto disk = open(real);
    REQUIRE(disk);
    std::filesystem::create_symlink(victim, real / "snapshot");
    std::filesystem::create_symlink(victim, real / "snapshot.draft");
    const auto read = disk->read_small("snapshot");
    REQUIRE_FALSE(read);
    CHECK(read.error().native == ELOOP);
    const std::vector<std::byte> bytes(3);
    REQUIRE(disk->write_small("snapshot", bytes));  // In its place.
    CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(real / "snapshot")));
    CHECK(disk->read_small("snapshot"));
  }
  CHECK(read_whole_file(victim) == std::string(disk_block_bytes, 'v'));
}

TEST_CASE("a list tells where what was written ends, or nothing better than the size", "[tier]") {
  const temporary_directory place;
  auto disk = directory_disk::open({.directory = place.path().string()});
  REQUIRE(disk);
  constexpr std::uint64_t size = 64 * disk_block_bytes;
  for (const std::uint32_t file : {1u, 2u, 3u}) {
    REQUIRE(disk->create(file, size));
  }
  const disk_bytes bytes(1, 5);
  REQUIRE(move_blocks(*disk, disk_op::write, 2, 10, bytes.all()) == 0);
  REQUIRE(move_blocks(*disk, disk_op::write, 2, 3, bytes.all()) == 0);
  REQUIRE(move_blocks(*disk, disk_op::write, 3, 63, bytes.all()) == 0);
  // Whether the file system here knows it at all, a bare file tells.
  const std::string bare = (place.path() / "bare").string();
  const int fd = ::open(bare.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(::fallocate(fd, 0, 0, size) == 0);
  const bool knows = ::lseek(fd, 0, SEEK_DATA) < 0;
  ::close(fd);
  const auto files = disk->list();
  REQUIRE(files);
  REQUIRE(files->size() == 3);
  CHECK((*files)[0].written_bytes == (knows ? 0 : size));
  CHECK((*files)[1].written_bytes == (knows ? 11 * disk_block_bytes : size));
  CHECK((*files)[2].written_bytes == size);
}

TEST_CASE("a directory has one owner at a time", "[tier]") {
  const temporary_directory place;
  const disk_options options{.directory = place.path().string()};
  const auto check_locked = [&] {
    const auto second = directory_disk::open(options);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == errc::locked);
  };
  SECTION("in one process") {
    {
      const auto first = directory_disk::open(options);
      REQUIRE(first);
      check_locked();
      std::filesystem::remove(place.path() / "lock");
      check_locked();
    }
    CHECK(directory_disk::open(options));
  }
  SECTION("in two processes, until the first is killed") {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const auto first = directory_disk::open(options);
      const char ok = first ? 'y' : 'n';
      ::close(ends[0]);
      static_cast<void>(!::write(ends[1], &ok, 1));
      ::pause();
      ::_exit(0);
    }
    ::close(ends[1]);
    char ok = 0;
    REQUIRE(::read(ends[0], &ok, 1) == 1);
    ::close(ends[0]);
    CHECK(ok == 'y');
    check_locked();
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    CHECK(directory_disk::open(options));
  }
}

// io_uring goes on after its process was killed: such a request holds the file, as this does.
TEST_CASE("a directory opens when nothing is on its way to a segment any more", "[tier]") {
  const temporary_directory place;
  const disk_options options{.directory = place.path().string()};
  int held = -1;
  {
    auto disk = directory_disk::open(options);
    REQUIRE(disk);
    REQUIRE(disk->create(1, disk_block_bytes));
    // A descriptor of the same opening, which is what has the lock.
    for (const auto& fd : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code ignored;
      if (std::filesystem::read_symlink(fd.path(), ignored) == disk->where(1)) {
        held = ::dup(std::stoi(fd.path().filename().string()));
      }
    }
  }
  REQUIRE(held >= 0);
  std::atomic<bool> has_landed = false;
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    has_landed = true;
    ::close(held);
  });
  const auto disk = directory_disk::open(options);
  CHECK(disk);
  CHECK(has_landed);
  late.join();
}

TEST_CASE("what was written is there after the end, and the next sync covers its name", "[tier]") {
  const temporary_directory place;
  const disk_options options{.directory = place.path().string()};
  const disk_bytes written(3), read(3);
  oriel_conformance::fill_blocks(written.all(), 77);
  {
    auto disk = directory_disk::open(options);
    REQUIRE(disk);
    REQUIRE(disk->create(9, 0));
    REQUIRE(move_blocks(*disk, disk_op::write, 9, 1, written.all()) == 0);
  }
  REQUIRE(::chmod((place.path() / "segment-00000009").c_str(), 0644) == 0);
  auto disk = directory_disk::open(options);
  REQUIRE(disk);
  const auto files = disk->list();
  REQUIRE(files);
  REQUIRE(files->size() == 1);
  CHECK(files->front().file == 9);
  CHECK(files->front().bytes == 4 * disk_block_bytes);
  CHECK(move_blocks(*disk, disk_op::read, 9, 1, read.all()) == 0);
  CHECK(same_bytes(read.all(), written.all()));
  CHECK(sync_file(*disk, 9) == 0);
  CHECK(mode_of(disk->where(9)) == 0600);
}

TEMPLATE_TEST_CASE("a file may end anywhere", "[tier]", thread_disk, uring_disk) {
  if (!can_run<TestType>()) {
    return;
  }
  for (const bool direct : {true, false}) {
    const temporary_directory place;
    auto disk = TestType::open({.directory = place.path().string(), .direct = direct});
    REQUIRE(disk);
    const disk_bytes bytes(4);
    std::uint32_t file = 0;
    // Torn by a crash or a careless copy: around every border of sector and block.
    for (const std::size_t size :
         {0u, 1u, 511u, 512u, 513u, 4095u, 4096u, 4097u, 6000u, 8191u, 8192u, 8193u}) {
      write_file(disk->where(file), std::string(size, 'b'));
      for (std::size_t first = 0; first < 4; ++first) {
        for (std::size_t count = 1; first + count <= 4; ++count) {
          CAPTURE(size, first, count, direct);
          const int error = move_blocks(*disk, disk_op::read, file, first, bytes.blocks(0, count));
          CHECK(error == ((first + count) * disk_block_bytes <= size ? 0 : ENODATA));
        }
      }
      ++file;
    }
  }
}

TEST_CASE("sizes out of their range are told, and nothing is made", "[tier]") {
  const temporary_directory place;
  const std::string folder = (place.path() / "kv").string();
  for (const disk_backend backend : {disk_backend::any, disk_backend::threads}) {
    const auto open = [&](std::uint32_t depth, std::uint32_t threads) {
      return directory_disk::open(
          {.directory = folder, .backend = backend, .queue_depth = depth, .threads = threads});
    };
    const auto is_refused = [&](std::uint32_t depth, std::uint32_t threads) {
      const auto disk = open(depth, threads);
      return !disk && disk.error().code == errc::invalid_argument;
    };
    CHECK(is_refused(0, 1));
    CHECK(is_refused(directory_disk::queue_depth_max + 1, 1));
    CHECK(is_refused(1, 0));
    CHECK(is_refused(1, directory_disk::threads_max + 1));
    CHECK(!std::filesystem::exists(folder));
    CHECK(open(1, 1));
    std::filesystem::remove_all(folder);
  }
}

TEST_CASE("a broken contract aborts", "[tier]") {
  const temporary_directory place;
  const auto with_disk = [&](auto f) {
    return aborts([&] {
      auto disk = thread_disk::open({.directory = place.path().string()});
      if (disk) {
        static_cast<void>(disk->create(1, 8 * disk_block_bytes));  // The first time.
        f(*disk);
      }
    });
  };
  const disk_bytes bytes(2);
  CHECK(with_disk(
      [&](auto& disk) { oriel_conformance::carry_out(disk, {.file = 1, .offset = 512}); }));
  CHECK(with_disk(
      [&](auto& disk) { move_blocks(disk, disk_op::read, 1, 0, bytes.all().first(100)); }));
  CHECK(with_disk(
      [&](auto& disk) { move_blocks(disk, disk_op::read, 1, 0, bytes.all().subspan(8, 4096)); }));
  for (const char* const name : {"", "lock", "segment-00000001", "../x", ".x", "a/b", "a.draft"}) {
    CHECK(with_disk([&](auto& disk) { static_cast<void>(disk.read_small(name)); }));
  }
  CHECK(with_disk([&](auto& disk) {
    const std::span<std::byte> part = bytes.all();
    const disk_request request{.file = 1, .parts = {&part, 1}};
    disk.submit({&request, 1});
    static_cast<void>(disk.remove(1));
  }));
}

TEST_CASE("a budget is spent and saved up in a bucket", "[tier]") {
  io_budget none(0);
  none.spend(1ull << 40, 5);
  CHECK(none.ready_us(5) == 5);

  io_budget budget(1'000'000);  // A byte a microsecond; 50,000 can be saved.
  std::uint64_t now = 1'000'000;
  CHECK(budget.ready_us(now) == now);
  budget.spend(50'000, now);
  CHECK(budget.ready_us(now) == now);
  budget.spend(1'000, now);
  CHECK(budget.ready_us(now) == now + 1'000);
  now += 1'000;
  CHECK(budget.ready_us(now) == now);
  budget.spend(10'000'000, now);  // Larger than the bucket: it starts, and the next one waits.
  CHECK(budget.ready_us(now) == now + 10'000'000);
  now += 100'000'000;  // Idle: no more than the bucket is saved.
  budget.spend(50'000, now);
  CHECK(budget.ready_us(now) == now);
  budget.spend(2, now);
  CHECK(budget.ready_us(now) == now + 2);
}

TEMPLATE_TEST_CASE("a budget holds requests back, and loses none",
                   "[tier]",
                   thread_disk,
                   uring_disk) {
  if (!can_run<TestType>()) {
    return;
  }
  const temporary_directory place;
  const disk_bytes bytes(64, 1);  // Outlives the disk, as whatever is in flight must.
  const std::span<std::byte> part = bytes.all();
  const bool is_later = GENERATE(false, true);
  constexpr std::uint64_t rate = 20 << 20;
  auto disk = TestType::open({.directory = place.path().string(),
                              .bytes_per_s_max = is_later ? 0 : rate,
                              .priority = disk_priority::idle});
  REQUIRE(disk);
  if (is_later) {
    disk->limit_rate(rate);
  }
  REQUIRE(disk->create(1, 4 << 20));
  std::vector<disk_request> writes(12);
  for (std::size_t i = 0; i < writes.size(); ++i) {
    writes[i] = {
        .op = disk_op::write, .file = 1, .offset = i * part.size(), .parts = {&part, 1}, .user = i};
  }
  const std::uint64_t begin_us = disk->now_us();
  REQUIRE(disk->submit(writes) == writes.size());
  const disk_request sync{.op = disk_op::sync, .file = 1, .user = 99};
  REQUIRE(disk->submit({&sync, 1}) == 1);  // Passes those that wait.
  std::size_t back = 0;
  while (back <= writes.size()) {
    disk->wait(disk->now_us() + 1'000);
    disk_completion done[4];
    for (const disk_completion& completion : std::span(done).first(disk->poll(done))) {
      CHECK(completion.error == 0);
      ++back;
    }
  }
  // 3 MiB at 20 MiB/s, less what was saved up and the last one: never faster than that.
  CHECK(disk->now_us() - begin_us >= 150'000 - 50'000 - 12'500);
  SECTION("the end does not wait for what was held back") {
    std::vector<disk_request> more(50, writes[0]);
    CHECK(disk->submit(more) == more.size());
  }
}

}  // namespace directory_disk_test
