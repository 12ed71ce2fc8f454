// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `store_load`: a `segment_store` in a folder, loaded with pages of which every byte is known. For
/// the programs that measure a real disk.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kv/memory.hpp>
#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_store.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace oriel::bench {

/// Of all threads of this process.
inline double processor_s() {
  rusage use = {};
  ::getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

inline page_digest digest_of(std::uint64_t k) {
  const random_stream random(k, 9);
  page_digest d;
  for (std::uint32_t i = 0; i < 8; ++i) {
    const std::uint32_t word = random.bits(i);
    std::memcpy(d.bytes.data() + 4 * i, &word, 4);
  }
  return d;
}

[[noreturn]] inline void give_up(const std::string& what, const char* why) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), why);
  std::exit(1);
}

/// A disk, and how many requests it had on average: from the moment it was given one until that was
/// taken back, as fio counts.
class counted_disk {
 public:
  explicit counted_disk(directory_disk&& disk)
      : disk_(std::move(disk)), since_us_(disk_.now_us()) {}

  void begin_to_count() {
    from_us_ = since_us_ = disk_.now_us();
    request_us_ = 0.0;
  }
  [[nodiscard]] double depth() {
    count();
    return request_us_ / static_cast<double>(std::max<std::uint64_t>(since_us_ - from_us_, 1));
  }
  [[nodiscard]] const directory_disk& directory() const { return disk_; }

  result<std::vector<disk_file>> list() { return disk_.list(); }
  status create(std::uint32_t file, std::uint64_t bytes) { return disk_.create(file, bytes); }
  status remove(std::uint32_t file) { return disk_.remove(file); }
  status sync_names() { return disk_.sync_names(); }
  std::size_t submit(std::span<const disk_request> requests) {
    count();
    return disk_.submit(requests);
  }
  std::size_t poll(std::span<disk_completion> done) {
    count();
    return disk_.poll(done);
  }
  bool wait(std::uint64_t until_us) { return disk_.wait(until_us); }
  [[nodiscard]] std::size_t in_flight() const { return disk_.in_flight(); }
  result<std::vector<std::byte>> read_small(const char* name) { return disk_.read_small(name); }
  status write_small(const char* name, std::span<const std::byte> bytes) {
    return disk_.write_small(name, bytes);
  }
  [[nodiscard]] std::uint64_t now_us() const { return disk_.now_us(); }
  [[nodiscard]] std::string where(std::uint32_t file) const { return disk_.where(file); }

 private:
  void count() {
    const std::uint64_t now_us = disk_.now_us();
    request_us_ += static_cast<double>(disk_.in_flight() * (now_us - since_us_));
    since_us_ = now_us;
  }

  directory_disk disk_;
  std::uint64_t since_us_, from_us_ = since_us_;
  double request_us_ = 0.0;
};

struct load_shape {
  std::string folder;
  std::size_t page_bytes = 0;  // without its record's header
  std::uint32_t depth = 1;     // items in flight
  std::uint64_t capacity_bytes = 0;
  disk_backend backend = disk_backend::any;
  bool is_direct = true;
  bool verifies = true;
  bool saves_snapshot = true;
};

/// What a run of a load came to, after its warm-up.
struct load_figures {
  std::uint64_t items = 0;
  double elapsed_s = 0.0, processor_s = 0.0;
  double store_depth = 0.0, disk_depth = 0.0;  // in flight, average over time
};

/// What was found of pages that were acknowledged.
struct load_check {
  std::uint64_t found = 0, lost = 0, wrong = 0;
};

