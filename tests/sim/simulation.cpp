// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "simulation.hpp"
#include "world.hpp"

#include <sstream>
#include <string>

namespace sim {
namespace {

template <class Events>
outcome run_in(const scenario& what) {
  outcome result;
  auto there = std::make_unique<world<Events>>(what.sizes);
  try {
    for (const operation& op : what.operations) {
      there->apply(op);
      ++result.operations_done;
    }
    there->close();
  } catch (const violation& wrong) {
    result.failure = wrong.what();
    (void)there.release();  // What broke its invariants may not even be destroyed.
    return result;
  }
  result.trace = there->trace();
  result.counts = there->counts();
  result.counts.operations = result.operations_done;
  return result;
}

}  // namespace

outcome run(const scenario& what) {
  return what.sizes.with_events ? run_in<recorded_events>(what) : run_in<oriel::no_events>(what);
}

std::string failure_of(const scenario& what) {
  return run_isolated([&] { return run(what).failure; }, 10);
}

std::string report(const scenario& failing, const std::string& why) {
  scenario small = failing;
  small.operations = shrink(failing.operations, [&](const std::vector<operation>& operations) {
    scenario fewer = failing;
    fewer.operations = operations;
    return !failure_of(fewer).empty();
  });
  std::ostringstream text;
  text << "seed " << failing.seed << ": " << why << "\n  " << describe(failing.sizes) << '\n';
  for (const operation& op : small.operations) {
    text << "  " << describe(op) << '\n';
  }
  text << "  = " << failure_of(small) << " (" << small.operations.size() << " of "
       << failing.operations.size() << " operations)\n";
  text << "repro: ORIEL_SIM_SEED=" << failing.seed << " test.sim\n";
  return text.str();
}

}  // namespace sim
