// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/route/detail/tier_steps.hpp>

#include <algorithm>
#include <cstddef>

namespace oriel::detail {

std::size_t tier_steps::lower(std::uint32_t pool, std::uint32_t position) const noexcept {
  return static_cast<std::size_t>(std::ranges::lower_bound(steps_, step(pool, position, 0)) -
                                  steps_.begin());
}

void tier_steps::change(std::uint32_t pool,
                        page_stretch pages,
                        std::uint8_t tier,
                        bool is_there,
                        std::vector<page_stretch>& changed) {
  const auto bit = static_cast<tier_mask>(1u << tier);
  const std::size_t first = lower(pool, pages.first);
  tier_mask old = first > 0 && pool_of(steps_[first - 1]) == pool ? mask_of(steps_[first - 1]) : 0;
  tier_mask last = old;  // of the steps written so far
  std::uint64_t few[16];
  std::vector<std::uint64_t> many;
  std::size_t written = 0;
  const auto write = [&](std::uint32_t position, tier_mask mask) {
    if (mask == last) {
      return;
    }
    last = mask;
    if (written == std::size(few)) {
      many.assign(few, few + written);
    }
    if (written < std::size(few)) {
      few[written] = step(pool, position, mask);
    } else {
      many.push_back(step(pool, position, mask));
    }
    ++written;
  };
  std::size_t end = first;
  for (std::uint32_t at = pages.first; at < pages.end;) {
    if (end < steps_.size() && pool_of(steps_[end]) == pool && position_of(steps_[end]) == at) {
      old = mask_of(steps_[end++]);
    }
    const bool goes_on = end < steps_.size() && pool_of(steps_[end]) == pool;
    const std::uint32_t until = goes_on ? std::min(pages.end, position_of(steps_[end])) : pages.end;
    write(at, static_cast<tier_mask>(is_there ? old | bit : old & ~bit));
    if (((old & bit) != 0) != is_there) {
      changed.push_back({at, until});
    }
    at = until;
  }
  if (end < steps_.size() && pool_of(steps_[end]) == pool &&
      position_of(steps_[end]) == pages.end) {
    old = mask_of(steps_[end++]);
  }
  write(pages.end, old);
  replace(first,
          end,
          written <= std::size(few) ? std::span<const std::uint64_t>(few, written)
                                    : std::span<const std::uint64_t>(many));
}

void tier_steps::replace(std::size_t first, std::size_t end, std::span<const std::uint64_t> by) {
  const std::size_t common = std::min(end - first, by.size());
  std::ranges::copy(by.first(common), steps_.begin() + static_cast<std::ptrdiff_t>(first));
  const auto at = steps_.begin() + static_cast<std::ptrdiff_t>(first + common);
  if (common < by.size()) {
    if (steps_.empty()) {
      steps_.reserve(by.size());
    }
    steps_.insert(steps_.begin() + static_cast<std::ptrdiff_t>(first + common),
                  by.begin() + static_cast<std::ptrdiff_t>(common),
                  by.end());
  } else {
    steps_.erase(at, steps_.begin() + static_cast<std::ptrdiff_t>(end));
  }
}

std::uint32_t tier_steps::covered_up(std::uint32_t pool,
                                     std::uint32_t from,
                                     tier_mask tiers) const noexcept {
  std::size_t i = lower(pool, from + 1);
  if (i == 0 || pool_of(steps_[i - 1]) != pool || (mask_of(steps_[i - 1]) & tiers) == 0) {
    return from;
  }
  while ((mask_of(steps_[i]) & tiers) != 0) {  // The last step of a pool has no tier.
    ++i;
  }
  return position_of(steps_[i]);
}

std::uint32_t tier_steps::covered_down(std::uint32_t pool,
                                       std::uint32_t end,
                                       tier_mask tiers) const noexcept {
  std::size_t i = lower(pool, end);
  std::uint32_t start = end;
  while (i > 0 && pool_of(steps_[i - 1]) == pool && (mask_of(steps_[i - 1]) & tiers) != 0) {
    start = position_of(steps_[--i]);
  }
  return start;
}

std::uint32_t tier_steps::last_covered(std::uint32_t pool,
                                       std::uint32_t end,
                                       tier_mask tiers) const noexcept {
  for (std::size_t i = lower(pool, end); i > 0 && pool_of(steps_[i - 1]) == pool; --i) {
    if ((mask_of(steps_[i - 1]) & tiers) != 0) {
      return end;
    }
    end = position_of(steps_[i - 1]);
  }
  return 0;
}

tier_steps tier_steps::cut(std::uint32_t at) {
  tier_steps upper;
  std::size_t kept = 0;
  for (const std::uint64_t s : steps_) {
    if (position_of(s) >= at) {
      upper.steps_.push_back(s);
    } else {
      steps_[kept++] = s;
    }
  }
  steps_.resize(kept);
  return upper;
}

}  // namespace oriel::detail
