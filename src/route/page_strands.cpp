// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Strands and the table: pages come, go, and take their strands with them.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/detail/page_strands.hpp>

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

namespace oriel::detail {
namespace {

/// Calls visit(i, hash) for one link after the other, until it says no, and has the table's cache
/// lines of the next ones on their way meanwhile.
template <class Visit>
void probe_ahead(const link_table& table,
                 std::span<const chain_hash> links,
                 std::uint32_t position,
                 Visit&& visit) {
  constexpr std::uint32_t ahead = 32;
  std::uint64_t hashes[ahead];
  const auto count = static_cast<std::uint32_t>(links.size());
  const auto fetch = [&](std::uint32_t i) {
    hashes[i % ahead] = link_table::hash(links[i], position + i);
    table.prefetch(hashes[i % ahead]);
  };
  for (std::uint32_t i = 0; i < std::min(count, ahead); ++i) {
    fetch(i);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t hash = hashes[i % ahead];
    if (i + ahead < count) {
      fetch(i + ahead);
    }
    if (!visit(i, hash)) {
      return;
    }
  }
}

/// Makes room as push_back would.
template <class T>
void grow(std::vector<T>& items, std::size_t more) {
  if (items.capacity() < items.size() + more) {
    items.reserve(std::max(items.size() + more, items.size() + items.size() / 2));
  }
}

template <class T>
void erase_front(std::vector<T>& items, std::size_t count) {
  items.erase(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(count));
  items.shrink_to_fit();
}

template <class T>
void give_back(std::vector<T>& items) noexcept {
  std::vector<T>().swap(items);
}

/// Rarely, so that the cost is spread over what was appended or dropped since.
void give_back_excess(page_strand& strand) {
  if (strand.links.capacity() > 2 * strand.links.size() + 16) {
    strand.links.shrink_to_fit();
    strand.counts.shrink_to_fit();
  }
}

/// Pages from `position` on that are the strand's, one after the other. The strand begins at or
/// before.
std::uint32_t common(const page_strand& strand,
                     std::uint32_t position,
                     std::span<const chain_hash> links) noexcept {
  const std::size_t most = std::min<std::size_t>(links.size(), strand.end() - position);
  const chain_hash* own = &strand.link(position);
  std::size_t same = 0;
  while (same < most && own[same] == links[same]) {
    ++same;
  }
  return static_cast<std::uint32_t>(same);
}

}  // namespace

page_strands::page_strands(std::uint32_t workers,
                           std::uint32_t capacity_pages,
                           std::vector<std::uint32_t> needed_pages)
    : table_(capacity_pages),
      capacity_pages_(capacity_pages),
      needed_pages_(std::move(needed_pages)),
      strands_of_(workers) {
  for (const std::uint32_t needed : needed_pages_) {
    needed_pages_max_ = std::max(needed_pages_max_, needed);
  }
}

strand_id page_strands::find(chain_hash link, std::uint32_t position) const noexcept {
  return table_.find(link_table::hash(link, position), position, [&](strand_id id) {
    return strands_[id].link(position) == link;
  });
}

/// The same. One event is mostly about the strand of the one before: another tier, the next pages.
strand_id page_strands::find_near(chain_hash link, std::uint32_t position) noexcept {
  if (has_page(last_, link, position)) {
    return last_;
  }
  const strand_id found = find(link, position);
  last_ = found == no_strand ? last_ : found;
  return found;
}

strand_id page_strands::new_strand(std::uint32_t position, std::size_t links) {
  if (free_.empty()) {
    ORIEL_EXPECTS(strands_.size() < no_strand);
    strands_.emplace_back();
    free_.reserve(strands_.capacity());  // so that a release needs no memory
    free_.push_back(static_cast<strand_id>(strands_.size() - 1));
  }
  const strand_id id = free_.back();
  page_strand& strand = strands_[id];
  strand.links.reserve(links);
  strand.counts.reserve(links);
  strand.base = strand.begin = position;
  strand.last_branch = 0;
  free_.pop_back();
  return id;
}

/// Appends links up to the first that is in a strand already, or as many as there is room for.
std::uint32_t page_strands::append(strand_id id, std::span<const chain_hash> links) {
  page_strand& strand = strands_[id];
  const std::uint32_t position = strand.end();
  const auto most =
      static_cast<std::uint32_t>(std::min<std::size_t>(links.size(), capacity_pages_ - pages_));
  grow(strand.links, most);
  grow(strand.counts, most);
  std::uint32_t fresh = 0;
  probe_ahead(table_, links.first(most), position, [&](std::uint32_t i, std::uint64_t hash) {
    const auto is_it = [&](strand_id other) {
      return strands_[other].link(position + i) == links[i];
    };
    if (table_.find(hash, position + i, is_it) != no_strand) {
      return false;
    }
    table_.insert(hash, position + i, id);
    ++fresh;
    return true;
  });
  strand.links.insert(strand.links.end(), links.begin(), links.begin() + fresh);
  strand.counts.resize(strand.counts.size() + fresh);
  give_back_excess(strand);
  pages_ += fresh;
  return fresh;
}

std::uint32_t page_strands::store(const worker_place& to,
                                  std::uint32_t first_page,
                                  chain_hash parent,
                                  std::span<const chain_hash> links) {
  constexpr std::uint32_t first_links = 8;  // fetched while the page before is looked for
  if (!links.empty() && !has_page(last_, links[0], first_page)) {
    table_.prefetch(link_table::hash(parent, first_page - 1));
    for (std::uint32_t i = 0; i < std::min<std::size_t>(links.size(), first_links); ++i) {
      table_.prefetch(link_table::hash(links[i], first_page + i));
    }
  }
  strand_id before = no_strand;  // has the page before; no_strand: not known yet, or there is none
  std::uint32_t refused = 0;
  for (std::size_t done = 0; done < links.size();) {
    const std::uint32_t position = first_page + static_cast<std::uint32_t>(done);
    const auto rest = links.subspan(done);
    strand_id id = find_near(rest[0], position);
    std::uint32_t pages = 0;
    if (id != no_strand) {
      pages = common(strands_[id], position, rest);
    } else if (pages_ == capacity_pages_) {
      ++refused;
      ++done;
      continue;
    } else {
      if (done == 0 && position > 0) {
        before = find_near(parent, position - 1);
      }
      const bool is_tip = before != no_strand && strands_[before].end() == position;
      if (before != no_strand && !is_tip) {
        strands_[before].last_branch = position;
      }
      id = is_tip ? before : new_strand(position, rest.size());
      pages = append(id, rest);
    }
    ORIEL_EXPECTS(pages > 0);  // or this would never end
    add(id, to, {position, position + pages});
    before = id;
    done += pages;
  }
  return refused;
}

void page_strands::remove(const worker_place& from,
                          std::uint32_t first_page,
                          std::span<const chain_hash> links) {
  for (std::size_t done = 0; done < links.size();) {
    const std::uint32_t position = first_page + static_cast<std::uint32_t>(done);
    const strand_id id = find_near(links[done], position);
    if (id == no_strand) {
      ++done;
      continue;
    }
    const std::uint32_t pages = common(strands_[id], position, links.subspan(done));
    ORIEL_EXPECTS(pages > 0);
    page_holder* const holder = strands_[id].find(from.worker);
    if (holder != nullptr && take(id, *holder, from, {position, position + pages})) {
      forget_unused(id, {position, position + pages});
    }
    done += pages;
  }
}

void page_strands::clear_tier(std::uint32_t worker, std::uint8_t tier) {
  const std::vector<strand_id> strands = strands_of_[worker];
  for (const strand_id id : strands) {
    page_holder* const holder = strands_[id].find(worker);
    std::uint32_t pools = 0;
    page_stretch all{end_page, 0};
    holder->steps.for_each([&](std::uint32_t pool, page_stretch pages, tier_mask) {
      pools = std::max(pools, pool + 1);
      all = {std::min(all.first, pages.first), std::max(all.end, pages.end)};
    });
    bool is_unused = false;
    for (std::uint32_t pool = 0; pool < pools; ++pool) {
      page_holder* const still = strands_[id].find(worker);
      is_unused = (still != nullptr && take(id, *still, {worker, tier, pool}, all)) || is_unused;
    }
    if (is_unused) {
      forget_unused(id, all);
    }
  }
}

void page_strands::clear(std::uint32_t worker) {
  if (ORIEL_MUTANT(removed_worker_is_left_behind)) {
    return;
  }
  while (!strands_of_[worker].empty()) {
    const strand_id id = strands_of_[worker].back();
    page_strand& strand = strands_[id];
    page_stretch all{end_page, 0};
    strand.find(worker)->steps.for_each([&](std::uint32_t, page_stretch pages, tier_mask mask) {
      all = {std::min(all.first, pages.first), std::max(all.end, pages.end)};
      std::uint16_t places = 0;
      for (; mask != 0; mask &= static_cast<tier_mask>(mask - 1)) {
        ++places;
      }
      for (std::uint32_t at = pages.first; at < pages.end; ++at) {
        strand.counts[at - strand.base] =
            static_cast<std::uint16_t>(strand.counts[at - strand.base] - places);
      }
    });
    drop_holder(id, worker);
    forget_unused(id, all);
  }
  give_back(strands_of_[worker]);
}

/// Drops the pages of a stretch that nobody has, from behind, so that the lower ones stay in one
/// strand.
void page_strands::forget_unused(strand_id id, page_stretch pages) {
  for (std::uint32_t end = pages.end; end > pages.first;) {
    const page_strand& strand = strands_[id];
    std::uint32_t first = end;
    while (first > pages.first && strand.counts[first - 1 - strand.base] == 0) {
      --first;
    }
    if (first == end) {
      --end;
      continue;
    }
    id = drop(id, {first, end});
    end = first;
  }
}

/// @returns the strand that has what is below
strand_id page_strands::drop(strand_id id, page_stretch pages) {
  page_strand& strand = strands_[id];
  erase_links(strand, pages);
  pages_ -= pages.end - pages.first;
  if (pages.first == strand.begin && pages.end == strand.end()) {
    release_strand(id);
  } else if (pages.end == strand.end()) {
    strand.links.resize(pages.first - strand.base);
    strand.counts.resize(pages.first - strand.base);
    give_back_excess(strand);
  } else if (pages.first == strand.begin) {
    strand.begin = pages.end;
    if (const std::uint32_t gone = strand.begin - strand.base; gone > strand.links.size() / 2) {
      erase_front(strand.links, gone);
      erase_front(strand.counts, gone);
      strand.base = strand.begin;
    }
    for (page_holder& holder : strand.holders) {
      refresh(strand, holder);
    }
  } else {
    return split(id, pages);
  }
  return id;
}

/// The smaller side moves out. @returns the strand that has what is below
strand_id page_strands::split(strand_id id, page_stretch hole) {
  const bool upper_moves = strands_[id].end() - hole.end < hole.first - strands_[id].begin;
  const page_stretch part = upper_moves ? page_stretch{hole.end, strands_[id].end()}
                                        : page_stretch{strands_[id].begin, hole.first};
  const strand_id other_id = new_strand(part.first, part.end - part.first);
  page_strand& strand = strands_[id];
  page_strand& other = strands_[other_id];
  const std::uint32_t from = part.first - strand.base, to = part.end - strand.base;
  other.links.assign(strand.links.begin() + from, strand.links.begin() + to);
  other.counts.assign(strand.counts.begin() + from, strand.counts.begin() + to);
  for (std::uint32_t at = part.first; at < part.end; ++at) {
    table_.move(link_table::hash(strand.link(at), at), at, id, other_id);
  }
  std::vector<page_holder> stay;
  for (page_holder& holder : strand.holders) {
    page_holder upper{.worker = holder.worker, .tiers = holder.tiers};
    upper.steps = holder.steps.cut(hole.end);
    page_holder lower = holder;  // keeps its place in the worker's list for what stays
    page_holder& moves = upper_moves ? upper : lower;
    page_holder& stays = upper_moves ? lower : upper;
    stays.place = holder.place;
    if (stays.steps.empty()) {  // The worker's list names the other strand instead.
      moves.place = holder.place;
      strands_of_[holder.worker][holder.place] = other_id;
      other.holders.push_back(std::move(moves));
      continue;
    }
    if (!moves.steps.empty() && !ORIEL_MUTANT(split_keeps_the_holder)) {
      list(other_id, moves);
      other.holders.push_back(std::move(moves));
    }
    stay.push_back(std::move(stays));
  }
  strand.holders = std::move(stay);
  if (upper_moves) {
    strand.links.resize(hole.first - strand.base);
    strand.counts.resize(hole.first - strand.base);
    strand.links.shrink_to_fit();
    strand.counts.shrink_to_fit();
  } else {
    erase_front(strand.links, hole.end - strand.base);
    erase_front(strand.counts, hole.end - strand.base);
    strand.base = strand.begin = hole.end;
  }
  for (page_strand* const part_of : {&strand, &other}) {
    for (page_holder& holder : part_of->holders) {
      refresh(*part_of, holder);
    }
  }
  return upper_moves ? id : other_id;
}

void page_strands::erase_links(const page_strand& strand, page_stretch pages) noexcept {
  const auto id = static_cast<strand_id>(&strand - strands_.data());
  const std::span<const chain_hash> links(&strand.link(pages.first), pages.end - pages.first);
  probe_ahead(table_, links, pages.first, [&](std::uint32_t i, std::uint64_t hash) {
    table_.erase(hash, pages.first + i, id);
    return true;
  });
}

void page_strands::release_strand(strand_id id) noexcept {
  strands_[id] = page_strand{};
  free_.push_back(id);  // There is room: new_strand made it.
  if (free_.size() == strands_.size()) {
    give_back(strands_);
    give_back(free_);
  }
}

strand_memory page_strands::memory() const noexcept {
  strand_memory memory{.fixed_bytes = table_.size_bytes()};
  for (const page_strand& strand : strands_) {
    memory.link_bytes += strand.links.capacity() * sizeof(chain_hash) +
                         strand.counts.capacity() * sizeof(std::uint16_t);
    memory.holder_bytes += strand.holders.capacity() * sizeof(page_holder);
    for (const page_holder& holder : strand.holders) {
      memory.holder_bytes += holder.steps.size_bytes();
      ++memory.holders;
    }
  }
  memory.link_bytes +=
      strands_.capacity() * sizeof(page_strand) + free_.capacity() * sizeof(strand_id);
  for (const std::vector<strand_id>& strands : strands_of_) {
    memory.holder_bytes += strands.capacity() * sizeof(strand_id);
  }
  return memory;
}

}  // namespace oriel::detail
