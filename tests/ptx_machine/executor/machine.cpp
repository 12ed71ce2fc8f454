// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which blocks are resident, and which warp's turn it is.
#include "machine.hpp"
#include "warp.hpp"

#include <ptx_machine/block/async.hpp>

#include <algorithm>

namespace oriel::ptx_machine {
namespace {

constexpr std::uint32_t block_threads_max = 1024;
constexpr std::uint32_t shared_bytes_max = 227 * 1024;

std::uint64_t count(const dimensions& d) {
  return std::uint64_t{d.x} * d.y * d.z;
}

dimensions nth(std::uint64_t i, const dimensions& d) {
  return {static_cast<std::uint32_t>(i % d.x),
          static_cast<std::uint32_t>(i / d.x % d.y),
          static_cast<std::uint32_t>(i / d.x / d.y)};
}

/// What a launch leaves for the next one of its thread: registers, shared memory. (For ever: at the end of the process
/// somebody may still wait for a launch.)
std::vector<std::vector<std::byte>>& spare_memory() {
  static thread_local auto* const all = new std::vector<std::vector<std::byte>>;
  return *all;
}

std::vector<std::byte> taken_memory() {
  std::vector<std::byte> taken;
  if (!spare_memory().empty()) {
    taken = std::move(spare_memory().back());
    spare_memory().pop_back();
  }
  return taken;
}

/// A block with its registers as its products see them.
struct resident_block : block, warp_registers {
  explicit resident_block(const decoded_kernel& k) : program(&k), registers(taken_memory()) {
    shared = taken_memory();
  }
  ~resident_block() override {
    spare_memory().push_back(std::move(shared));
    spare_memory().push_back(std::move(registers));
  }
  resident_block(const resident_block&) = delete;
  resident_block& operator=(const resident_block&) = delete;

  const decoded_kernel* program;
  std::vector<std::byte> registers;  ///< of all warps

  [[nodiscard]] std::byte* place(std::uint32_t warp, std::uint32_t index) const {
    return warps[warp].bases[0] + program->register_offsets[index];
  }
  void read(std::uint32_t warp, std::uint32_t index, lanes_b32& values) const override {
    std::memcpy(values, place(warp, index), sizeof values);
  }
  void write(std::uint32_t warp, std::uint32_t index, const lanes_b32& values) override {
    std::memcpy(place(warp, index), values, sizeof values);
  }
};

struct resident_cluster : cluster {
  std::vector<std::unique_ptr<resident_block>> owned;
};

class launch : machine {
 public:
  launch(const decoded_kernel& k, const launch_config& c, std::span<const std::byte> values) {
    program = &k;
    config = &c;
    parameters = values;
    random.seed(c.seed);
    const kernel& source = *k.source;
    for (std::size_t i = 0; i < 3; ++i) {
      (&cluster_.x)[i] = source.cluster[i];
    }
    check(source);
    clusters_ = {c.grid.x / cluster_.x, c.grid.y / cluster_.y, c.grid.z / cluster_.z};
    resident_max_ = resident_clusters(c.multiprocessors, count(cluster_));
    const std::uint32_t align = std::max(1U, source.dynamic_align);
    shared_bytes_ = (source.static_shared_bytes + align - 1) / align * align;
    if (c.dynamic_shared_bytes == 0) {
      shared_bytes_ = source.static_shared_bytes;
    }
    shared_bytes_ += c.dynamic_shared_bytes;
    if (shared_bytes_ > shared_bytes_max) {
      refuse("a block of " + std::to_string(shared_bytes_) + " bytes of shared memory");
    }
  }

