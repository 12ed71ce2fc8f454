// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Loads a segment_store in a folder on a real disk, and prints one line of JSON. disk.py runs it
/// beside fio.
///
///     bench.tier.disk fill    DIRECTORY BACKEND KIB GIB
///     bench.tier.disk read    DIRECTORY BACKEND KIB DEPTH WARM_S SECONDS PAGES SEED
///     bench.tier.disk trust   the same, without the checksums of slices
///     bench.tier.disk write   DIRECTORY BACKEND KIB DEPTH WARM_S SECONDS GIB
///     bench.tier.disk recover DIRECTORY BACKEND KIB direct|cached
///
/// BACKEND is any, io_uring or threads; KIB the bytes of a page. `read` gets pages at random of
/// those that `fill` put, verified. `write` puts new pages until its time is over or GIB are there,
/// which counts as an error: the store must never have to evict. Then it opens the folder again
/// without a snapshot, gets every page that was acknowledged, and compares every byte. `recover`
/// rebuilds the index from what lies there, snapshot or not.
#include "store_load.hpp"

#include <filesystem>

using namespace oriel;
using bench::load_figures;
using bench::load_shape;
using bench::store_load;

namespace {

constexpr double gib = static_cast<double>(1u << 30);

struct arguments {
  int count;
  char** all;
  [[nodiscard]] const char* text(int i) const {
    if (i >= count) {
      std::fprintf(stderr, "usage: see the first lines of bench/tier/disk.cpp\n");
      std::exit(2);
    }
    return all[i];
  }
  [[nodiscard]] double number(int i) const { return std::strtod(text(i), nullptr); }
};

disk_backend backend_of(const std::string& name) {
  return name == "threads"    ? disk_backend::threads
         : name == "io_uring" ? disk_backend::io_uring
                              : disk_backend::any;
}

void print_run(const store_load& load, const load_shape& shape, const load_figures& f) {
  const auto items = static_cast<double>(f.items);
  std::printf(
      "{\"backend\": \"%s\", \"direct\": %s, \"bytes_per_s\": %.0f, \"store_depth\": %.3f, "
      "\"depth\": %.3f, \"processor_us\": %.2f, \"elapsed_s\": %.4f",
      name_of(load.disk().backend()),
      load.disk().direct() ? "true" : "false",
      items * static_cast<double>(shape.page_bytes) / f.elapsed_s,
      f.store_depth,
      f.disk_depth,
      1e6 * f.processor_s / items,
      f.elapsed_s);
}

int fill(const arguments& a, load_shape shape) {
  const double bytes = a.number(5) * gib;
  const auto pages = static_cast<std::uint64_t>(bytes / static_cast<double>(shape.page_bytes));
  shape.depth = 16;
  store_load load(shape);
  load.fill(pages);
  std::printf("{\"pages\": %llu}\n", static_cast<unsigned long long>(pages));
  return 0;
}

int read(const arguments& a, load_shape shape, bool verifies) {
  shape.depth = static_cast<std::uint32_t>(a.number(5));
  shape.verifies = verifies;
  store_load load(shape);
  const load_figures f = load.read(static_cast<std::uint64_t>(a.number(9)),
                                   static_cast<std::uint64_t>(a.number(8)),
                                   a.number(6),
                                   a.number(7));
  print_run(load, shape, f);
  std::printf("}\n");
  return 0;
}

int write(const arguments& a, load_shape shape) {
  shape.depth = static_cast<std::uint32_t>(a.number(5));
  shape.saves_snapshot = false;
  const double bytes = a.number(8) * gib;
  const auto pages_max = static_cast<std::uint64_t>(bytes / static_cast<double>(shape.page_bytes));
  std::uint64_t acknowledged = 0;
  load_figures f;
  {
    store_load load(shape);
    f = load.write(pages_max, a.number(6), a.number(7), acknowledged);
    if (acknowledged >= pages_max) {
      bench::give_up(shape.folder, "the disk is faster than GIB allow: name more");
    }
    print_run(load, shape, f);
  }
  shape.depth = 8;
  store_load again(shape);
  const bench::load_check c = again.check(acknowledged);
  std::printf(", \"acknowledged\": %llu, \"found\": %llu, \"lost\": %llu, \"wrong\": %llu}\n",
              static_cast<unsigned long long>(acknowledged),
              static_cast<unsigned long long>(c.found),
              static_cast<unsigned long long>(c.lost),
              static_cast<unsigned long long>(c.wrong));
  return c.found == acknowledged && c.lost == 0 && c.wrong == 0 ? 0 : 1;
}

int recover(const arguments& a, load_shape shape) {
  shape.is_direct = a.text(5) == std::string("direct");
  shape.saves_snapshot = false;
  std::filesystem::remove(shape.folder + "/index-snapshot");
  const double processor_begin_s = bench::processor_s();
  const store_load load(shape);
  const auto pages = static_cast<double>(load.state().recovered_pages);
  const auto bytes = static_cast<double>(load.stats().used_bytes);
  std::printf(
      "{\"direct\": %s, \"pages\": %.0f, \"gib\": %.2f, \"seconds\": %.3f, \"processor_s\": %.3f, "
      "\"records_per_s\": %.0f, \"seconds_per_gib\": %.4f}\n",
      load.disk().direct() ? "true" : "false",
      pages,
      bytes / gib,
      load.open_s(),
      bench::processor_s() - processor_begin_s,
      pages / load.open_s(),
      load.open_s() / (bytes / gib));
  return 0;
}

}  // namespace

int main(int count, char** all) {
  const arguments a{count, all};
  const std::string what = a.text(1);
  load_shape shape{.folder = a.text(2),
                   .page_bytes = static_cast<std::size_t>(a.number(4)) << 10,
                   .capacity_bytes = std::uint64_t{64} << 30,
                   .backend = backend_of(a.text(3))};
  if (what == "fill") {
    return fill(a, shape);
  }
  if (what == "read" || what == "trust") {
    return read(a, shape, what == "read");
  }
  if (what == "write") {
    return write(a, shape);
  }
  if (what == "recover") {
    return recover(a, shape);
  }
  return static_cast<void>(a.text(count)), 2;
}
