// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/death.hpp"

#include <oriel/kv/dual_pool.hpp>

#include <catch2/catch.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace dual_pool_test {

using oriel::errc;
using oriel::full_pool;
using oriel::window_pool;

namespace {

/// Host memory that commits no more than the test allows, over all pools together.
class scarce_memory : public oriel::host_memory {
 public:
  static inline std::size_t allowed_bytes = 0;

  static oriel::result<scarce_memory> reserve(std::size_t bytes) noexcept {
    auto memory = host_memory::reserve(bytes);
    if (!memory) {
      return memory.error();
    }
    return scarce_memory(std::move(*memory));
  }
  oriel::status commit(std::size_t bytes) noexcept {
    if (bytes > committed_) {
      if (bytes - committed_ > allowed_bytes) {
        return oriel::failure{errc::out_of_memory, ENOMEM, "the test's allowance"};
      }
      allowed_bytes -= bytes - committed_;
      committed_ = bytes;
    }
    return {};
  }
  std::size_t committed_bytes() const noexcept { return committed_; }

 private:
  explicit scarce_memory(host_memory&& memory) : host_memory(std::move(memory)) {}
  std::size_t committed_ = 0;
};
static_assert(oriel::kv_memory<scarce_memory>);

/// Two full layers and two window kinds of unlike shapes; page_size 16.
const std::vector<oriel::kv_layer_shape> layers{
    {.kv_heads = 2, .head_dim_qk = 24, .head_dim_vo = 16},
    {.kv_heads = 4, .head_dim_qk = 24, .head_dim_vo = 16, .window_tokens = 40},
    {.kv_heads = 1, .head_dim_qk = 16, .head_dim_vo = 16, .window_tokens = 100},
    {.kv_heads = 1,
     .head_dim_qk = 8,
     .head_dim_vo = 32,
     .window_tokens = 40,
     .kv = oriel::dtype::f32},
    {.kv_heads = 2, .head_dim_qk = 24, .head_dim_vo = 16},
};

template <class Memory = oriel::host_memory>
oriel::dual_pool<Memory> make_pools(std::uint32_t full,
                                    std::uint32_t window_40,
                                    std::uint32_t window_100,
                                    std::uint32_t step_tokens = 32) {
  auto plan = oriel::pool_plan::make(
      layers, {.page_size = 16, .step_tokens = step_tokens, .slack_pages = 1});
  REQUIRE(plan);
  auto pools = oriel::dual_pool<Memory>::make(*plan, {{full, window_40, window_100}});
  REQUIRE(pools);
  return std::move(*pools);
}

template <class Pools>
std::vector<std::uint32_t> used(const Pools& pools) {
  std::vector<std::uint32_t> pages;
  for (std::uint32_t i = 0; i < pools.pools(); ++i) {
    pages.push_back(pools.pool(oriel::pool_id{i}).used());
  }
  return pages;
}

using counts = std::vector<std::uint32_t>;

template <class Sequence>
void step(Sequence& sequence, std::uint32_t rows) {
  REQUIRE(sequence.reserve(rows));
  sequence.commit(rows);
}

}  // namespace

// R of window 40: 3 + 1 + 1 + 2 = 7 pages. R of window 100: 7 + 1 + 1 + 2 = 11 pages.
TEST_CASE("admission takes pages everywhere") {
  auto pools = make_pools(32, 32, 32);
  {
    auto sequence = pools.try_admit({.tokens_now = 50, .tokens_max = 400});
    REQUIRE(sequence);
    CHECK(used(pools) == counts{4, 4, 4});
    CHECK(sequence->length() == 0);
    CHECK(sequence->full_table().pages.size() == 4);
    CHECK(sequence->ring_table(0).ring_pages == 7);
    CHECK(sequence->ring_table(1).ring_pages == 11);
    auto longer = pools.try_admit({.tokens_now = 400, .tokens_max = 400});
    REQUIRE(longer);
    CHECK(used(pools) == counts{4 + 25, 4 + 7, 4 + 11});
    CHECK(pools.used_bytes() == 29 * pools.plan().layout(full_pool).page_bytes() +
                                    11 * pools.plan().layout(window_pool(0)).page_bytes() +
                                    15 * pools.plan().layout(window_pool(1)).page_bytes());
  }
  CHECK(used(pools) == counts{0, 0, 0});
  CHECK(pools.pool(full_pool).high_water() == 29);
  CHECK(pools.pool(window_pool(1)).high_water() == 15);
}

