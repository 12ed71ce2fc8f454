// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A store below pools that the host cannot touch, on a device that copies as late as it may: what
// comes is whole when it is said to be, what goes was written before, and items on one key take
// effect in order.
#include <oriel/core/random.hpp>
#include <oriel/kv/memory.hpp>
#include <oriel/tier/any_store.hpp>
#include <oriel/tier/staged_store.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <catch2/catch.hpp>
#include <device/fake_streams.hpp>
#include <kernels/attention_case.hpp>
#include <support/death.hpp>
#include <support/plain_store.hpp>
#include <support/scale.hpp>

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <vector>

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t pages = 12, keys = 10;

const std::vector<kv_layer_shape>& shapes() {
  static const std::vector<kv_layer_shape> all{
      {.kv_heads = 1, .head_dim_qk = 3, .head_dim_vo = 5, .kv = dtype::bf16},
      {.kv_heads = 2, .head_dim_qk = 4, .head_dim_vo = 2, .window_tokens = 16, .kv = dtype::f32},
      {.kv_heads = 1, .head_dim_qk = 3, .head_dim_vo = 5, .kv = dtype::bf16},
      {.kv_heads = 1, .head_dim_qk = 1, .head_dim_vo = 1, .window_tokens = 16, .kv = dtype::bf16},
      {.kv_heads = 1, .head_dim_qk = 8, .head_dim_vo = 8, .window_tokens = 16, .kv = dtype::f32},
      {.kv_heads = 2, .head_dim_qk = 20, .head_dim_vo = 12, .kv = dtype::e4m3}};
  return all;
}

/// Pages of a device and the names that the host has for them.
class device_pages {
 public:
  explicit device_pages(const pool_plan& plan) : plan_(plan) {
    for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
      const std::size_t bytes = plan.layout(pool_id{pool}).page_bytes() * pages;
      names_.push_back(*address_only_memory::reserve(bytes));
      bytes_.emplace_back(bytes);
      committed_.push_back(0);
    }
  }

  [[nodiscard]] std::vector<moved_pool> sides() const {
    std::vector<moved_pool> sides;
    for (std::size_t pool = 0; pool < bytes_.size(); ++pool) {
      sides.push_back({names_[pool].base(), bytes_[pool].data()});
    }
    return sides;
  }
  /// As a host's pool would tell stores.
  [[nodiscard]] std::vector<std::span<std::byte>> slices(std::uint32_t pool,
                                                         std::uint32_t page) const {
    const page_layout& layout = plan_.layout(pool_id{pool});
    std::byte* const base = names_[pool].base() + page * layout.page_bytes();
    std::vector<std::span<std::byte>> slices;
    for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
      slices.emplace_back(base + layout.k_offset_bytes(slot), layout.slice_bytes(slot));
    }
    return slices;
  }
  /// Writes what a key stands for: other bytes in each layer, never poison.
  void write(std::uint32_t pool, std::uint32_t page, std::uint32_t key) const {
    visit(pool, page, [&](std::byte& b, std::size_t i) { b = content(pool, key, i); });
  }
  [[nodiscard]] bool has(std::uint32_t pool, std::uint32_t page, std::uint32_t key) const {
    bool same = page < committed_[pool];
    visit(pool, page, [&](std::byte& b, std::size_t i) { same &= b == content(pool, key, i); });
    return same;
  }
  void poison_page(std::uint32_t pool, std::uint32_t page) const {
    visit(pool, page, [](std::byte& b, std::size_t) { b = poison; });
  }
  status commit(std::uint32_t pool, std::uint32_t count) {
    committed_[pool] = std::max(committed_[pool], count);
    return {};
  }

 private:
  static std::byte content(std::uint32_t pool, std::uint32_t key, std::size_t at) {
    return static_cast<std::byte>((key * 31 + pool * 7 + at * 13) % 251);
  }
  /// K and V of each layer: what lies between is nobody's.
  template <class Visit>
  void visit(std::uint32_t pool, std::uint32_t page, Visit&& visit) const {
    const page_layout& layout = plan_.layout(pool_id{pool});
    std::byte* const base = bytes_[pool].data() + page * layout.page_bytes();
    for (std::uint32_t l = 0; l < plan_.layers(); ++l) {
      const layer_home home = plan_.home(l);
      if (to_index(home.pool) == pool) {
        const kv_layer_shape& s = shapes()[l];
        const std::size_t k = layout.k_offset_bytes(home.slot),
                          v = layout.v_offset_bytes(home.slot);
        for (std::size_t i = 0; i < k_bytes_per_page(16, s.kv_heads, s.head_dim_qk, s.kv); ++i) {
          visit(base[k + i], k + i);
        }
        for (std::size_t i = 0; i < v_bytes_per_page(16, s.kv_heads, s.head_dim_vo, s.kv); ++i) {
          visit(base[v + i], v + i);
        }
      }
    }
  }

  const pool_plan& plan_;
  std::vector<address_only_memory> names_;
  std::deque<aligned_bytes> bytes_;
  std::vector<std::uint32_t> committed_;
};

