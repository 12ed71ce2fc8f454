// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What the engine makes of layer-wise overlap: a request whose prefix only a tier has, of equal
// layers, each of whose loads takes 80 % of its compute. Compute on one thread; the tier's copies
// on another.
//
//     bench.engine.overlap [rounds]
//
// Ways, turn by turn in one run, the device emptied before each:
//
//     on the device       nothing to load: the compute alone
//     load, then compute  the tier answers when all has come, as if it knew no layers
//     layer by layer      the request is alone: its load begins when it comes, and nothing hides
//                         its first layers
//     beside a decode     another request decodes: the load begins in the steps before, layer 0's
//                         too, and the request starts when the engine expects that it will
//                         hardly wait
//
// `step`: from when nobody else has rows, or from the start of the step with the request's rows,
// until its first token. `stall`: what engine_metrics::stall_us grew by meanwhile. The tier is a
// memory_store that answers at a rate; bytes are compared by the logits of the first token.
#include <oriel/model/presets.hpp>
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <engine/engine.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace oriel;

constexpr std::uint32_t layers = 16, page_tokens = 64, prefix_tokens = 4'096, new_tokens = 128;
constexpr double load_share = 0.8;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0.0 : values[values.size() / 2];
}

/// Pages outlive an engine here.
using medium = store_thread<memory_store<>>;

/// How a tier answers; changed between requests.
struct pace {
  double bytes_per_us = 1e9;
  bool is_whole = false;  ///< nothing before all that is asked for has come
};

/// Gets take bytes / rate, one after another, and the time of the memory below.
class paced_store {
 public:
  paced_store(std::shared_ptr<medium> below, const pace& pace)
      : below_(std::move(below)), pace_(pace) {}

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    const std::size_t taken = below_->submit(items, deadline_us);
    for (const store_item& item : items.first(taken)) {
      double us = 0;
      if (item.op == store_op::get) {
        for (const auto& slice : item.slices) {
          us += static_cast<double>(slice.size()) / pace_.bytes_per_us;
        }
        free_us_ = std::max(free_us_, now_us()) + us;
      }
      held_.push_back({item.user, item.op == store_op::get ? free_us_ : 0.0, {}, false});
    }
    return taken;
  }
  std::size_t poll(std::span<store_completion> done) {
    store_completion came[64];
    for (std::size_t got = below_->poll(came); got != 0; got = below_->poll(came)) {
      for (const store_completion& c : std::span(came).first(got)) {
        const auto at = std::ranges::find_if(
            held_, [&](const held& h) { return !h.has_come && h.user == c.user; });
        at->completion = c;
        at->has_come = true;
      }
    }
    std::size_t count = 0;
    if (is_any_ready()) {
      std::erase_if(held_, [&](const held& h) {
        const bool goes = h.has_come && h.ready_us <= now_us() && count < done.size();
        if (goes) {
          done[count] = h.completion;
          done[count++].done_us = static_cast<std::uint64_t>(h.ready_us);  // As a thread would say.
        }
        return goes;
      });
    }
    return count;
  }
  bool wait(std::uint64_t until_us) {
    if (held_.empty()) {
      return false;
    }
    if (std::ranges::none_of(held_, &held::has_come)) {
      return below_->wait(until_us);
    }
    double next_us = 1e30;
    for (const held& h : held_) {
      next_us = std::min(next_us, pace_.is_whole ? free_us_ : h.ready_us);
    }
    const double end_us = std::min(static_cast<double>(until_us), next_us);
    if (const double left_us = end_us - now_us(); left_us > 0) {
      std::this_thread::sleep_for(std::chrono::duration<double, std::micro>(left_us));
    }
    return next_us <= now_us();
  }
  [[nodiscard]] std::size_t pending() const { return held_.size(); }
  [[nodiscard]] store_stats stats() const { return below_->stats(); }
  [[nodiscard]] store_fault last_fault() const { return below_->last_fault(); }

 private:
  struct held {
    std::uint64_t user;
    double ready_us;
    store_completion completion;
    bool has_come;
  };
  static double now_us() { return static_cast<double>(engine::steady_now_us()); }
  [[nodiscard]] bool is_any_ready() const {
    return !pace_.is_whole || now_us() >= free_us_ ||
           std::ranges::any_of(held_, [](const held& h) { return h.ready_us == 0.0; });
  }

  std::shared_ptr<medium> below_;
  const pace& pace_;
  double free_us_ = 0;
  std::vector<held> held_;
};