TEST_CASE("case 35: a shortfall in any pool takes nothing from any") {
  const std::uint32_t enough = 40;
  for (std::uint32_t scarce = 0; scarce < 3; ++scarce) {
    CAPTURE(scarce);
    // `first` takes 8 pages of each; the scarce pool then has 3 left, and 4 are wanted.
    counts sizes{enough, enough, enough};
    sizes[scarce] = 11;
    auto pools = make_pools(sizes[0], sizes[1], sizes[2], 128);
    auto first = pools.try_admit({.tokens_now = 128, .tokens_max = 128});
    REQUIRE(first);
    REQUIRE(used(pools) == counts{8, 8, 8});
    const auto refused = pools.try_admit({.tokens_now = 64, .tokens_max = 64});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::out_of_pages);
    CHECK(used(pools) == counts{8, 8, 8});

    auto second = pools.try_admit({.tokens_now = 48, .tokens_max = 128});
    REQUIRE(second);
    step(*second, 40);
    CHECK(used(pools) == counts{11, 11, 11});
    const std::vector<std::uint32_t> table(second->full_table().pages.begin(),
                                           second->full_table().pages.end());
    const oriel::status no = second->reserve(9);
    REQUIRE_FALSE(no);
    CHECK(no.error().code == errc::out_of_pages);
    CHECK(used(pools) == counts{11, 11, 11});
    CHECK(std::vector<std::uint32_t>(second->full_table().pages.begin(),
                                     second->full_table().pages.end()) == table);
    CHECK(second->reserve(8));
    first->release();
    CHECK(second->reserve(9));
  }
}

TEST_CASE("a request larger than a pool is refused at once, with the sizes") {
  auto pools = make_pools(20, 7, 9);
  const auto too_long = pools.try_admit({.tokens_now = 1, .tokens_max = 321});
  REQUIRE_FALSE(too_long);
  CHECK(too_long.error().code == errc::request_too_large);
  // The ring of window 100 wants 11 pages; 9 are there. Up to 9 pages of tokens it fits.
  const auto too_wide = pools.try_admit({.tokens_now = 1, .tokens_max = 145});
  REQUIRE_FALSE(too_wide);
  CHECK(too_wide.error().code == errc::request_too_large);
  CHECK(pools.plan().pages_for(window_pool(1), 145) == 10);
  CHECK(pools.pool(window_pool(1)).capacity() == 9);
  CHECK(pools.can_ever_hold(144));
  CHECK(used(pools) == counts{0, 0, 0});
  auto fits = pools.try_admit({.tokens_now = 144, .tokens_max = 144});
  REQUIRE(fits);
  // It is too large for its own admission, too.
  for (int i = 0; i < 4; ++i) {
    step(*fits, 32);
  }
  step(*fits, 16);
  CHECK(fits->reserve(1).error().code == errc::request_too_large);
}

