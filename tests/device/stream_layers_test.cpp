// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Loads and stores beside a compute, on a device that takes every liberty it has: what the compute
// reads is there, what the host gets is whole, and no page is touched after it was given back.
#include <oriel/device/stream_layers.hpp>
#include <oriel/tier/layer_gate.hpp>

#include <conformance/layer_gate_suite.hpp>
#include <device/fake_streams.hpp>
#include <kernels/attention_case.hpp>
#include <support/scale.hpp>

#include <list>
#include <memory>
#include <optional>
#include <string>

namespace stream_layers_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

using layers_of_fake = stream_layers<fake_streams>;
using fences_of_fake = stream_fences<fake_streams>;
static_assert(layer_gate<layers_of_fake::gate>);
static_assert(layer_gate<stream_layers<cuda::device_streams>::gate>);

constexpr std::uint32_t compute_stream = 0, up_stream = 1, down_stream = 2;
constexpr attention_shape tiny{1, 1, 1, 1, 16, 0, dtype::f32};  // 64 bytes of K, 64 of V.
constexpr std::size_t part_bytes = 64;

/// Pages of all layers, each filled with bytes that tell page and layer.
class toy_pool {
 public:
  toy_pool(std::uint32_t layers, std::uint32_t pages)
      : layers_(layers), bytes_(std::size_t{pages} * layers * 2 * part_bytes) {}

  [[nodiscard]] kv_layer_view layer(std::uint32_t l) const {
    std::byte* k = bytes_.data() + std::size_t{l} * 2 * part_bytes;
    return {k, k + part_bytes, std::size_t{layers_} * 2 * part_bytes};
  }
  void write(std::uint32_t page, std::uint32_t l, std::uint32_t tag) const {
    std::memset(at(page, l), content(l, tag), 2 * part_bytes);
  }
  [[nodiscard]] bool has(std::uint32_t page, std::uint32_t l, std::uint32_t tag) const {
    const std::byte* p = at(page, l);
    return std::all_of(p, p + 2 * part_bytes, [&](std::byte b) {
      return b == static_cast<std::byte>(content(l, tag));
    });
  }
  void poison_page(std::uint32_t page) const {
    std::memset(at(page, 0), 0xFF, std::size_t{layers_} * 2 * part_bytes);
  }
  [[nodiscard]] std::uint32_t layers() const { return layers_; }

 private:
  [[nodiscard]] std::byte* at(std::uint32_t page, std::uint32_t l) const {
    return bytes_.data() + (std::size_t{page} * layers_ + l) * 2 * part_bytes;
  }
  [[nodiscard]] static int content(std::uint32_t l, std::uint32_t tag) {
    return static_cast<int>((tag * 31 + l * 7) % 255);  // Never poison.
  }
  std::uint32_t layers_;
  aligned_bytes bytes_;
};

const cuda::kv_copy_plan& tiny_plan() {
  static const cuda::kv_copy_plan plan =
      *cuda::plan_kv_copy({tiny, kv_order::host, kv_order::host});
  return plan;
}

/// Copies of some pages, a few neighbouring layers each.
struct toy_copies {
  toy_copies(random_stream& random,
             const toy_pool& from,
             const toy_pool& to,
             std::vector<kv_page_pair> page_pairs)
      : pairs(std::move(page_pairs)) {
    for (std::uint32_t l = 0; l < from.layers(); ++l) {
      views.push_back({from.layer(l), to.layer(l)});
    }
    for (std::uint32_t l = 0; l < from.layers();) {
      const std::uint32_t n = std::min(1 + random.next_below(3), from.layers() - l);
      copies.push_back({&tiny_plan(), {std::span(views).subspan(l, n), pairs}, l + n});
      l += n;
    }
  }
  toy_copies(const toy_copies&) = delete;
  toy_copies& operator=(const toy_copies&) = delete;

  std::vector<kv_page_pair> pairs;
  std::vector<kv_copy_layer> views;
  std::vector<layer_copy> copies;
};

