// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/pool_plan.hpp>
#include <oriel/prefix/radix_tree.hpp>

namespace oriel {

radix_tree_options tree_options_of(const pool_plan& plan) {
  radix_tree_options options{.page_size = plan.options().page_size,
                             .windows = {},
                             .soft_kind = plan.soft_kind(),
                             .slack_pages = plan.options().slack_pages};
  for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
    options.windows.push_back(plan.ring(kind).window_tokens);
  }
  return options;
}

}  // namespace oriel
