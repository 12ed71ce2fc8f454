// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "cache_folder.hpp"

#include <oriel/tier/store_clock.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <utility>

namespace oriel::cli {
namespace {

constexpr std::uint64_t block_bytes = record_alignment_bytes;
/// Read at once: of headers alone, and of everything.
constexpr std::uint64_t header_part_bytes = record_header_bytes_max, whole_part_bytes = 1u << 20;

struct aligned_delete {
  void operator()(std::byte* p) const noexcept {
    ::operator delete[](p, std::align_val_t(record_alignment_bytes));
  }
};

/// Reads parts of one segment and keeps the last one.
class segment_reader {
 public:
  segment_reader(directory_disk& disk, const disk_file& file, std::uint64_t part_bytes)
      : disk_(disk),
        file_(file.file),
        end_(file.bytes / block_bytes * block_bytes),
        part_bytes_(part_bytes) {}

  [[nodiscard]] std::uint64_t end() const noexcept { return end_; }
  [[nodiscard]] std::uint64_t read_bytes() const noexcept { return read_bytes_; }

  /// At least `bytes` bytes from there, more where they are at hand; fewer where the file ends.
  /// Nothing: they cannot be read. @pre offset is a multiple of 4 KiB
  std::optional<std::span<const std::byte>> read(std::uint64_t offset, std::uint64_t bytes) {
    bytes = std::min(record_padded(bytes), end_ - offset);
    if (offset < from_ || offset + bytes > from_ + have_) {
      const std::uint64_t wanted = std::min(std::max(bytes, part_bytes_), end_ - offset);
      if (!load(offset, wanted) && !load(offset, bytes)) {
        return std::nullopt;
      }
    }
    return std::span<const std::byte>(memory_.get() + (offset - from_),
                                      static_cast<std::size_t>(from_ + have_ - offset));
  }

 private:
  bool load(std::uint64_t offset, std::uint64_t bytes) {
    have_ = 0;
    if (bytes > room_) {
      memory_.reset(static_cast<std::byte*>(::operator new[](
          static_cast<std::size_t>(bytes), std::align_val_t(record_alignment_bytes))));
      room_ = bytes;
    }
    const std::span<std::byte> part(memory_.get(), static_cast<std::size_t>(bytes));
    const disk_request request{
        .op = disk_op::read, .file = file_, .offset = offset, .parts = {&part, 1}};
    disk_completion done{.error = EIO};
    if (disk_.submit({&request, 1}) == 0) {
      return false;
    }
    while (disk_.poll({&done, 1}) == 0) {
      disk_.wait(~std::uint64_t{0});
    }
    if (done.error != 0) {
      return false;
    }
    from_ = offset;
    have_ = bytes;
    read_bytes_ += bytes;
    return true;
  }

  directory_disk& disk_;
  std::uint32_t file_;
  std::uint64_t end_, part_bytes_;
  std::unique_ptr<std::byte[], aligned_delete> memory_;
  std::uint64_t room_ = 0, from_ = 0, have_ = 0, read_bytes_ = 0;
};

using digest_bytes = std::array<std::byte, 32>;
using page_name = std::pair<digest_bytes, std::uint32_t>;  // of a key: link and pool

page_name name_of_page(const page_key& key) noexcept {
  return {key.link.bytes, key.pool};
}

struct page_facts {
  std::uint64_t generation = 0, bytes = 0, expires_us = 0;
  bool is_over = false;
  page_owner owner;
  page_digest name_space;
  std::uint32_t tokens = 0;
  double age_s = 0;
};

/// Collects records; then says which of them are alive.
class folder_reader {
 public:
  folder_reader(directory_disk& disk, bool checks_all) : disk_(disk), checks_all_(checks_all) {}

  cache_contents read() {
    const auto files = disk_.list();
    if (!files) {
      throw engine::error(
          fmt::format("{}: {}{}{}",
                      disk_.where(0).substr(0, disk_.where(0).rfind('/')),
                      files.error().detail,
                      files.error().native != 0 ? ": " : "",
                      files.error().native != 0 ? std::strerror(files.error().native) : ""));
    }
    for (const disk_file& file : *files) {
      ++contents_.segments;
      contents_.segment_bytes += file.bytes;
      read_segment(file);
    }
    sort_out();
    return std::move(contents_);
  }

 private:
  void read_segment(const disk_file& file) {
    segment_reader reader(disk_, file, checks_all_ ? whole_part_bytes : header_part_bytes);
    file_ = file.file;
    age_s_ = age_of(disk_.where(file.file));
    // No record lies in what was never written: only who checks all bytes looks there, too.
    const std::uint64_t end =
        checks_all_ ? reader.end() : std::min(reader.end(), record_padded(file.written_bytes));
    for (std::uint64_t at = 0; at < end;) {
      at += read_record(reader, at);
    }
    if (file.bytes % block_bytes != 0) {
      report(reader.end(), file.bytes % block_bytes, "cut off");
    }
    contents_.read_bytes += reader.read_bytes();
  }