/// An engine's host side, reduced to its pages: it begins loads ahead, runs steps that read them
/// and write pages of their own, stores those, and reuses every page as soon as it may.
class toy_engine {
 public:
  toy_engine(std::uint64_t seed, std::uint32_t failing_of)
      : device_(seed, 3),
        layers_(1 + device_.random.next_below(6)),
        host_(layers_, host_pages),
        pool_(layers_, device_pages),
        fences_(*fences_of_fake::make(compute_stream, {&device_})),
        up_(*layers_of_fake::make(fences_, up_stream, layers_, {&device_})),
        down_(*layers_of_fake::make(fences_, down_stream, layers_, {&device_})) {
    device_.failing_of = failing_of;
    for (std::uint32_t p = 0; p < host_pages; ++p) {
      tags_.push_back(p % 2 == 0 ? fill(p) : 0);
    }
    for (std::uint32_t p = 0; p < device_pages; ++p) {
      free_.push_back({p, stream_fence::none});
    }
  }

  /// One turn of everything. Returns what was wrong.
  std::string turn() {
    begin_load();
    device_.steps(6);
    compute_step();
    device_.steps(6);
    begin_store();
    device_.steps(6);
    look_at_stores();
    look_at_loads();
    return wrong_;
  }
  std::string end() {
    if (!device_.drain()) {
      return "the device waits for ever";
    }
    return wrong_;
  }

  std::uint32_t joined = 0, cut_off = 0, stored = 0;

 private:
  static constexpr std::uint32_t host_pages = 16, device_pages = 12;

  struct free_page {
    std::uint32_t page;
    stream_fence fence;  // behind its last use by the compute
  };
  struct load {
    std::unique_ptr<toy_copies> copies;
    stream_load handle;
    std::vector<std::uint32_t> tags;
    bool is_joined = false;
    stream_fence fence = stream_fence::none;  // of the step that joined it
  };

  std::uint32_t fill(std::uint32_t host_page) {
    ++last_tag_;
    for (std::uint32_t l = 0; l < layers_; ++l) {
      host_.write(host_page, l, last_tag_);
    }
    return last_tag_;
  }
  std::uint32_t draw(std::uint32_t n) { return device_.random.next_below(n); }

  void begin_load() {
    std::vector<std::uint32_t> sources;
    for (std::uint32_t p = 0; p < host_pages && sources.size() < 3; ++p) {
      if (tags_[p] != 0 && draw(3) == 0) {
        sources.push_back(p);
      }
    }
    if (sources.empty() || free_.size() < sources.size() || draw(2) == 0 || !up_.can_begin()) {
      return;
    }
    std::vector<kv_page_pair> pairs;
    std::vector<std::uint32_t> tags;
    stream_fence after = stream_fence::none;
    for (const std::uint32_t p : sources) {
      const free_page to = take();
      after = std::max(after, to.fence);
      pairs.push_back({p, to.page});
      tags.push_back(std::exchange(tags_[p], 0));  // Nobody else's meanwhile.
    }
    load& l = loads_.emplace_back(
        load{std::make_unique<toy_copies>(device_.random, host_, pool_, std::move(pairs)),
             {},
             std::move(tags)});
    l.handle = up_.begin(l.copies->copies, after);
  }

  /// The pages that were free for longest: their fences are the oldest. Or any.
  free_page take() {
    const auto it = free_.begin() + (draw(2) == 0 ? 0 : draw(std::uint32_t(free_.size())));
    const free_page p = *it;
    free_.erase(it);
    return p;
  }

  void compute_step() {
    load* joining = nullptr;
    for (load& l : loads_) {
      if (!l.is_joined && (joining == nullptr || draw(2) == 0)) {
        joining = &l;
      }
    }
    const bool writes = free_.size() > 1 && draw(2) == 0;
    const free_page own = writes ? take() : free_page{};
    const std::uint32_t tag = writes ? ++last_tag_ : 0;
    bool is_cut_off = joining == nullptr;
    for (std::uint32_t l = 0; l < layers_; ++l) {
      if (!is_cut_off && draw(8) != 0) {  // Sometimes a layer is left out.
        if (!up_.wait(joining->handle, l)) {
          is_cut_off = true;
          ++cut_off;
          check(device_.failing_of != 0, "a layer that comes was refused");
        } else {
          for (std::size_t i = 0; i < joining->tags.size(); ++i) {
            read(joining->copies->pairs[i].to, l, joining->tags[i]);
          }
        }
      }
      if (writes) {
        device_.run(compute_stream, [this, page = own.page, l, tag] { pool_.write(page, l, tag); });
      }
      device_.steps(2);
    }
    const stream_fence fence = *fences_.mark();
    if (writes) {
      written_.push_back({own.page, tag, fence});
    }
    if (joining != nullptr) {
      joined += is_cut_off ? 0 : 1;
      up_.end(joining->handle);
      joining->is_joined = true;
      joining->fence = fence;
    }
  }

