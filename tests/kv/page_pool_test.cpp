// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Ownership is the law of page_allocator: laws_test.cpp. Here: the bytes behind the pages.
#include <oriel/kv/page_pool.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <cerrno>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

namespace page_pool_test {

using oriel::page_handle;

namespace {

/// Backs `backed_bytes` bytes and not one more.
class refusing_memory : public oriel::host_memory {
 public:
  static inline std::size_t backed_bytes = 0;

  static oriel::result<refusing_memory> reserve(std::size_t bytes) noexcept {
    auto memory = oriel::host_memory::reserve(bytes);
    if (!memory) {
      return memory.error();
    }
    return refusing_memory(std::move(*memory));
  }
  oriel::status commit(std::size_t bytes) noexcept {
    if (bytes > backed_bytes) {
      return oriel::failure{oriel::errc::out_of_memory, ENOMEM, "refused"};
    }
    committed_ = bytes > committed_ ? bytes : committed_;
    return {};
  }
  [[nodiscard]] std::size_t committed_bytes() const noexcept { return committed_; }

 private:
  explicit refusing_memory(oriel::host_memory&& memory) : oriel::host_memory(std::move(memory)) {}
  std::size_t committed_ = 0;
};

template <class Memory>
concept gives_bytes = requires(const oriel::page_pool<Memory>& pool) {
  pool.bytes(page_handle{});
  pool.layer(0);
};
static_assert(gives_bytes<oriel::host_memory>);
static_assert(!gives_bytes<oriel::address_only_memory>);  // Not storing is visible in the type.

oriel::page_layout two_layers() {
  const oriel::kv_layer_shape layers[] = {{2, 8, 4, 0, oriel::dtype::f32},
                                          {1, 8, 8, 0, oriel::dtype::f32}};
  return {16, layers};
}

template <class Memory = oriel::host_memory>
oriel::page_pool<Memory> pool_of(std::uint32_t pages) {
  auto pool = oriel::page_pool<Memory>::make(two_layers(), pages);
  REQUIRE(pool);
  return std::move(*pool);
}

}  // namespace

TEST_CASE("every page has bytes of its own, where the layers' views look for them") {
  auto pool = pool_of(3);
  const std::size_t page_bytes = pool.layout().page_bytes();
  CHECK(pool.memory().size_bytes() == 3 * page_bytes);
  std::vector<page_handle> pages(3);
  REQUIRE(pool.try_allocate(pages));
  for (const page_handle page : pages) {
    const auto bytes = pool.bytes(page);
    CHECK(bytes.size() == page_bytes);
    CHECK(bytes.data() == pool.memory().base() + to_index(page.id) * page_bytes);
    CHECK(pool.layer(1).k + to_index(page.id) * pool.layer(1).page_stride_bytes ==
          bytes.data() + pool.layout().k_offset_bytes(1));
    std::memset(bytes.data(), static_cast<int>(to_index(page.id)) + 1, bytes.size());
  }
  for (const page_handle page : pages) {
    CHECK(pool.bytes(page).front() == std::byte(to_index(page.id) + 1));
    CHECK(pool.bytes(page).back() == std::byte(to_index(page.id) + 1));
  }
}

TEST_CASE("a pool counts what is held, and the most that ever was") {
  auto pool = pool_of(4);
  std::vector<page_handle> pages(3);
  REQUIRE(pool.try_allocate(pages));
  CHECK(pool.used() == 3);
  CHECK(pool.used_bytes() == 3 * pool.layout().page_bytes());
  pool.release(pages);
  CHECK(pool.used() == 0);
  CHECK(pool.high_water() == 3);
  std::vector<page_handle> too_many(5);
  CHECK_FALSE(pool.try_allocate(too_many));
  CHECK(pool.refusal().code == oriel::errc::out_of_pages);
  CHECK(pool.high_water() == 3);
}

TEST_CASE("pages that cannot be backed are not handed out, and the next ones are as before") {
  const std::size_t page_bytes = two_layers().page_bytes();
  refusing_memory::backed_bytes = 2 * page_bytes;
  auto pool = pool_of<refusing_memory>(4);
  std::vector<page_handle> three(3), one(1), two(2);
  CHECK_FALSE(pool.try_allocate(three));
  CHECK(pool.refusal().code == oriel::errc::out_of_memory);
  CHECK(pool.refusal().native == ENOMEM);
  CHECK(pool.available() == 4);
  CHECK(pool.high_water() == 0);
  REQUIRE(pool.try_allocate(two));  // Those two that lie in the backed part.
  CHECK(to_index(two[0].id) + to_index(two[1].id) == 1);
  CHECK_FALSE(pool.try_allocate(one));
  refusing_memory::backed_bytes = 4 * page_bytes;
  CHECK(pool.try_allocate(one));
}

TEST_CASE("a pool larger than the address space is refused") {
  const oriel::kv_layer_shape wide[] = {{1u << 31, 256, 256, 0, oriel::dtype::f32}};
  const auto pool = oriel::page_pool<>::make(oriel::page_layout(1u << 15, wide), 1u << 30);
  REQUIRE_FALSE(pool);
  CHECK(pool.error().code == oriel::errc::out_of_memory);
}

TEST_CASE("a stale handle never dereferences") {
  CHECK(aborts([] {
    auto pool = pool_of(1);
    std::vector<page_handle> page(1);
    static_cast<void>(pool.try_allocate(page));
    pool.release(page);
    static_cast<void>(pool.bytes(page[0]));
  }));
}

}  // namespace page_pool_test
