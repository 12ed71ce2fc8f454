// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_command.hpp"

#include <oriel/core/mutation.hpp>
#include <oriel/tier/crc32c.hpp>

#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace oriel::detail {

void redis_command::restart() {
  std::string kept_head = std::move(head), kept_tail = std::move(tail);
  std::vector<redis_table_row> kept_rows = std::move(rows);
  kept_head.clear(), kept_tail.clear(), kept_rows.clear();
  *this = {};
  head = std::move(kept_head), tail = std::move(kept_tail), rows = std::move(kept_rows);
}

void redis_page_reader::begin(redis_command& command, std::uint64_t bytes) {
  command_ = &command;
  left_ = bytes;
  skip_ = 0;
  slice_ = offset_ = 0;
  command.verdict = redis_verdict::damaged;
  stage_ = stage::nothing;
  if (command.purpose == redis_purpose::page) {
    head_wanted_ = redis_fixed_bytes;
    stage_ = bytes >= redis_fixed_bytes ? stage::head : stage::nothing;
    return;
  }
  std::uint64_t expected = 0;
  for (const redis_table_row& row : command.rows) {
    expected += row.bytes;
  }
  if (bytes == 0 && expected != 0) {
    command.verdict = redis_verdict::none;  // It went between two commands.
  } else if (bytes == expected) {
    stage_ = stage::slices;
    start_slice();
  }
}

void redis_page_reader::begin_nothing(std::uint64_t bytes) {
  command_ = nullptr;
  left_ = bytes;
  stage_ = stage::nothing;
}

void redis_page_reader::abandon() {
  command_ = nullptr;
  stage_ = stage::nothing;
}

// Slices without bytes end where they begin.
void redis_page_reader::start_slice() {
  crc_ = 0;
  offset_ = 0;
  while (stage_ == stage::slices && slice_ < command_->item.slices.size() &&
         command_->item.slices[slice_].empty()) {
    if (command_->rows[slice_].crc != 0) {
      return judge(redis_verdict::damaged);
    }
    ++slice_;
  }
  if (stage_ == stage::slices && slice_ == command_->item.slices.size()) {
    judge(redis_verdict::page);
  }
}

// Known what it is: the rest, if there is one, goes nowhere.
void redis_page_reader::judge(redis_verdict verdict) {
  command_->verdict = verdict;
  stage_ = stage::nothing;
}

std::size_t redis_page_reader::feed_head(std::span<const std::byte> in) {
  if (in.size() < redis_fixed_bytes) {
    return 0;
  }
  const auto fixed = decode_redis_fixed(in.first<redis_fixed_bytes>());
  if (!fixed) {
    judge(redis_verdict::damaged);
    return 0;
  }
  if (const auto v = judge_redis_fixed(*fixed, command_->item.key); v != redis_verdict::page) {
    judge(v);
    return 0;
  }
  head_wanted_ = fixed->head_bytes;
  if (head_wanted_ > redis_head_bytes_max || head_wanted_ > left_) {
    judge(redis_verdict::damaged);
    return 0;
  }
  if (in.size() < head_wanted_) {
    return 0;
  }
  const auto head = in.first(head_wanted_);
  if (const auto v = judge_redis_head(*fixed, head, left_, command_->item);
      v != redis_verdict::page) {
    judge(v);
    return 0;
  }
  command_->fixed = *fixed;
  command_->rows.clear();
  const std::size_t first = command_->item.first_slice;
  for (std::size_t i = 0; i < first + command_->item.slices.size(); ++i) {
    const redis_table_row row = decode_redis_row(head, i);
    if (i < first) {
      skip_ += row.bytes;
    } else {
      command_->rows.push_back(row);
    }
  }
  left_ -= head_wanted_;
  stage_ = stage::slices;
  start_slice();
  return head.size();
}

std::size_t redis_page_reader::feed(std::span<const std::byte> in) {
  std::size_t used = 0;
  if (stage_ == stage::head) {
    used = feed_head(in.first(std::min<std::uint64_t>(in.size(), left_)));
    if (stage_ == stage::head) {
      return used;
    }
  }
  while (left_ > 0 && used < in.size()) {
    const auto rest = in.subspan(used);
    std::size_t most = static_cast<std::size_t>(std::min<std::uint64_t>(rest.size(), left_));
    if (stage_ == stage::slices && skip_ > 0) {
      most = static_cast<std::size_t>(std::min<std::uint64_t>(most, skip_));
      skip_ -= most;
      left_ -= most;
    } else if (stage_ == stage::slices) {
      const auto target = command_->item.slices[slice_].subspan(offset_);
      most = std::min(most, target.size());
      std::memcpy(target.data(), rest.data(), most);
      take(target.first(most));
    } else {
      left_ -= most;
    }
    used += most;
  }
  return used;
}

std::size_t redis_page_reader::targets(iovec* out,
                                       std::size_t most,
                                       std::size_t bytes_max,
                                       std::size_t& bytes) const {
  bytes = 0;
  if (stage_ != stage::slices || skip_ > 0) {
    return 0;
  }
  std::size_t count = 0;
  for (std::size_t i = slice_;
       i < command_->item.slices.size() && count < most && bytes < bytes_max;
       ++i) {
    auto slice = command_->item.slices[i].subspan(i == slice_ ? offset_ : 0);
    slice = slice.first(std::min(slice.size(), bytes_max - bytes));
    if (!slice.empty()) {
      out[count++] = {.iov_base = slice.data(), .iov_len = slice.size()};
      bytes += slice.size();
    }
  }
  return count;
}

void redis_page_reader::advance(std::size_t bytes) {
  while (bytes > 0) {
    if (stage_ != stage::slices) {  // A slice before proved damaged.
      left_ -= bytes;
      return;
    }
    const auto slice = command_->item.slices[slice_].subspan(offset_);
    const std::size_t step = std::min(bytes, slice.size());
    take(slice.first(step));
    bytes -= step;
  }
}

// These bytes of the current slice are in place.
void redis_page_reader::take(std::span<const std::byte> bytes) {
  crc_ = crc32c(bytes, crc_);
  offset_ += bytes.size();
  left_ -= bytes.size();
  if (offset_ < command_->item.slices[slice_].size()) {
    return;
  }
  if (crc_ != command_->rows[slice_].crc && !ORIEL_MUTANT(redis_payload_is_not_checked)) {
    return judge(redis_verdict::damaged);
  }
  ++slice_;
  start_slice();
}

}  // namespace oriel::detail
