// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/layer_plan.hpp>

#include <algorithm>

namespace oriel {
namespace {

/// Neighbouring slots of a pool that are read together, of each of its pages.
struct slot_group {
  std::uint32_t pool = 0, first_slot = 0, slots = 0, first_layer = 0;
};

/// Adds the groups of one pool.
/// @param of_page  the slices of one of its pages  @param pages  how many it has
/// @param before   bytes of the layers before each, of all pools
void group_slots(std::uint32_t pool,
                 std::span<const std::uint32_t> layers,
                 std::span<const std::span<std::byte>> of_page,
                 std::size_t pages,
                 std::span<const std::uint64_t> before,
                 const layer_load_options& options,
                 std::vector<slot_group>& groups) {
  for (std::uint32_t slot = 0; slot < layers.size();) {
    slot_group g{.pool = pool, .first_slot = slot, .slots = 1, .first_layer = layers[slot]};
    std::uint64_t bytes = of_page[slot].size();
    const double together_max =
        ORIEL_MUTANT(small_layers_come_in_lumps)
            ? 1e18
            : options.together_share_max * static_cast<double>(before[g.first_layer]);
    for (++slot; slot < layers.size() && bytes < options.read_bytes_min &&
                 static_cast<double>((bytes + of_page[slot].size()) * pages) <= together_max &&
                 layers[slot] - g.first_layer <= options.ahead_layers_max;
         ++slot) {
      bytes += of_page[slot].size();
      ++g.slots;
    }
    groups.push_back(g);
  }
}

/// Reads come in order: a layer is there when the last of its reads is, and those before it.
void count_arrivals(layer_plan& plan, std::span<const layer_page> pages) {
  std::vector<std::uint64_t> until(plan.layers());  // bytes up to a layer's last read
  for (const layer_read& r : plan.reads) {
    plan.bytes += r.bytes;
    const std::vector<std::uint32_t>& layers = plan.layer_in[pages[r.page].key.pool];
    for (std::uint32_t slot = r.first_slot; slot < r.first_slot + r.slots; ++slot) {
      ++plan.reads_of[layers[slot]];
      until[layers[slot]] = plan.bytes;
    }
  }
  std::uint64_t before = 0;
  for (std::uint32_t l = 0; l < plan.layers(); ++l) {
    plan.arrival_bytes[l] = until[l] > before ? until[l] - before : 0;
    before = std::max(before, until[l]);
  }
}

}  // namespace

layer_plan plan_layer_reads(std::span<const layer_home> layers,
                            std::span<const layer_page> pages,
                            const layer_load_options& options) {
  layer_plan plan;
  plan.reads_of.resize(layers.size());
  plan.arrival_bytes.resize(layers.size());
  for (std::uint32_t l = 0; l < layers.size(); ++l) {
    const std::uint32_t pool = to_index(layers[l].pool);
    plan.layer_in.resize(std::max<std::size_t>(plan.layer_in.size(), pool + 1));
    ORIEL_EXPECTS(layers[l].slot == plan.layer_in[pool].size());  // Slots go with the layers.
    plan.layer_in[pool].push_back(l);
  }
  std::vector<std::vector<std::uint32_t>> pages_of(plan.layer_in.size());
  for (std::uint32_t p = 0; p < pages.size(); ++p) {
    const std::uint32_t pool = pages[p].key.pool;
    ORIEL_EXPECTS(pool < pages_of.size());
    ORIEL_EXPECTS(pages[p].slices.size() == plan.layer_in[pool].size());
    pages_of[pool].push_back(p);
  }
  std::vector<std::uint64_t> before;
  std::uint64_t bytes = 0;
  for (const layer_home& home : layers) {
    const auto& of_pool = pages_of[to_index(home.pool)];
    before.push_back(bytes);
    bytes += of_pool.empty() ? 0 : of_pool.size() * pages[of_pool[0]].slices[home.slot].size();
  }
  std::vector<slot_group> groups;
  for (std::uint32_t pool = 0; pool < pages_of.size(); ++pool) {
    if (!pages_of[pool].empty()) {
      const auto& of_page = pages[pages_of[pool][0]].slices;
      group_slots(
          pool, plan.layer_in[pool], of_page, pages_of[pool].size(), before, options, groups);
    }
  }
  std::ranges::sort(groups, {}, &slot_group::first_layer);
  if (ORIEL_MUTANT(layers_load_in_wrong_order)) {
    std::ranges::reverse(groups);
  }
  for (const slot_group& g : groups) {
    for (const std::uint32_t p : pages_of[g.pool]) {
      layer_read r{
          .page = p, .first_slot = g.first_slot, .slots = g.slots, .first_layer = g.first_layer};
      for (const auto& slice : pages[p].slices.subspan(g.first_slot, g.slots)) {
        r.bytes += slice.size();
      }
      plan.reads.push_back(r);
    }
  }
  count_arrivals(plan, pages);
  return plan;
}

double predict_stall(std::span<const std::uint64_t> arrival_bytes,
                     std::span<const double> layer_seconds,
                     const transfer_rates& rate,
                     double lead_s) noexcept {
  ORIEL_EXPECTS(arrival_bytes.size() == layer_seconds.size());
  double behind = 0.0, bytes = 0.0, computed_s = 0.0;
  for (std::size_t l = 0; l < arrival_bytes.size(); ++l) {
    bytes += static_cast<double>(arrival_bytes[l]);
    if (bytes > 0.0) {
      behind = std::max(behind, rate.latency_s + bytes / rate.bytes_per_s - lead_s - computed_s);
    }
    computed_s += layer_seconds[l];
  }
  return behind;
}

}  // namespace oriel
