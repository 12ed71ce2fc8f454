// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/sim/workload_builder.hpp>

#include <algorithm>
#include <limits>
#include <utility>

namespace oriel::sim {
namespace {

constexpr std::uint64_t pair_of(std::uint32_t high, std::uint32_t low) noexcept {
  return std::uint64_t{high} << 32 | low;
}

}  // namespace

workload_builder::workload_builder(std::uint32_t page_tokens) {
  ORIEL_EXPECTS(page_tokens > 0);
  built_.page_tokens = page_tokens;
}

void workload_builder::begin_session(std::uint32_t name_space, double start_s) {
  end_session();
  ORIEL_EXPECTS(name_space <= built_.name_spaces);
  built_.name_spaces = std::max(built_.name_spaces, name_space + 1);
  name_space_ = name_space;
  built_.sessions.push_back({.first_request = static_cast<std::uint32_t>(built_.requests.size()),
                             .requests = 0,
                             .start_s = start_s});
}

std::uint32_t workload_builder::add(const facts& f,
                                    std::span<const std::uint32_t> names,
                                    std::span<const std::uint32_t> waits) {
  ORIEL_EXPECTS(!built_.sessions.empty() && f.input_tokens > 0);
  ORIEL_EXPECTS(f.arrival_s >= 0.0 && f.gap_s >= 0.0);
  const std::uint32_t whole = f.input_tokens / built_.page_tokens;
  ORIEL_EXPECTS(names.size() >= whole);
  workload_session& session = built_.sessions.back();
  const auto index = static_cast<std::uint32_t>(built_.requests.size());
  for (const std::uint32_t w : waits) {
    ORIEL_EXPECTS(w >= session.first_request && w < index);
  }
  if (agents_.size() <= f.agent) {
    agents_.resize(std::size_t{f.agent} + 1);
  }
  agent_chain& chain = agents_[f.agent];
  agent_request request{.index = index, .pages = {}};
  find_pages(chain, names.first(whole), request.pages);
  chain.names.assign(names.begin(), names.begin() + whole);
  chain.requests.push_back(std::move(request));
  const std::uint64_t tokens = std::uint64_t{f.input_tokens} + f.output_tokens;
  built_.requests.push_back(
      {.session = static_cast<std::uint32_t>(built_.sessions.size() - 1),
       .name_space = name_space_,
       .pages = static_cast<std::uint32_t>(tokens / built_.page_tokens),
       .input_tokens = f.input_tokens,
       .output_tokens = f.output_tokens,
       .arrival_s = f.arrival_s,
       .gap_s = ORIEL_MUTANT(gaps_have_no_end) ? f.gap_s : std::min(f.gap_s, gap_max_s),
       .first_wait = static_cast<std::uint32_t>(built_.waits.size()),
       .waits = static_cast<std::uint32_t>(waits.size())});
  built_.waits.insert(built_.waits.end(), waits.begin(), waits.end());
  ++session.requests;
  return index;
}

/// Names may stand for one page's tokens alone; ids stand for all before them too. What the agent's
/// last request has in common is copied, which is nearly all.
void workload_builder::find_pages(const agent_chain& chain,
                                  std::span<const std::uint32_t> names,
                                  std::vector<std::uint32_t>& pages) {
  pages.reserve(names.size());
  if (!chain.requests.empty()) {
    const auto end = std::ranges::mismatch(names, chain.names).in1;
    const std::vector<std::uint32_t>& before = chain.requests.back().pages;
    pages.assign(before.begin(), before.begin() + (end - names.begin()));
  }
  for (std::size_t i = pages.size(); i < names.size(); ++i) {
    auto& ids = i == 0 ? first_ : next_;
    const std::uint32_t before = i == 0                                 ? name_space_
                                 : ORIEL_MUTANT(names_stand_for_chains) ? 0
                                                                        : pages.back();
    const auto [place, is_new] = ids.try_emplace(pair_of(before, names[i]), built_.distinct_pages);
    built_.distinct_pages += is_new ? 1 : 0;
    pages.push_back(place->second);
  }
}

/// Input pages become those of input and output. Later requests have theirs already.
void workload_builder::add_output(std::vector<agent_request>& requests, std::size_t i) {
  std::vector<std::uint32_t>& pages = requests[i].pages;
  const std::size_t whole = pages.size();
  const std::size_t all = built_.requests[requests[i].index].pages;
  for (std::size_t j = i + 1; j < requests.size() && !ORIEL_MUTANT(output_is_never_seen_again);
       ++j) {
    const std::vector<std::uint32_t>& later = requests[j].pages;
    const std::size_t input = built_.requests[requests[j].index].input_tokens / built_.page_tokens;
    // An id stands for all before it, so the last one tells.
    if (input >= whole && (whole == 0 || later[whole - 1] == pages[whole - 1])) {
      pages.insert(pages.end(),
                   later.begin() + static_cast<std::ptrdiff_t>(whole),
                   later.begin() + static_cast<std::ptrdiff_t>(std::min(input, all)));
      break;
    }
  }
  while (pages.size() < all) {
    pages.push_back(built_.distinct_pages++);
  }
}

/// From the last to the first: an earlier one is often the beginning of the next.
void workload_builder::place(std::vector<agent_request>& requests) {
  const agent_request* next = nullptr;
  for (std::size_t i = requests.size(); i-- > 0;) {
    add_output(requests, i);
    const std::vector<std::uint32_t>& pages = requests[i].pages;
    workload_request& r = built_.requests[requests[i].index];
    const bool is_beginning = next != nullptr && next->pages.size() >= pages.size() &&
                              (pages.empty() || next->pages[pages.size() - 1] == pages.back());
    if (is_beginning) {
      r.first_page = built_.requests[next->index].first_page;
    } else {
      r.first_page = built_.pages.size();
      built_.pages.insert(built_.pages.end(), pages.begin(), pages.end());
    }
    next = &requests[i];
  }
}

void workload_builder::end_session() {
  for (agent_chain& chain : agents_) {
    place(chain.requests);
  }
  agents_.clear();
}

void workload_builder::link_followers() {
  std::vector<workload_request>& requests = built_.requests;
  for (const std::uint32_t w : built_.waits) {
    ++requests[w].followers;
  }
  std::uint32_t sum = 0;
  for (workload_request& r : requests) {
    r.first_follower = sum;
    sum += std::exchange(r.followers, 0);
  }
  built_.followers.resize(sum);
  for (std::uint32_t i = 0; i < requests.size(); ++i) {
    for (const std::uint32_t w : built_.waits_of(requests[i])) {
      built_.followers[requests[w].first_follower + requests[w].followers++] = i;
    }
  }
}

workload workload_builder::finish() {
  end_session();
  link_followers();
  built_.links.reserve(built_.pages.size());
  for (const std::uint32_t page : built_.pages) {
    built_.links.push_back(link_of(page, 0));
  }
  first_.clear();
  next_.clear();
  name_space_ = 0;
  const std::uint32_t page_tokens = built_.page_tokens;
  workload done = std::exchange(built_, {});
  built_.page_tokens = page_tokens;
  return done;
}

}  // namespace oriel::sim
