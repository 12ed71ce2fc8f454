// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/device/memory.hpp>
#include <oriel/device/preallocation.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <array>
#include <cstring>
#include <utility>
#include <vector>

namespace memory_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

/// Fills bytes on the device and reads them again.
void check_usable(std::byte* at, std::size_t bytes, int value) {
  ORIEL_REQUIRE_CUDA(cudaMemset(at, value, bytes));
  std::byte last{};
  ORIEL_REQUIRE_CUDA(cudaMemcpy(&last, at + bytes - 1, 1, cudaMemcpyDefault));
  REQUIRE(last == static_cast<std::byte>(value));
}

}  // namespace

TEMPLATE_TEST_CASE("cuda memory is there, moves, and goes",
                   "",
                   cuda::device_memory,
                   cuda::pinned_memory,
                   cuda::growing_memory) {
  CHECK(TestType::reserve(0)->base() == nullptr);
  const auto too_much = TestType::reserve(std::size_t{1} << 60);
  REQUIRE_FALSE(too_much);
  CHECK(too_much.error().native != 0);
  CHECK(cudaGetLastError() == cudaSuccess);  // A refusal is told once.

  auto memory = TestType::reserve((std::size_t{40} << 20) + 64);
  REQUIRE(memory);
  std::byte* const base = memory->base();
  REQUIRE(reinterpret_cast<std::uintptr_t>(base) % 256 == 0);
  for (const std::size_t end : {std::size_t{1}, std::size_t{17} << 20, memory->size_bytes()}) {
    REQUIRE(memory->commit(end));
    REQUIRE(memory->base() == base);
    check_usable(base, end, 7);
  }
  TestType moved = std::move(*memory);
  check_usable(moved.base(), moved.size_bytes(), 8);
}

/// What is free is a number of the whole device, so nobody else may take or give meanwhile:
/// tests/gpu.sh runs what is [alone] with nothing beside it.
TEMPLATE_TEST_CASE("cuda memory that goes is free again",
                   "[alone]",
                   cuda::device_memory,
                   cuda::growing_memory) {
  constexpr std::size_t bytes = std::size_t{40} << 20;
  const auto take_and_give = [&] {
    auto memory = TestType::reserve(bytes);
    REQUIRE(memory);
    REQUIRE(memory->commit(bytes));
    check_usable(memory->base(), bytes, 7);
    std::size_t free_bytes = 0, total = 0;
    ORIEL_REQUIRE_CUDA(cudaMemGetInfo(&free_bytes, &total));
    return free_bytes;
  };
  const std::size_t before = take_and_give();  // The first also loads the runtime's kernels.
  std::size_t after = 0;
  for (int again = 0; again < 8; ++again) {
    after = take_and_give();
  }
  INFO(before << " bytes free with one range, " << after << " with the ninth");
  CHECK(after + bytes > before);  // Not even one of eight was kept.
}

TEST_CASE("cuda growing memory keeps its addresses under a captured graph") {
  auto memory = cuda::growing_memory::reserve(std::size_t{64} << 20);
  REQUIRE(memory);
  REQUIRE(memory->commit(1 << 20));
  captured graph([&](cudaStream_t stream) {
    ORIEL_REQUIRE_CUDA(cudaMemsetAsync(memory->base(), 5, 1 << 20, stream));
  });
  graph.launch();
  REQUIRE(memory->commit(memory->size_bytes()));
  check_usable(memory->base(), memory->size_bytes(), 6);
  graph.launch();
  std::byte first{};
  ORIEL_REQUIRE_CUDA(cudaMemcpy(&first, memory->base(), 1, cudaMemcpyDefault));
  CHECK(first == std::byte{5});
}

}  // namespace memory_test
