// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/prefix_reuse.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace oriel::engine {
namespace {

/// Raise it with every change of the bits that some kernel gives (docs/arithmetic.md).
constexpr int kernel_order_version = 1;

radix_tree_options tree_options(const pool_plan& plan, const engine_options& o) {
  radix_tree_options options;
  options.page_size = plan.options().page_size;
  options.slack_pages = plan.options().slack_pages;
  options.leases_max = o.sequences_max + 1;
  options.tenant_shares = std::max(1u, o.tenant_shares);
  for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
    options.windows.push_back(plan.ring(kind).window_tokens);
  }
  return options;
}

cache_retention retention_of(const retention_choice& c) {
  return cache_retention{keep_every{c.every_tokens},
                         keep_branch_points{c.branch_points},
                         keep_dense_head{c.dense_head_tokens}};
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
                           std::string arithmetic)
    : pools_(pools),
      model_digest_(options.model_digest),
      arithmetic_(std::move(arithmetic)),
      layer_windows_(layer_windows(model)),
      decisions_{.model = model,
                 .healing = {.windows = layer_windows_,
                             .page_size = options.page_tokens,
                             .slack_pages = pools.plan().options().slack_pages},
                 .rates = options.rates,
                 .may_heal = options.heal},
      tree_(pools.all(), tree_options(pools.plan(), options), retention_of(options.retain)),
      missing_(pools.pools()) {}

cache_namespace prefix_reuse::namespace_of(std::string_view tenant) const {
  return cache_namespace(
      {.tenant_salt = tenant, .model = model_digest_, .arithmetic = arithmetic_});
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