/// One store, opened as asked, and the memory of `depth` pages. Page n has bytes that follow from
/// n, other ones in each 4 KiB. Ends the program when the disk or the store says no.
class store_load {
 public:
  explicit store_load(const load_shape& shape)
      : shape_(shape),
        pattern_(aligned(shape.page_bytes)),
        memory_(pages_memory(shape.page_bytes * shape.depth)),
        tokens_(64),
        identity_{digest_of(1), digest_of(2), 0, tokens_},
        slices_(shape.depth),
        page_of_(shape.depth),
        begun_us_(shape.depth) {
    for (std::size_t at = 0; at < shape.page_bytes; at += 4) {
      const std::uint32_t word =
          random_stream(at >> 12, 8).bits(static_cast<std::uint32_t>(at >> 2));
      std::memcpy(pattern_.get() + at, &word, 4);
    }
    for (std::uint32_t i = 0; i < shape.depth; ++i) {
      slices_[i] = {memory_.base() + i * shape.page_bytes, shape.page_bytes};
      std::memcpy(slices_[i].data(), pattern_.get(), shape.page_bytes);
    }
    auto disk = directory_disk::open({.directory = shape.folder,
                                      .backend = shape.backend,
                                      .queue_depth = 256,
                                      .threads = std::max(shape.depth, 8u),
                                      .direct = shape.is_direct});
    if (!disk) {
      give_up(shape.folder, disk.error().detail);
    }
    disk_.emplace(std::move(*disk));
    const std::uint64_t begin_us = disk_->now_us();
    store_.emplace(*disk_,
                   segment_store_options{.capacity_bytes = shape.capacity_bytes,
                                         .pages_max = static_cast<std::uint32_t>(
                                             shape.capacity_bytes / shape.page_bytes),
                                         .saves_snapshot = shape.saves_snapshot,
                                         .trusts_the_disk = !shape.verifies});
    open_s_ = 1e-6 * static_cast<double>(disk_->now_us() - begin_us);
  }

  /// How long the index took.
  [[nodiscard]] double open_s() const { return open_s_; }
  [[nodiscard]] const directory_disk& disk() const { return disk_->directory(); }
  [[nodiscard]] segment_store_state state() const { return store_->state(); }
  [[nodiscard]] store_stats stats() const { return store_->stats(); }

  /// Pages 0 to `pages`, and a sync.
  void fill(std::uint64_t pages) {
    std::uint64_t next = 0;
    run([&](std::uint32_t i) { return next < pages && put(next++, i); }, 0.0, 1e9);
    sync();
  }
  /// Gets of pages at random of 0 to `pages`, for `warm_s` before it counts and `seconds`.
  load_figures read(std::uint64_t seed, std::uint64_t pages, double warm_s, double seconds) {
    random_stream draw(seed, 7);
    return run(
        [&](std::uint32_t i) {
          return submit(store_op::get, draw.next_below(static_cast<std::uint32_t>(pages)), i);
        },
        warm_s,
        seconds);
  }
  /// Puts of new pages from 0 on, `pages_max` at most. @returns in `acknowledged` how many are
  /// done: all that were begun
  load_figures write(std::uint64_t pages_max,
                     double warm_s,
                     double seconds,
                     std::uint64_t& acknowledged) {
    std::uint64_t next = 0;
    const load_figures f =
        run([&](std::uint32_t i) { return next < pages_max && put(next++, i); }, warm_s, seconds);
    acknowledged = next;
    return f;
  }
  /// Gets each of pages 0 to `pages` and compares every byte.
  load_check check(std::uint64_t pages) {
    load_check c;
    std::uint64_t next = 0;
    const auto begin = [&](std::uint32_t i) {
      return next < pages && submit(store_op::get, next++, i);
    };
    for (std::uint32_t i = 0; i < shape_.depth; ++i) {
      static_cast<void>(begin(i));
    }
    while (store_->pending() != 0) {
      for (const store_completion& d : wait()) {
        const auto i = static_cast<std::uint32_t>(d.user);
        const bool is_there = d.outcome == store_outcome::done;
        const bool is_right = is_there && has_bytes_of(page_of_[i], slices_[i]);
        c.found += is_right ? 1 : 0;
        c.lost += is_there ? 0 : 1;
        c.wrong += is_there && !is_right ? 1 : 0;
        static_cast<void>(begin(i));
      }
    }
    return c;
  }
  void sync() {
    const store_item item{.op = store_op::sync, .key = {}};
    if (store_->submit({&item, 1}, no_deadline) != 1) {
      give_up(shape_.folder, "a sync was not taken");
    }
    while (store_->pending() != 0) {
      for (const store_completion& c : wait()) {
        expect_done(c);
      }
    }
  }