struct commit_pages {
  device_pages* pages;
  status operator()(std::uint32_t pool, std::uint32_t count) const {
    return pages->commit(pool, count);
  }
};
using mover_type = stream_mover<passing_streams, host_memory, commit_pages>;

/// Someone who puts and gets pages, and reuses each as soon as it may.
class staged_life {
 public:
  staged_life(std::uint64_t seed, std::uint32_t failing_of)
      : device_(seed, 3),
        plan_(*pool_plan::make(shapes(), {.page_size = 16})),
        pages_(plan_),
        mover_(make_mover()),
        store_(std::in_place,
               plain_store(std::make_shared<plain_medium>(), {.queue_max = 6}, seed),
               *mover_,
               mover_->stages()) {
    device_.failing_of = failing_of;
  }

  void turn() {
    for (std::uint32_t n = draw(4); n > 0; --n) {
      begin();
    }
    device_.steps(12);
    take_in(1 + draw(4));
  }
  void end() {
    for (int waits = 0; store_->pending() != 0; ++waits) {
      REQUIRE(waits < 1000);  // Each brings something, or the store is stuck.
      (void)store_->wait(no_deadline);
      take_in(64);
    }
    CHECK(errands_.empty());
    std::vector<std::uint32_t> all(mover_->stages());
    CHECK(mover_->try_take(move_way::up, all));
    CHECK(mover_->try_take(move_way::down, all));
  }
  void leave_in_the_middle() { store_.reset(); }
  void lose_the_device() {
    device_.lose();
    lost_at_ = last_;
  }
  [[nodiscard]] store_fault last_fault() const { return store_->last_fault(); }

  std::uint32_t gets = 0, puts = 0, failed = 0;

 private:
  struct errand {
    store_op op = store_op::get;
    std::uint32_t pool = 0, page = 0, key = 0;
    bool is_there = false;  // a get: in the order of what was given
    page_identity identity = {};
    std::vector<token_id> tokens = std::vector<token_id>(16);
    std::vector<std::span<std::byte>> slices = {};
  };

  std::unique_ptr<mover_type> make_mover() {
    auto made = mover_type::make(plan_,
                                 shapes(),
                                 pages_.sides(),
                                 {.compute = 0, .up = 1, .down = 2},
                                 commit_pages{&pages_},
                                 {.order = kv_order::host, .stage_bytes_max = 1, .pages_min = 3},
                                 passing_streams{{&device_}});
    REQUIRE(made);
    return std::move(*made);
  }
  std::uint32_t draw(std::uint32_t n) { return device_.random.next_below(n); }

  /// Nobody has it, and nothing is on its way to or from it: it is overwritten at once.
  std::optional<std::uint32_t> free_page(std::uint32_t pool) {
    const std::uint32_t page = draw(pages);
    if (is_busy_[pool][page]) {
      return std::nullopt;
    }
    pages_.poison_page(pool, page);
    return page;
  }

