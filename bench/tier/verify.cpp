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
#include "store_load.hpp"

#include <filesystem>

using namespace oriel;

namespace {

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
  bench::load_shape shape{.folder = std::string(arguments[1]) + "/bench-verify",
                          .page_bytes = std::stoul(arguments[2]) << 10,
                          .depth = static_cast<std::uint32_t>(std::stoul(arguments[3])),
                          .capacity_bytes = std::uint64_t{64} << 30};
  const auto pages =
      static_cast<std::uint64_t>(std::stod(arguments[4]) * (1u << 30)) / shape.page_bytes;
  const int pairs = std::stoi(arguments[5]);
  const double seconds = std::stod(arguments[6]);
  std::filesystem::remove_all(shape.folder);
  bench::store_load(shape).fill(pages);
  std::vector<double> rate, processor, verified, unverified;
  for (int pair = 0; pair < pairs; ++pair) {
    bench::load_figures on, off;
    for (int turn = 0; turn < 2; ++turn) {
      shape.verifies = (turn == 0) == (pair % 2 == 0);
      bench::store_load load(shape);
      (shape.verifies ? on : off) =
          load.read(static_cast<std::uint64_t>(pair), pages, 0.5 * seconds, seconds);
    }
    const auto bytes_per_s = [&](const bench::load_figures& f) {
      return static_cast<double>(f.items * shape.page_bytes) / f.elapsed_s;
    };
    rate.push_back(bytes_per_s(on) / bytes_per_s(off));
    processor.push_back(on.processor_s * static_cast<double>(off.items) /
                        (off.processor_s * static_cast<double>(on.items)));
    verified.push_back(bytes_per_s(on));
    unverified.push_back(bytes_per_s(off));
  }
  std::printf("%zu KiB, depth %u: %.0f / %.0f MB/s verified / not",
              shape.page_bytes >> 10,
              shape.depth,
              1e-6 * median(verified),
              1e-6 * median(unverified));
  print_ratio("ratio", rate);
  print_ratio("processor", processor);
  std::printf("\n");
  std::filesystem::remove_all(shape.folder);
  return 0;
}
