// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Memory policies of a device, over a planted driver.
#include "conformance/kv_memory_suite.hpp"
#include "conformance/page_allocator_suite.hpp"

#include <oriel/core/random.hpp>
#include <oriel/device/memory.hpp>
#include <oriel/device/preallocation.hpp>
#include <oriel/kv/page_pool.hpp>

#include <catch2/catch.hpp>
#include <device/planted_driver.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

namespace memory_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

using device_memory = basic_device_memory<planted_driver>;
using pinned_memory = basic_pinned_memory<planted_driver>;
using growing_memory = basic_growing_memory<planted_driver>;

class random_numbers {
 public:
  explicit random_numbers(int seed) : stream_(static_cast<std::uint64_t>(seed)) {}
  /// In [0, n). @pre 0 < n < 2^32
  std::size_t below(std::size_t n) { return stream_.next_bits() % n; }

 private:
  random_stream stream_;
};

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t step = 16 * mib;

std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

TEST_CASE("device_memory is a kv_memory") {
  check_kv_memory<device_memory>();
  CHECK(planted_driver::now().is_idle());
}
TEST_CASE("pinned_memory is a kv_memory") {
  check_kv_memory<pinned_memory>();
  CHECK(planted_driver::now().is_idle());
}
TEST_CASE("growing_memory is a kv_memory") {
  check_kv_memory<growing_memory>();
  CHECK(planted_driver::now().is_idle());
}

TEST_CASE("a pool grows as its pages are handed out") {
  const std::array layers{kv_layer_shape{.kv_heads = 8, .head_dim_qk = 192, .head_dim_vo = 128}};
  check_page_allocator([&] {
    auto pool = page_pool<growing_memory>::make(page_layout(64, layers), 8);
    REQUIRE(pool);
    return std::move(*pool);
  });
  CHECK(planted_driver::now().is_idle());
}

TEST_CASE("growing memory takes whole steps, and the last one is short") {
  auto memory = growing_memory::reserve(2 * step + 5 * mib + 64);
  REQUIRE(memory);
  planted_driver& driver = planted_driver::now();
  CHECK(driver.reserved.begin()->second == 2 * step + 6 * mib);
  CHECK(driver.mapped_bytes() == 0);
  REQUIRE(memory->commit(1));
  CHECK(memory->committed_bytes() == step);
  REQUIRE(memory->commit(step));
  CHECK(driver.mapped.size() == 1);
  REQUIRE(memory->commit(2 * step + 1));
  CHECK(memory->committed_bytes() == memory->size_bytes());
  CHECK(memory->physical_bytes() == 2 * step + 6 * mib);
  CHECK(driver.mapped_bytes() == memory->physical_bytes());
  CHECK(driver.handles.empty());
}

TEST_CASE("each call that fails is told with its name and code, and nothing is kept") {
  planted_driver& driver = planted_driver::now();
  const int code = GENERATE(2, 801);  // "out of memory", and another
  const errc expected = code == driver_out_of_memory ? errc::out_of_memory : errc::device_failure;
  const std::array<const char*, 7> names{"cudaGetDevice",
                                         "cuMemGetAllocationGranularity",
                                         "cuMemAddressReserve",
                                         "cuMemCreate",
                                         "cuMemMap",
                                         "cuMemRelease",
                                         "cuMemSetAccess"};
  for (std::size_t call = 0; call < 3; ++call) {
    driver.fail(static_cast<int>(call), code);
    const auto memory = growing_memory::reserve(3 * step);
    REQUIRE_FALSE(memory);
    CHECK(memory.error().code == expected);
    CHECK(memory.error().native == code);
    CHECK(std::string(memory.error().detail).find(names[call]) != std::string::npos);
    CHECK(driver.is_idle());
  }
  driver.fail(-1, 0);
  // The second of the steps of one commit fails in each of its calls.
  auto memory = growing_memory::reserve(3 * step);
  REQUIRE(memory);
  REQUIRE(memory->commit(step));
  for (std::size_t call = 0; call < 4; ++call) {
    driver.fail(4 + static_cast<int>(call), code);
    const status committed = memory->commit(3 * step);
    REQUIRE_FALSE(committed);
    CHECK(committed.error().code == expected);
    CHECK(committed.error().native == code);
    CHECK(std::string(committed.error().detail).find(names[3 + call]) != std::string::npos);
    CHECK(memory->committed_bytes() == step);
    CHECK(driver.mapped_bytes() == step);
    CHECK(driver.accessible.size() == 1);
    CHECK(driver.handles.empty());
  }
  driver.fail(-1, 0);
  CHECK(memory->commit(3 * step));  // A refusal is not the end.
  memory = growing_memory::reserve(0);
  CHECK(driver.is_idle());

  driver.fail(1, code);
  const auto plain = device_memory::reserve(mib);
  REQUIRE_FALSE(plain);
  CHECK(plain.error().code == expected);
  driver.fail(1, code);
  const auto pinned = pinned_memory::reserve(mib);
  REQUIRE_FALSE(pinned);
  CHECK(pinned.error().native == code);
  driver.fail(-1, 0);
  CHECK(driver.is_idle());
}