TEST_CASE("case 15: a long prompt slides through a small window pool") {
  auto pools = make_pools(1'000, 7, 11);
  auto sequence = pools.try_admit({.tokens_now = 16'000, .tokens_max = 16'000});
  REQUIRE(sequence);
  CHECK(used(pools) == counts{1'000, 7, 11});
  while (sequence->length() < 16'000) {
    step(*sequence, 32);
    REQUIRE(used(pools) == counts{1'000, 7, 11});
  }
  CHECK(sequence->ring(0).first_page() == (16'000 - 16 - 39) / 16);

  SECTION("and grows page by page when admitted for less") {
    sequence->release();
    CHECK(used(pools) == counts{0, 0, 0});
    for (std::uint32_t chunk = 1; chunk <= 500; ++chunk) {
      step(*sequence, 32);
      REQUIRE(used(pools)[0] == 2 * chunk);
      REQUIRE(used(pools)[1] <= 7);
      REQUIRE(used(pools)[2] <= 11);
    }
  }
}

TEST_CASE("case 13: rejected rows are rolled back, the table never shrinks") {
  auto pools = make_pools(64, 32, 32);
  auto sequence = pools.try_admit({.tokens_now = 10, .tokens_max = 640});
  REQUIRE(sequence);
  step(*sequence, 15);
  REQUIRE(sequence->reserve(4));
  CHECK(used(pools)[0] == 2);
  sequence->commit(0);
  CHECK(sequence->length() == 15);
  CHECK(sequence->full_table().pages.size() == 2);
  CHECK(aborts([&] { sequence->commit(1); }));  // Reserve again first.
  REQUIRE(sequence->reserve(4));
  REQUIRE(sequence->reserve(2));
  CHECK(aborts([&] { sequence->commit(3); }));
  sequence->commit(2);
  CHECK(sequence->length() == 17);
  CHECK(aborts([&] { static_cast<void>(sequence->reserve(33)); }));
}

TEST_CASE("memory that cannot be committed takes nothing from any pool") {
  auto pools = make_pools<scarce_memory>(32, 32, 32);
  scarce_memory::allowed_bytes = 0;
  auto sequence = pools.try_admit({.tokens_now = 100, .tokens_max = 200});
  int refusals = 0;
  for (; !sequence; ++refusals) {
    REQUIRE(sequence.error().code == errc::out_of_memory);
    REQUIRE(sequence.error().native == ENOMEM);
    REQUIRE(used(pools) == counts{0, 0, 0});
    scarce_memory::allowed_bytes += 8'192;
    sequence = pools.try_admit({.tokens_now = 100, .tokens_max = 200});
  }
  CHECK(refusals > 10);  // Every pool refused some of them.
  CHECK(used(pools) == counts{7, 7, 7});
  for (std::uint32_t j = 0; j < 7; ++j) {  // The refusals left no trace in the order either.
    CHECK(sequence->full_table().pages[j] == j);
    CHECK(sequence->ring_table(0).pages[j] == j);
  }

  // Growing meets the same refusal. The full pool has its page, the windows live on what they have;
  // the ring of window 100 is where the bytes are missing.
  for (int i = 0; i < 3; ++i) {
    step(*sequence, 32);
  }
  scarce_memory::allowed_bytes = pools.plan().layout(full_pool).page_bytes();
  const oriel::status no = sequence->reserve(32);
  REQUIRE_FALSE(no);
  CHECK(no.error().code == errc::out_of_memory);
  CHECK(no.error().native == ENOMEM);
  CHECK(used(pools) == counts{7, 7, 7});
  CHECK(sequence->full_table().pages.size() == 7);
  CHECK(sequence->ring(1).held_pages() == 7);
  scarce_memory::allowed_bytes = 1'000'000;
  CHECK(sequence->reserve(32));
  CHECK(used(pools) == counts{8, 7, 8});
}

TEST_CASE("a step that one pool cannot back is undone in the pools before it") {
  auto pools = make_pools<scarce_memory>(32, 32, 32);
  auto sequence = pools.try_admit({.tokens_now = 0, .tokens_max = 200});
  REQUIRE(sequence);
  scarce_memory::allowed_bytes = 0;
  int refusals = 0;
  while (!sequence->reserve(32)) {
    ++refusals;
    REQUIRE(used(pools) == counts{0, 0, 0});
    REQUIRE(sequence->full_table().pages.empty());
    REQUIRE(sequence->ring(0).held_pages() == 0);
    REQUIRE(sequence->ring(1).held_pages() == 0);
    scarce_memory::allowed_bytes += 1'024;
  }
  CHECK(refusals > 3);
  CHECK(used(pools) == counts{2, 2, 2});
}

TEST_CASE("pools that do not fit the address space are refused before anything is taken") {
  const std::vector wide{oriel::kv_layer_shape{1u << 10, 1u << 10, 1u << 10}};
  auto plan = oriel::pool_plan::make(wide, {});
  REQUIRE(plan);
  const auto pools = oriel::dual_pool<oriel::address_only_memory>::make(*plan, {{0xFFFF'0000u}});
  REQUIRE_FALSE(pools);
  CHECK(pools.error().code == errc::out_of_memory);
}

/// Each layer writes its own number into all of its bytes in all pages of a sequence; no other
/// layer, page or pool may see it.
TEST_CASE("layers and pages do not overlap") {
  auto pools = make_pools<oriel::on_demand_memory>(5, 4, 6);
  auto sequence = pools.try_admit({.tokens_now = 60, .tokens_max = 64});
  REQUIRE(sequence);
  const auto part_of = [&](std::uint32_t layer, std::uint32_t page, bool v) {
    const oriel::pool_layer l = pools.layer(layer);
    const oriel::kv_layer_shape& s = layers[layer];
    const std::size_t bytes = v ? oriel::v_bytes_per_page(16, s.kv_heads, s.head_dim_vo, s.kv)
                                : oriel::k_bytes_per_page(16, s.kv_heads, s.head_dim_qk, s.kv);
    std::byte* base = v ? l.kv.v : l.kv.k;
    REQUIRE(reinterpret_cast<std::uintptr_t>(base) % 64 == 0);
    return std::span(base + page * l.kv.page_stride_bytes, bytes);
  };
  const auto for_each_part = [&](auto f) {
    int number = 0;
    for (std::uint32_t layer = 0; layer < layers.size(); ++layer) {
      for (const std::uint32_t page : sequence->table(pools.layer(layer).pool).pages) {
        if (page != to_index(oriel::null_page)) {
          f(part_of(layer, page, false), ++number);
          f(part_of(layer, page, true), ++number);
        }
      }
    }
    return number;
  };
  const int parts = for_each_part([](std::span<std::byte> bytes, int number) {
    std::memset(bytes.data(), number, bytes.size());
  });
  CHECK(parts == 5 * 4 * 2);
  int wrong = 0;
  for_each_part([&](std::span<std::byte> bytes, int number) {
    for (const std::byte b : bytes) {
      wrong += b != static_cast<std::byte>(number) ? 1 : 0;
    }
  });
  CHECK(wrong == 0);

  // By handle: the whole page, and only while it is live.
  const oriel::page_handle page = sequence->full_pages()[2];
  auto& full = pools.pool(full_pool);
  CHECK(full.bytes(page).data() == part_of(0, to_index(page.id), false).data());
  CHECK(full.bytes(page).size() == full.layout().page_bytes());
  sequence->release();
  CHECK(aborts([&] { static_cast<void>(full.bytes(page)); }));
}

TEST_CASE("a sequence starts behind a borrowed prefix") {
  auto pools = make_pools(64, 64, 64);
  std::vector<oriel::page_handle> full;
  std::vector<std::vector<oriel::page_handle>> windows(2);
  {
    auto lender = pools.try_admit({.tokens_now = 160, .tokens_max = 160});
    REQUIRE(lender);
    for (int i = 0; i < 5; ++i) {
      step(*lender, 32);
    }
    for (std::uint32_t j = 0; j < 10; ++j) {
      full.push_back(lender->share(full_pool, j));
    }
    for (std::uint32_t kind = 0; kind < 2; ++kind) {
      for (std::uint32_t j = lender->ring(kind).first_page(); j < 10; ++j) {
        windows[kind].push_back(lender->share(window_pool(kind), j));
      }
    }
  }
  const counts held{10, 4, 8};  // Windows with one page of slack: need is 3 and 7.
  REQUIRE(used(pools) == held);
  const std::vector<std::span<const oriel::page_handle>> lent(windows.begin(), windows.end());
  {
    auto borrower = pools.try_admit({.tokens_now = 200,
                                     .tokens_max = 400,
                                     .prefix = {.length = 160, .full = full, .windows = lent}});
    REQUIRE(borrower);
    CHECK(borrower->length() == 160);
    CHECK(used(pools) == counts{13, 7, 11});  // 40 more tokens: 3 pages of each.
    CHECK(borrower->full_pages()[9] == full[9]);
    CHECK(borrower->ring(1)[9] == windows[1].back());
    for (int i = 0; i < 7; ++i) {
      step(*borrower, 32);
    }
    CHECK(pools.pool(window_pool(0)).ref_count(windows[0].back()) == 1);
  }
  CHECK(used(pools) == held);
  pools.pool(full_pool).release(full);
  pools.pool(window_pool(0)).release(windows[0]);
  pools.pool(window_pool(1)).release(windows[1]);
  CHECK(used(pools) == counts{0, 0, 0});
}

TEST_CASE("a sequence heals the windows of a borrowed prefix") {
  auto pools = make_pools(64, 64, 64);
  std::vector<oriel::page_handle> full;
  {
    auto lender = pools.try_admit({.tokens_now = 320, .tokens_max = 320});
    REQUIRE(lender);
    for (int i = 0; i < 10; ++i) {
      step(*lender, 32);
    }
    for (std::uint32_t j = 0; j < 20; ++j) {
      full.push_back(lender->share(full_pool, j));
    }
  }
  const counts held{20, 0, 0};
  REQUIRE(used(pools) == held);
  const counts first_shared{(320 - 39) / 16, (320 - 99) / 16};

  SECTION("whose rows start inside a page, with no window") {
    auto healing = pools.try_admit(
        {.tokens_now = 330,
         .tokens_max = 400,
         .prefix = {.length = 320, .full = full, .heal = oriel::heal_start{181, first_shared}}});
    REQUIRE(healing);
    CHECK(healing->length() == 181);
    CHECK(healing->lent_tokens() == 320);
    CHECK(healing->healing());
    CHECK(used(pools) == counts{21, 7, 10});  // Rings from page 11 on; 10 more tokens.
    CHECK(healing->ring_table(0).page_of(11) != oriel::null_page);
    CHECK(healing->full_pages()[19] == full[19]);
    for (int i = 0; i < 4; ++i) {
      step(*healing, 32);
      CHECK(used(pools) == counts{21, 7, 10});
    }
    step(*healing, 11);
    CHECK_FALSE(healing->healing());
    CHECK(healing->length() == 320);
    for (std::uint32_t kind = 0; kind < 2; ++kind) {
      const oriel::pool_id pool = window_pool(kind);
      CHECK(healing->ring(kind).first_shareable_page() == first_shared[kind]);
      CHECK(aborts([&] { static_cast<void>(healing->share(pool, first_shared[kind] - 1)); }));
      const oriel::page_handle page = healing->share(pool, first_shared[kind]);
      CHECK(pools.pool(pool).ref_count(page) == 2);
      pools.pool(pool).release(page);
    }
    auto moved = std::move(*healing);
    CHECK(moved.lent_tokens() == 320);
    for (int i = 0; i < 4; ++i) {
      step(moved, 20);
    }
    CHECK(moved.length() == 400);
    moved.release();
    CHECK(moved.lent_tokens() == 0);
  }
  SECTION("whose rows start at a window-safe boundary") {
    // Pages of some other request stand for the windows before S = 240.
    auto lender = pools.try_admit({.tokens_now = 240, .tokens_max = 240});
    REQUIRE(lender);
    for (int i = 0; i < 8; ++i) {
      step(*lender, 30);
    }
    std::vector<std::vector<oriel::page_handle>> windows(2);
    for (std::uint32_t kind = 0; kind < 2; ++kind) {
      for (std::uint32_t j = lender->ring(kind).first_page(); j < 15; ++j) {
        windows[kind].push_back(lender->share(window_pool(kind), j));
      }
    }
    lender->release();
    const std::vector<std::span<const oriel::page_handle>> lent(windows.begin(), windows.end());
    {
      const oriel::borrowed_prefix prefix{.length = 320,
                                          .full = full,
                                          .windows = lent,
                                          .heal = oriel::heal_start{240, first_shared}};
      auto healing = pools.try_admit({.tokens_now = 320, .tokens_max = 400, .prefix = prefix});
      REQUIRE(healing);
      CHECK(healing->length() == 240);
      CHECK(healing->ring(1)[14] == windows[1].back());
      for (int i = 0; i < 4; ++i) {
        step(*healing, 20);
      }
      CHECK(healing->length() == 320);
      // Whole pages in front of S belong to the prefix, and may be shared like any.
      CHECK(healing->ring(1).first_shareable_page() == 13);
      pools.pool(window_pool(1)).release(healing->share(window_pool(1), 13));
      CHECK(healing->full_pages()[19] == full[19]);
    }
    pools.pool(window_pool(0)).release(windows[0]);
    pools.pool(window_pool(1)).release(windows[1]);
  }
  SECTION("all or nothing, as any admission") {
    auto others = pools.try_admit({.tokens_now = 700, .tokens_max = 700});
    REQUIRE(others);
    const counts before = used(pools);
    const oriel::borrowed_prefix prefix{
        .length = 320, .full = full, .heal = oriel::heal_start{181, first_shared}};
    CHECK_FALSE(pools.try_admit({.tokens_now = 340, .tokens_max = 400, .prefix = prefix}));
    CHECK(used(pools) == before);
    CHECK(pools.pool(full_pool).ref_count(full[3]) == 1);
  }
  CHECK(aborts([&] {
    (void)pools.try_admit(
        {.tokens_now = 330,
         .tokens_max = 400,
         .prefix = {.length = 320, .full = full, .heal = oriel::heal_start{320, first_shared}}});
  }));
  CHECK(used(pools) == held);
  pools.pool(full_pool).release(full);
}

TEST_CASE("a sequence goes on with another's page of the same tokens") {
  auto pools = make_pools(16, 16, 16);
  auto mine = pools.try_admit({.tokens_now = 40, .tokens_max = 64});
  auto other = pools.try_admit({.tokens_now = 40, .tokens_max = 64});
  REQUIRE(mine);
  REQUIRE(other);
  step(*mine, 32);
  step(*mine, 8);
  step(*other, 32);
  auto& full = pools.pool(full_pool);
  const oriel::page_handle old = mine->full_pages()[1], theirs = other->full_pages()[1];
  mine->switch_full_page(1, theirs);
  CHECK_FALSE(full.is_live(old));
  CHECK(full.ref_count(theirs) == 2);
  CHECK(mine->full_pages()[1] == theirs);
  CHECK(mine->full_table().page_of(1) == theirs.id);
  CHECK(used(pools)[0] == 5);
  mine->switch_full_page(1, theirs);
  CHECK(full.ref_count(theirs) == 2);
  CHECK(aborts([&] { mine->switch_full_page(2, theirs); }));  // Its last page is not whole.
  CHECK(aborts([&] { mine->switch_full_page(0, old); }));
  other->release();
  CHECK(full.ref_count(theirs) == 1);
}

TEST_CASE("sequences and pools can be moved") {
  auto pools = make_pools(64, 64, 64);
  auto a = pools.try_admit({.tokens_now = 100, .tokens_max = 300});
  auto b = pools.try_admit({.tokens_now = 30, .tokens_max = 300});
  REQUIRE(a);
  REQUIRE(b);
  step(*a, 32);
  auto elsewhere = std::move(pools);
  auto moved = std::move(*a);
  CHECK(moved.length() == 32);
  step(moved, 20);
  moved = std::move(*b);  // The pages of a go back.
  CHECK(used(elsewhere) == counts{2, 2, 2});
  CHECK(moved.length() == 0);
  step(moved, 32);
  moved.release();
  CHECK(used(elsewhere) == counts{0, 0, 0});
}

TEST_CASE("a uniform pool is a dual pool without windows") {
  auto plan = oriel::pool_plan::make(std::vector{layers[0], layers[4]}, {.step_tokens = 64});
  REQUIRE(plan);
  auto pools = oriel::dual_pool<>::make(*plan, {{8}});
  REQUIRE(pools);
  auto sequence = pools->try_admit({.tokens_now = 128, .tokens_max = 128});
  REQUIRE(sequence);
  step(*sequence, 64);
  CHECK(sequence->window_kinds() == 0);
  CHECK_FALSE(pools->try_admit({.tokens_now = 1, .tokens_max = 1}));
}

}  // namespace dual_pool_test
