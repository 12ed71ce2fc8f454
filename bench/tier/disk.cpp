// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Loads a directory_disk for some seconds, and prints one line of JSON. disk.py runs it beside
/// fio.
///
///     bench.tier.disk DIRECTORY any|io_uring|threads read|write KIB DEPTH WARM_S SECONDS BYTES
///
/// Reads are at random places of segment 0, which must be there; writes go over it in order, as the
/// disk of a segment store sees them.
#include <oriel/core/random.hpp>
#include <oriel/tier/directory_disk.hpp>

#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using namespace oriel;

namespace {

double processor_s() {
  rusage use = {};
  ::getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

struct load {
  disk_op op = disk_op::read;
  std::size_t bytes = 0;  // of a request
  std::uint32_t depth = 0;
  double warm_s = 0, seconds = 0;
  std::uint64_t file_bytes = 0;
};

struct figures {
  std::uint64_t requests = 0;
  double elapsed_s = 0, processor_s = 0, latency_sum_s = 0;
};

figures run(directory_disk& disk, const load& load) {
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(4096, load.bytes * load.depth));
  random_stream random(static_cast<std::uint64_t>(disk.now_us()));
  for (std::size_t i = 0; i < load.bytes * load.depth; i += 4) {
    const std::uint32_t word = static_cast<std::uint32_t>(i * 2654435761u) ^ random.bits(i / 4096);
    std::memcpy(memory + i, &word, sizeof word);
  }
  std::vector<std::span<std::byte>> parts(load.depth);
  std::vector<disk_request> requests(load.depth);
  std::vector<std::uint64_t> begun_us(load.depth);
  std::vector<disk_completion> done(load.depth);
  const auto places = static_cast<std::uint32_t>(load.file_bytes / load.bytes);
  std::uint32_t next_place = 0;
  figures f;

  const auto begin = [&](std::uint64_t user) {
    const std::uint32_t place =
        load.op == disk_op::read ? random.next_below(places) : next_place++ % places;
    parts[user] = {memory + user * load.bytes, load.bytes};
    requests[user] = {.op = load.op,
                      .file = 0,
                      .offset = std::uint64_t{place} * load.bytes,
                      .parts = {&parts[user], 1},
                      .user = user};
    begun_us[user] = disk.now_us();
    if (disk.submit({&requests[user], 1}) != 1) {
      std::abort();
    }
  };
  std::uint64_t start_us = disk.now_us();
  const auto warm_us = start_us + static_cast<std::uint64_t>(1e6 * load.warm_s);
  const auto end_us = warm_us + static_cast<std::uint64_t>(1e6 * load.seconds);
  double processor_start_s = processor_s();
  for (std::uint32_t user = 0; user < load.depth; ++user) {
    begin(user);
  }
  std::uint64_t now_us = start_us;
  while (disk.in_flight() > 0) {
    disk.wait(~std::uint64_t{0});
    const std::size_t count = disk.poll(done);
    now_us = disk.now_us();
    if (start_us < warm_us && now_us >= warm_us) {
      f = {};
      start_us = now_us;
      processor_start_s = processor_s();
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (done[i].error != 0) {
        std::fprintf(stderr, "%s: %s\n", disk.where(0).c_str(), std::strerror(done[i].error));
        std::exit(1);
      }
      f.latency_sum_s += 1e-6 * static_cast<double>(now_us - begun_us[done[i].user]);
      ++f.requests;
      if (now_us < end_us) {
        begin(done[i].user);
      }
    }
  }
  f.elapsed_s = 1e-6 * static_cast<double>(now_us - start_us);
  f.processor_s = processor_s() - processor_start_s;
  std::free(memory);
  return f;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9) {
    std::fprintf(stderr, "usage: see the first lines of disk.cpp\n");
    return 2;
  }
  const std::string backend = argv[2];
  const load load{.op = std::string(argv[3]) == "write" ? disk_op::write : disk_op::read,
                  .bytes = 1024 * std::strtoull(argv[4], nullptr, 10),
                  .depth = static_cast<std::uint32_t>(std::strtoul(argv[5], nullptr, 10)),
                  .warm_s = std::strtod(argv[6], nullptr),
                  .seconds = std::strtod(argv[7], nullptr),
                  .file_bytes = std::strtoull(argv[8], nullptr, 10)};
  auto disk = directory_disk::open({.directory = argv[1],
                                    .backend = backend == "threads"    ? disk_backend::threads
                                               : backend == "io_uring" ? disk_backend::io_uring
                                                                       : disk_backend::any,
                                    .queue_depth = load.depth,
                                    .threads = load.depth});
  if (!disk) {
    std::fprintf(stderr, "%s: %s\n", argv[1], disk.error().detail);
    return 1;
  }
  const figures f = run(*disk, load);
  const double requests = static_cast<double>(f.requests);
  std::printf(
      "{\"backend\": \"%s\", \"direct\": %s, \"bytes_per_s\": %.0f, \"depth\": %.3f, "
      "\"processor_us\": %.2f, \"elapsed_s\": %.4f}\n",
      name_of(disk->backend()),
      disk->direct() ? "true" : "false",
      requests * static_cast<double>(load.bytes) / f.elapsed_s,
      f.latency_sum_s / f.elapsed_s,
      1e6 * f.processor_s / requests,
      f.elapsed_s);
  return 0;
}