  void begin() {
    const std::uint32_t pool = draw(2), key = draw(keys), kind = draw(10);
    errand e{.op = kind < 4   ? store_op::put
                   : kind < 8 ? store_op::get
                   : kind < 9 ? store_op::exists
                              : store_op::erase,
             .pool = pool,
             .key = key};
    if (e.op == store_op::erase && draw(8) == 0) {
      e.op = store_op::drop_space;
    }
    if (e.op == store_op::put || e.op == store_op::get) {
      const auto page = free_page(pool);
      if (!page) {
        return;
      }
      e.page = *page;
      e.slices = pages_.slices(pool, *page);
    }
    if (e.op == store_op::put) {  // By a step that has been enqueued, and no more.
      device_.run(0, [this, e] { pages_.write(e.pool, e.page, e.key); });
      REQUIRE(static_cast<bool>(mover_->mark()) != device_.is_lost());
    }
    const std::uint64_t number = ++last_;
    errand& given = errands_[number] = std::move(e);
    given.identity.tokens = given.tokens;
    store_item item{.op = given.op,
                    .key = {page_digest{.bytes = {static_cast<std::byte>(key + 1)}}, pool},
                    .identity = &given.identity,
                    .slices = given.slices,
                    .user = number};
    given.is_there = is_there_[pool][key];
    if (given.op == store_op::drop_space) {
      item.key = {};
    }
    if (store_->submit({&item, 1}, no_deadline) == 0) {
      REQUIRE((given.op != store_op::put || device_.drain()));
      errands_.erase(number);
      return;
    }
    if (!given.slices.empty()) {
      is_busy_[pool][given.page] = true;
    }
    if (given.op == store_op::put || given.op == store_op::erase) {
      is_there_[pool][key] = given.op == store_op::put;
    } else if (given.op == store_op::drop_space) {
      is_there_ = {};
    }
  }

  void take_in(std::uint32_t most) {
    std::vector<store_completion> done(most);
    const std::size_t count = store_->poll(done);
    for (std::size_t i = 0; i < count; ++i) {
      const store_completion& c = done[i];
      const auto found = errands_.find(c.user);
      REQUIRE(found != errands_.end());
      const errand e = std::move(found->second);
      errands_.erase(found);
      REQUIRE(c.op == e.op);
      failed += c.outcome == store_outcome::failed;
      const bool may_fail = device_.failing_of != 0 || device_.is_lost();
      REQUIRE((c.outcome != store_outcome::failed || may_fail));
      if (c.user > lost_at_) {
        REQUIRE((e.op != store_op::put || c.outcome == store_outcome::failed));
        REQUIRE((e.op != store_op::get || c.outcome != store_outcome::done));
      }
      if (!may_fail && (e.op == store_op::get || e.op == store_op::exists)) {
        REQUIRE((c.outcome == store_outcome::done) == e.is_there);
      }
      if (e.op == store_op::get && c.outcome == store_outcome::done) {
        REQUIRE(pages_.has(e.pool, e.page, e.key));
        ++gets;
      }
      puts += e.op == store_op::put && c.outcome == store_outcome::done;
      if (!e.slices.empty()) {
        pages_.poison_page(e.pool, e.page);  // Somebody's already.
        is_busy_[e.pool][e.page] = false;
      }
    }
  }

  fake_device device_;
  pool_plan plan_;
  device_pages pages_;
  std::unique_ptr<mover_type> mover_;
  std::optional<staged_store<plain_store>> store_;
  std::map<std::uint64_t, errand> errands_;
  std::array<std::array<bool, pages>, 2> is_busy_ = {};
  std::array<std::array<bool, keys>, 2> is_there_ = {};  // by what was given, in its order
  std::uint64_t last_ = 0, lost_at_ = ~std::uint64_t{0};
};

/// Two stores over the moves of one device, which does nothing unless somebody waits for it.
struct shared_mover {
  using mover = stream_mover<fake_streams, host_memory, commit_pages>;

  fake_device device{1, 3};
  pool_plan plan = *pool_plan::make(shapes(), {.page_size = 16});
  device_pages pages{plan};
  std::unique_ptr<mover> moves =
      std::move(*mover::make(plan,
                             shapes(),
                             pages.sides(),
                             {.compute = 0, .up = 1, .down = 2},
                             commit_pages{&pages},
                             {.order = kv_order::host, .stage_bytes_max = 1, .pages_min = 8},
                             fake_streams{&device}));
  std::vector<token_id> tokens = std::vector<token_id>(16);
  page_identity identity{.name_space = {}, .parent = {}, .tokens = tokens};
  std::deque<std::vector<std::span<std::byte>>> slices = {};

