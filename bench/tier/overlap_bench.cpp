// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What layer-wise loading saves: steps whose layers each need pages from a store, sized so that a
// layer's load takes 80 % of its compute. Compute on one thread, the loads on one other.
//
//     bench.tier.overlap [layers [rounds]]
//
// Ways, turn by turn in one run: no load at all; every load before the step's compute; layer by
// layer beside it, begun with the step; the same, begun while the step before is in its last layer.
// Stores: `memory_store`, whose memcpy shares caches and memory bandwidth with the compute; and one
// that only takes its time, as a disk or a copy engine does. Needs two quiet cores: a step whose
// compute thread was off its CPU for more than 2 % of it is not counted, and the last column says
// how many were.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/tier/layer_loader_thread.hpp>
#include <oriel/tier/memory_store.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using namespace oriel;

constexpr std::uint32_t page_size = 64, pages = 48;
constexpr double load_share = 0.8;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// One layer's compute: products with a matrix that stays in the cache, as often as it takes.
class layer_compute {
 public:
  explicit layer_compute(double seconds)
      : plan_(*host::plan_gemm({1'024, 1'024, dtype::f32}, rows, 1)),
        weights_(plan_.packed_bytes + 64),
        workspace_(plan_.workspace_bytes + 64),
        x_(rows * 1'024, 0.5f),
        out_(rows * 1'024) {
    const std::vector<float> w(1'024 * 1'024, 0.001f);
    host::pack_gemm_weights(plan_, w.data(), 0, 1'024, aligned(weights_));
    run();
    std::vector<double> times;
    for (int i = 0; i < 50; ++i) {
      const double begin = now_s();
      run();
      times.push_back(now_s() - begin);
    }
    calls_ = std::max(1, static_cast<int>(seconds / *std::ranges::min_element(times) + 0.5));
  }
  void run() {
    for (int i = 0; i < calls_; ++i) {
      host::run_gemm(plan_,
                     {.out = out_.data(),
                      .out_stride = 1'024,
                      .x = x_.data(),
                      .x_stride = 1'024,
                      .weights = aligned(weights_),
                      .rows = rows},
                     {aligned(workspace_), plan_.workspace_bytes},
                     executor_);
    }
  }

 private:
  static constexpr std::uint32_t rows = 64;
  static std::byte* aligned(std::vector<std::byte>& bytes) {
    return bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
  }
  host::gemm_plan plan_;
  std::vector<std::byte> weights_, workspace_;
  std::vector<float> x_, out_;
  serial_executor executor_;
  int calls_ = 1;
};

/// Layers in one full pool, `pages` pages of them.
struct step_pages {
  step_pages(std::uint32_t layers, std::uint64_t slice_bytes)
      : bytes(std::size_t{pages} * layers * slice_bytes), slices(pages), identities(pages) {
    for (std::uint32_t l = 0; l < layers; ++l) {
      homes.push_back({full_pool, l});
    }
    for (std::uint32_t p = 0; p < pages; ++p) {
      page_key key;
      key.link.bytes[0] = std::byte(static_cast<std::uint8_t>(p + 1));
      for (std::uint32_t l = 0; l < layers; ++l) {
        slices[p].emplace_back(bytes.data() + (std::size_t{p} * layers + l) * slice_bytes,
                               slice_bytes);
      }
      list.push_back({.key = key, .identity = &identities[p], .slices = slices[p]});
    }
  }
  std::vector<std::byte> bytes;
  std::vector<std::vector<std::span<std::byte>>> slices;
  std::vector<page_identity> identities;
  std::vector<layer_home> homes;
  std::vector<layer_page> list;
};

/// Gets take bytes / rate one after another, and no CPU: a disk, a network card, a copy engine.
class timed_store {
 public:
  explicit timed_store(double bytes_per_us) : bytes_per_us_(bytes_per_us) {}
  std::size_t submit(std::span<const store_item> items, std::uint64_t) {
    for (const store_item& item : items) {
      double bytes = 0;
      for (const auto& slice : item.slices) {
        bytes += static_cast<double>(slice.size());
      }
      free_us_ = std::max(free_us_, static_cast<double>(clock_.now_us())) + bytes / bytes_per_us_;
      orders_.push_back({item.user, static_cast<std::uint64_t>(free_us_)});
    }
    return items.size();
  }
  std::size_t poll(std::span<store_completion> done) {
    std::size_t count = 0;
    const std::uint64_t now = clock_.now_us();
    for (; count < done.size() && first_ < orders_.size() && orders_[first_].done_us <= now;
         ++count) {
      done[count] = {.user = orders_[first_++].user, .outcome = store_outcome::done};
    }
    if (first_ == orders_.size()) {
      orders_.clear();
      first_ = 0;
    }
    return count;
  }
  bool wait(std::uint64_t until_us) {
    const std::uint64_t now = clock_.now_us();
    const std::uint64_t end = pending() == 0 ? now : std::min(until_us, orders_[first_].done_us);
    if (end > now) {
      std::this_thread::sleep_for(std::chrono::microseconds(end - now));
    }
    return pending() != 0 && orders_[first_].done_us <= clock_.now_us();
  }
  [[nodiscard]] std::size_t pending() const { return orders_.size() - first_; }
  [[nodiscard]] store_stats stats() const { return {}; }
  [[nodiscard]] store_fault last_fault() const { return {}; }

 private:
  struct order {
    std::uint64_t user = 0, done_us = 0;
  };
  monotonic_clock clock_;
  double bytes_per_us_, free_us_ = 0;
  std::vector<order> orders_;
  std::size_t first_ = 0;
};

memory_store_options memory_for(std::uint32_t layers, std::uint64_t slice_bytes) {
  return {.page_size = page_size,
          .slice_bytes = {std::vector<std::uint64_t>(layers, slice_bytes)},
          .capacity_bytes = (pages + 1) * (layers * slice_bytes + 4'096),
          .copy_bytes_per_poll = 1 << 20};
}

void put_pages(memory_store<>& store, step_pages& step) {
  std::ranges::fill(step.bytes, std::byte{0x3C});
  for (const layer_page& p : step.list) {
    const store_item item{
        .op = store_op::put, .key = p.key, .identity = p.identity, .slices = p.slices};
    store_completion done;
    store.submit({&item, 1}, no_deadline);
    while (store.poll({&done, 1}) == 0) {
    }
    if (done.outcome != store_outcome::done) {
      throw std::runtime_error("the store took no page");
    }
  }
}

/// Milliseconds of steps of one way.
struct way_times {
  std::vector<double> step, compute, load, stall, first_lead, last_lead;
  int steps = 0, disturbed = 0;
};

template <class Store>
class step_runner {
 public:
  step_runner(Store& store, step_pages& step, layer_compute& compute)
      : step_(step), compute_(compute), loader_({&store}, {}) {}

  void run_without_load(way_times& times) {
    const double begin = now_s();
    const std::uint64_t cpu = detail::worker_thread::cpu_us();
    for (std::size_t l = 0; l < step_.homes.size(); ++l) {
      compute_.run();
    }
    note(times, now_s() - begin, cpu, 0);
  }

  /// The load begins with the step. @param all_first  and all of it comes before the compute
  void run_begun_with_step(way_times& times, bool all_first) {
    const double begin = now_s();
    const std::uint64_t cpu = detail::worker_thread::cpu_us();
    loader_.begin(step_.homes, step_.list);
    last_begun_us_ = clock_.now_us();
    for (std::uint32_t l = 0; all_first && l < step_.homes.size(); ++l) {
      check(loader_.wait(l));
    }
    for (std::uint32_t l = 0; l < step_.homes.size(); ++l) {
      check(all_first || loader_.wait(l));
      compute_.run();
    }
    const double end = now_s();
    waits_.assign(loader_.waits().begin(), loader_.waits().end());
    if (note(times, end - begin, cpu, stall_s())) {
      note_layers(times);
    }
    loader_.finish();
  }

  /// Steps one behind the other; the first one's load begins in the last layer of one before.
  void run_layer_by_layer(way_times& times, int steps) {
    loader_.begin(step_.homes, step_.list);
    begun_us_ = clock_.now_us();
    compute_.run();
    for (int s = 0; s < steps; ++s) {
      const double begin = now_s();
      const std::uint64_t cpu = detail::worker_thread::cpu_us();
      double stall = 0;
      for (std::uint32_t l = 0; l < step_.homes.size(); ++l) {
        check(loader_.wait(l));
        if (l + 1 == step_.homes.size()) {
          stall = stall_s();
          waits_.assign(loader_.waits().begin(), loader_.waits().end());
          loader_.finish();
          last_begun_us_ = begun_us_;
          loader_.begin(step_.homes, step_.list);
          begun_us_ = clock_.now_us();
        }
        compute_.run();
      }
      if (note(times, now_s() - begin, cpu, stall)) {
        note_layers(times);
      }
    }
    loader_.finish();
  }

 private:
  static void check(bool is_open) {
    if (!is_open) {
      throw std::runtime_error("a load failed");
    }
  }
  [[nodiscard]] double stall_s() const {
    double us = 0;
    for (const layer_wait& w : loader_.waits()) {
      us += static_cast<double>(w.stall_us());
    }
    return 1e-6 * us;
  }
  bool note(way_times& times, double step_s, std::uint64_t cpu_before, double stall) {
    const double cpu_s = 1e-6 * static_cast<double>(detail::worker_thread::cpu_us() - cpu_before);
    ++times.steps;
    if (step_s - stall - cpu_s > 0.02 * step_s) {
      ++times.disturbed;
      return false;
    }
    times.step.push_back(1e3 * step_s);
    times.compute.push_back(1e3 * (step_s - stall));
    times.stall.push_back(1e3 * stall);
    return true;
  }
  void note_layers(way_times& times) {
    times.load.push_back(1e-3 * static_cast<double>(waits_.back().ready_us - last_begun_us_));
    times.first_lead.push_back(1e-3 * static_cast<double>(waits_.front().lead_us()));
    times.last_lead.push_back(1e-3 * static_cast<double>(waits_.back().lead_us()));
  }

  step_pages& step_;
  layer_compute& compute_;
  layer_loader_thread<Store> loader_;
  monotonic_clock clock_;
  std::uint64_t begun_us_ = 0, last_begun_us_ = 0;
  std::vector<layer_wait> waits_;
};

void print(const char* store, const char* way, const way_times& t, double predicted_ms) {
  std::printf("| %s | %s | %.2f | %.2f | %.2f | %.3f | %.3f | %.3f | %.1f %% | %.2f | %.2f | ",
              store,
              way,
              median(t.step),
              median(t.compute),
              median(t.load),
              median(t.stall),
              t.stall.empty() ? 0.0 : *std::ranges::max_element(t.stall),
              predicted_ms,
              t.step.empty() ? 0.0 : 100 * median(t.stall) / median(t.step),
              median(t.first_lead),
              median(t.last_lead));
  std::printf("%zu of %d |\n", t.step.size(), t.steps);
}

template <class Store>
void compare(const char* name, Store& store, step_pages& step, layer_compute& compute, int rounds) {
  step_runner<Store> runner(store, step, compute);
  way_times none, first, beside, layered, warm;
  runner.run_layer_by_layer(warm, 2);
  for (int r = 0; r < rounds; ++r) {
    runner.run_without_load(none);
    runner.run_begun_with_step(first, true);
    runner.run_begun_with_step(beside, false);
    runner.run_layer_by_layer(layered, 3);
  }
  // By the rates of the same run.
  const std::size_t layers = step.homes.size();
  const double bytes = static_cast<double>(step.bytes.size());
  const double layer_s = 1e-3 * median(none.compute) / static_cast<double>(layers);
  const std::vector<std::uint64_t> layer_bytes(layers, step.bytes.size() / layers);
  const std::vector<double> seconds(layers, layer_s);
  const auto predicted_ms = [&](const way_times& t, double lead_s) {
    return 1e3 * predict_stall(layer_bytes, seconds, {0, 1e3 * bytes / median(t.load)}, lead_s);
  };
  print(name, "no load", none, 0);
  print(name, "load, then compute", first, median(first.load));
  print(name, "layer by layer, begun with the step", beside, predicted_ms(beside, 0));
  print(name, "layer by layer, begun a layer earlier", layered, predicted_ms(layered, layer_s));
}

/// Bytes per second of a load with nothing beside it.
double load_rate(std::uint32_t layers, std::uint64_t slice_bytes) {
  memory_store<> store(memory_for(layers, slice_bytes));
  step_pages step(layers, slice_bytes);
  put_pages(store, step);
  layer_loader_thread<memory_store<>> loader({&store});
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const double begin = now_s();
    loader.begin(step.homes, step.list);
    loader.finish();
    best = std::max(best, static_cast<double>(step.bytes.size()) / (now_s() - begin));
  }
  return best;
}

}  // namespace

int main(int count, char** arguments) {
  const auto layers = static_cast<std::uint32_t>(count > 1 ? std::atoi(arguments[1]) : 16);
  const int rounds = count > 2 ? std::atoi(arguments[2]) : 9;
  layer_compute compute(4e-3);
  std::vector<double> times;
  for (int i = 0; i < 40; ++i) {
    const double begin = now_s();
    compute.run();
    times.push_back(now_s() - begin);
  }
  std::ranges::sort(times);
  const double layer_s = times[times.size() / 4];  // Others are on the machine: the quiet ones.
  std::uint64_t slice_bytes = 512 << 10;
  double rate = 0;
  for (int i = 0; i < 2; ++i) {
    rate = load_rate(layers, slice_bytes);
    slice_bytes = static_cast<std::uint64_t>(load_share * layer_s * rate / pages) / 4'096 * 4'096;
  }
  std::fprintf(stderr,
               "%u layers of %.2f ms; %u pages, %.1f MB a layer, at %.2f GB/s alone\n",
               layers,
               1e3 * layer_s,
               pages,
               1e-6 * static_cast<double>(slice_bytes * pages),
               1e-9 * rate);
  std::printf(
      "| store | way | step ms | compute ms | load ms | stall ms | longest | predicted | "
      "stall | lead of layer 0 ms | of the last ms | undisturbed |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  step_pages step(layers, slice_bytes);
  {
    timed_store store(1e-6 * static_cast<double>(slice_bytes * pages) / (load_share * layer_s));
    compare("timed", store, step, compute, rounds);
  }
  memory_store<> store(memory_for(layers, slice_bytes));
  put_pages(store, step);
  compare("memory", store, step, compute, rounds);
  return 0;
}
