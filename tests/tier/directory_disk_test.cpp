// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/segment_disk_suite.hpp"
#include "support/death.hpp"
#include "support/system_faults.hpp"
#include "support/temporary_directory.hpp"

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/io_budget.hpp>
#include <oriel/tier/thread_disk.hpp>
#include <oriel/tier/uring_disk.hpp>

#include <catch2/catch.hpp>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace oriel;
using oriel_conformance::disk_block_bytes;
using oriel_conformance::disk_bytes;
using oriel_conformance::move_blocks;
using oriel_conformance::same_bytes;
using oriel_conformance::sync_file;

namespace {

constexpr std::uint64_t forever = ~std::uint64_t{0};

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

// As move_blocks, for children, which have no Catch2.
template <class Disk>
int carry_out(Disk& disk, const disk_request& request) {
  if (disk.submit({&request, 1}) != 1) {
    return -1;
  }
  disk_completion done;
  while (disk.poll({&done, 1}) == 0) {
    disk.wait(forever);
  }
  return done.error;
}

template <class Disk>
int carry_out(
    Disk& disk, disk_op op, std::uint32_t file, std::uint64_t block, std::span<std::byte> bytes) {
  return carry_out(
      disk, {.op = op, .file = file, .offset = block * disk_block_bytes, .parts = {&bytes, 1}});
}

void report(const std::optional<std::string>& complaints) {
  if (!complaints) {
    WARN("skipped: the system does not let us make this fault");
    return;
  }
  CHECK(*complaints == "");
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

TEST_CASE("a broken contract aborts", "[tier]") {
  const temporary_directory place;
  const auto open = [&](std::uint32_t depth, std::uint32_t threads) {
    auto disk = thread_disk::open(
        {.directory = place.path().string(), .queue_depth = depth, .threads = threads});
    return disk.has_value();
  };
  CHECK(aborts([&] { open(0, 1); }));
  CHECK(aborts([&] { open(directory_disk::queue_depth_max + 1, 1); }));
  CHECK(aborts([&] { open(1, 0); }));
  CHECK(open(1, 1));
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
  CHECK(with_disk([&](auto& disk) { carry_out(disk, {.file = 1, .offset = 512}); }));
  CHECK(
      with_disk([&](auto& disk) { carry_out(disk, disk_op::read, 1, 0, bytes.all().first(100)); }));
  CHECK(with_disk(
      [&](auto& disk) { carry_out(disk, disk_op::read, 1, 0, bytes.all().subspan(8, 4096)); }));
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
  auto disk = TestType::open({.directory = place.path().string(),
                              .bytes_per_s_max = 20 << 20,
                              .priority = disk_priority::idle});
  REQUIRE(disk);
  REQUIRE(disk->create(1, 4 << 20));
  const disk_bytes bytes(64, 1);
  const std::span<std::byte> part = bytes.all();
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

TEST_CASE("a file system that is full says so, and goes on reading", "[tier]") {
  for (const disk_backend backend : {disk_backend::any, disk_backend::threads}) {
    const temporary_directory place;
    report(in_child([&](const child_checks& check) {
      const std::string root = place.path().string();
      if (!own_mounts() || ::mount("none", root.c_str(), "tmpfs", 0, "size=1m,mode=0700") != 0) {
        ::_exit(not_permitted);
      }
      auto disk = directory_disk::open({.directory = root, .backend = backend});
      if (!check(disk.has_value(), "opens")) {
        return;
      }
      const status large = disk->create(1, 4 << 20);
      check(!large && large.error().native == ENOSPC, "create says ENOSPC");
      const auto files = disk->list();
      check(files && files->empty(), "and leaves nothing behind");
      check(static_cast<bool>(disk->create(2, 0)), "creates an empty file");
      const disk_bytes bytes(64, 5), read(64);  // 256 KiB
      std::uint64_t written = 0;
      int error = 0;
      while ((error = carry_out(*disk, disk_op::write, 2, 64 * written, bytes.all())) == 0 &&
             written < 10) {
        ++written;
      }
      check(error == ENOSPC, "a write says ENOSPC, not " + std::to_string(error));
      check(written >= 2 && written <= 4, "after all that fits");
      check(carry_out(*disk, disk_op::read, 2, 0, read.all()) == 0, "reads go on");
      check(same_bytes(read.all(), bytes.all()), "and are right");
      const status small = disk->write_small("snapshot", std::vector<std::byte>(1 << 20));
      check(!small && small.error().native == ENOSPC, "a small file says ENOSPC");
      check(!std::filesystem::exists(root + "/snapshot.draft"), "and leaves nothing behind");
      check(static_cast<bool>(disk->remove(2)) && disk->create(3, 512 << 10), "room comes back");
    }));
  }
}

TEST_CASE("a file system that became read-only serves reads", "[tier]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    const std::string root = place.path().string();
    if (!own_mounts() || ::mount("none", root.c_str(), "tmpfs", 0, "size=1m,mode=0700") != 0) {
      ::_exit(not_permitted);
    }
    const disk_bytes bytes(2, 5), read(2);
    {
      auto disk = directory_disk::open({.directory = root});
      check(disk && disk->create(1, 0) && carry_out(*disk, disk_op::write, 1, 0, bytes.all()) == 0,
            "writes while it can");
    }
    if (::mount("none", root.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, "size=1m") != 0) {
      ::_exit(not_permitted);
    }
    auto disk = directory_disk::open({.directory = root});
    if (!check(disk.has_value(), "opens")) {
      return;
    }
    const auto second = directory_disk::open({.directory = root});
    check(!second && second.error().code == errc::locked, "has one owner");
    check(carry_out(*disk, disk_op::read, 1, 0, read.all()) == 0, "reads");
    check(same_bytes(read.all(), bytes.all()), "and reads right");
    check(carry_out(*disk, disk_op::write, 1, 0, bytes.all()) == EROFS, "a write says EROFS");
    const status made = disk->create(2, 0), removed = disk->remove(1);
    check(!made && made.error().native == EROFS, "create says EROFS");
    check(!removed && removed.error().native == EROFS, "remove says EROFS");
    const status small = disk->write_small("snapshot", {});
    check(!small && small.error().native == EROFS, "a small file says EROFS");
    disk = failure{errc::io_failure};
    const auto fresh = directory_disk::open({.directory = root + "/new"});
    check(!fresh && fresh.error().native == ENOENT, "makes no directory");
  }));
}

