// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/page_record.hpp>
#include <oriel/tier/segment_store.hpp>

#include <engine/store_on_disk.hpp>
#include <replay/replay_stores.hpp>
#include <replay/sparse_disk.hpp>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace oriel::replay {
namespace {

using disk_store = engine::store_on_disk<sparse_disk, segment_store<sparse_disk>>;

std::vector<std::uint64_t> page_bytes_of(const pool_plan& pools) {
  std::vector<std::uint64_t> bytes;
  for (std::uint32_t pool = 0; pool < pools.pools(); ++pool) {
    bytes.push_back(pools.layout(pool_id{pool}).page_bytes());
  }
  return bytes;
}

}  // namespace

page_mark mark_of(const page_key& key) noexcept {
  page_mark mark;
  std::memcpy(mark.data(), key.link.bytes.data() + mark_bytes, mark_bytes);
  mark[0] ^= static_cast<std::byte>(key.pool + 1);
  return mark;
}

void write_mark(std::span<std::byte> page, const page_key& key) noexcept {
  const page_mark mark = mark_of(key);
  std::memcpy(page.data(), mark.data(), mark_bytes);
}

bool has_mark(std::span<const std::byte> page, const page_key& key) noexcept {
  const page_mark mark = mark_of(key);
  return std::memcmp(page.data(), mark.data(), mark_bytes) == 0;
}

void stand_in_store::aligned_delete::operator()(std::byte* p) const noexcept {
  ::operator delete[](p, std::align_val_t(record_alignment_bytes));
}

stand_in_store::zeros stand_in_store::make_zeros(std::uint64_t bytes) {
  const std::uint64_t size = std::max<std::uint64_t>(bytes, record_alignment_bytes);
  zeros made(static_cast<std::byte*>(
      ::operator new[](static_cast<std::size_t>(size), std::align_val_t(record_alignment_bytes))));
  std::memset(made.get(), 0, static_cast<std::size_t>(size));
  return made;
}

stand_in_store::stand_in_store(any_store store,
                               std::vector<std::uint64_t> page_bytes,
                               std::vector<std::uint64_t> extra_bytes)
    : store_(std::move(store)),
      page_bytes_(std::move(page_bytes)),
      extra_bytes_(std::move(extra_bytes)),
      written_(make_zeros(std::ranges::max(extra_bytes_))),
      read_(make_zeros(std::ranges::max(extra_bytes_))),
      errands_(errands_max) {
  for (std::uint32_t i = 0; i < errands_max; ++i) {
    free_.push_back(i);
  }
}

std::size_t stand_in_store::submit(std::span<const store_item> items, std::uint64_t deadline_us) {
  std::size_t taken = 0;
  for (; taken < items.size() && !free_.empty(); ++taken) {
    store_item item = items[taken];
    const std::uint32_t id = free_.back();
    errand& e = errands_[id];
    e.user = item.user;
    e.key = item.key;
    if (item.op == store_op::get || item.op == store_op::put) {
      const std::uint64_t extra = extra_bytes_[item.key.pool];
      std::byte* const behind = (item.op == store_op::put ? written_ : read_).get();
      e.slices = {item.slices.front().first(mark_bytes),
                  std::span(behind, static_cast<std::size_t>(extra))};
      item.slices = std::span(e.slices).first(extra == 0 ? 1 : 2);
    }
    item.user = id;
    if (store_.submit({&item, 1}, deadline_us) == 0) {
      break;
    }
    free_.pop_back();
  }
  return taken;
}

std::size_t stand_in_store::poll(std::span<store_completion> done) {
  const std::size_t count = store_.poll(done);
  for (store_completion& c : done.first(count)) {
    const auto id = static_cast<std::uint32_t>(c.user);
    const errand& e = errands_[id];
    c.user = e.user;
    const bool moves = c.op == store_op::get || c.op == store_op::put;
    c.bytes = moves && c.outcome == store_outcome::done ? page_bytes_[e.key.pool] : 0;
    if (c.op == store_op::get && c.outcome == store_outcome::done &&
        !has_mark(e.slices.front(), e.key)) {
      ++wrong_marks_;
      c.outcome = store_outcome::corrupt;
    }
    free_.push_back(id);
  }
  return count;
}

store_stats stand_in_store::stats() const {
  store_stats s = store_.stats();
  s.corrupt += wrong_marks_;
  return s;
}

any_store make_host(const tier_plan& plan, const pool_plan& pools) {
  memory_store_options options{.page_size = pools.options().page_size};
  // A page of the host is its record, its token ids and its mark: the capacity that gives as many.
  const std::uint64_t page_bytes =
      64 + sizeof(detail::memory_record) + std::uint64_t{options.page_size} * sizeof(token_id);
  for (const std::uint32_t pages : plan.host_pages) {
    options.slice_bytes.push_back({mark_bytes});
    options.page_weights.push_back(pages);
    options.capacity_bytes += pages * page_bytes;
  }
  using store = memory_store<host_memory, trace_clock>;
  return any_store(
      std::make_unique<stand_in_store>(any_store(std::make_unique<store>(options)),
                                       page_bytes_of(pools),
                                       std::vector<std::uint64_t>(plan.host_pages.size())));
}

any_store make_disk(const tier_plan& plan, const pool_plan& pools) {
  const auto blocks_of = [&](std::uint64_t bytes) {
    return static_cast<std::uint64_t>(static_cast<double>(bytes) / plan.block_bytes);
  };
  const std::uint64_t capacity = blocks_of(plan.disk_bytes),
                      segment = blocks_of(plan.segment_bytes);
  const segment_store_options options{
      .capacity_bytes = capacity * record_alignment_bytes,
      .segment_bytes = segment * record_alignment_bytes,
      .pages_max = static_cast<std::uint32_t>(std::min<std::uint64_t>(capacity / 2, 0xFFFF'FFF0u)),
      .batch_bytes = std::min<std::uint64_t>(segment * record_alignment_bytes, 1 << 20),
      .saves_snapshot = false};
  std::vector<std::uint64_t> extra;
  const std::uint64_t header =
      record_header_bytes(pools.options().page_size, 2) / record_alignment_bytes;
  for (const std::uint32_t blocks : plan.record_blocks) {
    // A header and the mark's block are there already.
    extra.push_back((blocks - std::min<std::uint64_t>(blocks, header + 1)) *
                    record_alignment_bytes);
  }
  return any_store(std::make_unique<stand_in_store>(
      any_store(std::make_unique<disk_store>(
          sparse_disk(&trace_clock::now),
          [&](sparse_disk& in) { return segment_store<sparse_disk>(in, options); })),
      page_bytes_of(pools),
      std::move(extra)));
}

result<pool_plan> thin_plan(const pool_plan& pools) {
  const kv_layer_shape one{.kv_heads = 1, .head_dim_qk = 1, .head_dim_vo = 1, .kv = dtype::bf16};
  std::vector<kv_layer_shape> layers{one};
  for (std::uint32_t kind = 0; kind < pools.window_kinds(); ++kind) {
    layers.push_back(one);
    layers.back().window_tokens = pools.ring(kind).window_tokens;
  }
  return pool_plan::make(layers, pools.options());
}

}  // namespace oriel::replay