  store_item item(store_op op, std::uint32_t page) {
    slices.push_back(pages.slices(0, page));
    return {.op = op,
            .key = {page_digest{.bytes = {static_cast<std::byte>(page + 1)}}, 0},
            .identity = &identity,
            .slices = slices.back()};
  }
  /// Of a way.
  [[nodiscard]] bool has_all_stages(move_way way) const {
    std::vector<std::uint32_t> all(moves->stages());
    const bool has = moves->try_take(way, all);
    if (has) {
      moves->give_back(way, all);
    }
    return has;
  }
};

plain_store quick_store() {
  return {std::make_shared<plain_medium>(), {.turns_max = 0}, 1};
}

/// Runs out of memory when it is told to.
struct throwing_store : plain_store {
  using plain_store::plain_store;
  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    if (*throws) {
      throw std::bad_alloc();
    }
    return plain_store::submit(items, deadline_us);
  }
  std::shared_ptr<bool> throws = std::make_shared<bool>(false);
};

static_assert(kv_store<staged_store<any_store>>);

}  // namespace

TEST_CASE("pages of a device go down and come up whole, in the order of each key") {
  std::uint32_t gets = 0, puts = 0, failed = 0;
  const std::uint64_t seeds = std::max<std::uint64_t>(6, scaled(60));
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    INFO("seed " << seed);
    staged_life life(seed, seed % 3 == 0 ? 25 : 0);
    for (int i = 0; i < 150; ++i) {
      life.turn();
    }
    if (seed % 4 == 0) {
      life.leave_in_the_middle();
    } else {
      life.end();
    }
    gets += life.gets, puts += life.puts, failed += life.failed;
  }
  CHECK(gets > seeds * 10);
  CHECK(puts > seeds * 20);
  CHECK(failed > seeds / 6);
}

TEST_CASE("a device that is lost fails what it had and what comes, each once, and gives all back") {
  std::uint32_t gets = 0, puts = 0, failed = 0;
  for (std::uint64_t seed = 1; seed <= scaled(40); ++seed) {
    INFO("seed " << seed);
    staged_life life(seed, seed % 3 == 0 ? 25 : 0);
    std::uint64_t faults = 0;  // of the store and of moves: they only become more
    const auto turn = [&] {
      life.turn();
      const std::uint64_t now = life.last_fault().count;
      REQUIRE(now >= faults);
      faults = now;
    };
    for (std::uint64_t i = 0; i < 20 + seed % 7; ++i) {
      turn();
    }
    life.lose_the_device();
    gets += life.gets, puts += life.puts;
    for (int i = 0; i < 60; ++i) {
      turn();
    }
    if (seed % 4 == 0) {
      life.leave_in_the_middle();
      continue;
    }
    life.end();
    failed += life.failed;
    const store_fault fault = life.last_fault();
    CHECK(fault.where.starts_with("the device is lost"));
    CHECK(fault.native == fake_streams::no.native);
  }
  CHECK(gets + puts > scaled(40) * 3);
  CHECK(failed > scaled(40) * 20);
}

TEST_CASE("who waits for a copy waits for those of another store that are before it") {
  shared_mover world;
  staged_store<plain_store> one(quick_store(), *world.moves, world.moves->stages() / 2);
  staged_store<plain_store> other(quick_store(), *world.moves, world.moves->stages() / 2);
  for (std::uint32_t page = 0; page < 3; ++page) {
    const store_item item = world.item(store_op::put, page);
    REQUIRE(one.submit({&item, 1}, no_deadline) == 1);
  }
  REQUIRE_FALSE(world.moves->can_begin(move_way::down));
  const store_item item = world.item(store_op::put, 3);
  REQUIRE(other.submit({&item, 1}, no_deadline) == 1);
  CHECK(other.wait(no_deadline));
  store_completion done;
  REQUIRE(other.poll({&done, 1}) == 1);
  CHECK(done.outcome == store_outcome::done);
  while (one.pending() != 0) {
    REQUIRE(one.wait(no_deadline));
    one.poll({&done, 1});
  }
  // Up, too.
  for (std::uint32_t page = 0; page < 3; ++page) {
    const store_item get = world.item(store_op::get, page);
    REQUIRE(one.submit({&get, 1}, no_deadline) == 1);
    CHECK(one.poll({&done, 1}) == 0);
  }
  REQUIRE_FALSE(world.moves->can_begin(move_way::up));
  const store_item get = world.item(store_op::get, 3);
  REQUIRE(other.submit({&get, 1}, no_deadline) == 1);
  CHECK(other.wait(no_deadline));
  REQUIRE(other.poll({&done, 1}) == 1);
  CHECK(done.outcome == store_outcome::done);
}