  /// What lies at `at`; returns how far to go on.
  std::uint64_t read_record(segment_reader& reader, std::uint64_t at) {
    auto bytes = reader.read(at, block_bytes);
    if (!bytes) {
      report(at, block_bytes, "unreadable");
      return block_bytes;
    }
    record_view view;
    record_verdict verdict = decode_record(*bytes, view);
    const bool has_magic = std::memcmp(bytes->data(), "OrielPg1", 8) == 0;
    if (verdict == record_verdict::torn && has_magic) {  // Its header may be longer.
      bytes = reader.read(at, record_header_bytes_max);
      verdict = bytes ? decode_record(*bytes, view) : verdict;
    }
    if (verdict != record_verdict::sound) {
      // Zero if its first byte is, and every byte is as the one before it.
      const bool is_zero = bytes && bytes->front() == std::byte{} &&
                           std::memcmp(bytes->data(), bytes->data() + 1, block_bytes - 1) == 0;
      if (!is_zero) {
        report(at,
               block_bytes,
               verdict == record_verdict::foreign_version ? "version"
               : has_magic                                ? "header"
                                                          : "no record");
      }
      return block_bytes;
    }
    if (!(view.fields.place == record_place{file_, at})) {
      report(at, block_bytes, "misplaced");
      return block_bytes;
    }
    if (view.record_bytes > reader.end() - at) {
      report(at, reader.end() - at, "cut off");
      return reader.end() - at;
    }
    const std::uint64_t record_bytes = view.record_bytes;
    ++contents_.records;
    take(view);
    if (checks_all_) {
      check(reader, at, *bytes);
    }
    return record_bytes;
  }

  /// Identity and slices. The view of a header does not outlive the next read: it is kept.
  void check(segment_reader& reader, std::uint64_t at, std::span<const std::byte> bytes) {
    record_view view;
    static_cast<void>(decode_record(bytes, view));
    header_.assign(bytes.begin(), bytes.begin() + view.header_bytes);
    static_cast<void>(decode_record(header_, view));
    if (view.fields.type == record_type::page && !names_itself(view)) {
      report(at, view.header_bytes, "identity");
    }
    for (std::uint32_t i = 0; i < view.slice_count; ++i) {
      const std::uint64_t from = at + view.slice_offset(i);
      const std::uint32_t size = view.slice(i).bytes;
      const auto slice = reader.read(from, size);
      if (!slice) {
        report(from, record_padded(size), "unreadable");
      } else if (!view.is_slice(i, slice->first(size))) {
        report(from, record_padded(size), "slice");
      }
    }
  }

  /// The link commits to the link before it and to the tokens.
  bool names_itself(const record_view& view) {
    tokens_.clear();
    for (std::uint32_t i = 0; i < view.token_count; ++i) {
      tokens_.push_back(view.token(i));
    }
    links_.clear();
    if (!tokens_.empty()) {
      extend_chain(view.parent, tokens_, view.token_count, links_);
    }
    return links_.size() == 1 && links_.front() == view.fields.key.link &&
           (view.first_token == 0) == (view.parent == view.name_space);
  }

  void take(const record_view& view) {
    const record_fields& f = view.fields;
    switch (f.type) {
      case record_type::segment_start:
        return;
      case record_type::page:
        break;
      case record_type::erase:
        ++contents_.tombstones;
        raise(erased_[name_of_page(f.key)], f.generation);
        return;
      case record_type::drop_space:
        ++contents_.tombstones;
        raise(spaces_[f.key.link.bytes], f.generation);
        return;
      case record_type::drop_tenant:
        ++contents_.tombstones;
        raise(tenants_[f.owner.tenant], f.generation);
        return;
      case record_type::drop_session:
        ++contents_.tombstones;
        raise(sessions_[{f.owner.tenant, f.owner.session}], f.generation);
        return;
    }
    page_facts& page = pages_[name_of_page(f.key)];
    contents_.over_pages += page.bytes != 0;
    if (page.bytes == 0 || f.generation > page.generation) {
      page = {.generation = f.generation,
              .bytes = view.record_bytes,
              .expires_us = f.expires_us,
              .is_over = f.is_over(wall_us_),
              .owner = f.owner,
              .name_space = view.name_space,
              .tokens = view.token_count,
              .age_s = age_s_};
    }
  }

