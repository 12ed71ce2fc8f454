// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// CUB on problems of bench/cuda: the sort of 131,072 (token, slot) pairs by expert, and the largest
// logit of each of 256 rows. JSON lines for bench/cuda/table.py.
#include "measure.hpp"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_reduce.cuh>

#include <numeric>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

constexpr const char *radix_sort = "CUB, DeviceRadixSort",
                     *arg_max = "CUB, DeviceSegmentedReduce::ArgMax";

/// Calls run(workspace, bytes, stream) as CUB wants it: first without workspace, for its size.
template <class F>
double median_ms(const F& run) {
  std::size_t bytes = 0;
  stopwatch watch;
  require(run(nullptr, bytes, watch.stream()) == cudaSuccess, "CUB, size of the workspace");
  const device_bytes workspace(bytes, dtype::f32);
  race r;
  const auto took = r.add([&] {
    return watch.ms([&](cudaStream_t stream) {
      require(run(workspace.data(), bytes, stream) == cudaSuccess, "CUB");
    });
  });
  r.run(30);
  return r.took(took);
}

void sort_pairs() {
  constexpr std::uint32_t pairs = 131'072, experts = 384;
  std::vector<std::uint32_t> expert(pairs), pair(pairs);
  for (std::uint32_t i = 0; i < pairs; ++i) {
    expert[i] = (i / 8 * 48271u + i % 8 * 47u) % experts;
  }
  std::iota(pair.begin(), pair.end(), 0u);
  const device_bytes keys = on_device(expert), values = on_device(pair),
                     keys_out(pairs * 4, dtype::f32), values_out(pairs * 4, dtype::f32);
  const double ms = median_ms([&](void* workspace, std::size_t& bytes, cudaStream_t stream) {
    return cub::DeviceRadixSort::SortPairs(workspace,
                                           bytes,
                                           keys.as<std::uint32_t>(),
                                           keys_out.as<std::uint32_t>(),
                                           values.as<std::uint32_t>(),
                                           values_out.as<std::uint32_t>(),
                                           pairs,
                                           0,
                                           9,  // bits of 384
                                           stream);
  });
  report({"sort_pairs", radix_sort, 1e3 * ms, "us"});
}

void largest() {
  constexpr std::size_t rows = 256, vocabulary = 152'576;
  // Three in turn, as in bench/cuda/sample.cpp: none is in the cache.
  const device_bytes logits(3 * rows * vocabulary * sizeof(float), dtype::f32);
  std::size_t turn = 0;
  std::vector<int> begin(rows + 1);
  for (std::size_t i = 0; i <= rows; ++i) {
    begin[i] = static_cast<int>(i * vocabulary);
  }
  const device_bytes offsets = on_device(begin),
                     out(rows * sizeof(cub::KeyValuePair<int, float>), dtype::f32);
  const double ms = median_ms([&](void* workspace, std::size_t& bytes, cudaStream_t stream) {
    const float* const x = logits.as<const float>() + turn++ % 3 * rows * vocabulary;
    return cub::DeviceSegmentedReduce::ArgMax(workspace,
                                              bytes,
                                              x,
                                              out.as<cub::KeyValuePair<int, float>>(),
                                              static_cast<int>(rows),
                                              offsets.as<const int>(),
                                              offsets.as<const int>() + 1,
                                              stream);
  });
  const double bytes = static_cast<double>(rows * vocabulary * sizeof(float));
  report({"sample_greedy", arg_max, bytes / ms / 1e6, "GB/s"});
}

}  // namespace

int main(int count, char** arguments) {
  return run_tasks(
      count,
      arguments,
      {{{"sort_pairs"}, sort_pairs, radix_sort}, {{"sample_greedy"}, largest, arg_max}});
}
