// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: checksum speed; rebuilding the index; what verification costs; index bytes of a page; what
//       does and must not grow with the number of segments. The disk is memory: what is measured is
//       the store.
// Why:  goals: CRC32C > 15 GB/s; >= 200,000 records/s; verified gets >= 0.95 of unverified ones
//       for large records on a disk (beside memory, which is faster than any disk, less);
//       <= 64 bytes a page besides token ids.
#include <oriel/tier/crc32c.hpp>
#include <oriel/tier/segment_store.hpp>

#include <benchmark/benchmark.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace {

using namespace oriel;

struct aligned_free {
  void operator()(std::byte* p) const noexcept { std::free(p); }
};
using aligned_memory = std::unique_ptr<std::byte, aligned_free>;

aligned_memory make_aligned(std::size_t bytes) {
  auto* p = static_cast<std::byte*>(std::aligned_alloc(4096, bytes));
  std::memset(p, 0, bytes);
  return aligned_memory(p);
}

/// Files in memory; requests are done when they are polled.
class memory_disk {
 public:
  result<std::vector<disk_file>> list() {
    std::vector<disk_file> all;
    for (const auto& [number, f] : files_) {
      all.push_back({number, f.bytes});
    }
    return all;
  }
  status create(std::uint32_t file, std::uint64_t bytes) {
    files_[file] = {make_aligned(bytes), bytes};
    return {};
  }
  status remove(std::uint32_t file) {
    files_.erase(file);
    return {};
  }
  status sync_names() { return {}; }
  std::size_t submit(std::span<const disk_request> requests) {
    queue_.insert(queue_.end(), requests.begin(), requests.end());
    return requests.size();
  }
  std::size_t poll(std::span<disk_completion> done) {
    std::size_t count = 0;
    while (count < done.size() && !queue_.empty()) {
      const disk_request r = queue_.front();
      queue_.pop_front();
      std::byte* at = files_.at(r.file).memory.get() + r.offset;
      for (const std::span<std::byte> part : r.parts) {
        r.op == disk_op::read ? std::memcpy(part.data(), at, part.size())
                              : std::memcpy(at, part.data(), part.size());
        at += part.size();
      }
      done[count++] = {r.user, 0};
    }
    ++now_us_;
    return count;
  }
  bool wait(std::uint64_t) { return !queue_.empty(); }
  [[nodiscard]] std::size_t in_flight() const { return queue_.size(); }
  result<std::vector<std::byte>> read_small(const char*) {
    if (small_.empty()) {
      return failure{errc::io_failure, ENOENT};
    }
    return small_;
  }
  status write_small(const char*, std::span<const std::byte> bytes) {
    small_.assign(bytes.begin(), bytes.end());
    return {};
  }
  [[nodiscard]] std::uint64_t now_us() const { return now_us_; }
  [[nodiscard]] std::string where(std::uint32_t) const { return "memory"; }

 private:
  struct memory_file {
    aligned_memory memory;
    std::uint64_t bytes = 0;
  };
  std::map<std::uint32_t, memory_file> files_;
  std::deque<disk_request> queue_;
  std::vector<std::byte> small_;
  std::uint64_t now_us_ = 1;
};

page_digest digest_of(std::uint64_t k) {
  std::mt19937_64 random(k);
  page_digest d;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t word = random();
    std::memcpy(d.bytes.data() + 8 * i, &word, 8);
  }
  return d;
}

/// `pages` pages of one slice, in 16-token pages.
template <class Store>
void fill(Store& store, std::uint64_t pages, std::span<std::byte> slice) {
  std::vector<token_id> tokens(16);
  const page_identity identity{digest_of(1), digest_of(2), 0, tokens};
  std::vector<store_completion> done(256);
  for (std::uint64_t k = 0; k < pages || store.pending() > 0;) {
    store_item item{.op = store_op::put, .key = {digest_of(100 + k), 0}, .identity = &identity};
    item.slices = std::span(&slice, 1);
    item.owner = {1, k % 64};
    k += k < pages ? store.submit(std::span(&item, 1), no_deadline) : 0;
    store.poll(done);
  }
}

segment_store_options options_for(std::uint64_t bytes) {
  segment_store_options o;
  o.capacity_bytes = bytes;
  o.saves_snapshot = false;
  return o;
}

