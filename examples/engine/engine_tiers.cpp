// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/numa_memory.hpp>
#include <oriel/tier/page_record.hpp>
#include <oriel/tier/redis_store.hpp>
#include <oriel/tier/segment_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <engine/engine_pools.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/error.hpp>
#include <engine/machine_memory.hpp>
#include <engine/store_on_disk.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace oriel::engine {
namespace {

// Expected before anything was measured: a copy in memory, a disk, a loopback or a fast network.
constexpr transfer_rates host_rates{.latency_s = 20e-6, .bytes_per_s = 5e9};
constexpr transfer_rates disk_rates{.latency_s = 200e-6, .bytes_per_s = 1e9};
constexpr transfer_rates remote_rates{.latency_s = 500e-6, .bytes_per_s = 1e9};

store_thread_options thread_of(const tier_choice& choice) {
  constexpr int yields = 10;
  return {
      .queue_items = 4096, .nice = choice.cpu_share < 1.0 ? yields : 0, .share = choice.cpu_share};
}

using folder_store = store_on_disk<directory_disk, store_thread<segment_store<directory_disk>>>;

/// What a tier's budgets leave of its rate: fetches are planned by it.
transfer_rates within_budget(transfer_rates rates, const tier_choice& choice) {
  rates.bytes_per_s *= choice.cpu_share;
  return rates;
}

std::uint64_t bytes_of_page(const std::vector<std::uint64_t>& slices) {
  return std::accumulate(slices.begin(), slices.end(), std::uint64_t{0});
}

/// A sequence keeps all its full pages and a few window pages: so do its tiers. The weights are for
/// prompts of some thousand tokens, with two boundaries kept.
std::vector<double> weights_of(const page_shape& shape) {
  constexpr double typical_tokens = 4096, kept_boundaries = 2;
  std::vector<double> weights{typical_tokens / shape.page_size};
  for (const std::uint32_t window : shape.window_tokens) {
    weights.push_back(kept_boundaries * (1 + std::max(1.0, double{1} * window / shape.page_size)));
  }
  return weights;
}

tier host_tier(const tier_choice& choice, const page_shape& shape) {
  const std::uint64_t bytes = choice.host_bytes;
  std::uint64_t least = 0;
  for (const auto& slices : shape.slice_bytes) {
    least += bytes_of_page(slices);
  }
  if (bytes < 16 * least) {
    throw error(
        fmt::format("a host cache of {} bytes has no room for 16 pages of {} bytes; give it more",
                    bytes,
                    least));
  }
  if (const std::uint64_t all = machine_memory_bytes(); bytes > all) {
    throw error(fmt::format(
        "a host cache of {} bytes is more than this machine's memory of {}; give it less",
        bytes,
        all));
  }
  try {
    return {.store = any_store(std::make_unique<store_thread<memory_store<numa_memory>>>(
                thread_of(choice),
                memory_store_options{.page_size = shape.page_size,
                                     .slice_bytes = shape.slice_bytes,
                                     .capacity_bytes = bytes,
                                     .page_weights = weights_of(shape),
                                     .other_tenant_bytes_max = static_cast<std::uint64_t>(
                                         choice.tenant_share_max * static_cast<double>(bytes))})),
            .role = tier_role::host,
            .rates = within_budget(host_rates, choice)};
  } catch (const std::bad_alloc&) {
    throw error(fmt::format("no memory for a host cache of {} bytes; give it less", bytes));
  } catch (const std::invalid_argument& e) {
    throw error(fmt::format("a host cache of {} bytes: {}", bytes, e.what()));
  }
}

/// Entries for a disk full of the smallest pages, and the sixteenth that a store keeps free.
std::uint32_t disk_pages_max(std::uint64_t capacity_bytes, const page_shape& shape) {
  std::uint64_t least = capacity_bytes;
  for (const auto& slices : shape.slice_bytes) {
    std::uint64_t bytes = record_header_bytes(shape.page_size, slices.size());
    for (const std::uint64_t slice : slices) {
      bytes += record_padded(slice);
    }
    least = std::min(least, std::max<std::uint64_t>(bytes, 2 * record_alignment_bytes));
  }
  const std::uint64_t pages = capacity_bytes / std::max<std::uint64_t>(least, 1);
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(pages + pages / 8 + 16, 0xFFFF'FFF0u));
}

tier disk_tier(const tier_choice& choice, const page_shape& shape) {
  const std::string& folder = choice.disk_folder;
  const std::uint64_t bytes = choice.disk_bytes;
  auto disk = directory_disk::open({.directory = folder});
  if (!disk) {
    const failure& why = disk.error();
    throw error(fmt::format("{}: cannot keep KV here: {}{}{}",
                            folder,
                            why.detail,
                            why.native != 0 ? ": " : "",
                            why.native != 0 ? std::strerror(why.native) : ""));
  }
  transfer_rates rates = disk_rates;
  if (choice.disk_bytes_per_s_max != 0) {
    rates.bytes_per_s =
        std::min(rates.bytes_per_s, static_cast<double>(choice.disk_bytes_per_s_max));
  }
  const std::uint64_t segment =
      std::clamp<std::uint64_t>(bytes / 16 / 4096 * 4096, std::uint64_t{1} << 20, 64u << 20);
  try {
    auto store = std::make_unique<folder_store>(std::move(*disk), [&](directory_disk& in) {
      return store_thread<segment_store<directory_disk>>(
          thread_of(choice),
          in,
          segment_store_options{.capacity_bytes = bytes,
                                .segment_bytes = segment,
                                .pages_max = disk_pages_max(bytes, shape),
                                .tenant_share_max = choice.tenant_share_max});
    });
    // Not before: while the store opens, everybody waits for it.
    store->store().with_store(
        [&](auto&) { store->disk().limit_rate(choice.disk_bytes_per_s_max); });
    return {.store = any_store(std::move(store)),
            .role = tier_role::disk,
            .writes = choice.writes,
            .rates = within_budget(rates, choice)};
  } catch (const std::bad_alloc&) {
    throw error(fmt::format("{}: no memory for its index; lower --disk-cache-gib", folder));
  } catch (const std::exception& e) {
    throw error(fmt::format("{}: {}", folder, e.what()));
  }
}

tier remote_tier(const tier_choice& choice) {
  const std::string& url = choice.remote_url;
  if (const auto parsed = parse_redis_url(url); !parsed) {
    throw error(fmt::format("{}: {}", url, parsed.error().detail));
  }
  return {.store = any_store(std::make_unique<store_thread<redis_store>>(
              thread_of(choice), redis_options{.url = url})),
          .role = tier_role::remote,
          .writes = choice.writes,
          .rates = within_budget(remote_rates, choice)};
}

/// A store that connects with its first item would take longer for it than a short prompt's look-up
/// may last, so that the first requests after a start missed. Here each has answered, or could not
/// in time.
void wait_until_open(std::span<tier> tiers) {
  constexpr std::uint64_t open_us_max = 250'000;
  const std::uint64_t until_us = steady_now_us() + open_us_max;
  const store_item question{.op = store_op::exists, .key = {}};  // Nobody has such a page.
  for (tier& t : tiers) {
    static_cast<void>(t.store.submit({&question, 1}, until_us));
  }
  for (tier& t : tiers) {
    for (store_completion answer; t.store.pending() != 0 && t.store.poll({&answer, 1}) == 0;) {
      t.store.wait(no_deadline);  // It has one: the item completes by then.
    }
  }
}

}  // namespace

page_shape kv_page_shape(const model_geometry& model, const engine_options& options, dtype kv) {
  const auto plan =
      pool_plan::make(kv_layers_of(model, options, kv), {.page_size = options.page_tokens});
  if (!plan) {
    throw error(fmt::format("the KV pools do not fit the model: {}", plan.error().detail));
  }
  return page_shape_of(*plan);
}

std::vector<tier> make_tiers(const tier_choice& choice, const page_shape& shape) try {
  std::vector<tier> tiers;
  if (choice.host_bytes != 0) {
    tiers.push_back(host_tier(choice, shape));
  }
  if (!choice.disk_folder.empty()) {
    tiers.push_back(disk_tier(choice, shape));
  }
  if (!choice.remote_url.empty()) {
    tiers.push_back(remote_tier(choice));
  }
  wait_until_open(tiers);
  return tiers;
} catch (const std::system_error& e) {
  throw error(fmt::format("no thread for a tier: {}", e.what()));
}

}  // namespace oriel::engine
