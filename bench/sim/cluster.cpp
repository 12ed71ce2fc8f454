// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A fleet on a trace: simulated requests per second of the simulator (one thread, parsing left
// out), and what the run measured.
//
//     bench.sim.cluster TRACE [name=value ...]
//         clones=20 hours=2 seed=1 router=0 order=3 host=30e6 shared=0 open=0 workers=8 guard=1
//         decode=0 (each request's decode on its own) or 1 (decode rows in the same steps as
//         prompts)
#include <oriel/sim/cluster.hpp>

#include <replay/read_trace.hpp>
#include <replay/trace_workload.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <vector>

namespace {

std::uint64_t wall_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

double percentile(std::vector<double>& values, double share) {
  if (values.empty()) {
    return 0.0;
  }
  const auto at =
      values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace oriel;
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s TRACE [name=value ...]\n", argv[0]);
    return 2;
  }
  std::map<std::string, double> given{{"clones", 20},
                                      {"hours", 2},
                                      {"seed", 1},
                                      {"router", 0},
                                      {"order", 3},
                                      {"host", 30e6},
                                      {"device", 2e6},
                                      {"shared", 0},
                                      {"open", 0},
                                      {"workers", 8},
                                      {"guard", 1},
                                      {"routers", 1},
                                      {"delay", 0},
                                      {"loss", 0},
                                      {"heal", 1},
                                      {"clock", 1},
                                      {"windows", 0.015},
                                      {"ahead", 0},
                                      {"decode", 0}};
  for (int i = 2; i < argc; ++i) {
    const std::string pair = argv[i];
    const std::size_t at = pair.find('=');
    if (at == std::string::npos || given.count(pair.substr(0, at)) == 0) {
      std::fprintf(stderr, "%s: not a name=value of this program\n", argv[i]);
      return 2;
    }
    given[pair.substr(0, at)] = std::strtod(pair.c_str() + at + 1, nullptr);
  }
  const sim::workload work = replay::workload_of(replay::read_trace(argv[1]));
  const sim::workload_view view(work,
                                {.clones = static_cast<std::uint32_t>(given["clones"]),
                                 .hours = given["hours"],
                                 .seed = static_cast<std::uint64_t>(given["seed"])});
  sim::cluster_options options;
  options.workers = static_cast<std::uint32_t>(given["workers"]);
  options.routers = static_cast<std::uint32_t>(given["routers"]);
  options.router = static_cast<sim::router_kind>(given["router"]);
  options.order = static_cast<order_kind>(given["order"]);
  options.tiers.device_tokens = static_cast<std::uint64_t>(given["device"]);
  options.tiers.host_tokens = static_cast<std::uint64_t>(given["host"]);
  options.tiers.shared_tokens = static_cast<std::uint64_t>(given["shared"]);
  options.tiers.window_share = given["windows"];
  options.is_open = given["open"] != 0.0;
  options.may_heal = given["heal"] != 0.0;
  options.stale.event_delay_s = given["delay"];
  options.stale.report_delay_s = given["delay"];
  options.stale.gossip_delay_s = given["delay"];
  options.stale.event_loss = given["loss"];
  options.decode_in_steps = given["decode"] != 0.0;
  if (given["ahead"] > 0.0) {
    options.ahead_max_s = given["ahead"];
  }
  if (given["guard"] == 0.0) {
    options.guard.reset();
  }
  const std::clock_t from = std::clock();
  if (given["clock"] != 0.0) {
    options.wall_ns = &wall_ns;
  }
  const sim::run_outcome run = sim::run_cluster(view, options);
  const double cpu_s = static_cast<double>(std::clock() - from) / CLOCKS_PER_SEC;

  std::vector<double> ttft, waits;
  double input = 0, hits[sim::hit_tiers] = {}, miss = 0, duplicated = 0, healed = 0, gpu_s = 0;
  for (const sim::request_outcome& r : run.requests) {
    ttft.push_back(r.ttft_s());
    waits.push_back(r.wait_s());
    input += r.input_tokens;
    for (std::size_t t = 0; t < sim::hit_tiers; ++t) {
      hits[t] += r.hit_tokens[t];
    }
    miss += r.local_miss_tokens;
    duplicated += r.duplicated_tokens;
    healed += r.healed_tokens;
  }
  for (const double s : run.gpu_s) {
    gpu_s += s;
  }
  const auto& c = run.counters;
  std::printf("%s %s: %.0f requests, %.1f s of CPU, %.0f requests/s\n",
              run.router.c_str(),
              run.order.c_str(),
              static_cast<double>(c.arrived),
              cpu_s,
              static_cast<double>(c.arrived) / cpu_s);
  std::printf(
      "  utilisation %.3f  gpu %.0f s  TTFT mean %.2f p50 %.2f p90 %.2f p99 %.2f max %.1f\n",
      run.utilisation,
      gpu_s,
      [&] {
        double sum = 0;
        for (const double t : ttft) {
          sum += t;
        }
        return sum / static_cast<double>(std::max<std::size_t>(ttft.size(), 1));
      }(),
      percentile(ttft, 0.5),
      percentile(ttft, 0.9),
      percentile(ttft, 0.99),
      percentile(ttft, 1.0));
  std::printf(
      "  hits device %.4f host %.4f shared %.4f  local miss %.4f  duplicated %.4f  healed %.5f\n",
      hits[0] / input,
      hits[1] / input,
      hits[2] / input,
      miss / input,
      duplicated / input,
      healed / input);
  std::printf("  measured %zu  completed %.0f rejected %.0f failed %.0f retried %.0f  steps %.0f\n",
              run.requests.size(),
              static_cast<double>(c.completed),
              static_cast<double>(c.rejected),
              static_cast<double>(c.failed),
              static_cast<double>(c.retried),
              static_cast<double>(c.steps));
  std::printf(
      "  heals %.0f fetches %.0f stalls %.0f (%.1f s) twins %.0f demands %.0f preempted %.0f stale "
      "%.0f lost %.0f replays %.0f\n",
      static_cast<double>(c.heals),
      static_cast<double>(c.fetches),
      static_cast<double>(c.fetch_stalls),
      c.fetch_stall_s,
      static_cast<double>(c.twin_waits),
      static_cast<double>(c.guard_demands),
      static_cast<double>(c.preemptions),
      static_cast<double>(c.stale_decisions),
      static_cast<double>(c.lost_events),
      static_cast<double>(c.replays));
  std::printf("  guard slack %.3f ms  decision p50 %.2f us p99 %.2f us  left %.0f %.0f  gpu each:",
              run.guard_slack_ms,
              1e-3 * static_cast<double>(run.decision_ns.percentile(0.5)),
              1e-3 * static_cast<double>(run.decision_ns.percentile(0.99)),
              static_cast<double>(run.left_requests),
              static_cast<double>(run.left_leases));
  for (const double s : run.gpu_s) {
    std::printf(" %.0f", s);
  }
  std::printf("\n");
}
