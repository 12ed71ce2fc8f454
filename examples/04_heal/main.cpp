// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 04: heal. A prefix whose window KV is gone is resumed exactly by computing a triangle of
// rows, whatever its length. Prints the triangle, and what it costs on real models.
// Next: 05_tiers keeps pages below the pools.
#include <oriel/model/presets.hpp>
#include <oriel/prefix/heal.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace {

/// One character for every two rows from `from` on: '#' is computed.
void draw(const oriel::heal_plan& plan, const std::vector<std::uint32_t>& windows) {
  const std::uint32_t from = plan.first_row();
  for (std::size_t layer = plan.layers(); layer-- > 0;) {
    std::string line;
    for (std::uint32_t row = from; row < plan.length; row += 2) {
      line += row >= plan.frontier[layer + 1] ? '#' : row >= plan.frontier[layer] ? 'k' : '.';
    }
    std::printf("  layer %zu %-8s rows %3u..%u  %s\n",
                layer,
                windows[layer] == 0 ? "(full)" : "(window)",
                plan.frontier[layer],
                plan.length,
                line.c_str());
  }
}

void show_cost(const char* preset, std::uint32_t tokens) {
  const auto model = oriel::preset(preset);
  if (!model) {
    return;
  }
  const oriel::heal_model healed{.windows = oriel::layer_windows(*model), .page_size = 64};
  const oriel::heal_size size = oriel::measure_heal(
      healed, {.full_length = tokens, .prompt_tokens = tokens + 1, .safe_length = 0});
  const double equivalents = oriel::token_equivalents(size.layer_rows, healed.windows.size());
  std::printf("  %-14s %7u cached tokens: a heal is as much work as %5.0f tokens (%.2f %%)\n",
              preset,
              size.length,
              equivalents,
              100.0 * equivalents / size.length);
}

}  // namespace

int main() {
  // Full KV is cached for 200 tokens; the prompt has 230; no window is left anywhere.
  const std::vector<std::uint32_t> windows = {0, 16, 16, 0, 16};  // bottom to top
  const oriel::heal_model model{.windows = windows, .page_size = 8};
  const oriel::heal_plan plan =
      oriel::plan_heal(model, {.full_length = 200, .prompt_tokens = 230, .safe_length = 0});
  std::printf(
      "To resume at %u, run rows %u..%u: '#' a whole row of the layer, 'k' its K and V only.\n",
      plan.length,
      plan.first_row(),
      plan.length);
  draw(plan, windows);
  std::printf("%llu layer-rows instead of %u. Then rows %u.. are computed as always.\n\n",
              static_cast<unsigned long long>(plan.layer_rows),
              plan.length * static_cast<std::uint32_t>(windows.size()),
              plan.length);

  std::puts("The same on real models:");
  for (const char* preset : {"mimo-v2.5", "mimo-v2.5-pro"}) {
    for (const std::uint32_t tokens : {16'384u, 131'072u, 524'288u}) {
      show_cost(preset, tokens);
    }
  }
  return plan.first_row() < plan.length ? 0 : 1;
}
