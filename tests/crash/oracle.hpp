// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The oracle of the kill loop: it starts the program, listens, kills it, and keeps the books of
/// what must, may and must never be found by the next one. It shares no code with the store.
#pragma once

#include "crash/crash_page.hpp"
#include "crash/page_book.hpp"
#include "support/temporary_directory.hpp"

#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <unistd.h>

namespace crash {

/// One folder and the programs that live in it, one after the other.
class oracle {
 public:
  oracle(std::string program, life_plan plan, std::uint64_t seed, bool is_strict, tally& counts)
      : program_(std::move(program)),
        plan_(std::move(plan)),
        seed_(seed),
        is_strict_(is_strict),
        counts_(counts),
        shared_(::memfd_create("oriel-crash", MFD_CLOEXEC)) {
    plan_.folder = (place_.path() / "kv").string();
    constexpr std::size_t bytes = pages * page_room_bytes;
    void* const memory =
        ::ftruncate(shared_, bytes) == 0
            ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shared_, 0)
            : MAP_FAILED;
    if (memory == MAP_FAILED) {
      throw std::runtime_error("no memory to share with the program");
    }
    memory_ = {static_cast<std::byte*>(memory), bytes};
  }
  oracle(const oracle&) = delete;
  oracle& operator=(const oracle&) = delete;
  ~oracle() {
    kill();
    ::munmap(memory_.data(), memory_.size());
    ::close(shared_);
  }

  /// One life, killed at a moment that the seed draws. @returns empty, or what went wrong
  std::string live() {
    const std::uint64_t when = draw(100);
    const bool is_early = when < 4;  // Else some time after it has answered.
    // Unless it is killed on its way, as on a busy machine all might be: some are waited for.
    const bool is_orderly = when >= 88;
    const bool is_waited_for = when >= 96;
    begin_life(is_orderly ? draw(60) : ~std::uint64_t{0});
    auto end = clock::now() + std::chrono::microseconds(draw(is_early ? 8'000 : 5'000)) +
               std::chrono::milliseconds(is_orderly ? 20 : 0);
    bool counts_down = is_early;
    while (why_.empty() && (!counts_down || clock::now() < end)) {
      message m;
      if (!listen(m, counts_down ? end : clock::now() + std::chrono::seconds(60))) {
        if (!counts_down && pipe_ >= 0) {
          fail("the program hangs");
        }
        break;
      }
      hear(m);
      if (m.what == told::asked && !is_waited_for) {
        end += std::chrono::microseconds(
            std::chrono::duration_cast<std::chrono::microseconds>(clock::now() - start_));
        counts_down = true;
      }
    }
    if (counts_down && draw(2) == 0) {
      aim();
    }
    end_life();
    return why_.empty() ? ""
                        : "seed " + std::to_string(seed_) + ", life " + std::to_string(lives_) +
                              " over " + plan_.disk + ": " + why_;
  }

  /// For tests of two programs: starts one, and hears it until it says `what`.
  std::string start_until(told what) {
    begin_life(~std::uint64_t{0});
    message m;
    while (why_.empty() && m.what != what) {
      if (!listen(m, clock::now() + std::chrono::seconds(60))) {
        fail("the program ended, or hangs");
        break;
      }
      hear(m);
    }
    return why_;
  }
  /// Hears what is there for a while.
  std::string go_on(std::chrono::microseconds time) {
    const auto end = clock::now() + time;
    message m;
    while (why_.empty() && listen(m, end)) {
      hear(m);
    }
    return why_;
  }
  /// The first words of a second program in the same folder, which then ends.
  message rival() {
    int pipe = -1;
    const pid_t process = start(pipe);
    message m;
    const bool speaks = ::read(pipe, &m, sizeof(m)) == sizeof(m);
    ::kill(process, SIGKILL);
    ::waitpid(process, nullptr, 0);
    ::close(pipe);
    return speaks ? m : message{.what = told::asked};
  }
  std::string end_life() {
    const bool was_killed = kill();
    message m;
    while (listen(m, clock::now() + std::chrono::seconds(60))) {
      hear(m);
    }
    close_books(was_killed);
    return why_;
  }

  /// Would another life evict, or be slow to open?
  [[nodiscard]] bool is_full() const {
    return written_bytes_ + 2 * (lives_ + 1) * segment_bytes >
           plan_.segments * segment_bytes - (2 << 20);
  }
  [[nodiscard]] const life_plan& plan() const { return plan_; }