 private:
  struct aligned_free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };
  using aligned_memory = std::unique_ptr<std::byte, aligned_free>;

  static aligned_memory aligned(std::size_t bytes) {
    return aligned_memory(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)));
  }

  static huge_page_memory pages_memory(std::size_t bytes) {
    auto memory = huge_page_memory::reserve(bytes);
    if (!memory) {
      give_up("memory of the pages", memory.error().detail);
    }
    return *std::move(memory);
  }

  /// Begins items with `begin(i)`, i a free part of the memory, until it says no or the time is
  /// over, and waits for all of them.
  template <class Begin>
  load_figures run(Begin begin, double warm_s, double seconds) {
    load_figures f;
    std::uint64_t start_us = disk_->now_us(), now_us = start_us, last_us = start_us;
    const auto warm_us = start_us + static_cast<std::uint64_t>(1e6 * warm_s);
    const auto end_us = warm_us + static_cast<std::uint64_t>(1e6 * seconds);
    double latency_us = 0.0, processor_start_s = processor_s();
    bool is_warm = false;
    std::uint32_t in_flight = 0;
    for (std::uint32_t i = 0; i < shape_.depth; ++i) {
      begun_us_[i] = start_us;
      in_flight += begin(i) ? 1u : 0u;
    }
    while (in_flight != 0) {
      const std::span<const store_completion> done = wait();
      now_us = disk_->now_us();
      if (!is_warm && now_us >= warm_us) {
        is_warm = true;
        f.items = 0;
        latency_us = 0.0;
        last_us = start_us = now_us;
        processor_start_s = processor_s();
        disk_->begin_to_count();
      }
      if (now_us < end_us) {  // What ends later ends with fewer beside it.
        last_us = now_us;
      }
      for (const store_completion& c : done) {
        expect_done(c);
        if (now_us < end_us) {
          ++f.items;
          latency_us += static_cast<double>(now_us - std::max(begun_us_[c.user], start_us));
        }
        begun_us_[c.user] = now_us;
        --in_flight;
        const bool goes_on = now_us < end_us && begin(static_cast<std::uint32_t>(c.user));
        in_flight += goes_on ? 1u : 0u;
      }
      if (now_us < end_us) {
        f.disk_depth = disk_->depth();
        f.processor_s = processor_s() - processor_start_s;
      }
    }
    f.elapsed_s = 1e-6 * static_cast<double>(last_us - start_us);
    f.store_depth = 1e-6 * latency_us / f.elapsed_s;
    return f;
  }
  bool put(std::uint64_t page, std::uint32_t i) {
    for (std::size_t at = 0; at < shape_.page_bytes; at += 4096) {
      const std::uint64_t stamp = page + (at << 32);
      std::memcpy(slices_[i].data() + at, &stamp, sizeof(stamp));
    }
    return submit(store_op::put, page, i);
  }
  bool has_bytes_of(std::uint64_t page, std::span<const std::byte> bytes) const {
    bool is_equal = true;
    for (std::size_t at = 0; at < bytes.size(); at += 4096) {
      const std::uint64_t stamp = page + (at << 32);
      is_equal = is_equal && std::memcmp(bytes.data() + at, &stamp, sizeof(stamp)) == 0 &&
                 std::memcmp(bytes.data() + at + 8, pattern_.get() + at + 8, 4096 - 8) == 0;
    }
    return is_equal;
  }
  bool submit(store_op op, std::uint64_t page, std::uint32_t i) {
    page_of_[i] = page;
    const store_item item{.op = op,
                          .key = {digest_of(100 + page), 0},
                          .identity = &identity_,
                          .slices = {&slices_[i], 1},
                          .user = i};
    if (store_->submit({&item, 1}, no_deadline) != 1) {
      give_up(shape_.folder, "an item was not taken");
    }
    return true;
  }
  std::span<const store_completion> wait() {
    static_cast<void>(store_->wait(no_deadline));
    return std::span(done_).first(store_->poll(done_));
  }
  void expect_done(const store_completion& c) const {
    if (c.outcome != store_outcome::done) {
      const store_fault fault = store_->last_fault();
      give_up(shape_.folder + ", " + name_of(c.op) + ": " + name_of(c.outcome),
              c.native != 0 ? std::strerror(c.native) : fault.operation.c_str());
    }
  }

  load_shape shape_;
  aligned_memory pattern_;
  huge_page_memory memory_;  // as an engine's pools and host tier
  std::vector<token_id> tokens_;
  page_identity identity_;
  std::vector<std::span<std::byte>> slices_;
  std::vector<std::uint64_t> page_of_, begun_us_;  // of each part of the memory
  store_completion done_[64];
  double open_s_ = 0.0;
  std::optional<counted_disk> disk_;
  std::optional<segment_store<counted_disk>> store_;
};

}  // namespace oriel::bench
