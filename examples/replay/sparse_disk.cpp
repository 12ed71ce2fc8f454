// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/sparse_disk.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace oriel::replay {
namespace {

constexpr std::size_t block_bytes = disk_alignment_bytes;

/// Of a whole block, up to its last byte that is not zero; whole words, since blocks are many.
std::size_t bytes_before_zeros(std::span<const std::byte> bytes) noexcept {
  std::size_t size = bytes.size();
  for (std::uint64_t word = 0; size != 0; size -= sizeof word) {
    std::memcpy(&word, bytes.data() + size - sizeof word, sizeof word);
    if (word != 0) {
      break;
    }
  }
  return size;
}

}  // namespace

result<std::vector<disk_file>> sparse_disk::list() const {
  std::vector<disk_file> files;
  for (const auto& [file, state] : files_) {
    files.push_back({file, state.blocks * block_bytes});
  }
  return files;
}

status sparse_disk::create(std::uint32_t file, std::uint64_t bytes) {
  if (!files_.try_emplace(file, file_state{.blocks = bytes / block_bytes, .kept = {}}).second) {
    return failure{errc::io_failure, EEXIST, "the segment is there"};
  }
  return {};
}

status sparse_disk::remove(std::uint32_t file) {
  const auto found = files_.find(file);
  if (found == files_.end()) {
    return failure{errc::io_failure, ENOENT, "the segment is not there"};
  }
  for (const block& b : found->second.kept) {
    kept_bytes_ -= b.size;
  }
  files_.erase(found);
  return {};
}

std::size_t sparse_disk::submit(std::span<const disk_request> requests) {
  for (const disk_request& r : requests) {
    done_.push_back({r.user, carry_out(r)});
  }
  return requests.size();
}

std::size_t sparse_disk::poll(std::span<disk_completion> done) {
  const std::size_t count = std::min(done.size(), done_.size());
  const auto end = done_.begin() + static_cast<std::ptrdiff_t>(count);
  std::copy(done_.begin(), end, done.begin());
  done_.erase(done_.begin(), end);
  return count;
}

int sparse_disk::carry_out(const disk_request& r) {
  const auto found = files_.find(r.file);
  if (found == files_.end()) {
    return ENOENT;
  }
  if (r.op == disk_op::sync) {
    return 0;
  }
  file_state& file = found->second;
  std::size_t at = r.offset / block_bytes, end = at;
  for (const auto& part : r.parts) {
    end += part.size() / block_bytes;
  }
  if (end > file.blocks && r.op == disk_op::read) {
    return ENODATA;
  }
  if (r.op == disk_op::write) {
    file.blocks = std::max<std::uint64_t>(file.blocks, end);
    file.kept.resize(std::max(file.kept.size(), end));
  }
  for (const auto& part : r.parts) {
    for (std::size_t from = 0; from < part.size(); from += block_bytes, ++at) {
      const auto bytes = part.subspan(from, block_bytes);
      if (r.op == disk_op::write) {
        write(file.kept[at], bytes);
        continue;
      }
      const std::size_t size = at < file.kept.size() ? file.kept[at].size : 0;
      std::memset(bytes.data() + size, 0, block_bytes - size);
      if (size != 0) {
        std::memcpy(bytes.data(), file.kept[at].bytes.get(), size);
      }
    }
  }
  return 0;
}

void sparse_disk::write(block& to, std::span<const std::byte> bytes) {
  const std::size_t size = bytes_before_zeros(bytes);
  if (size != to.size) {
    to.bytes.reset(size == 0 ? nullptr : new std::byte[size]);
    kept_bytes_ += size;
    kept_bytes_ -= to.size;
    to.size = size;
  }
  if (size != 0) {
    std::memcpy(to.bytes.get(), bytes.data(), size);
  }
}

result<std::vector<std::byte>> sparse_disk::read_small(const char* name) const {
  const auto found = small_.find(name);
  if (found == small_.end()) {
    return failure{errc::io_failure, ENOENT, "there is no such small file"};
  }
  return found->second;
}

status sparse_disk::write_small(const char* name, std::span<const std::byte> bytes) {
  small_[name].assign(bytes.begin(), bytes.end());
  return {};
}

std::string sparse_disk::where(std::uint32_t file) const {
  return "replay/segment-" + std::to_string(file);
}

}  // namespace oriel::replay
