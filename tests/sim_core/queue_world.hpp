// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Queues whose laws are known, run by the parts of the simulator.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/sim/event_loop.hpp>
#include <oriel/sim/server.hpp>

#include <support/scale.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace oriel::sim {

/// In (0, 1).
inline double unit(random_stream& draw) {
  return (draw.next_bits() + 0.5) * 0x1p-32;
}
inline double exponential(random_stream& draw, double mean) {
  return -mean * std::log(unit(draw));
}

enum class service_law : std::uint8_t { exponential, constant, hyperexponential, pareto };

/// Service times of a law. `variation`: their squared coefficient of variation.
struct service_draw {
  service_law law = service_law::exponential;
  double mean_s = 0.01;

  [[nodiscard]] double variation() const {
    switch (law) {
      case service_law::exponential:
        return 1.0;
      case service_law::constant:
        return 0.0;
      case service_law::hyperexponential:
        return 4.0;
      case service_law::pareto:
        return std::numeric_limits<double>::infinity();  // of its squares: it has no variance
    }
    return 0.0;
  }
  [[nodiscard]] double operator()(random_stream& draw) const {
    switch (law) {
      case service_law::exponential:
        return exponential(draw, mean_s);
      case service_law::constant:
        return mean_s;
      case service_law::hyperexponential: {
        // Two exponentials, each with half of the work: their shares p and 1 - p.
        const double p = 0.5 * (1.0 - std::sqrt((4.0 - 1.0) / (4.0 + 1.0)));
        return exponential(draw, unit(draw) < p ? mean_s / (2.0 * p) : mean_s / (2.0 * (1.0 - p)));
      }
      case service_law::pareto: {
        constexpr double alpha = 1.8;
        return mean_s * (alpha - 1.0) / alpha * std::pow(unit(draw), -1.0 / alpha);
      }
    }
    return 0.0;
  }
};

struct queue_job {
  double arrived_s = 0.0;
  double work_s = 0.0;
  double estimated_s = 0.0;
  std::uint32_t cached_tokens = 0, uncached_tokens = 0;
  double started_s = -1.0, ended_s = -1.0;
};

/// Jobs as a Poisson process brings them at that load. Arrivals and services have a stream each.
inline std::vector<queue_job> poisson_jobs(std::uint64_t count,
                                           double load,
                                           const service_draw& service,
                                           std::uint64_t seed) {
  random_stream arrivals(seed, 1), services(seed, 2);
  std::vector<queue_job> jobs(count);
  double now_s = 0.0;
  for (queue_job& j : jobs) {
    now_s += exponential(arrivals, service.mean_s / load);
    j.arrived_s = now_s;
    j.work_s = service(services);
    j.estimated_s = j.work_s;
  }
  return jobs;
}

/// Serves them all: arrivals and ends are events, an end that an arrival puts off is cancelled.
template <class Order>
void run(server<Order>& s, std::vector<queue_job>& jobs) {
  constexpr std::uint32_t end_of_service = ~std::uint32_t{0};
  event_loop<std::uint32_t> loop;  // a job that arrives, or end_of_service
  typename event_loop<std::uint32_t>::handle end;
  const auto plan_end = [&] {
    loop.cancel(end);
    if (s.is_busy()) {
      end = loop.at(s.next_end_s(), end_of_service);
    }
  };
  if (!jobs.empty()) {
    loop.at(jobs.front().arrived_s, 0);
  }
  while (const auto what = loop.next()) {
    if (*what == end_of_service) {
      const auto done = s.end(loop.now_s());
      jobs[done.job.id].started_s = done.started_s;
      jobs[done.job.id].ended_s = loop.now_s();
      plan_end();
      continue;
    }
    const queue_job& j = jobs[*what];
    if (*what + 1 < jobs.size()) {
      loop.at(jobs[*what + 1].arrived_s, *what + 1);
    }
    const server_job job = {.id = *what,
                            .facts = {.arrived_s = j.arrived_s,
                                      .remaining_s = j.estimated_s,
                                      .cached_tokens = j.cached_tokens,
                                      .uncached_tokens = j.uncached_tokens},
                            .work_s = j.work_s};
    if (s.arrive(job, loop.now_s())) {
      plan_end();
    }
  }
}

/// A million, or less. In a longer run the clock itself, a double, is no more exact to 1e-9 s.
inline std::uint64_t lindley_jobs() {
  return std::min<std::uint64_t>(scaled(1'000'000), 1'000'000);
}

/// The largest difference between waits and D. Lindley's recursion of 1952, in seconds.
inline double distance_from_lindley(const std::vector<queue_job>& jobs) {
  long double wait = 0.0, worst = 0.0;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (i > 0) {
      const long double between = static_cast<long double>(jobs[i].arrived_s) -
                                  static_cast<long double>(jobs[i - 1].arrived_s);
      wait = std::max(wait + jobs[i - 1].work_s - between, 0.0L);
    }
    worst = std::max(worst, std::abs(jobs[i].started_s - jobs[i].arrived_s - wait));
  }
  return static_cast<double>(worst);
}

}  // namespace oriel::sim
