// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sim_disk`: a disk that lies, tears and loses power, all from a seed. One thread, its own clock.
///
///     current   what reads see: every write that completed
///     durable   what a sync has made safe
///     unsynced  writes between the two: a loss of power keeps any sectors of any of them
///
/// Requests complete in a random order; bytes move when they complete, so that memory that was
/// given back too early shows. Every injected fault is counted under its number in the fault
/// matrix (F1 torn, F2 flipped, F3 misdirected, F4 lost or stale, F6 no room, F7 read error, F8
/// write error, F9 failed sync, F10 kill -9, F11 loss of power).
#pragma once

#include <oriel/tier/segment_disk.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace oriel_test {

using oriel::disk_alignment_bytes;

/// Odds of each fault, in 1 / 65,536 of the requests that it can hit.
struct sim_faults {
  std::uint32_t read_error = 0, write_error = 0, sync_failure = 0;
  std::uint32_t flipped_read = 0;     ///< on the way: the next read is right
  std::uint32_t flipped_at_rest = 0;  ///< while written
  std::uint32_t misdirected_write = 0, misdirected_read = 0;
  std::uint32_t lost_write = 0, stale_read = 0;
  std::uint32_t no_room = 0;  ///< a write or create fails with ENOSPC
  std::uint32_t slow = 0;     ///< takes a thousand times as long

  /// Does the disk destroy or invent what was acknowledged, even what was synced?
  [[nodiscard]] bool are_lies() const noexcept {
    return flipped_at_rest + misdirected_write + lost_write != 0;
  }
};

/// Reads that touch these bytes of a file fail, as long as it is among `sim_disk::unreadable`.
struct sim_bad_range {
  std::uint32_t file = 0;
  std::uint64_t from = 0, end = ~std::uint64_t{0};
  int error = EIO;
};

class sim_disk {
 public:
  explicit sim_disk(std::uint64_t seed, std::uint64_t latency_us_max = 50)
      : random_(seed * 2 + 1), latency_us_max_(latency_us_max) {}