  /// The compute reads a page in two goes.
  void read(std::uint32_t page, std::uint32_t l, std::uint32_t tag) {
    for (int half = 0; half < 2; ++half) {
      device_.run(compute_stream, [this, page, l, tag] {
        check(pool_.has(page, l, tag), "the compute read what is not there");
      });
    }
  }

  void begin_store() {
    std::vector<std::uint32_t> targets;
    for (std::uint32_t p = 0; p < host_pages; ++p) {
      if (tags_[p] == 0 && !is_busy(p)) {
        targets.push_back(p);
      }
    }
    if (written_.empty() || targets.empty() || !down_.can_begin()) {
      return;
    }
    const written w = written_.front();
    written_.erase(written_.begin());
    const std::uint32_t to = targets[draw(std::uint32_t(targets.size()))];
    load& s = stores_.emplace_back(
        load{std::make_unique<toy_copies>(
                 device_.random, pool_, host_, std::vector<kv_page_pair>{{w.page, to}}),
             {},
             {w.tag}});
    s.fence = w.fence;
    s.handle = down_.begin(s.copies->copies, w.fence);
  }

  /// A host page that something is read from or copied to.
  [[nodiscard]] bool is_busy(std::uint32_t page) const {
    return std::ranges::any_of(stores_,
                               [&](const load& s) { return s.copies->pairs[0].to == page; }) ||
           std::ranges::any_of(loads_, [&](const load& l) {
             return std::ranges::any_of(l.copies->pairs,
                                        [&](const kv_page_pair& p) { return p.from == page; });
           });
  }

  void look_at_stores() {
    for (auto s = stores_.begin(); s != stores_.end();) {
      const kv_page_pair pages = s->copies->pairs[0];
      for (std::uint32_t l = 0; l < layers_; ++l) {
        const result<bool> here = down_.is_in_place(s->handle, l);
        check(!(here && *here) || host_.has(pages.to, l, s->tags[0]), "the host read too early");
      }
      const result<bool> done = down_.is_done(s->handle);
      if (!done || !*done) {
        ++s;
        continue;
      }
      if (!down_.has_failed(s->handle)) {
        ++stored;
        tags_[pages.to] = s->tags[0];
        pool_.poison_page(pages.from);  // Its fence is passed: it is somebody's already.
      } else {
        host_.poison_page(pages.to);
      }
      down_.end(s->handle);
      free_.push_back({pages.from, s->fence});
      s = stores_.erase(s);
    }
  }

  void look_at_loads() {
    for (auto l = loads_.begin(); l != loads_.end();) {
      const result<bool> done = up_.is_done(l->handle);
      if (!l->is_joined || !done || !*done) {
        ++l;
        continue;
      }
      for (std::size_t i = 0; i < l->tags.size(); ++i) {
        const kv_page_pair p = l->copies->pairs[i];
        host_.poison_page(p.from);  // Somebody's already.
        tags_[p.from] = draw(2) == 0 ? fill(p.from) : 0;
        free_.push_back({p.to, l->fence});
      }
      l = loads_.erase(l);
    }
  }

  void check(bool is_right, const char* what) {
    if (!is_right && wrong_.empty()) {
      wrong_ = what;
    }
  }

  struct written {
    std::uint32_t page, tag;
    stream_fence fence;
  };

  fake_device device_;
  std::uint32_t layers_;
  toy_pool host_, pool_;
  std::vector<std::uint32_t> tags_;  // [host_pages]; 0: nothing for a load
  std::vector<free_page> free_;
  std::list<load> loads_, stores_;
  std::vector<written> written_;
  std::uint32_t last_tag_ = 0;
  std::string wrong_;
  fences_of_fake fences_;
  layers_of_fake up_, down_;
};

/// One load of one page for the law.
class gate_subject {
 public:
  gate_subject(std::uint64_t seed, std::uint32_t failing_of)
      : device_(std::make_unique<fake_device>(seed, 2)),
        host_(std::make_unique<toy_pool>(5, 1)),
        pool_(std::make_unique<toy_pool>(5, 1)),
        fences_(std::make_unique<fences_of_fake>(
            *fences_of_fake::make(compute_stream, {device_.get()}))),
        layers_(std::make_unique<layers_of_fake>(
            *layers_of_fake::make(*fences_, up_stream, 5, {device_.get()}))) {
    device_->failing_of = failing_of;
    for (std::uint32_t l = 0; l < 5; ++l) {
      host_->write(0, l, 9);
    }
  }