model_geometry equal_layers() {
  model_geometry m = *preset("bench-0.4b");
  m.layers.assign(layers, m.layers[0]);  // A full one.
  m.vocabulary = 1'024;
  return m;
}

/// The logits of each request's first token.
class first_logits final : public engine::logits_observer {
 public:
  void on_logits(request_id id, std::uint32_t position, std::span<const float> logits) override {
    if (id == watched && position == prefix_tokens + new_tokens) {
      seen.assign(logits.begin(), logits.end());
    }
  }
  request_id watched{};
  std::vector<float> seen;
};

engine::engine_options options_of(first_logits& observer) {
  engine::engine_options o;
  o.page_tokens = page_tokens;
  o.chunk_tokens = new_tokens + 1;
  o.sequences_max = 2;
  o.context_tokens = prefix_tokens + 2 * new_tokens;
  o.tier_moves.fetch_us_min = o.tier_moves.fetch_us_max = 60'000'000;
  o.observer = &observer;
  return o;
}

engine::tokenizer no_text() {
  return engine::tokenizer::parse(R"({
    "model": {"type": "BPE", "vocab": {"!": 0}, "merges": []},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    "decoder": {"type": "ByteLevel"}})");
}

struct way_times {
  std::vector<double> step_ms, stall_ms;
  std::uint64_t joined = 0;
};

class world {
 public:
  world()
      : model_(equal_layers()),
        weights_(engine::random_weights(model_, dtype::bf16, 1)),
        tokens_(no_text()),
        options_(options_of(observer_)) {
    const page_shape shape = engine::kv_page_shape(model_, options_, dtype::bf16);
    medium_ =
        std::make_shared<medium>(store_thread_options{.queue_items = 4096},
                                 memory_store_options{.page_size = page_tokens,
                                                      .slice_bytes = shape.slice_bytes,
                                                      .capacity_bytes = std::uint64_t{512} << 20});
    for (std::uint32_t i = 0; i < prefix_tokens + new_tokens; ++i) {
      prompt_.push_back(token_id{(i * 37 + i / 11) % model_.vocabulary});
    }
    for (const std::uint64_t bytes : shape.slice_bytes[0]) {
      page_bytes_ += bytes;
    }
    engine::engine e(
        model_, weights_, tokens_, options_, executor_, tiers(placement::write_through));
    std::vector<token_id> prefix(prompt_.begin(), prompt_.begin() + prefix_tokens);
    prefix.push_back(token_id{1});  // Not the next of the prompt: its page stays a miss.
    submit(e, prefix, 1);
    while (!e.idle()) {
      e.step();
    }
    e.cache()->tiers()->finish(no_deadline);
    engine_.emplace(model_, weights_, tokens_, options_, executor_, tiers(placement::read_only));
  }

  /// The prefix is on the device, by a request that came before.
  void run_on_device(way_times& times) {
    way_times uncounted;
    run(uncounted, false, false);  // It brings the prefix.
    forget_suffix_and(false);
    run(times, false, false);
  }
  void run_from_tier(way_times& times, bool is_whole, bool is_beside) {
    forget_suffix_and(true);
    pace_.is_whole = is_whole;
    run(times, is_beside, true);
    pace_.is_whole = false;
  }
  /// A step of `step_ms` without loads takes 1 / load_share of what the tier takes. Starts anew,
  /// with that rate known.
  void set_pace(double step_ms) {
    pace_.bytes_per_us = load_bytes() / (load_share * 1e3 * step_ms);
    engine_.emplace(model_, weights_, tokens_, options_, executor_, tiers(placement::read_only));
  }
  [[nodiscard]] double load_bytes() const {
    return static_cast<double>(page_bytes_) * prefix_tokens / page_tokens;
  }
  [[nodiscard]] double bytes_per_us() const { return pace_.bytes_per_us; }