  // The concept.
  oriel::result<std::vector<oriel::disk_file>> list() {
    std::vector<oriel::disk_file> files;
    for (const auto& [number, f] : files_) {
      // Some file systems know what was written, some do not.
      const std::uint64_t size = f.current.size();
      files.push_back({number, size, number % 2 == 0 ? size : written_bytes(f.current)});
    }
    return files;
  }
  oriel::status create(std::uint32_t file, std::uint64_t bytes) {
    if (is_dead_) {
      return oriel::failure{oriel::errc::io_failure, EIO};
    }
    if ((files_.size() + 1) * bytes > quota_bytes || strikes(6, faults.no_room)) {
      ++counts_[6];
      return oriel::failure{oriel::errc::io_failure, ENOSPC};
    }
    file_state f;
    f.current.resize(bytes);
    f.durable.resize(bytes);
    files_[file] = std::move(f);
    return {};
  }
  oriel::status remove(std::uint32_t file) {
    const auto found = files_.find(file);
    for (const request& r : requests_) {
      if (r.what.file == file) {
        broken_contract = "a file was removed under a request";
      }
    }
    if (found == files_.end()) {
      broken_contract = "a file was removed that is not there";
      return {};
    }
    removed_[file] = std::move(found->second);
    files_.erase(found);
    return {};
  }
  oriel::status sync_names() {
    removed_.clear();
    return {};
  }
  std::size_t submit(std::span<const oriel::disk_request> requests) {
    std::size_t taken = 0;
    for (; taken < requests.size() && requests_.size() < requests_max && !is_dead_; ++taken) {
      const oriel::disk_request& r = requests[taken];
      check(r);
      std::uint64_t due = now_us_ + 1 + below(latency_us_max_ + 1);
      due += strikes(15, faults.slow) ? latency_us_max_ * 1000 : 0;
      requests_.push_back({r, due, below(1u << 30), ++sequence_});
    }
    return taken;
  }
  std::size_t poll(std::span<oriel::disk_completion> done) {
    ++now_us_;
    std::size_t count = 0;
    while (count < done.size()) {
      const std::size_t next = earliest();
      if (next == requests_.size() || requests_[next].due_us > now_us_) {
        break;
      }
      const request r = requests_[next];
      requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(next));
      done[count++] = {r.what.user, carry_out(r)};
    }
    return count;
  }
  bool wait(std::uint64_t until_us) {
    const std::size_t next = earliest();
    if (next == requests_.size()) {
      now_us_ = until_us == ~std::uint64_t{0} ? now_us_ + 1 : std::max(now_us_, until_us);
      return false;
    }
    const std::uint64_t due_us = requests_[next].due_us;
    now_us_ = std::max(now_us_, clock != nullptr ? due_us : std::min(until_us, due_us));
    return requests_[next].due_us <= now_us_;
  }
  [[nodiscard]] std::size_t in_flight() const noexcept { return requests_.size(); }
  oriel::result<std::vector<std::byte>> read_small(const char* name) {
    const auto found = small_.find(name);
    if (found == small_.end()) {
      return oriel::failure{oriel::errc::io_failure, ENOENT};
    }
    return found->second;
  }
  oriel::status write_small(const char* name, std::span<const std::byte> bytes) {
    if (is_dead_) {
      return oriel::failure{oriel::errc::io_failure, EIO};
    }
    small_[name].assign(bytes.begin(), bytes.end());
    return {};
  }
  [[nodiscard]] std::uint64_t now_us() const noexcept {
    return clock != nullptr ? *clock : now_us_;
  }
  [[nodiscard]] std::string where(std::uint32_t file) const {
    return "sim/" + std::to_string(file);
  }

  // What happens to it.
  /// kill -9: completed writes stay, any sectors of those in flight do. Nothing works any more
  /// until revive().
  void crash() {
    ++counts_[10];
    for (const request& r : requests_) {
      if (r.what.op == oriel::disk_op::write) {
        tear(r.what, files_.at(r.what.file));
      }
    }
    requests_.clear();
    is_dead_ = true;
  }
  /// The same, and of what no sync covered only some is left; names that were not made durable come
  /// and go.
  void lose_power() {
    crash();
    ++counts_[11];
    for (auto& [number, f] : removed_) {
      if (below(2) == 0) {
        files_[number] = std::move(f);
      }
    }
    removed_.clear();
    for (auto f = files_.begin(); f != files_.end();) {
      f = !f->second.has_name && below(2) == 0 ? files_.erase(f) : std::next(f);
    }
    for (auto& [number, f] : files_) {
      for (const write& w : f.unsynced) {
        const std::uint64_t fate = below(3);
        for (std::size_t at = 0; at < w.bytes.size(); at += sector_bytes) {
          if (fate == 0 || (fate == 1 && below(2) == 0)) {
            std::memcpy(f.durable.data() + w.offset + at, w.bytes.data() + at, sector_bytes);
          }
        }
        counts_[1] += fate == 1 ? 1 : 0;
        counts_[4] += fate == 2 ? 1 : 0;
      }
      f.unsynced.clear();
      f.current = f.durable;
      f.has_name = true;
    }
  }
  void revive() { is_dead_ = false; }
  void pass(std::uint64_t us) { now_us_ += us; }
  /// The clock begins again, the wall clock goes on. @pre nothing is in flight
  void reboot(std::uint64_t now_us = 0) {
    wall_ahead_us_ += now_us_ - now_us;
    now_us_ = now_us;
  }
  [[nodiscard]] std::uint64_t wall_us() const noexcept { return now_us() + wall_ahead_us_; }
  void set_wall(std::uint64_t us) { wall_ahead_us_ = us - now_us(); }

  // For tests that do it themselves.
  [[nodiscard]] std::vector<std::byte>& image(std::uint32_t file) {
    return files_.at(file).current;
  }
  [[nodiscard]] std::map<std::string, std::vector<std::byte>>& small_files() { return small_; }
  [[nodiscard]] std::size_t file_count() const noexcept { return files_.size(); }
  [[nodiscard]] std::uint64_t file_bytes() const noexcept {
    std::uint64_t bytes = 0;
    for (const auto& [number, f] : files_) {
      bytes += f.current.size();
    }
    return bytes;
  }
  /// Some bytes of some file.
  [[nodiscard]] sim_bad_range some_bytes() {
    const auto f = std::next(files_.begin(), static_cast<std::ptrdiff_t>(below(files_.size())));
    const std::uint64_t from = below(f->second.current.size() / disk_alignment_bytes);
    return {f->first, from * disk_alignment_bytes, (from + 1 + below(4)) * disk_alignment_bytes};
  }
  [[nodiscard]] const std::array<std::uint64_t, 41>& fault_counts() const noexcept {
    return counts_;
  }

  sim_faults faults;
  std::vector<sim_bad_range> unreadable;
  /// What the store is told, where a world has one clock for all; the disk keeps its own time.
  std::shared_ptr<const std::uint64_t> clock;
  std::uint64_t quota_bytes = ~std::uint64_t{0};
  std::string broken_contract;  ///< what the store must never do; empty: it did not

 private:
  static constexpr std::size_t sector_bytes = 512;
  static constexpr std::size_t requests_max = 24;

  struct write {
    std::uint64_t offset = 0;
    std::vector<std::byte> bytes;
    std::uint64_t completed = 0;  // sequence
  };
  struct file_state {
    std::vector<std::byte> current, durable;
    std::vector<write> unsynced;
    bool has_name = false;  // survives a loss of power
  };
  struct request {
    oriel::disk_request what;
    std::uint64_t due_us = 0, tie = 0, submitted = 0;
  };

  std::uint64_t next() noexcept {  // splitmix64
    std::uint64_t z = random_ += 0x9E37'79B9'7F4A'7C15u;
    z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9u;
    z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EBu;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t bound) noexcept { return next() % bound; }
  bool strikes(std::size_t fault, std::uint32_t odds) noexcept {
    const bool yes = odds != 0 && below(65'536) < odds;
    counts_[fault] += yes ? 1 : 0;
    return yes;
  }

  void check(const oriel::disk_request& r) {
    if (!files_.contains(r.file)) {
      broken_contract = "a request for a file that is not there";
    }
    std::uint64_t bytes = 0;
    for (const std::span<std::byte> part : r.parts) {
      const auto address = reinterpret_cast<std::uintptr_t>(part.data());
      if (part.empty() || address % disk_alignment_bytes != 0 ||
          part.size() % disk_alignment_bytes != 0) {
        broken_contract = "a part is not aligned";
      }
      bytes += part.size();
    }
    if (r.offset % disk_alignment_bytes != 0 || (r.op != oriel::disk_op::sync && bytes == 0)) {
      broken_contract = "an offset is not aligned, or nothing is moved";
    }
    if (r.op == oriel::disk_op::write && files_.contains(r.file) &&
        r.offset + bytes > files_.at(r.file).current.size()) {
      broken_contract = "a write beyond the end of a segment";
    }
  }
  static std::uint64_t written_bytes(std::span<const std::byte> bytes) {
    const auto from =
        std::find_if(bytes.rbegin(), bytes.rend(), [](std::byte b) { return b != std::byte{0}; });
    const auto end = static_cast<std::uint64_t>(bytes.rend() - from);
    return (end + disk_alignment_bytes - 1) / disk_alignment_bytes * disk_alignment_bytes;
  }
  [[nodiscard]] std::size_t earliest() const noexcept {
    std::size_t best = requests_.size();
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (best == requests_.size() || std::pair(requests_[i].due_us, requests_[i].tie) <
                                          std::pair(requests_[best].due_us, requests_[best].tie)) {
        best = i;
      }
    }
    return best;
  }
  static std::vector<std::byte> gather(const oriel::disk_request& r) {
    std::vector<std::byte> bytes;
    for (const std::span<std::byte> part : r.parts) {
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    return bytes;
  }
  int carry_out(const request& r) {
    const auto found = files_.find(r.what.file);
    if (found == files_.end()) {
      return EBADF;
    }
    switch (r.what.op) {
      case oriel::disk_op::read:
        return read(r.what, found->second);
      case oriel::disk_op::write:
        return put(r.what, found->second);
      case oriel::disk_op::sync:
        return sync(r, found->second);
    }
    return EINVAL;
  }
  int read(const oriel::disk_request& r, file_state& f) {
    if (strikes(7, faults.read_error)) {
      return EIO;
    }
    std::uint64_t bytes = 0;
    for (const std::span<std::byte> part : r.parts) {
      bytes += part.size();
    }
    for (const sim_bad_range& bad : unreadable) {
      if (bad.file == r.file && r.offset < bad.end && r.offset + bytes > bad.from) {
        ++counts_[7];
        return bad.error;
      }
    }
    const bool is_stale = strikes(4, faults.stale_read);
    const std::vector<std::byte>& from = is_stale ? f.durable : f.current;
    std::uint64_t at = r.offset;
    if (strikes(3, faults.misdirected_read)) {
      at = below(from.size() / disk_alignment_bytes) * disk_alignment_bytes;
    }
    if (r.offset + bytes > from.size()) {
      return ENODATA;
    }
    at = at + bytes > from.size() ? r.offset : at;
    for (const std::span<std::byte> part : r.parts) {
      std::memcpy(part.data(), from.data() + at, part.size());
      at += part.size();
    }
    if (strikes(2, faults.flipped_read)) {
      const std::span<std::byte> part = r.parts[below(r.parts.size())];
      part[below(part.size())] ^= static_cast<std::byte>(1u << below(8));
    }
    return 0;
  }
  int put(const oriel::disk_request& r, file_state& f) {
    if (strikes(6, faults.no_room)) {
      tear(r, f);
      return ENOSPC;
    }
    if (strikes(8, faults.write_error)) {
      tear(r, f);
      return EIO;
    }
    if (strikes(4, faults.lost_write)) {
      return 0;
    }
    std::vector<std::byte> bytes = gather(r);
    std::uint64_t at = r.offset;
    if (strikes(3, faults.misdirected_write)) {
      const std::uint64_t places = (f.current.size() - bytes.size()) / disk_alignment_bytes + 1;
      at = below(places) * disk_alignment_bytes;
    }
    if (strikes(2, faults.flipped_at_rest)) {
      bytes[below(bytes.size())] ^= static_cast<std::byte>(1u << below(8));
    }
    std::memcpy(f.current.data() + at, bytes.data(), bytes.size());
    f.unsynced.push_back({at, std::move(bytes), ++sequence_});
    return 0;
  }
  /// Some sectors of a write that did not complete.
  void tear(const oriel::disk_request& r, file_state& f) {
    std::vector<std::byte> bytes = gather(r);
    const std::uint64_t fate = below(4);
    counts_[1] += 1;
    const std::size_t prefix = below(bytes.size() / sector_bytes + 1) * sector_bytes;
    for (std::size_t at = 0; at < bytes.size(); at += sector_bytes) {
      const bool lands = fate == 0 || (fate == 1 && below(2) == 0) || (fate == 2 && at < prefix);
      if (lands) {
        const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        std::memcpy(f.current.data() + r.offset + at, bytes.data() + at, sector_bytes);
        f.unsynced.push_back({r.offset + at, {from, from + sector_bytes}, ++sequence_});
      }
    }
  }
  int sync(const request& r, file_state& f) {
    if (strikes(9, faults.sync_failure)) {
      // Dirty pages are dropped, and called clean: later syncs succeed, and mean nothing.
      const bool forgets = below(2) == 0;
      f.unsynced.clear();
      if (forgets) {
        f.current = f.durable;
      }
      return EIO;
    }
    std::vector<write> kept;
    for (write& w : f.unsynced) {
      if (w.completed < r.submitted) {
        std::memcpy(f.durable.data() + w.offset, w.bytes.data(), w.bytes.size());
      } else {
        kept.push_back(std::move(w));
      }
    }
    f.unsynced = std::move(kept);
    f.has_name = true;
    return 0;
  }

  std::uint64_t random_;
  std::uint64_t latency_us_max_;
  std::uint64_t now_us_ = 1'000'000;
  std::uint64_t wall_ahead_us_ = 1'790'000'000'000'000;
  std::uint64_t sequence_ = 0;
  bool is_dead_ = false;
  std::map<std::uint32_t, file_state> files_, removed_;
  std::map<std::string, std::vector<std::byte>> small_;
  std::vector<request> requests_;
  std::array<std::uint64_t, 41> counts_ = {};
};

static_assert(oriel::segment_disk<sim_disk>);

/// The wall clock of the machine that the disk is in.
class sim_wall {
 public:
  explicit sim_wall(const sim_disk& disk) : disk_(&disk) {}
  [[nodiscard]] std::uint64_t now_us() const noexcept { return disk_->wall_us(); }

 private:
  const sim_disk* disk_;
};

static_assert(oriel::wall_clock<sim_wall>);

}  // namespace oriel_test