  layers_of_fake::gate& gate() { return *gate_; }
  [[nodiscard]] std::uint32_t layers() const { return 5; }
  void begin() {
    if (gate_) {
      layers_->end(load_);
      REQUIRE(layers_->finish(load_));
      REQUIRE(device_->drain());
    }
    pool_->poison_page(0);
    copies_ = std::make_unique<toy_copies>(
        device_->random, *host_, *pool_, std::vector<kv_page_pair>{{0, 0}});
    REQUIRE(layers_->can_begin());
    load_ = layers_->begin(copies_->copies, stream_fence::none);
    gate_.emplace(layers_->gate_of(load_));
  }
  void compute() { device_->steps(3); }
  [[nodiscard]] bool is_in_place(std::uint32_t layer) {
    std::optional<bool> seen;
    device_->run(compute_stream, [&] { seen = pool_->has(0, layer, 9); });
    while (!seen) {
      REQUIRE(device_->step());
    }
    return *seen;
  }
  [[nodiscard]] bool may_fail(std::uint32_t) const { return device_->failing_of != 0; }

 private:
  std::unique_ptr<fake_device> device_;
  std::unique_ptr<toy_pool> host_, pool_;
  std::unique_ptr<toy_copies> copies_;
  std::unique_ptr<fences_of_fake> fences_;
  std::unique_ptr<layers_of_fake> layers_;
  std::optional<layers_of_fake::gate> gate_;
  stream_load load_;
};

}  // namespace

TEST_CASE("loads and stores beside a compute: nothing is read early or touched late") {
  std::uint32_t joined = 0, cut_off = 0, stored = 0;
  for (std::uint64_t seed = 1; seed <= scaled(400); ++seed) {
    toy_engine engine(seed, seed % 2 == 0 ? 0 : 30);
    for (int i = 0; i < 60; ++i) {
      const std::string wrong = engine.turn();
      INFO("seed " << seed << ", turn " << i);
      REQUIRE(wrong == "");
    }
    INFO("seed " << seed);
    REQUIRE(engine.end() == "");
    joined += engine.joined, cut_off += engine.cut_off, stored += engine.stored;
  }
  CHECK(joined > scaled(400) * 5);
  CHECK(cut_off > scaled(400) / 4);
  CHECK(stored > scaled(400) * 5);
}

TEST_CASE("stream_layers' gate is a layer_gate") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    check_layer_gate([&] { return gate_subject(seed, seed % 2 == 0 ? 0 : 6); });
  }
}

TEST_CASE("three loads are on their way, and a fourth when one is over") {
  fake_device device(1, 2);
  const toy_pool host(2, 3), pool(2, 3);
  {
    auto fences = *fences_of_fake::make(compute_stream, {&device});
    auto layers = *layers_of_fake::make(fences, up_stream, 2, {&device});
    const toy_copies copies(device.random, host, pool, {{0, 1}});
    std::vector<stream_load> loads;
    for (int i = 0; i < 3; ++i) {
      REQUIRE(layers.can_begin());
      loads.push_back(layers.begin(copies.copies, stream_fence::none));
    }
    CHECK_FALSE(layers.can_begin());
    REQUIRE(device.drain());
    CHECK_FALSE(layers.can_begin());  // Done, but somebody may yet wait for their layers.
    layers.end(loads[1]);
    CHECK(layers.can_begin());
    CHECK(*layers.is_done(loads[1]));
    const stream_load fourth = layers.begin(copies.copies, stream_fence::none);
    CHECK_FALSE(*layers.is_done(fourth));
    CHECK(*layers.is_done(loads[1]));  // Its events are of another load: it was done.
    CHECK_FALSE(*layers.is_in_place(fourth, 0));
    CHECK(layers.finish(fourth));
    CHECK(*layers.is_in_place(fourth, 1));
    CHECK(*layers.is_in_place(fourth, 2));  // Nothing comes for it.
    auto moved = std::move(layers);
    CHECK(*moved.is_done(fourth));
  }
  CHECK(device.live_events == 0);
}

TEST_CASE("a load of nothing is done, and its layers are open") {
  fake_device device(1, 2);
  auto fences = *fences_of_fake::make(compute_stream, {&device});
  auto layers = *layers_of_fake::make(fences, up_stream, 2, {&device});
  const stream_load load = layers.begin({}, stream_fence::none);
  CHECK(layers.wait(load, 0));
  CHECK(*layers.is_done(load));
  CHECK_FALSE(layers.has_failed(load));
  CHECK(layers.finish(load));
}

