// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What verification costs on a real disk: gets of a segment_store in a folder, with and without
/// the checksums of slices, turn by turn.
///
///     bench.tier.verify DIRECTORY KIB DEPTH GIB PAIRS SECONDS
///
/// Fills DIRECTORY with GIB of pages of incompressible bytes (more than the host caches), then
/// reads pages at random, PAIRS times SECONDS with verification and SECONDS without, in changing
/// order, after a warm-up of half of that each. Prints the median of the pairs' ratios (verified /
/// unverified) and the 95 % bootstrap interval of that median, with processor time of a get. Goal:
/// 0.95. Removes its files.
#include <oriel/core/random.hpp>
#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_store.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

using namespace oriel;

namespace {

struct question {
  std::string folder;
  std::size_t bytes = 0;  // of a page
  std::uint32_t depth = 0;
  std::uint64_t pages = 0;
  double seconds = 0.0;
};

struct rates {
  double bytes_per_s = 0.0, processor_us = 0.0;  // of a get
};

double processor_s() {
  rusage use = {};
  ::getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

page_digest digest_of(std::uint64_t k) {
  const random_stream random(k, 9);
  page_digest d;
  for (std::uint32_t i = 0; i < 8; ++i) {
    const std::uint32_t word = random.bits(i);
    std::memcpy(d.bytes.data() + 4 * i, &word, 4);
  }
  return d;
}

struct aligned_free {
  void operator()(std::byte* p) const noexcept { std::free(p); }
};
using aligned_memory = std::unique_ptr<std::byte, aligned_free>;

/// One store, opened as asked; its buffers, of pages in flight.
class reader {
 public:
  reader(const question& q, bool verifies)
      : q_(q),
        memory_(static_cast<std::byte*>(std::aligned_alloc(4096, q.bytes * q.depth))),
        tokens_(64),
        identity_{digest_of(1), digest_of(2), 0, tokens_},
        slices_(q.depth) {
    auto disk = directory_disk::open({.directory = q.folder, .queue_depth = 256});
    if (!disk) {
      std::fprintf(stderr, "%s: %s\n", q.folder.c_str(), disk.error().detail);
      std::exit(1);
    }
    disk_.emplace(std::move(*disk));
    store_.emplace(*disk_,
                   segment_store_options{.capacity_bytes = 2 * q.pages * q.bytes + (1u << 30),
                                         .trusts_the_disk = !verifies});
    for (std::uint32_t i = 0; i < q.depth; ++i) {
      slices_[i] = {memory_.get() + i * q.bytes, q.bytes};
    }
  }

  void fill() {
    for (std::size_t at = 0; at < q_.bytes * q_.depth; at += 4) {
      const std::uint32_t word =
          random_stream(at >> 12, 8).bits(static_cast<std::uint32_t>(at >> 2));
      std::memcpy(memory_.get() + at, &word, 4);
    }
    std::uint64_t next = 0, done = 0;
    std::vector<std::uint32_t> free;
    for (std::uint32_t i = 0; i < q_.depth; ++i) {
      free.push_back(i);
    }
    while (done < q_.pages) {
      while (!free.empty() && next < q_.pages) {
        const std::uint32_t i = free.back();
        std::memcpy(slices_[i].data(), &next, sizeof(next));  // Each page its own bytes.
        if (!submit(store_op::put, next, i)) {
          break;
        }
        free.pop_back();
        ++next;
      }
      for (const store_completion& c : wait()) {
        check(c);
        free.push_back(static_cast<std::uint32_t>(c.user));
        ++done;
      }
    }
  }

  rates read(std::uint64_t seed) {
    random_stream draw(seed, 7);
    const auto pages = static_cast<std::uint32_t>(q_.pages);
    for (std::uint32_t i = 0; i < q_.depth; ++i) {
      submit(store_op::get, draw.next_below(pages), i);
    }
    std::uint64_t gets = 0, start_us = disk_->now_us();
    const auto warm_us = start_us + static_cast<std::uint64_t>(0.5e6 * q_.seconds);
    const auto end_us = warm_us + static_cast<std::uint64_t>(1e6 * q_.seconds);
    double processor_start_s = 0.0;
    bool is_warm = false;
    std::uint64_t now_us = start_us;
    while (now_us < end_us) {
      for (const store_completion& c : wait()) {
        check(c);
        ++gets;
        submit(store_op::get, draw.next_below(pages), static_cast<std::uint32_t>(c.user));
      }
      now_us = disk_->now_us();
      if (!is_warm && now_us >= warm_us) {
        is_warm = true;
        gets = 0;
        start_us = now_us;
        processor_start_s = processor_s();
      }
    }
    const double elapsed_s = 1e-6 * static_cast<double>(now_us - start_us);
    const double processor = processor_s() - processor_start_s;
    while (store_->pending() != 0) {
      static_cast<void>(wait());
    }
    return {static_cast<double>(gets * q_.bytes) / elapsed_s,
            1e6 * processor / static_cast<double>(gets)};
  }

 private:
  bool submit(store_op op, std::uint64_t page, std::uint32_t i) {
    const store_item item{.op = op,
                          .key = {digest_of(100 + page), 0},
                          .identity = &identity_,
                          .slices = {&slices_[i], 1},
                          .user = i};
    return store_->submit({&item, 1}, no_deadline) == 1;
  }
  std::span<const store_completion> wait() {
    static_cast<void>(store_->wait(no_deadline));
    return std::span(done_).first(store_->poll(done_));
  }
  static void check(const store_completion& c) {
    if (c.outcome != store_outcome::done) {
      std::fprintf(stderr, "%s: %s, errno %d\n", name_of(c.op), name_of(c.outcome), c.native);
      std::exit(1);
    }
  }

  const question& q_;
  aligned_memory memory_;
  std::vector<token_id> tokens_;
  page_identity identity_;
  std::vector<std::span<std::byte>> slices_;
  store_completion done_[64];
  std::optional<directory_disk> disk_;
  std::optional<segment_store<directory_disk>> store_;
};

double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v[v.size() / 2];
}

void print_ratio(const char* what, const std::vector<double>& ratios) {
  random_stream draw(1, 6);
  std::vector<double> medians;
  for (int i = 0; i < 4000; ++i) {
    std::vector<double> drawn;
    for (std::size_t k = 0; k < ratios.size(); ++k) {
      drawn.push_back(ratios[draw.next_below(static_cast<std::uint32_t>(ratios.size()))]);
    }
    medians.push_back(median(std::move(drawn)));
  }
  std::ranges::sort(medians);
  std::printf(", %s %.3f [%.3f, %.3f]", what, median(ratios), medians[100], medians[3899]);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    std::fprintf(stderr, "usage: %s DIRECTORY KIB DEPTH GIB PAIRS SECONDS\n", arguments[0]);
    return 2;
  }
  question q{.folder = std::string(arguments[1]) + "/bench-verify",
             .bytes = std::stoul(arguments[2]) << 10,
             .depth = static_cast<std::uint32_t>(std::stoul(arguments[3])),
             .seconds = std::stod(arguments[6])};
  q.pages = static_cast<std::uint64_t>(std::stod(arguments[4]) * (1u << 30)) / q.bytes;
  const int pairs = std::stoi(arguments[5]);
  std::filesystem::remove_all(q.folder);
  reader(q, true).fill();
  std::vector<double> rate, processor, verified, unverified;
  for (int pair = 0; pair < pairs; ++pair) {
    rates on, off;
    for (int turn = 0; turn < 2; ++turn) {
      const bool verifies = (turn == 0) == (pair % 2 == 0);
      reader r(q, verifies);
      (verifies ? on : off) = r.read(static_cast<std::uint64_t>(pair));
    }
    rate.push_back(on.bytes_per_s / off.bytes_per_s);
    processor.push_back(on.processor_us / off.processor_us);
    verified.push_back(on.bytes_per_s);
    unverified.push_back(off.bytes_per_s);
  }
  std::printf("%zu KiB, depth %u: %.0f / %.0f MB/s verified / not",
              q.bytes >> 10,
              q.depth,
              1e-6 * median(verified),
              1e-6 * median(unverified));
  print_ratio("ratio", rate);
  print_ratio("processor", processor);
  std::printf("\n");
  std::filesystem::remove_all(q.folder);
  return 0;
}