TEST_CASE("growing memory and a slow model of it tell the same, whatever fails") {
  planted_driver& driver = planted_driver::now();
  random_numbers random(GENERATE(range(0, 40)));
  std::optional<growing_memory> memory;
  std::size_t size = 0, committed = 0;  // the model
  std::byte* base = nullptr;
  for (int i = 0; i < 200; ++i) {
    const int failing = random.below(3) == 0 ? static_cast<int>(random.below(14)) : -1;
    const std::size_t what = random.below(12);
    if (!memory || what == 0) {
      memory.reset();
      REQUIRE(driver.is_idle());
      driver.fail(failing, 700);
      const std::size_t asked = 1 + random.below(5 * step);
      result<growing_memory> taken = growing_memory::reserve(asked);
      REQUIRE(taken.has_value() == driver.failed_in.empty());
      if (!taken) {
        REQUIRE(driver.is_idle());
        continue;
      }
      memory.emplace(std::move(*taken));
      size = asked;
      committed = 0;
      base = memory->base();
    } else if (what == 1) {
      growing_memory moved = std::move(*memory);
      REQUIRE(memory->size_bytes() == 0);
      *memory = std::move(moved);
    } else {
      const std::size_t asked = random.below(size + 1);
      driver.fail(failing, 700);
      const status done = memory->commit(asked);
      REQUIRE(static_cast<bool>(done) == driver.failed_in.empty());
      if (done && asked > committed) {
        committed = std::min(round_up(asked, step), round_up(size, planted_driver::granule));
      }
    }
    driver.fail(-1, 0);
    REQUIRE(memory->base() == base);
    REQUIRE(memory->size_bytes() == size);
    REQUIRE(memory->committed_bytes() == std::min(committed, size));
    REQUIRE(memory->physical_bytes() == committed);
    REQUIRE(driver.mapped_bytes() == committed);
    REQUIRE(driver.accessible.size() == driver.mapped.size());
    REQUIRE(driver.handles.empty());
    if (committed != 0) {
      base[random.below(std::min(committed, size))] = std::byte{1};
    }
  }
  memory.reset();
  CHECK(driver.is_idle());
}

TEST_CASE("pieces of a preallocation lie apart, and are told with their bytes") {
  random_numbers random(GENERATE(range(0, 20)));
  std::vector<memory_piece> pieces;
  for (std::size_t i = random.below(12); i-- > 0;) {
    pieces.push_back({"a piece", random.below(3) == 0 ? 0 : random.below(5'000)});
  }
  {
    const auto made = preallocation<device_memory>::make(pieces);
    REQUIRE(made);
    std::size_t sum = 0;
    const std::byte* end = nullptr;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const std::span<std::byte> bytes = made->bytes(i);
      REQUIRE(bytes.size() == pieces[i].size_bytes);
      REQUIRE(reinterpret_cast<std::uintptr_t>(bytes.data()) % 256 == 0);
      REQUIRE((end == nullptr || bytes.data() >= end));
      std::ranges::fill(bytes, std::byte{1});
      end = bytes.data() + bytes.size();
      sum += round_up(bytes.size(), 256);
    }
    CHECK(made->size_bytes() == sum);
    CHECK(made->pieces().size() == pieces.size());
  }
  CHECK(planted_driver::now().is_idle());
  pieces.assign(2, {"too much", ~std::size_t{0} / 2});
  const auto refused = preallocation<device_memory>::make(pieces);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::out_of_memory);
}

}  // namespace memory_test