void checksum(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const aligned_memory memory = make_aligned(bytes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(crc32c({memory.get(), bytes}));
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(checksum)->Arg(4096)->Arg(65'536)->Arg(262'144)->Arg(1 << 20);

void checksum_portable(benchmark::State& state) {
  const aligned_memory memory = make_aligned(65'536);
  for (auto _ : state) {
    benchmark::DoNotOptimize(detail::crc32c_portable({memory.get(), 65'536}, 0));
  }
  state.SetBytesProcessed(state.iterations() * 65'536);
}
BENCHMARK(checksum_portable);

/// Rebuilds the index of 64 K records of 8 KiB by scan.
void recover(benchmark::State& state) {
  constexpr std::uint64_t pages = 65'536;
  memory_disk disk;
  const aligned_memory slice = make_aligned(4096);
  {
    segment_store store(disk, options_for(std::uint64_t{1} << 30));
    fill(store, pages, {slice.get(), 4096});
  }
  double bytes_per_page = 0;
  for (auto _ : state) {
    segment_store store(disk, options_for(std::uint64_t{1} << 30));
    const store_stats s = store.stats();
    if (s.pages != pages) {
      state.SkipWithError("pages are missing");
    }
    bytes_per_page = static_cast<double>(s.index_bytes) / static_cast<double>(s.pages);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(pages));
  state.counters["index_bytes_per_page"] = bytes_per_page;
}
BENCHMARK(recover)->Unit(benchmark::kMillisecond);

/// Gets of records in memory, queue depth 8, with and without checksums of the slices.
void get_pages(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const std::uint64_t pages = (std::uint64_t{256} << 20) / bytes;
  memory_disk disk;
  segment_store_options o = options_for(std::uint64_t{1} << 30);
  o.trusts_the_disk = state.range(1) == 0;
  segment_store store(disk, o);
  const aligned_memory memory = make_aligned(bytes * 8);
  std::span<std::byte> slices[8];
  for (std::size_t i = 0; i < 8; ++i) {
    slices[i] = {memory.get() + i * bytes, bytes};
  }
  fill(store, pages, slices[0]);
  std::vector<token_id> tokens(16);
  const page_identity identity{digest_of(1), digest_of(2), 0, tokens};
  std::vector<page_key> keys;
  for (std::uint64_t k = 0; k < pages; ++k) {
    keys.push_back({digest_of(100 + k), 0});
  }
  std::uint64_t next = 0;
  for (auto _ : state) {
    store_item items[8];
    for (std::size_t i = 0; i < 8; ++i) {
      items[i] = {.op = store_op::get, .key = keys[next++ * 7919 % pages], .identity = &identity};
      items[i].slices = std::span(&slices[i], 1);
    }
    store_completion done[8];
    static_cast<void>(store.submit(items, no_deadline));
    for (std::size_t got = 0; got < 8;) {
      got += store.poll(done);
    }
  }
  if (store.stats().hits != store.stats().gets) {
    state.SkipWithError("a get missed");
  }
  state.SetBytesProcessed(state.iterations() * 8 * state.range(0));
}
BENCHMARK(get_pages)
    ->ArgNames({"bytes", "verifies"})
    ->Args({262'144, 0})
    ->Args({262'144, 1})
    ->Args({1 << 20, 0})
    ->Args({1 << 20, 1});

/// Segments of one page each, as many as a large disk has.
segment_store_options many_segments(std::int64_t segments) {
  segment_store_options o;
  o.segment_bytes = 16'384;
  o.capacity_bytes = static_cast<std::uint64_t>(segments) * o.segment_bytes;
  o.pages_max = static_cast<std::uint32_t>(segments) * 2;
  return o;
}

/// A page, and the memory behind it, that is put again and again under new keys.
struct small_page {
  aligned_memory memory = make_aligned(4096);
  std::span<std::byte> slice{memory.get(), 4096};
  std::vector<token_id> tokens = std::vector<token_id>(16);
  page_identity identity{digest_of(1), digest_of(2), 0, tokens};
  std::uint64_t next = 1'000'000;

  store_item put() {
    store_item item{.op = store_op::put, .key = {digest_of(next++), 0}, .identity = &identity};
    item.slices = std::span(&slice, 1);
    item.owner = {1, next % 64};
    return item;
  }
};

template <class Store>
void carry_out(Store& store, const store_item& item) {
  store_completion done;
  static_cast<void>(store.submit({&item, 1}, no_deadline));
  while (store.poll({&done, 1}) == 0) {
  }
  if (done.outcome != store_outcome::done) {
    std::abort();
  }
}

/// A poll of a store that has nothing to do.
void poll_idle(benchmark::State& state) {
  memory_disk disk;
  segment_store_options o = many_segments(state.range(0) + 2);
  o.saves_snapshot = false;
  segment_store store(disk, o);
  small_page page;
  fill(store, static_cast<std::uint64_t>(state.range(0)), page.slice);
  carry_out(store, {.op = store_op::sync, .key = {}});
  store_completion done;
  for (auto _ : state) {
    benchmark::DoNotOptimize(store.poll({&done, 1}));
  }
}
BENCHMARK(poll_idle)->ArgName("segments")->Arg(64)->Arg(4'096)->Arg(24'000);

/// A page, which opens a segment and ends the oldest, and a sync of it.
void put_and_sync(benchmark::State& state) {
  memory_disk disk;
  segment_store_options o = many_segments(state.range(0));
  o.saves_snapshot = false;
  segment_store store(disk, o);
  small_page page;
  fill(store, static_cast<std::uint64_t>(state.range(0)), page.slice);
  for (auto _ : state) {
    carry_out(store, page.put());
    carry_out(store, {.op = store_op::sync, .key = {}});
  }
}
BENCHMARK(put_and_sync)->ArgName("segments")->Arg(64)->Arg(4'096)->Arg(24'000);

/// A page of a tenant that has all it may: its oldest goes.
void put_at_share(benchmark::State& state) {
  memory_disk disk;
  segment_store_options o = many_segments(state.range(0));
  o.tenant_share_max = 0.25;
  o.saves_snapshot = false;
  segment_store store(disk, o);
  small_page page;
  fill(store, static_cast<std::uint64_t>(state.range(0)), page.slice);
  for (auto _ : state) {
    carry_out(store, page.put());
  }
}
BENCHMARK(put_at_share)->ArgName("segments")->Arg(64)->Arg(4'096)->Arg(24'000);

/// Opening with a snapshot, and the first sync, which has to cover everything.
void reopen_and_sync(benchmark::State& state) {
  memory_disk disk;
  const segment_store_options o = many_segments(state.range(0) + 2);
  {
    segment_store store(disk, o);
    small_page page;
    fill(store, static_cast<std::uint64_t>(state.range(0)), page.slice);
  }
  for (auto _ : state) {
    segment_store store(disk, o);
    if (!store.state().used_snapshot) {
      state.SkipWithError("the snapshot was not used");
    }
    if (state.range(1) != 0) {
      carry_out(store, {.op = store_op::sync, .key = {}});
    }
  }
}
BENCHMARK(reopen_and_sync)
    ->ArgNames({"segments", "syncs"})
    ->ArgsProduct({{64, 4'096, 24'000}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
