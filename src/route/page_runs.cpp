// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Runs and the table: pages come, go, and take their runs with them.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/detail/page_runs.hpp>

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
void give_back_excess(page_run& run) {
  if (run.links.capacity() > 2 * run.links.size() + 16) {
    run.links.shrink_to_fit();
    run.counts.shrink_to_fit();
  }
}

/// Pages from `position` on that are the run's, one after the other. The run begins at or before.
std::uint32_t common(const page_run& run,
                     std::uint32_t position,
                     std::span<const chain_hash> links) noexcept {
  const std::size_t most = std::min<std::size_t>(links.size(), run.end() - position);
  const chain_hash* own = &run.link(position);
  std::size_t same = 0;
  while (same < most && own[same] == links[same]) {
    ++same;
  }
  return static_cast<std::uint32_t>(same);
}

}  // namespace

page_runs::page_runs(std::uint32_t workers,
                     std::uint32_t capacity_pages,
                     std::vector<std::uint32_t> needed_pages)
    : table_(capacity_pages),
      capacity_pages_(capacity_pages),
      needed_pages_(std::move(needed_pages)),
      runs_of_(workers) {
  for (const std::uint32_t needed : needed_pages_) {
    needed_pages_max_ = std::max(needed_pages_max_, needed);
  }
}

run_id page_runs::find(chain_hash link, std::uint32_t position) const noexcept {
  return table_.find(link_table::hash(link, position), position, [&](run_id id) {
    return runs_[id].link(position) == link;
  });
}

run_id page_runs::new_run(std::uint32_t position, std::size_t links) {
  if (free_.empty()) {
    ORIEL_EXPECTS(runs_.size() < no_run);
    runs_.emplace_back();
    free_.reserve(runs_.capacity());  // so that a release needs no memory
    free_.push_back(static_cast<run_id>(runs_.size() - 1));
  }
  const run_id id = free_.back();
  page_run& run = runs_[id];
  run.links.reserve(links);
  run.counts.reserve(links);
  run.base = run.begin = position;
  run.last_branch = 0;
  free_.pop_back();
  return id;
}

/// Appends links up to the first that is in a run already, or as many as there is room for.
std::uint32_t page_runs::append(run_id id, std::span<const chain_hash> links) {
  page_run& run = runs_[id];
  const std::uint32_t position = run.end();
  const auto most =
      static_cast<std::uint32_t>(std::min<std::size_t>(links.size(), capacity_pages_ - pages_));
  grow(run.links, most);
  grow(run.counts, most);
  std::uint32_t fresh = 0;
  probe_ahead(table_, links.first(most), position, [&](std::uint32_t i, std::uint64_t hash) {
    const auto is_it = [&](run_id other) { return runs_[other].link(position + i) == links[i]; };
    if (table_.find(hash, position + i, is_it) != no_run) {
      return false;
    }
    table_.insert(hash, position + i, id);
    ++fresh;
    return true;
  });
  run.links.insert(run.links.end(), links.begin(), links.begin() + fresh);
  run.counts.resize(run.counts.size() + fresh);
  give_back_excess(run);
  pages_ += fresh;
  return fresh;
}

std::uint32_t page_runs::store(const page_place& to,
                               std::uint32_t first_page,
                               chain_hash parent,
                               std::span<const chain_hash> links) {
  constexpr std::uint32_t first_links = 8;  // fetched while the page before is looked for
  table_.prefetch(link_table::hash(parent, first_page - 1));
  for (std::uint32_t i = 0; i < std::min<std::size_t>(links.size(), first_links); ++i) {
    table_.prefetch(link_table::hash(links[i], first_page + i));
  }
  run_id before = no_run;  // has the page before; no_run: not known yet, or there is none
  std::uint32_t refused = 0;
  for (std::size_t done = 0; done < links.size();) {
    const std::uint32_t position = first_page + static_cast<std::uint32_t>(done);
    const auto rest = links.subspan(done);
    run_id id = find(rest[0], position);
    std::uint32_t pages = 0;
    if (id != no_run) {
      pages = common(runs_[id], position, rest);
    } else if (pages_ == capacity_pages_) {
      ++refused;
      ++done;
      continue;
    } else {
      if (done == 0 && position > 0) {
        before = find(parent, position - 1);
      }
      const bool is_tip = before != no_run && runs_[before].end() == position;
      if (before != no_run && !is_tip) {
        runs_[before].last_branch = position;
      }
      id = is_tip ? before : new_run(position, rest.size());
      pages = append(id, rest);
    }
    add(id, to, {position, position + pages});
    before = id;
    done += pages;
  }
  return refused;
}

