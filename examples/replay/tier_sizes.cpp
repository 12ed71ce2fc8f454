// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/page_record.hpp>

#include <replay/tier_sizes.hpp>

#include <algorithm>
#include <cmath>

namespace oriel::replay {
namespace {

/// Of one disk: with more of them each holds so few large records that its end, where none fits
/// any more, is a large part of it (docs/measurements/disk.md). The store itself bears 65,000.
constexpr std::uint64_t segments_max = 512, segment_bytes_typical = std::uint64_t{64} << 20;
/// Of the largest record, in a segment: the least that makes sense.
constexpr std::uint64_t records_min = 8;

/// What a pool's page takes as a record on a disk: a header, and each layer's slice padded.
std::uint64_t record_bytes_of(const page_layout& layout) {
  std::uint64_t bytes = record_header_bytes(layout.page_size(), layout.slots());
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
    bytes += record_padded(layout.slice_bytes(slot));
  }
  return bytes;
}

struct block_scale {
  double block_bytes = 0, worst_error = 0;
  std::vector<std::uint32_t> blocks;  // [pools]
};

block_scale scale_of(const std::vector<std::uint64_t>& records, std::uint32_t least_blocks) {
  block_scale made{.block_bytes = static_cast<double>(std::ranges::min(records)) / least_blocks,
                   .blocks = {}};
  for (const std::uint64_t bytes : records) {
    const double exact = static_cast<double>(bytes) / made.block_bytes;
    made.blocks.push_back(static_cast<std::uint32_t>(std::lround(exact)));
    made.worst_error = std::max(made.worst_error, std::abs(made.blocks.back() / exact - 1));
  }
  return made;
}

/// The fewest blocks that come within half a percent, or else those that come nearest.
/// @param fewest  a header and a block behind it
block_scale best_scale(const std::vector<std::uint64_t>& records, std::uint32_t fewest) {
  block_scale best = scale_of(records, fewest);
  for (std::uint32_t more = 1; more <= 6 && best.worst_error > 0.005; ++more) {
    block_scale next = scale_of(records, fewest + more);
    if (next.worst_error < best.worst_error) {
      best = std::move(next);
    }
  }
  return best;
}

cache_question sized(cache_question question, const level_size& size) {
  question.capacity_tokens = size.tokens;
  question.capacity_bytes = size.bytes;
  return question;
}

/// The files of a disk: as `oriel run` makes them, but no smaller than large records need, and
/// no more than some hundred.
status plan_disk(const cache_sizes& device, std::uint64_t bytes, tier_plan& plan) {
  std::vector<std::uint64_t> records;
  for (std::uint32_t pool = 0; pool < device.plan.pools(); ++pool) {
    const page_layout& layout = device.plan.layout(pool_id{pool});
    if (layout.slots() != 0) {
      records.push_back(record_bytes_of(layout));
    }
  }
  const auto fewest = static_cast<std::uint32_t>(
      record_header_bytes(device.plan.options().page_size, 2) / record_alignment_bytes + 1);
  const block_scale scaled = best_scale(records, fewest);
  plan.record_blocks = scaled.blocks;
  if (records.size() < device.plan.pools()) {  // No full layers: a page of nothing.
    plan.record_blocks.insert(plan.record_blocks.begin(), fewest);
  }
  plan.block_bytes = scaled.block_bytes;
  plan.disk_bytes = bytes;
  plan.segment_bytes = std::max({std::min(bytes / 16, segment_bytes_typical),
                                 records_min * std::ranges::max(records),
                                 bytes / segments_max});
  if (bytes / plan.segment_bytes < 4) {
    return failure{errc::invalid_argument, 0, "the disk does not hold 32 of the largest pages"};
  }
  return {};
}

}  // namespace

result<tier_plan> plan_tiers(std::span<const layer_geometry> layers,
                             const cache_question& question,
                             const cache_sizes& device,
                             const tier_question& tiers) {
  tier_plan plan{.writes = tiers.writes};
  if (tiers.host.is_given()) {
    const auto host = plan_cache(layers, sized(question, tiers.host));
    if (!host) {
      return host.error();
    }
    plan.host_pages = host->sizes.pages;
    plan.host_bytes = host->bytes;
  }
  if (tiers.disk.is_given()) {
    std::uint64_t bytes = tiers.disk.bytes;
    if (bytes == 0) {
      const auto disk = plan_cache(layers, sized(question, tiers.disk));
      if (!disk) {
        return disk.error();
      }
      bytes = disk->bytes;
    }
    if (status fits = plan_disk(device, bytes, plan); !fits) {
      return fits.error();
    }
  }
  return plan;
}

}  // namespace oriel::replay