  void sort_out() {
    const auto is_killed = [](const auto& tombstones, const auto& name, std::uint64_t generation) {
      const auto found = tombstones.find(name);
      return found != tombstones.end() && generation < found->second;
    };
    std::map<std::pair<digest_bytes, std::uint64_t>, cache_group> groups;
    for (const auto& [name, page] : pages_) {
      if (is_killed(erased_, name, page.generation) ||
          is_killed(spaces_, page.name_space.bytes, page.generation) ||
          is_killed(tenants_, page.owner.tenant, page.generation) ||
          is_killed(sessions_, std::pair(page.owner.tenant, page.owner.session), page.generation) ||
          page.is_over) {
        ++contents_.over_pages;
        continue;
      }
      ++contents_.pages;
      contents_.bytes += page.bytes;
      const auto [at, is_new] =
          groups.try_emplace(std::pair(page.name_space.bytes, page.owner.tenant),
                             cache_group{.name_space = page.name_space,
                                         .tenant = page.owner.tenant,
                                         .oldest_s = page.age_s,
                                         .youngest_s = page.age_s});
      add(at->second, name.second, page);
    }
    for (auto& [of, group] : groups) {
      contents_.groups.push_back(std::move(group));
    }
  }

  void add(cache_group& group, std::uint32_t pool, const page_facts& page) const {
    group.sessions.insert(page.owner.session);
    ++(pool == 0 ? group.full_pages : group.window_pages);
    group.tokens += pool == 0 ? page.tokens : 0;
    group.bytes += page.bytes;
    group.oldest_s = std::max(group.oldest_s, page.age_s);
    group.youngest_s = std::min(group.youngest_s, page.age_s);
    if (page.expires_us != 0) {
      const double left_s = 1e-6 * static_cast<double>(page.expires_us - wall_us_);
      group.next_expiry_s = std::min(group.next_expiry_s.value_or(left_s), left_s);
    }
  }

  /// What lies behind other damage belongs to it.
  void report(std::uint64_t offset, std::uint64_t bytes, std::string_view kind) {
    const std::string file = disk_.where(file_);
    if (kind == "no record" && !contents_.damage.empty()) {
      cache_damage& last = contents_.damage.back();
      if (last.file == file && last.offset + last.bytes == offset && last.kind != "slice") {
        last.bytes += bytes;
        return;
      }
    }
    contents_.damage.push_back({file, offset, bytes, std::string(kind)});
  }

  static void raise(std::uint64_t& to, std::uint64_t generation) noexcept {
    to = std::max(to, generation);
  }

  static double age_of(const std::string& path) noexcept {
    struct stat is = {};
    if (::lstat(path.c_str(), &is) != 0) {
      return 0;
    }
    struct timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const double written_s =
        static_cast<double>(is.st_mtim.tv_sec) + 1e-9 * static_cast<double>(is.st_mtim.tv_nsec);
    const double now_s = static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
    return std::max(0.0, now_s - written_s);
  }

  directory_disk& disk_;
  bool checks_all_;
  std::uint64_t wall_us_ = realtime_clock().now_us();
  cache_contents contents_;
  std::uint32_t file_ = 0;
  double age_s_ = 0;
  std::map<page_name, page_facts> pages_;  // the youngest record of each
  // The youngest tombstone of each: it kills what is older.
  std::map<page_name, std::uint64_t> erased_;
  std::map<digest_bytes, std::uint64_t> spaces_;
  std::map<std::uint64_t, std::uint64_t> tenants_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> sessions_;
  std::vector<std::byte> header_;
  std::vector<token_id> tokens_;
  std::vector<page_digest> links_;
};

}  // namespace

directory_disk open_cache_folder(const std::string& folder, disk_access access) {
  struct stat is = {};
  if (::lstat(folder.c_str(), &is) != 0) {
    throw engine::error(fmt::format("{}: {}", folder, std::strerror(errno)));
  }
  auto disk = directory_disk::open({.directory = folder, .access = access});
  if (disk) {
    return std::move(*disk);
  }
  const failure& why = disk.error();
  if (why.code == errc::locked) {
    throw engine::error(
        fmt::format("{}: {}: wait for the oriel that uses it, or stop it", folder, why.detail));
  }
  if (why.native == ENOENT) {  // The folder is there: it is the lock that is not.
    throw engine::error(
        fmt::format("{}: no folder of a disk cache: it has no file `lock`; name the folder that "
                    "--disk-cache was given",
                    folder));
  }
  throw engine::error(fmt::format("{}: {}{}{}",
                                  folder,
                                  why.detail,
                                  why.native != 0 ? ": " : "",
                                  why.native != 0 ? std::strerror(why.native) : ""));
}

cache_contents read_cache_folder(directory_disk& disk, bool checks_all) {
  return folder_reader(disk, checks_all).read();
}

std::string digest_text(const page_digest& digest) {
  std::string text;
  for (const std::byte b : digest.bytes) {
    text += fmt::format("{:02x}", static_cast<unsigned>(b));
  }
  return text;
}

std::string tenant_text(std::uint64_t id) {
  return fmt::format("{:016x}", id);
}

}  // namespace oriel::cli
