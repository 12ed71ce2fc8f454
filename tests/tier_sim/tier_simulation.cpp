// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "sim/isolated.hpp"
#include "sim/shrink.hpp"
#include "tier_simulation.hpp"

#include <memory>
#include <sstream>

namespace sim {
namespace {

/// The same engine where nothing ever happened, and nothing fails.
std::uint64_t hits_without_faults(tier_setup sizes) {
  sizes.is_extreme = sizes.disk_tears = sizes.disk_has_holes = sizes.slabs_fail = sizes.no_memory =
      sizes.device_breaks = sizes.clock_jumps = sizes.sink_blocks = false;
  sizes.disk_faults = {};
  sizes.remote_faults_at_times = {};
  tier_world twin(sizes);
  return twin.measure_hits();
}

}  // namespace

tier_outcome run(const tier_scenario& what) {
  tier_outcome result;
  auto there = std::make_unique<tier_world>(what.sizes);
  try {
    for (const tier_operation& op : what.operations) {
      there->apply(op);
    }
    there->heal();
    std::uint64_t compared = 0;
    if (there->is_comparable()) {
      const std::uint64_t wanted = hits_without_faults(what.sizes);
      there->enter();
      const std::uint64_t got = there->measure_hits();
      if (got * 100 < wanted * 95) {
        throw violation("liveness: after healing " + std::to_string(got) + " tokens are hit, not " +
                        std::to_string(wanted));
      }
      compared = 1;
    }
    result.trace = there->trace();
    result.counts = there->counts();
    result.counts.compared_worlds = compared;
    there->close();
  } catch (const violation& wrong) {
    result.failure = wrong.what();
    (void)there.release();  // What broke its invariants may not even be destroyed.
  }
  return result;
}

std::string failure_of(const tier_scenario& what) {
  return run_isolated([&] { return run(what).failure; }, 20);
}

std::string report(const tier_scenario& failing, const std::string& why) {
  tier_scenario small = failing;
  small.operations = shrink(
      failing.operations,
      [&](const std::vector<tier_operation>& operations) {
        tier_scenario fewer = failing;
        fewer.operations = operations;
        return !failure_of(fewer).empty();
      },
      1000);
  std::ostringstream text;
  text << "seed " << failing.sizes.seed << ": " << why << "\n  " << describe(failing.sizes) << '\n';
  for (const tier_operation& op : small.operations) {
    text << "  " << describe(op) << '\n';
  }
  text << "  = " << failure_of(small) << " (" << small.operations.size() << " of "
       << failing.operations.size() << " operations)\n";
  text << "repro: ORIEL_SIM_SEED=" << failing.sizes.seed << " test.tier_sim\n";
  return text.str();
}

}  // namespace sim