void page_runs::remove(const page_place& from,
                       std::uint32_t first_page,
                       std::span<const chain_hash> links) {
  for (std::size_t done = 0; done < links.size();) {
    const std::uint32_t position = first_page + static_cast<std::uint32_t>(done);
    const run_id id = find(links[done], position);
    if (id == no_run) {
      ++done;
      continue;
    }
    const std::uint32_t pages = common(runs_[id], position, links.subspan(done));
    page_holder* const holder = runs_[id].find(from.worker);
    if (holder != nullptr && take(id, *holder, from, {position, position + pages})) {
      forget_unused(id, {position, position + pages});
    }
    done += pages;
  }
}

void page_runs::clear_tier(std::uint32_t worker, std::uint8_t tier) {
  const std::vector<run_id> runs = runs_of_[worker];
  for (const run_id id : runs) {
    page_holder* const holder = runs_[id].find(worker);
    std::uint32_t pools = 0;
    page_stretch all{end_page, 0};
    holder->steps.for_each([&](std::uint32_t pool, page_stretch pages, tier_mask) {
      pools = std::max(pools, pool + 1);
      all = {std::min(all.first, pages.first), std::max(all.end, pages.end)};
    });
    bool is_unused = false;
    for (std::uint32_t pool = 0; pool < pools; ++pool) {
      page_holder* const still = runs_[id].find(worker);
      is_unused = (still != nullptr && take(id, *still, {worker, tier, pool}, all)) || is_unused;
    }
    if (is_unused) {
      forget_unused(id, all);
    }
  }
}

void page_runs::clear(std::uint32_t worker) {
  while (!runs_of_[worker].empty()) {
    const run_id id = runs_of_[worker].back();
    page_run& run = runs_[id];
    page_stretch all{end_page, 0};
    run.find(worker)->steps.for_each([&](std::uint32_t, page_stretch pages, tier_mask mask) {
      all = {std::min(all.first, pages.first), std::max(all.end, pages.end)};
      std::uint16_t places = 0;
      for (; mask != 0; mask &= static_cast<tier_mask>(mask - 1)) {
        ++places;
      }
      for (std::uint32_t at = pages.first; at < pages.end; ++at) {
        run.counts[at - run.base] = static_cast<std::uint16_t>(run.counts[at - run.base] - places);
      }
    });
    drop_holder(id, worker);
    forget_unused(id, all);
  }
  give_back(runs_of_[worker]);
}

