// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/prefix_reuse.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace oriel::engine {
namespace {

/// Raise it with every change of the bits that some kernel gives (docs/arithmetic.md).
constexpr int kernel_order_version = 2;

radix_tree_options tree_options(const pool_plan& plan, const engine_options& o) {
  radix_tree_options options = tree_options_of(plan);
  options.leases_max = o.sequences_max + 1 + o.tier_moves.fetches_max;
  options.tenant_shares = std::max(1u, o.tenant_shares);
  return options;
}

cache_retention retention_of(const retention_choice& c) {
  return cache_retention{keep_every{c.every_tokens},
                         keep_branch_points{c.branch_points},
                         keep_dense_head{c.dense_head_tokens}};
}

/// The shape that pages are named by. What drafts is not in it: the pages of the model are the same
/// with and without.
page_shape shape_of_names(const pool_plan& plan) {
  page_shape shape = page_shape_of(plan);
  if (const auto soft = plan.soft_kind()) {
    shape.slice_bytes.erase(shape.slice_bytes.begin() + 1 + *soft);
    shape.window_tokens.erase(shape.window_tokens.begin() + *soft);
  }
  return shape;
}

const char* name_of_backend(host::gemm_backend backend) noexcept {
  switch (backend) {
    case host::gemm_backend::automatic:
      return "automatic";
    case host::gemm_backend::own:
      return "own";
    case host::gemm_backend::onednn:
      return "onednn";
  }
  return "unknown";
}

}  // namespace

prefix_reuse::prefix_reuse(pools_type& pools,
                           const model_geometry& model,
                           const engine_options& options,
                           std::string arithmetic,
                           std::vector<tier> tiers)
    : pools_(pools),
      model_digest_(options.model_digest),
      arithmetic_(std::move(arithmetic)),
      decisions_{.model = &model,
                 .healing = heal_model_of(model, pools.plan()),
                 .rates = options.rates,
                 .may_heal = options.heal},
      shape_(shape_of_names(pools.plan())),
      tree_(pools.all(), tree_options(pools.plan(), options), retention_of(options.retain)),
      now_us_(options.now_us),
      missing_(pools.pools()) {
  if (!tiers.empty()) {
    tier_limits limits = options.tier_moves;
    limits.now_us = options.now_us;
    fetch_model fetches = fetch_model_of(model, pools.plan());
    fetches.may_heal = options.heal;
    tiers_.emplace(tree_, pools_, std::move(tiers), std::move(fetches), limits);
    tree_.events().forward_to(*tiers_);
  }
}

cache_namespace prefix_reuse::namespace_of(std::string_view tenant) const {
  return cache_namespace(
      {.tenant_salt = tenant, .model = model_digest_, .arithmetic = arithmetic_});
}

void prefix_reuse::publish(lease& held,
                           sequence_type& kv,
                           std::span<const token_id> tokens,
                           tier_names& names,
                           std::uint64_t now_us,
                           std::uint32_t prompt_tokens) {
  if (!tiers_) {
    publish_sequence(tree_, held, kv, tokens, now_us, prompt_tokens);
    return;
  }
  const std::span<const token_id> computed = tokens.first(kv.length());
  name_pages(computed, names);
  const tiered_sequence sequence{names.start, computed, names.links, names.owner};
  const auto scope = tiers_->publishing(sequence);
  publish_sequence(tree_, held, kv, tokens, now_us, prompt_tokens);
}

tier_names prefix_reuse::names_of(const cache_namespace& space, page_owner owner) const {
  return {.start = chain_start(space, shape_), .links = {}, .owner = owner};
}

void prefix_reuse::name_pages(std::span<const token_id> tokens, tier_names& names) const {
  if (names.links.size() < tokens.size() / shape_.page_size) {
    extend_chain(names.start, tokens, shape_.page_size, names.links);
  }
}

std::uint32_t prefix_reuse::begin_fetch(const cache_namespace& space,
                                        std::span<const token_id> tokens,
                                        tier_names& names,
                                        const compute_rates& rates,
                                        std::uint64_t whole_until_us) {
  name_pages(tokens, names);
  return tiers_->begin_fetch({.space = space,
                              .start = names.start,
                              .tokens = {tokens.begin(), tokens.end()},
                              .links = names.links,
                              .owner = names.owner,
                              .rates = rates,
                              .whole_until_us = whole_until_us});
}

prefix_reuse::lease prefix_reuse::end_joined_fetch(std::uint32_t fetch,
                                                   const cache_namespace& space,
                                                   sequence_type& kv,
                                                   std::span<const token_id> tokens,
                                                   tier_names& names,
                                                   std::uint64_t now_us,
                                                   std::array<std::uint32_t, tier_roles>& fetched) {
  const std::uint32_t length = kv.lent_tokens();
  fetched = tiers_->end_fetch(fetch);
  const std::span<const token_id> lent = tokens.first(length);
  const prefix_match found = tree_.match(space, tokens);
  lease held = tree_.pin(space, tokens, found, {length, length}, now_us);
  if (!held) {
    return held;
  }
  ORIEL_EXPECTS(held.full_tokens() == length && held.window_tokens() == length);
  const borrowed_prefix known =
      loan_.lend(tree_, held, tree_.options().windows, nullptr, tree_.options().soft_kind);
  for (std::uint32_t page = 0; page < known.full.size(); ++page) {
    if (!(kv.full_pages()[page] == known.full[page])) {  // Somebody else published it meanwhile.
      kv.switch_full_page(page, known.full[page]);
    }
  }
  on_hit(lent, names, known);
  return held;
}

void prefix_reuse::on_hit(std::span<const token_id> tokens,
                          tier_names& names,
                          const borrowed_prefix& lent) {
  name_pages(tokens, names);
  tiers_->on_hit({names.start, tokens, names.links, names.owner}, lent);
}

std::string arithmetic_id(
    isa path, host::gemm_backend backend, dtype compute, dtype kv, std::uint32_t page_tokens) {
  return fmt::format("host {}, gemm {}, order {}, {} computed, {} kept, pages of {}",
                     name_of(path),
                     name_of_backend(backend),
                     kernel_order_version,
                     name_of(compute),
                     name_of(kv),
                     page_tokens);
}

}  // namespace oriel::engine
