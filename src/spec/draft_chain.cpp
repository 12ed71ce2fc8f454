// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/spec/draft_chain.hpp>

#include <algorithm>

namespace oriel {

std::span<const drafted_token> draft_chain::drafts() noexcept {
  for (std::size_t i = 0; i < drafts_.size(); ++i) {
    const extent& e = extents_[i];  // Views are made here, because the arrays move as they grow.
    drafts_[i].proposal.ids = std::span(ids_).subspan(e.first_id, e.ids);
    drafts_[i].proposal.weights = std::span(weights_).subspan(e.first_weight, e.weights);
  }
  return drafts_;
}

void draft_chain::clear() noexcept {
  drafts_.clear();
  extents_.clear();
  ids_.clear();
  weights_.clear();
}

void draft_chain::push_sure(token_id id) {
  drafts_.push_back({.id = id});
  extents_.push_back({.first_id = 0, .ids = 0, .first_weight = 0, .weights = 0});
}

token_id draft_chain::draw(const token_distribution& proposal, token_place place) {
  ORIEL_EXPECTS(proposal.total > 0);
  // Not const: a constant has no mutants (core/mutation.hpp).
  auto purpose =
      ORIEL_MUTANT(draft_takes_the_accept_random) ? random_purpose::accept : random_purpose::draft;
  const token_id id = oriel::draw(proposal, sample_random(place.seed, place.position, purpose));
  extents_.push_back({.first_id = ids_.size(),
                      .ids = proposal.ids.size(),
                      .first_weight = weights_.size(),
                      .weights = proposal.weights.size()});
  ids_.insert(ids_.end(), proposal.ids.begin(), proposal.ids.end());
  weights_.insert(weights_.end(), proposal.weights.begin(), proposal.weights.end());
  std::uint64_t total = proposal.total;
  if (ORIEL_MUTANT(proposal_forgets_the_temperature)) {  // Filters on one side only.
    total = 0;
    for (float& w : std::span(weights_).last(proposal.weights.size())) {
      w = w > 0.0f ? 1.0f : 0.0f;
      total += mass_of(w);
    }
  }
  drafts_.push_back({.id = id, .proposal = {.ids = {}, .weights = {}, .total = total}});
  return id;
}

}  // namespace oriel