/// Drops the pages of a stretch that nobody has, from behind, so that the lower ones stay in one
/// run.
void page_runs::forget_unused(run_id id, page_stretch pages) {
  for (std::uint32_t end = pages.end; end > pages.first;) {
    const page_run& run = runs_[id];
    std::uint32_t first = end;
    while (first > pages.first && run.counts[first - 1 - run.base] == 0) {
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

/// @returns the run that has what is below
run_id page_runs::drop(run_id id, page_stretch pages) {
  page_run& run = runs_[id];
  erase_links(run, pages);
  pages_ -= pages.end - pages.first;
  if (pages.first == run.begin && pages.end == run.end()) {
    release_run(id);
  } else if (pages.end == run.end()) {
    run.links.resize(pages.first - run.base);
    run.counts.resize(pages.first - run.base);
    give_back_excess(run);
  } else if (pages.first == run.begin) {
    run.begin = pages.end;
    if (const std::uint32_t gone = run.begin - run.base; gone > run.links.size() / 2) {
      erase_front(run.links, gone);
      erase_front(run.counts, gone);
      run.base = run.begin;
    }
    for (page_holder& holder : run.holders) {
      refresh(run, holder);
    }
  } else {
    return split(id, pages);
  }
  return id;
}

/// The smaller side moves out. @returns the run that has what is below
run_id page_runs::split(run_id id, page_stretch hole) {
  const bool upper_moves = runs_[id].end() - hole.end < hole.first - runs_[id].begin;
  const page_stretch part = upper_moves ? page_stretch{hole.end, runs_[id].end()}
                                        : page_stretch{runs_[id].begin, hole.first};
  const run_id other_id = new_run(part.first, part.end - part.first);
  page_run& run = runs_[id];
  page_run& other = runs_[other_id];
  const std::uint32_t from = part.first - run.base, to = part.end - run.base;
  other.links.assign(run.links.begin() + from, run.links.begin() + to);
  other.counts.assign(run.counts.begin() + from, run.counts.begin() + to);
  for (std::uint32_t at = part.first; at < part.end; ++at) {
    table_.move(link_table::hash(run.link(at), at), at, id, other_id);
  }
  std::vector<page_holder> stay;
  for (page_holder& holder : run.holders) {
    page_holder upper{.worker = holder.worker, .tiers = holder.tiers};
    upper.steps = holder.steps.cut(hole.end);
    page_holder lower = holder;  // keeps its place in the worker's list for what stays
    page_holder& moves = upper_moves ? upper : lower;
    page_holder& stays = upper_moves ? lower : upper;
    stays.place = holder.place;
    if (stays.steps.empty()) {  // The worker's list names the other run instead.
      moves.place = holder.place;
      runs_of_[holder.worker][holder.place] = other_id;
      other.holders.push_back(std::move(moves));
      continue;
    }
    if (!moves.steps.empty()) {
      list(other_id, moves);
      other.holders.push_back(std::move(moves));
    }
    stay.push_back(std::move(stays));
  }
  run.holders = std::move(stay);
  if (upper_moves) {
    run.links.resize(hole.first - run.base);
    run.counts.resize(hole.first - run.base);
    run.links.shrink_to_fit();
    run.counts.shrink_to_fit();
  } else {
    erase_front(run.links, hole.end - run.base);
    erase_front(run.counts, hole.end - run.base);
    run.base = run.begin = hole.end;
  }
  for (page_run* const part_of : {&run, &other}) {
    for (page_holder& holder : part_of->holders) {
      refresh(*part_of, holder);
    }
  }
  return upper_moves ? id : other_id;
}

void page_runs::erase_links(const page_run& run, page_stretch pages) noexcept {
  const auto id = static_cast<run_id>(&run - runs_.data());
  const std::span<const chain_hash> links(&run.link(pages.first), pages.end - pages.first);
  probe_ahead(table_, links, pages.first, [&](std::uint32_t i, std::uint64_t hash) {
    table_.erase(hash, pages.first + i, id);
    return true;
  });
}

void page_runs::release_run(run_id id) noexcept {
  runs_[id] = page_run{};
  free_.push_back(id);  // There is room: new_run made it.
  if (free_.size() == runs_.size()) {
    give_back(runs_);
    give_back(free_);
  }
}

page_runs_memory page_runs::memory() const noexcept {
  page_runs_memory memory{.fixed_bytes = table_.size_bytes()};
  for (const page_run& run : runs_) {
    memory.link_bytes +=
        run.links.capacity() * sizeof(chain_hash) + run.counts.capacity() * sizeof(std::uint16_t);
    memory.holder_bytes += run.holders.capacity() * sizeof(page_holder);
    for (const page_holder& holder : run.holders) {
      memory.holder_bytes += holder.steps.size_bytes();
      ++memory.holders;
    }
  }
  memory.link_bytes += runs_.capacity() * sizeof(page_run) + free_.capacity() * sizeof(run_id);
  for (const std::vector<run_id>& runs : runs_of_) {
    memory.holder_bytes += runs.capacity() * sizeof(run_id);
  }
  return memory;
}

}  // namespace oriel::detail