TEST_CASE("a share of the stages that holds no page of the largest pool is refused") {
  shared_mover world;
  const std::uint32_t least = world.moves->page_stages();
  CHECK(least == 3);
  CHECK(aborts([&] { staged_store<plain_store> s(quick_store(), *world.moves, least - 1); }));
  CHECK(aborts([&] {
    staged_store<plain_store> s(quick_store(), *world.moves, world.moves->stages() + 1);
  }));
  staged_store<plain_store> enough(quick_store(), *world.moves, least);
  const store_item item = world.item(store_op::put, 0);
  CHECK(enough.submit({&item, 1}, no_deadline) == 1);
}

TEST_CASE("a store behind that has no memory costs no stage and no item") {
  shared_mover world;
  throwing_store behind(std::make_shared<plain_medium>(), plain_faults{.turns_max = 0}, 1);
  const std::shared_ptr<bool> throws = behind.throws;
  staged_store<throwing_store> store(behind, *world.moves, world.moves->stages());
  *throws = true;
  for (std::uint32_t page = 0; page < 4; ++page) {
    const store_item item = world.item(store_op::get, page);
    CHECK_THROWS_AS(store.submit({&item, 1}, no_deadline), std::bad_alloc);
    CHECK(store.pending() == 0);
    CHECK(world.has_all_stages(move_way::up));
  }
  // A put is taken before; it goes on when there is memory again.
  const store_item items[] = {world.item(store_op::put, 0), world.item(store_op::get, 1)};
  CHECK(store.submit(items, no_deadline) == 1);
  CHECK_THROWS_AS(store.wait(no_deadline), std::bad_alloc);
  *throws = false;
  CHECK(store.wait(no_deadline));
  store_completion done;
  REQUIRE(store.poll({&done, 1}) == 1);
  CHECK(done.op == store_op::put);
  CHECK(done.outcome == store_outcome::done);
  CHECK(store.pending() == 0);
  CHECK(world.has_all_stages(move_way::up));
  CHECK(world.has_all_stages(move_way::down));
}

TEST_CASE("what moves is planned layer by layer, and a stage holds any of them") {
  const pool_plan plan = *pool_plan::make(shapes(), {.page_size = 16});
  CHECK(stage_bytes_of(plan) == 4096);
  std::array<std::byte, 64> here{}, there{};
  const moved_pool sides[2] = {{nullptr, here.data()}, {nullptr, here.data()}};
  for (const move_way way : {move_way::up, move_way::down}) {
    const auto moved = plan_moved_layers(plan, shapes(), sides, way, {}, there.data());
    REQUIRE(moved);
    REQUIRE(moved->plans.size() == shapes().size());
    CHECK(moved->layer_in == std::vector<std::vector<std::uint32_t>>{{0, 2, 5}, {1, 3, 4}});
    for (std::uint32_t l = 0; l < shapes().size(); ++l) {
      const kv_copy_layer& view = moved->views[l];
      const kv_layer_view& staged = way == move_way::up ? view.from : view.to;
      CHECK(staged.k == there.data());
      CHECK(staged.page_stride_bytes == 4096);
      CHECK(moved->plans[l].permutes == (shapes()[l].kv == dtype::bf16));
      CHECK(moved->gaps[l][0].second == static_cast<std::size_t>(staged.v - staged.k));
    }
  }
  std::vector<kv_layer_shape> odd = shapes();
  odd[1].head_dim_qk = 500;
  const pool_plan wide = *pool_plan::make(odd, {.page_size = 16});
  CHECK(plan_moved_layers(wide, odd, sides, move_way::up, {}, there.data()).error().code ==
        errc::unsupported_shape);
}