TEST_CASE("leads and stalls are the times between a copy's end and the compute's question") {
  fake_device device(5, 2);
  const toy_pool host(1, 3), pool(1, 3);
  auto fences = *fences_of_fake::make(compute_stream, {&device});
  auto layers = *layers_of_fake::make(fences, up_stream, 1, {&device});
  const toy_copies copies(device.random, host, pool, {{0, 1}});
  const auto run = [&](bool is_late) {
    for (int i = 0; i < (is_late ? 60 : 0); ++i) {
      device.run(up_stream, [] {});
    }
    const stream_load load = layers.begin(copies.copies, stream_fence::none);
    if (!is_late) {
      REQUIRE(device.drain());
    }
    CHECK(layers.wait(load, 0));
    layers.end(load);
    REQUIRE(device.drain());
    REQUIRE(layers.can_begin());
  };
  run(false);
  CHECK(layers.counters().waits == 1);
  CHECK(layers.counters().late_waits == 0);
  CHECK(layers.counters().lead_us > 0);
  CHECK(layers.counters().stall_us == 0);
  run(true);
  CHECK(layers.counters().loads == 2);
  CHECK(layers.counters().waits == 2);
  CHECK(layers.counters().late_waits == 1);
  CHECK(layers.counters().stall_us > 50);
}

TEST_CASE("what no event covers is never called done") {
  fake_device device(1, 2);
  const toy_pool host(2, 3), pool(2, 3);
  auto fences = *fences_of_fake::make(compute_stream, {&device});
  auto layers = *layers_of_fake::make(fences, up_stream, 2, {&device});
  const toy_copies copies(device.random, host, pool, {{0, 1}});
  device.events_left = 0;
  const stream_load load = layers.begin(copies.copies, stream_fence::none);
  CHECK_FALSE(layers.wait(load, 0));
  CHECK(layers.has_failed(load));
  layers.end(load);
  REQUIRE(device.drain());
  CHECK(layers.is_done(load).error().code == errc::device_failure);
  CHECK_FALSE(layers.finish(load));
  CHECK_FALSE(fences.mark());
}

TEST_CASE("a lost device ends loads with its failure, and frees their sets") {
  fake_device device(1, 3);
  const toy_pool host(2, 3), pool(2, 3);
  auto fences = *fences_of_fake::make(compute_stream, {&device});
  auto up = *layers_of_fake::make(fences, up_stream, 2, {&device});
  auto down = *layers_of_fake::make(fences, down_stream, 2, {&device});
  const toy_copies copies(device.random, host, pool, {{0, 1}});
  std::vector<stream_load> loads;
  for (int i = 0; i < 3; ++i) {
    loads.push_back(up.begin(copies.copies, stream_fence::none));
  }
  device.lose();
  CHECK(up.finish(loads[2]).error().native == fake_streams::no.native);
  for (const stream_load load : loads) {
    CHECK(up.is_done(load).error().code == errc::device_failure);
    CHECK(up.is_in_place(load, 0).error().code == errc::device_failure);
    CHECK_FALSE(up.wait(load, 0));
    up.end(load);
  }
  for (int i = 0; i < 7; ++i) {  // More than there are sets.
    REQUIRE(up.can_begin());
    const stream_load later = up.begin(copies.copies, stream_fence::none);
    CHECK(up.has_failed(later));
    CHECK(up.is_done(later).error().native == fake_streams::no.native);
    up.end(later);
  }
  CHECK(up.is_done(loads[0]).error().code == errc::device_failure);  // Not done, for all we know.
  // The other way learns of it without asking.
  const stream_load other = down.begin(copies.copies, stream_fence::none);
  CHECK(down.has_failed(other));
  CHECK(down.finish(other).error().native == fake_streams::no.native);
  CHECK(up.can_begin());
  CHECK(up.counters().failed_loads == 10);
}

TEST_CASE("events that cannot be made leave none behind") {
  for (std::uint32_t events = 0; events < 3 + 12; ++events) {
    fake_device device(1, 2);
    device.events_left = events;
    if (auto fences = fences_of_fake::make(compute_stream, {&device})) {
      const auto layers = layers_of_fake::make(*fences, up_stream, 2, {&device});
      CHECK_FALSE(layers);
      CHECK(layers.error().code == errc::device_failure);
    }
    CHECK(device.live_events == 0);
  }
}

}  // namespace stream_layers_test