 private:
  using clock = std::chrono::steady_clock;

  std::uint64_t draw(std::uint64_t bound) { return oriel_test::mixed(seed_, ++draws_) % bound; }
  void fail(const std::string& why) { why_ = why_.empty() ? why : why_; }

  /// Waits for the next write to begin, and a little: kills in the middle of it are rare else.
  void aim() {
    const auto end = clock::now() + std::chrono::milliseconds(5);
    message m;
    while (why_.empty() && listen(m, end)) {
      hear(m);
      if (m.what == told::sent) {
        const auto moment = clock::now() + std::chrono::microseconds(draw(200));
        while (clock::now() < moment) {
        }
        return;
      }
    }
  }

  void begin_life(std::uint64_t operations) {
    ++lives_;
    plan_.seed = seed_ * 1'000 + lives_;
    plan_.operations = operations;
    plan_.first_sequence = last_sequence_ + 1;
    std::ranges::fill(memory_, std::byte{0xCB});
    has_answered_ = disk_works_ = false;
    start_ = clock::now();
    process_ = start(pipe_);
  }

  /// Starts the program with the plan. @returns its process, and the end of its pipe in `pipe`
  pid_t start(int& pipe) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      throw std::runtime_error("no pipe");
    }
    std::vector<std::string> words = {program_,
                                      plan_.folder,
                                      plan_.disk,
                                      std::to_string(plan_.seed),
                                      std::to_string(plan_.first_sequence),
                                      std::to_string(plan_.operations),
                                      std::to_string(plan_.segments),
                                      plan_.mutant};
    std::vector<char*> arguments;
    for (std::string& w : words) {
      arguments.push_back(w.data());
    }
    arguments.push_back(nullptr);
    constexpr int aside = 100;  // No descriptor may be overwritten before it was taken along.
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, ends[1], aside);
    ::posix_spawn_file_actions_adddup2(&actions, shared_, memory_fd);
    ::posix_spawn_file_actions_adddup2(&actions, aside, pipe_fd);
    ::posix_spawn_file_actions_addclose(&actions, aside);
    pid_t process = 0;
    const int error =
        ::posix_spawn(&process, program_.c_str(), &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    pipe = ends[0];
    if (error != 0) {
      throw std::runtime_error("cannot start " + program_);
    }
    return process;
  }

  /// @returns false at the end of the program, or of the time
  bool listen(message& m, clock::time_point end) {
    if (pipe_ < 0) {
      return false;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::nanoseconds>(end - clock::now()).count();
    const timespec time = {.tv_sec = std::max<std::int64_t>(left, 0) / 1'000'000'000,
                           .tv_nsec = std::max<std::int64_t>(left, 0) % 1'000'000'000};
    pollfd p = {.fd = pipe_, .events = POLLIN, .revents = 0};
    if (::ppoll(&p, 1, &time, nullptr) <= 0) {
      return false;
    }
    const ssize_t got = ::read(pipe_, &m, sizeof(m));
    if (got == sizeof(m)) {
      return true;
    }
    ::close(pipe_);
    pipe_ = -1;
    return false;
  }

  /// @returns did it have to be killed?
  bool kill() {
    if (process_ == 0) {
      return false;
    }
    ::kill(process_, SIGKILL);
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
      return true;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      fail("the program ended by itself with status " + std::to_string(status));
    }
    return false;
  }

  void hear(const message& m) {
    switch (m.what) {
      case told::closed:
        return fail("the folder cannot be opened: errno " + std::to_string(m.native));
      case told::opened:
        counts_.damaged_blocks += m.damaged;
        counts_.is_direct &= m.native == 1;
        return;
      case told::answered:
        return judge(m);
      case told::asked:
        has_answered_ = true;
        return;
      case told::begun:
        return hear_begun(m);
      case told::sent:
        disk_works_ = m.count != 0;
        for (auto& [sequence, o] : open_) {
          o.is_sent |= sequence <= m.last_sequence;
        }
        return;
      case told::ended:
        disk_works_ = m.count != 0;
        return hear_ended(m);
    }
  }

  void hear_begun(const message& m) {
    last_sequence_ = std::max(last_sequence_, m.sequence);
    open_[m.sequence] = {m.op, false};
    written_bytes_ += 8'192;  // A header, or a tombstone.
    if (m.op == oriel::store_op::put) {
      written_bytes_ += bytes_of(m.page);
      books_[m.page].begun(m.sequence, true);
    }
    for (std::uint32_t page = 0; page < pages; ++page) {
      const bool dies = m.op == oriel::store_op::erase          ? page == m.page
                        : m.op == oriel::store_op::drop_session ? owner_of(page) == owner_of(m.page)
                                                                : false;
      if (dies) {
        books_[page].begun(m.sequence, false);
      }
    }
  }

  void hear_ended(const message& m) {
    open_.erase(m.sequence);
    if (m.outcome != oriel::store_outcome::done) {
      if (is_strict_) {
        fail(std::string(name_of(m.op)) + " ended " + name_of(m.outcome) + ", errno " +
             std::to_string(m.native));
      }
      return;
    }
    ++counts_.acknowledged;
    for (page_book& book : books_) {
      book.acknowledged(m.sequence);
    }
  }

  void judge(const message& m) {
    page_book& book = books_[m.page];
    const std::string page = "page " + std::to_string(m.page) + ": ";
    if (m.outcome == oriel::store_outcome::done) {
      const auto slices = arrival(memory_, m.page);
      std::uint64_t version = 0;
      std::memcpy(&version, slices[0].data(), sizeof(version));
      if (!has_bytes(slices, m.page, version)) {
        return fail(page + "wrong bytes");
      }
      if (!book.may_hit(version)) {
        return fail(page + "version " + std::to_string(version) +
                    " came back after it was deleted, or was never put");
      }
      ++counts_.hits;
      counts_.must_hits += book.must_hit();
      counts_.landed += version == book.in_doubt();
      return book.found();
    }
    if (m.outcome == oriel::store_outcome::failed || m.outcome == oriel::store_outcome::refused) {
      return fail(page + "a get ended " + name_of(m.outcome) + ", errno " +
                  std::to_string(m.native));
    }
    if (book.must_hit() && is_strict_) {
      return fail(page + "an acknowledged page ended " + name_of(m.outcome));
    }
    const bool is_torn = m.outcome == oriel::store_outcome::corrupt;
    counts_.torn += is_torn;
    counts_.absent += book.in_doubt() != 0 && !is_torn;
    ++counts_.gone;
    book.missed(is_strict_);
  }

  static bool has_bytes(std::span<const std::span<std::byte>> slices,
                        std::uint32_t page,
                        std::uint64_t version) {
    std::uint64_t at = 0;
    for (const std::span<std::byte> slice : slices) {
      for (std::size_t i = 0; i < slice.size(); i += 8, ++at) {
        const std::uint64_t word = at == 0 ? version : oriel_test::mixed(version * 128 + page, at);
        if (std::memcmp(slice.data() + i, &word, std::min<std::size_t>(8, slice.size() - i)) != 0) {
          return false;
        }
      }
    }
    return true;
  }

  void close_books(bool was_killed) {
    bool is_begun = false, is_sent = false;
    for (const auto& [sequence, o] : open_) {
      const bool writes = o.op != oriel::store_op::sync;
      is_begun |= writes;
      is_sent |= writes && o.is_sent;
    }
    counts_.kills += was_killed;
    counts_.orderly_ends += !was_killed;
    counts_.early_kills += was_killed && !has_answered_;
    counts_.begun_kills += was_killed && is_begun;
    counts_.write_kills += was_killed && is_sent && disk_works_;
    if (!was_killed && is_begun) {
      fail("the program ended in good order, with operations under way");
    }
    open_.clear();
    for (page_book& book : books_) {
      book.close();
    }
  }

  struct open_operation {
    oriel::store_op op = oriel::store_op::put;
    bool is_sent = false;
  };

  std::string program_;
  life_plan plan_;
  std::uint64_t seed_;
  bool is_strict_;  ///< nothing is evicted
  tally& counts_;
  temporary_directory place_;
  int shared_ = -1, pipe_ = -1;
  std::span<std::byte> memory_;
  pid_t process_ = 0;
  std::array<page_book, pages> books_;
  std::map<std::uint64_t, open_operation> open_;
  std::uint64_t draws_ = 0, lives_ = 0, last_sequence_ = 0, written_bytes_ = 0;
  clock::time_point start_;
  bool has_answered_ = false, disk_works_ = false;
  std::string why_;
};

}  // namespace crash