TEST_CASE("a file system without O_DIRECT is used without", "[tier]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    const std::string root = place.path().string();
    if (!own_mounts() || ::mount("none", root.c_str(), "ramfs", 0, "mode=0700") != 0) {
      ::_exit(not_permitted);
    }
    for (const disk_backend backend : {disk_backend::any, disk_backend::threads}) {
      auto disk =
          directory_disk::open({.directory = root + "/" + name_of(backend), .backend = backend});
      if (!check(disk.has_value(), "opens")) {
        return;
      }
      check(!disk->direct(), "says so");
      const disk_bytes bytes(2, 5), read(2);
      check(static_cast<bool>(disk->create(1, 4 * disk_block_bytes)), "creates");
      check(carry_out(*disk, disk_op::write, 1, 0, bytes.all()) == 0, "writes");
      check(carry_out(*disk, disk_op::read, 1, 0, read.all()) == 0, "reads");
      check(same_bytes(read.all(), bytes.all()), "and reads right");
      check(carry_out(*disk, disk_op::read, 1, 3, read.all()) == ENODATA, "sees the end");
      check(carry_out(*disk, {.op = disk_op::sync, .file = 1}) == 0, "syncs");
    }
  }));
}

TEST_CASE("where io_uring is blocked, threads do it", "[tier]") {
  for (const long call : {long{SYS_io_uring_setup}, long{SYS_io_uring_enter}}) {
    const temporary_directory place;
    report(in_child([&](const child_checks& check) {
      if (intercept(call, SECCOMP_RET_ERRNO | EPERM) < 0) {
        ::_exit(not_permitted);
      }
      const disk_options options{.directory = place.path().string()};
      {
        const auto ring = uring_disk::open(options);
        check(!ring && ring.error().code == errc::io_failure, "io_uring alone fails");
        check(!ring && (ring.error().native == EPERM || ring.error().native == ENOSYS),
              "and says why");
      }
      auto disk = directory_disk::open(options);
      if (check(disk.has_value(), "opens")) {
        check(disk->backend() == disk_backend::threads, "with threads");
        check(static_cast<bool>(disk->create(1, disk_block_bytes)), "and works");
      }
    }));
  }
}