  void run() {
    for (;;) {
      admit();
      if (resident_.empty()) {
        return;
      }
      take_turn();
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& text) const {
    throw machine_error("kernel " + program->source->name + ": " + text);
  }

  [[noreturn]] void refuse(const block& b, const machine_error& e) const {
    refuse("block (" + std::to_string(b.at.x) + ", " + std::to_string(b.at.y) + ", " +
           std::to_string(b.at.z) + "): " + e.what());
  }

  void check(const kernel& source) const {
    const std::uint64_t threads = count(config->block);
    if (count(config->grid) == 0 || threads == 0) {
      refuse("an empty grid or block");
    }
    if (threads > block_threads_max || threads > source.max_threads) {
      refuse("a block of " + std::to_string(threads) + " threads");
    }
    if (config->grid.x % cluster_.x != 0 || config->grid.y % cluster_.y != 0 ||
        config->grid.z % cluster_.z != 0) {
      refuse("a grid that is no multiple of its clusters");
    }
    if (config->grid.y > 65535 || config->grid.z > 65535 || config->grid.x > 0x7FFF'FFFF) {
      refuse("a grid too large");
    }
    if (parameters.size() != source.parameter_bytes) {
      refuse(std::to_string(parameters.size()) + " bytes of parameters, not " +
             std::to_string(source.parameter_bytes));
    }
  }

  // ---- blocks ------------------------------------------------------------------------------------------------------

  void admit() {
    while (resident_.size() < resident_max_ && started_ < count(clusters_)) {
      const dimensions at = nth(started_, clusters_);
      ++started_;
      std::unique_ptr<resident_cluster> made;
      if (!retired_.empty()) {
        made = std::move(retired_.back());
        retired_.pop_back();
      } else {
        made = make_cluster();
      }
      start(*made, at);
      resident_.push_back(std::move(made));
    }
  }

  std::unique_ptr<resident_cluster> make_cluster() {
    auto made = std::make_unique<resident_cluster>();
    const std::size_t warps = (count(config->block) + warp_lanes - 1) / warp_lanes;
    for (std::uint64_t i = 0; i < count(cluster_); ++i) {
      auto b = std::make_unique<resident_block>(*program);
      b->group = made.get();
      b->warps.resize(warps);
      b->registers.resize(
          std::max(b->registers.size(), warps * program->register_bytes + register_alignment));
      made->blocks.push_back(b.get());
      made->owned.push_back(std::move(b));
    }
    return made;
  }

  void start(resident_cluster& c, const dimensions& at) {
    c.arrived_warps = 0;
    c.waiting.clear();
    c.gathering.clear();
    c.complete.clear();
    for (std::uint32_t i = 0; i < c.owned.size(); ++i) {
      resident_block& b = *c.owned[i];
      const dimensions in = nth(i, cluster_);
      b.at = {at.x * cluster_.x + in.x, at.y * cluster_.y + in.y, at.z * cluster_.z + in.z};
      b.rank_in_cluster = i;
      start(b);
    }
  }

  void start(resident_block& b) {
    b.shared.assign(shared_bytes_, std::byte{0xFF});
    b.threads = static_cast<std::uint32_t>(count(config->block));
    b.live_warps = static_cast<std::uint32_t>(b.warps.size());
    b.barriers = {};
    block_setup setup;
    setup.shared = b.shared;
    setup.warps = b.live_warps;
    setup.registers_per_thread =
        registers_at_launch(b.threads, program->source->blocks_per_multiprocessor_min);
    setup.registers = &b;
    setup.rank_in_cluster = b.rank_in_cluster;
    setup.seed = random();
    setup.place = [this](std::uint32_t pc) { return place_of(*program, pc); };
    b.async = std::make_unique<block_async>(setup);
    for (std::uint32_t i = 0; i < b.warps.size(); ++i) {
      start(b, b.warps[i], i);
    }
  }

  void start(resident_block& b, warp& w, std::uint32_t index) {
    const auto begin = reinterpret_cast<std::uintptr_t>(b.registers.data());
    std::byte* const registers = b.registers.data() + (0 - begin) % register_alignment +
                                 std::size_t{index} * program->register_bytes;
    auto local = std::move(w.local);
    w = warp();
    w.local = std::move(local);
    w.local.assign(std::size_t{program->source->local_bytes} * warp_lanes, std::byte{0xFF});
    for (const decoded_kernel::piece& p : program->unwritten) {
      // What nobody has written is NaN, too, rather than a helpful zero.
      std::memset(registers + p.offset_bytes, 0xFF, p.bytes);
    }
    // Handlers only read constants: no destination is one.
    w.bases = {registers, const_cast<std::byte*>(program->constants.data())};
    w.home = &b;
    w.owner = this;
    w.index = index;
    const std::uint32_t lanes = std::min(warp_lanes, b.threads - index * warp_lanes);
    w.active = w.live = lanes == warp_lanes ? all_lanes : (1U << lanes) - 1;
    fill_specials(b, w);
    ready.push_back(&w);
  }

  void fill_specials(const resident_block& b, warp& w) const {
    using enum special_register;
    auto* const values = reinterpret_cast<std::uint32_t*>(w.bases[0]);
    const auto of = [values](special_register which) {
      return values + static_cast<std::size_t>(which) * warp_lanes;
    };
    const dimensions& grid = config->grid;
    const std::pair<special_register, std::uint32_t> uniform[]{
        {ntid_x, config->block.x},
        {ntid_y, config->block.y},
        {ntid_z, config->block.z},
        {ctaid_x, b.at.x},
        {ctaid_y, b.at.y},
        {ctaid_z, b.at.z},
        {nctaid_x, grid.x},
        {nctaid_y, grid.y},
        {nctaid_z, grid.z},
        {warpid, w.index},
        {clusterid_x, b.at.x / cluster_.x},
        {nclusterid_x, clusters_.x},
        {cluster_ctaid_x, b.at.x % cluster_.x},
        {cluster_nctaid_x, cluster_.x},
        {cluster_ctarank, b.rank_in_cluster},
        {cluster_nctarank, static_cast<std::uint32_t>(count(cluster_))}};
    for (const auto& [which, value] : uniform) {
      std::fill_n(of(which), warp_lanes, value);
    }
    for (std::uint32_t lane = 0; lane < warp_lanes; ++lane) {
      const dimensions tid = nth(std::uint64_t{w.index} * warp_lanes + lane, config->block);
      of(tid_x)[lane] = tid.x;
      of(tid_y)[lane] = tid.y;
      of(tid_z)[lane] = tid.z;
      of(laneid)[lane] = lane;
    }
  }

  void finish(warp& w) {
    block& home = *w.home;
    home.async->end_warp({w.index, static_cast<std::uint32_t>(program->code.size() - 2)});
    warp_exited(w);
    if (home.live_warps == 0) {
      try {
        for (std::size_t name = 0; name < home.barriers.size(); ++name) {
          if (home.barriers[name].arrived != 0) {
            throw machine_error("the block ends with barrier " + std::to_string(name) +
                                " arrived at, for which nobody waits");
          }
        }
        home.async->end_block();
      } catch (const machine_error& e) {
        refuse(home, e);
      }
      retire(*home.group);
    }
  }

  void retire(const cluster& c) {
    const bool ended = std::all_of(
        c.blocks.begin(), c.blocks.end(), [](const block* b) { return b->live_warps == 0; });
    if (!ended) {
      return;
    }
    const auto at = std::find_if(
        resident_.begin(), resident_.end(), [&](const auto& r) { return r.get() == &c; });
    retired_.push_back(std::move(*at));
    resident_.erase(at);
  }

  // ---- turns -------------------------------------------------------------------------------------------------------

  void take_turn() {
    ++turn;
    if (turn % 256 == 0) {
      constexpr std::uint32_t eager_percents[]{0, 3, 30, 100};
      eager_percent_ = eager_percents[random() % 4];
      if (!ready.empty() && random() % 4 == 0) {
        ready[random() % ready.size()]->held_until = turn + random() % 2000;
      }
    }
    if (ready.empty() || idle_turns_ > 2 * ready.size() || random() % 100 < eager_percent_) {
      const bool stepped = step_any();
      if (stepped) {
        idle_turns_ = 0;
      } else if (ready.empty() || idle_turns_ > 1000 * ready.size() + 10'000) {
        fail_deadlock();
      }
    }
    if (!ready.empty()) {
      run_one(choose());
    }
  }

  std::size_t choose() {
    for (std::uint32_t tries = 0; tries < 8; ++tries) {
      const std::size_t i = random() % ready.size();
      if (ready[i]->held_until <= turn) {
        return i;
      }
    }
    return random() % ready.size();
  }

  void run_one(std::size_t chosen) {
    warp& w = *ready[chosen];
    const std::uint64_t events_before = events;
    constexpr std::uint32_t quanta[]{8, 64, 64, 512};
    const std::uint64_t dice = random();
    const auto instructions_now = static_cast<std::uint32_t>(1 + (dice >> 2) % quanta[dice % 4]);
    const outcome how = run_warp(w, instructions_now);
    if (w.live == 0) {
      remove_ready(w);
      finish(w);
      idle_turns_ = 0;
      return;
    }
    if (events != events_before || w.since_wait > 1024) {
      idle_turns_ = 0;
    } else if (how == outcome::blocked || how == outcome::yield) {
      ++idle_turns_;
    }
    if (how == outcome::blocked || how == outcome::yield) {
      w.since_wait = 0;
    }
    if (w.waits) {
      remove_ready(w);
    }
  }

  /// (What it ran may have put others into the list.)
  void remove_ready(const warp& w) {
    const auto at = std::find(ready.begin(), ready.end(), &w);
    *at = ready.back();
    ready.pop_back();
  }

  bool step_any() {
    blocks_.clear();
    for (const auto& c : resident_) {
      for (block* b : c->blocks) {
        if (b->async->pending()) {
          blocks_.push_back(b);
        }
      }
    }
    while (!blocks_.empty()) {
      const std::size_t i = random() % blocks_.size();
      try {
        if (blocks_[i]->async->step()) {
          return true;
        }
      } catch (const machine_error& e) {
        refuse(*blocks_[i], e);
      }
      blocks_[i] = blocks_.back();
      blocks_.pop_back();
    }
    return false;
  }

  [[noreturn]] void fail_deadlock() const {
    std::string text = "nothing can go on:";
    std::uint32_t listed = 0;
    for (const auto& c : resident_) {
      for (const block* b : c->blocks) {
        for (const warp& w : b->warps) {
          if (w.live != 0 && ++listed <= 64) {
            text += "\n  " + state_of(*b, w);
          }
        }
      }
    }
    refuse(text);
  }

  [[nodiscard]] std::string state_of(const block& b, const warp& w) const {
    std::string text = "block (" + std::to_string(b.at.x) + ", " + std::to_string(b.at.y) + ", " +
                       std::to_string(b.at.z) + "), warp " + std::to_string(w.index) + ": lanes " +
                       hex(w.active) + " at " + place_of(*program, w.pc);
    for (std::uint32_t i = 0; i < w.other_count; ++i) {
      text += "; lanes " + hex(w.others[i].lanes) + " at " + place_of(*program, w.others[i].pc);
    }
    return text;
  }

  dimensions cluster_, clusters_;
  std::uint64_t resident_max_ = 1;
  std::uint64_t started_ = 0;  ///< clusters
  std::uint32_t shared_bytes_ = 0;
  std::vector<std::unique_ptr<resident_cluster>> resident_, retired_;
  std::vector<block*> blocks_;  ///< for step_any
  std::uint32_t eager_percent_ = 3;
  std::uint64_t idle_turns_ = 0;  ///< in a row, in which nobody got anywhere
};

}  // namespace

ready_kernel::ready_kernel(const module& m, const kernel& k)
    : decoded_(std::make_shared<const decoded_kernel>(decode(m, k))) {}

void ready_kernel::run(const launch_config& config, std::span<const std::byte> parameters) const {
  launch(*decoded_, config, parameters).run();
}

}  // namespace oriel::ptx_machine
