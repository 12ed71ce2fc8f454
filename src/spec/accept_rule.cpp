// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Probabilities are fractions of integers: p(i) = m_p(i) / T_p with T <= 2^63. Compared and
// subtracted over the common denominator T_p T_q they stay integers, below 2^126.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/spec/accept_rule.hpp>

#include <algorithm>

namespace oriel {
namespace {

__extension__ using wide = unsigned __int128;

/// floor(random / 2^64 * total): uniform over [0, total), to within total / 2^64. @pre total <
/// 2^127
wide scale(std::uint64_t random, wide total) noexcept {
  const auto high = static_cast<std::uint64_t>(total >> 64);
  const auto low = static_cast<std::uint64_t>(total);
  return wide{random} * high + ((wide{random} * low) >> 64);
}

std::uint32_t id_at(const token_distribution& d, std::size_t place) noexcept {
  return d.ids.empty() ? static_cast<std::uint32_t>(place) : d.ids[place];
}

std::uint64_t mass_at(const token_distribution& d, token_id id) noexcept {
  const std::uint32_t index = to_index(id);
  if (d.ids.empty()) {
    return index < d.weights.size() ? mass_of(d.weights[index]) : 0;
  }
  const auto at = std::lower_bound(d.ids.begin(), d.ids.end(), index);
  return at != d.ids.end() && *at == index
             ? mass_of(d.weights[static_cast<std::size_t>(at - d.ids.begin())])
             : 0;
}

/// Walks the residual, in units of 1 / (T_p T_q): f(id, mass) by ascending id until it returns
/// true.
template <class F>
void walk_residual(const token_distribution& target,
                   const token_distribution& proposal,
                   F&& f) noexcept {
  std::size_t other = 0;
  for (std::size_t place = 0; place < target.weights.size(); ++place) {
    const std::uint32_t id = id_at(target, place);
    while (other < proposal.weights.size() && id_at(proposal, other) < id) {
      ++other;
    }
    const bool is_proposed = other < proposal.weights.size() && id_at(proposal, other) == id;
    const wide wanted = wide{mass_of(target.weights[place])} * proposal.total;
    const wide given = is_proposed ? wide{mass_of(proposal.weights[other])} * target.total : 0;
    const wide left = ORIEL_MUTANT(residual_is_the_target) ? wanted
                      : wanted > given                     ? wanted - given
                                                           : 0;
    if (left > 0 && f(id, left)) {
      return;
    }
  }
}

sampled_token with_probability(const token_distribution& d, token_id id) noexcept {
  return {.id = id, .probability = probability_of(d, id)};
}

}  // namespace

bool keeps_draft(const token_distribution& target,
                 const token_distribution& proposal,
                 token_id id,
                 std::uint64_t random) noexcept {
  const std::uint64_t own = mass_at(proposal, id);
  ORIEL_EXPECTS(own > 0 && target.total > 0);
  const wide given = wide{own} * target.total;
  if (ORIEL_MUTANT(accept_ignores_the_proposal)) {
    return scale(random, wide{target.total}) < mass_at(target, id);
  }
  return scale(random, given) < wide{mass_at(target, id)} * proposal.total;
}

token_id draw_residual(const token_distribution& target,
                       const token_distribution& proposal,
                       std::uint64_t random) noexcept {
  wide total = 0;
  walk_residual(target, proposal, [&](std::uint32_t, wide mass) {
    total += mass;
    return false;
  });
  ORIEL_EXPECTS(total > 0);
  // Not scaled to one, the residual leaves a rest that falls on its last token.
  wide at = scale(
      random,
      ORIEL_MUTANT(residual_is_not_renormalised) ? wide{target.total} * proposal.total : total);
  std::uint32_t found = 0;
  walk_residual(target, proposal, [&](std::uint32_t id, wide mass) {
    found = id;
    if (at < mass) {
      return true;
    }
    at -= mass;
    return false;
  });
  return token_id{found};
}

judgement rejection_sampling::judge(const drafted_token& draft,
                                    const row& target,
                                    token_place place) noexcept {
  if (draft.is_sure() || target.total == 0) {
    const sampled_token own = choose(target, place);
    return {.accepted = own.probability > 0.0f && own.id == draft.id, .token = own};
  }
  const std::uint64_t accept_random =
      sample_random(place.seed, place.position, random_purpose::accept);
  if (keeps_draft(target, draft.proposal, draft.id, accept_random)) {
    return {.accepted = true, .token = with_probability(target, draft.id)};
  }
  // Not const: a constant has no mutants (core/mutation.hpp).
  auto purpose = ORIEL_MUTANT(residual_takes_the_accept_random)  ? random_purpose::accept
                 : ORIEL_MUTANT(residual_takes_the_draft_random) ? random_purpose::draft
                                                                 : random_purpose::residual;
  const token_id id =
      draw_residual(target, draft.proposal, sample_random(place.seed, place.position, purpose));
  return {.accepted = false, .token = with_probability(target, id)};
}

sampled_token rejection_sampling::choose(const row& target, token_place place) noexcept {
  if (target.total == 0) {
    return {.id = token_id{0}, .probability = 0.0f};
  }
  return with_probability(target, draw(target, sample_random(place.seed, place.position)));
}

}  // namespace oriel