TEST_CASE("io_uring that is blocked later fails requests, and hangs none", "[tier]") {
  if (!can_run<uring_disk>()) {
    return;
  }
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    auto disk = uring_disk::open({.directory = place.path().string()});
    check(disk && disk->create(1, disk_block_bytes), "opens");
    if (intercept(SYS_io_uring_enter, SECCOMP_RET_ERRNO | EPERM) < 0) {
      ::_exit(not_permitted);
    }
    const disk_bytes bytes(1, 5);
    for (int i = 0; i < 100; ++i) {
      check(carry_out(*disk, disk_op::write, 1, 0, bytes.all()) == EPERM, "says EPERM");
    }
    check(disk->in_flight() == 0, "nothing is left");
  }));
}

TEST_CASE("a sync that failed once never succeeds again", "[tier]") {
  for (const long call : {long{SYS_fdatasync}, long{SYS_fsync}}) {  // Of the file, of its name.
    const temporary_directory place;
    report(in_child([&](const child_checks& check) {
      const scripted_call script(call, [](std::size_t index, const auto*) {
        return index == 1 ? -std::int64_t{EIO} : scripted_call::truth;
      });
      if (!script.works()) {
        ::_exit(not_permitted);
      }
      const auto sync = [](auto& disk, std::uint32_t file) {
        return carry_out(disk, {.op = disk_op::sync, .file = file});
      };
      auto disk = thread_disk::open({.directory = place.path().string() + "/tier"});
      if (!check(disk && disk->create(1, 4096) && disk->create(2, 4096) && disk->create(3, 4096),
                 "opens")) {
        return;
      }
      // The first fsync is that of the parent of the new directory.
      const bool names = call == SYS_fsync;
      check(names || sync(*disk, 3) == 0, "works at first");
      check(sync(*disk, 1) == EIO, "fails as the system does");
      check(sync(*disk, 1) == EIO, "and goes on failing");
      check(sync(*disk, 2) == (names ? EIO : 0), "and so does what the same error may have hit");
      if (!names) {
        check(disk->remove(1) && disk->create(1, 4096) && sync(*disk, 1) == 0,
              "until it is removed");
      }
    }));
  }
}

TEST_CASE("interrupted, refused and short calls are continued; what never moves ends", "[tier]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    const scripted_call script(SYS_preadv, [](std::size_t index, const auto* args) -> std::int64_t {
      switch (index) {
        case 0:
          return -EINTR;
        case 1:
          return -EAGAIN;
        case 2: {  // One block and a bit of it all.
          const auto* parts = reinterpret_cast<const iovec*>(args[1]);
          return ::pread(static_cast<int>(args[0]),
                         parts[0].iov_base,
                         4096,
                         static_cast<off_t>(args[3])) +
                 100;
        }
        case 4:
          return -EIO;
        default:
          return index >= 5 ? -EAGAIN : scripted_call::truth;
      }
    });
    if (!script.works()) {
      ::_exit(not_permitted);
    }
    auto disk = thread_disk::open({.directory = place.path().string()});
    if (!check(disk && disk->create(1, 0), "opens")) {
      return;
    }
    const disk_bytes bytes(6), read(6);
    oriel_conformance::fill_blocks(bytes.all(), 8);
    check(carry_out(*disk, disk_op::write, 1, 0, bytes.all()) == 0, "writes");
    check(carry_out(*disk, disk_op::read, 1, 0, read.all()) == 0, "reads");
    check(same_bytes(read.all(), bytes.all()), "and reads right");
    check(carry_out(*disk, disk_op::read, 1, 0, read.all()) == EIO, "an error is told");
    check(carry_out(*disk, disk_op::read, 1, 0, read.all()) == EAGAIN, "what never moves ends");
  }));
}

TEMPLATE_TEST_CASE("a write beyond the limit of file sizes ends with EFBIG",
                   "[tier]",
                   thread_disk,
                   uring_disk) {
  if (!can_run<TestType>()) {
    return;
  }
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {.rlim_cur = 3 * 4096, .rlim_max = 3 * 4096};
    auto disk = TestType::open({.directory = place.path().string()});
    check(disk && disk->create(1, 0) && ::setrlimit(RLIMIT_FSIZE, &limit) == 0, "opens");
    const disk_bytes bytes(4, 1);
    check(carry_out(*disk, disk_op::write, 1, 0, bytes.all()) == EFBIG, "too large at once");
    check(carry_out(*disk, disk_op::write, 1, 0, bytes.blocks(0, 3)) == 0, "as large as may be");
  }));
}