 private:
  std::vector<tier> tiers(placement writes) {
    std::vector<tier> all;
    all.push_back({.store = any_store(std::make_unique<paced_store>(medium_, pace_)),
                   .role = tier_role::host,
                   .writes = writes,
                   .rates = {.latency_s = 1e-4, .bytes_per_s = 1e6 * pace_.bytes_per_us}});
    return all;
  }
  request_id submit(engine::engine& e, std::vector<token_id> prompt, std::uint32_t answer) {
    request r;
    r.id = request_id{++last_id_};
    r.prompt = std::move(prompt);
    r.max_new_tokens = answer;
    if (!e.submit(std::move(r))) {
      throw std::runtime_error("a request was not taken");
    }
    return request_id{last_id_};
  }
  /// What the device keeps: nothing, or the prefix without what came behind it.
  void forget_suffix_and(bool prefix) {
    auto& tree = engine_->cache()->tree();
    const std::uint32_t kept = prefix ? 0 : prefix_tokens / page_tokens;
    tree.evict_full(tree.full_pages() - std::min(kept, tree.full_pages()), engine::steady_now_us());
    if (tree.full_pages() != kept) {
      throw std::runtime_error("the device was not emptied");
    }
  }
  void run(way_times& times, bool is_beside, bool is_from_tier) {
    engine::engine& e = *engine_;
    request_id beside{};
    if (is_beside) {
      beside = submit(e, {token_id{7}, token_id{9}}, 2 * new_tokens);
      e.step(), e.step();
    }
    const std::uint64_t joined = e.metrics().requests_joined.value();
    const std::uint64_t computed = e.metrics().prompt_tokens.value();
    const std::uint64_t stall_us = e.metrics().stall_us.value();
    observer_.watched = submit(e, prompt_, 1);
    observer_.seen.clear();
    double step_us = 0;
    for (bool is_over = false; !is_over;) {
      const std::uint64_t begin_us = engine::steady_now_us();
      for (const engine::event& happened : e.step()) {
        is_over |= happened.id == observer_.watched && happened.finish != finish_reason::none;
      }
      const auto took_us = static_cast<double>(engine::steady_now_us() - begin_us);
      step_us += is_beside && !is_over ? 0.0 : took_us;
    }
    if (is_beside) {
      e.cancel(beside);
    }
    if (is_from_tier && e.metrics().prompt_tokens.value() - computed != new_tokens) {
      throw std::runtime_error("the prefix did not come from the tier");
    }
    if (logits_.empty()) {
      logits_ = observer_.seen;
    }
    if (observer_.seen.empty() || observer_.seen != logits_) {
      throw std::runtime_error("the logits differ");
    }
    times.step_ms.push_back(1e-3 * step_us);
    times.stall_ms.push_back(1e-3 * static_cast<double>(e.metrics().stall_us.value() - stall_us));
    times.joined += e.metrics().requests_joined.value() - joined;
  }

  model_geometry model_;
  engine::model_weights weights_;
  engine::tokenizer tokens_;
  first_logits observer_;
  engine::engine_options options_;
  serial_executor executor_;
  pace pace_;
  std::shared_ptr<medium> medium_;
  std::optional<engine::engine> engine_;
  std::vector<token_id> prompt_;
  std::uint64_t page_bytes_ = 0;
  std::uint32_t last_id_ = 0;
  std::vector<float> logits_;
};

void print(const char* way, const way_times& t) {
  std::vector<double> shares;
  for (std::size_t i = 0; i < t.step_ms.size(); ++i) {
    shares.push_back(100 * t.stall_ms[i] / t.step_ms[i]);
  }
  std::printf("| %s | %.1f | %.2f | %.2f | %.1f %% | %llu of %zu |\n",
              way,
              median(t.step_ms),
              median(t.stall_ms),
              t.stall_ms.empty() ? 0.0 : *std::ranges::max_element(t.stall_ms),
              median(shares),
              static_cast<unsigned long long>(t.joined),
              t.step_ms.size());
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 9;
  world w;
  way_times sizing, device, first, alone, beside;
  for (int r = 0; r < 5; ++r) {
    w.run_on_device(sizing);
  }
  w.set_pace(median(sizing.step_ms));
  for (int r = 0; r < rounds; ++r) {
    w.run_on_device(device);
    w.run_from_tier(first, true, false);
    w.run_from_tier(alone, false, false);
    w.run_from_tier(beside, false, true);
  }
  std::printf("%u layers, %u rows behind %u tokens, %.1f MB at %.0f MB/s: %.1f ms of load\n",
              layers,
              new_tokens,
              prefix_tokens,
              1e-6 * w.load_bytes(),
              w.bytes_per_us(),
              1e-3 * w.load_bytes() / w.bytes_per_us());
  std::printf("| way | step ms | stall ms | longest | stall, of step | joined |\n");
  std::printf("|---|---|---|---|---|---|\n");
  print("on the device", device);
  print("load, then compute", first);
  print("layer by layer, alone", alone);
  print("layer by layer, beside a decode", beside);
  return 0;
}
