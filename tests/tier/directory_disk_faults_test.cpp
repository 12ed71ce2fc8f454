// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Directories in trouble, each in a child process that takes the trouble with it.
#include "conformance/segment_disk_suite.hpp"
#include "support/system_faults.hpp"
#include "support/temporary_directory.hpp"
#include "tier/page_maker.hpp"

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_store.hpp>
#include <oriel/tier/thread_disk.hpp>
#include <oriel/tier/uring_disk.hpp>

#include <catch2/catch.hpp>
#include <sys/resource.h>
#include <sys/uio.h>

#include <csignal>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

namespace directory_disk_faults_test {

using namespace oriel;
using oriel_conformance::disk_block_bytes;
using oriel_conformance::disk_bytes;
using oriel_conformance::same_bytes;

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
    check(!fresh && fresh.error().native == EROFS, "makes no directory");
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
      check(disk->remove(1) && disk->create(1, 4096) && sync(*disk, 1) == 0, "until it is removed");
      check(disk->create(4, 4096) && sync(*disk, 4) == 0, "new files are not concerned");
      check(sync(*disk, 2) == (names ? EIO : 0), "for good");
    }));
  }
}

TEST_CASE("a sync of removed names that failed may be tried again, and removes them again",
          "[tier]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    auto disk = thread_disk::open({.directory = place.path().string() + "/tier"});
    if (!check(disk && disk->create(1, 4096) && disk->create(2, 4096), "opens")) {
      return;
    }
    const scripted_call syncs(SYS_fsync, [](std::size_t index, const auto*) {
      return index == 0 ? -std::int64_t{EIO} : scripted_call::truth;
    });
    if (!syncs.works()) {
      ::_exit(not_permitted);
    }
    check(static_cast<bool>(disk->remove(1)), "removes");
    const status failed = disk->sync_names();
    check(!failed && failed.error().native == EIO, "fails as the system does");
    // As if the retry had made the name again and could not remove it: the next one does.
    const std::string name = place.path().string() + "/tier/segment-00000001";
    ::close(::open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    check(static_cast<bool>(disk->sync_names()), "the name is removed again");
    check(disk->list() && disk->list()->size() == 1, "and the name stays gone");
    check(static_cast<bool>(disk->sync_names()), "and so do all later ones");
  }));
}

TEST_CASE("a store whose directory failed to sync once takes writes again", "[tier]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    auto disk = thread_disk::open({.directory = place.path().string() + "/tier"});
    if (!check(static_cast<bool>(disk), "opens")) {
      return;
    }
    const scripted_call syncs(SYS_fsync, [](std::size_t index, const auto*) {
      return index == 0 ? -std::int64_t{EIO} : scripted_call::truth;
    });
    if (!syncs.works()) {
      ::_exit(not_permitted);
    }
    segment_store store(
        *disk,
        segment_store_options{
            .capacity_bytes = 1u << 20, .segment_bytes = 64u << 10, .probe_interval_us = 1});
    std::size_t done = 0;
    for (const page_maker::page& page : page_maker::chain(1, 400)) {  // Two or so in a segment.
      done += run_one(store, store_op::put, page, {20'000}) == store_outcome::done;
    }
    check(store.state().reclaimed_segments > 50, "segments went");
    check(store.last_fault().count > 0, "the failure was told");
    check(done > 350, "and writes went on");
  }));
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

TEMPLATE_TEST_CASE("there may be more segments than open files",
                   "[tier]",
                   thread_disk,
                   uring_disk) {
  if (!can_run<TestType>()) {
    return;
  }
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    constexpr std::uint32_t files = 120;
    const rlimit limit = {.rlim_cur = 50, .rlim_max = 50};
    check(::setrlimit(RLIMIT_NOFILE, &limit) == 0, "is limited");
    const std::string root = place.path().string();
    disk_bytes bytes(1), read(1);
    for (int life = 0; life < 2; ++life) {
      auto disk = TestType::open({.directory = root});
      if (!check(disk.has_value(), "opens")) {
        return;
      }
      const auto open_files = [] {
        const std::filesystem::directory_iterator fds("/proc/self/fd");
        return std::distance(begin(fds), end(fds));
      };
      for (std::uint32_t f = 0; f < files; ++f) {
        oriel_conformance::fill_blocks(bytes.all(), f);
        check(life != 0 || disk->create(f, 8192), "creates");
        check(life != 0 || carry_out(*disk, disk_op::write, f, 1, bytes.all()) == 0, "writes");
        check(open_files() < 45, "leaves some to others");
      }
      for (std::uint32_t f = files; f-- > 0;) {
        oriel_conformance::fill_blocks(bytes.all(), f);
        check(carry_out(*disk, disk_op::read, f, 1, read.all()) == 0, "reads");
        check(same_bytes(read.all(), bytes.all()), "the right bytes");
        check(carry_out(*disk, {.op = disk_op::sync, .file = f}) == 0, "syncs");
      }
      const status again = disk->create(3, 0);
      check(!again && again.error().native == EEXIST, "knows those that are closed");
    }
    auto disk = TestType::open({.directory = root});
    for (std::uint32_t f = 0; f < files; ++f) {
      check(static_cast<bool>(disk->remove(f)), "removes");
    }
    check(disk->sync_names() && disk->list()->empty(), "and that was all");
  }));
}

TEST_CASE("a segment that cannot be written when it is closed is never trusted", "[tier]") {
  const temporary_directory place;
  report(in_child([&](const child_checks& check) {
    auto disk = thread_disk::open({.directory = place.path().string(), .open_files_max = 2});
    const scripted_call syncs(SYS_fdatasync, [](std::size_t index, const auto*) {
      return index == 0 ? -std::int64_t{EIO} : scripted_call::truth;
    });
    if (!syncs.works()) {
      ::_exit(not_permitted);
    }
    const disk_bytes bytes(1, 1);
    for (const std::uint32_t f : {1u, 2u, 3u}) {  // The third needs a descriptor of the others.
      check(disk->create(f, 4096) && carry_out(*disk, disk_op::write, f, 0, bytes.all()) == 0,
            "writes");
    }
    int failed = 0;
    for (const std::uint32_t f : {1u, 2u, 3u}) {
      const int error = carry_out(*disk, {.op = disk_op::sync, .file = f});
      check(error == 0 || error == EIO, "a sync ends with EIO");
      failed += error == EIO;
      check(carry_out(*disk, {.op = disk_op::sync, .file = f}) == error, "and so does the next");
    }
    check(failed == 1, "of the one that failed alone");
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

}  // namespace directory_disk_faults_test
