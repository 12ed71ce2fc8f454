// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel replay --workers N`: what a fleet does on a trace of real requests, policy beside policy.
#include "commands.hpp"
#include "fleet_options.hpp"
#include "fleet_output.hpp"
#include "progress.hpp"
#include "support.hpp"

#include <oriel/sim/cluster.hpp>
#include <oriel/sim/load.hpp>
#include <oriel/sim/workload.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <replay/fleet_figures.hpp>
#include <replay/fleet_page.hpp>
#include <replay/fleet_report.hpp>
#include <replay/fleet_text.hpp>
#include <replay/grouped.hpp>
#include <replay/read_trace.hpp>
#include <replay/trace_workload.hpp>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include <unistd.h>

namespace oriel::cli {
namespace {

/// Over so many hours a run's sessions start, each so many times.
struct fleet_span {
  double hours = 8;
  std::uint32_t clones = 1;
  bool is_near = true;  ///< to the load asked for
  double utilisation = 0;
};

/// The page's file. It is opened before the runs: what cannot be written is told at once. A regular
/// file is replaced when the page is whole, so a run that fails leaves an earlier page alone;
/// anything else (a link, a device, a pipe) is written through.
class page_writer {
 public:
  /// @param trace  what the runs read: never written
  page_writer(const std::string& path, const std::string& trace) : path_(path) {
    if (path_.empty()) {
      return;
    }
    struct stat there = {}, read = {};
    const bool is_there = ::stat(path_.c_str(), &there) == 0;
    if (is_there && ::stat(trace.c_str(), &read) == 0 && there.st_dev == read.st_dev &&
        there.st_ino == read.st_ino) {
      fail("it is the trace");
    }
    if (is_there && S_ISDIR(there.st_mode)) {
      fail("it is a folder");
    }
    struct stat named = {};
    const bool is_named = ::lstat(path_.c_str(), &named) == 0;
    if (is_named && !S_ISREG(named.st_mode)) {
      file_.reset(std::fopen(path_.c_str(), "wb"));
    } else {
      part_ = path_ + ".XXXXXX";
      const int file = ::mkstemp(part_.data());
      if (file >= 0) {
        file_.reset(::fdopen(file, "wb"));
        const mode_t mask = ::umask(0);
        ::umask(mask);
        (void)::fchmod(file, is_named ? named.st_mode & 0777 : 0666 & ~mask);
      }
    }
    if (!file_) {
      const int error = errno;
      part_.clear();
      fail(std::strerror(error));
    }
  }
  page_writer(const page_writer&) = delete;
  page_writer& operator=(const page_writer&) = delete;
  ~page_writer() {
    if (!part_.empty()) {
      std::remove(part_.c_str());
    }
  }
  void write(const replay::fleet_report& report) {
    if (!file_) {
      return;
    }
    const std::string page = replay::fleet_page(report);
    const bool is_written = std::fwrite(page.data(), 1, page.size(), file_.get()) == page.size();
    const int error = errno;
    if (std::fclose(file_.release()) != 0 || !is_written) {
      fail(std::strerror(is_written ? errno : error));
    }
    if (!part_.empty()) {
      if (std::rename(part_.c_str(), path_.c_str()) != 0) {
        fail(std::strerror(errno));
      }
      part_.clear();
    }
  }

 private:
  [[noreturn]] void fail(const char* why) const {
    throw engine::error(
        fmt::format("cannot write the page {}: {}; name another file with --html", path_, why));
  }
  struct closing {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  std::string path_, part_;  ///< part_: beside it, until it is whole
  std::unique_ptr<std::FILE, closing> file_;
};

std::vector<fleet_policy> policies_of(const fleet_options& o) {
  std::vector<fleet_policy> policies;
  for (const std::string& text : o.compared) {
    policies.push_back(parse_policy(text, o.policy.order).value());
  }
  return policies.empty() ? std::vector{o.policy} : policies;
}

std::vector<sim::outage> outages_of(const fleet_options& o,
                                    fleet_outage::part what,
                                    double begin_s,
                                    double end_s) {
  std::vector<sim::outage> made;
  for (const fleet_outage& one : o.outages) {
    if (one.what == what) {
      sim::outage outage{.who = one.index, .from_s = begin_s + one.from_share * (end_s - begin_s)};
      if (one.seconds) {
        outage.until_s = outage.from_s + *one.seconds;
      }
      made.push_back(outage);
    }
  }
  return made;
}

/// Of the nodes, whatever the policy and its faults.
sim::cluster_options fleet_of(const replay_options& o) {
  const fleet_options& f = o.fleet;
  sim::cluster_options made;
  made.workers = f.workers;
  made.ranks = f.ranks;
  made.sticky_ranks = f.sticky_ranks;
  made.node = sim::mimo_pro_node(f.step_ms * 1e-3);
  made.tiers = f.tiers;
  made.tiers.window_share = o.window_share;
  made.may_heal = o.heal == "on";
  made.is_open = f.is_open;
  return made;
}

sim::cluster_options run_options_of(const replay_options& o,
                                    const fleet_policy& policy,
                                    const sim::workload_view& view) {
  const fleet_options& f = o.fleet;
  sim::cluster_options made = fleet_of(o);
  const double begin_s = view.measure_begin_s(), end_s = view.measure_end_s();
  made.router = policy.router;
  made.order = policy.order;
  made.guard = f.guard;
  made.buckets = f.buckets;
  made.routers = f.routers;
  made.ahead_max_s = f.ahead_max_s.value_or(made.ahead_max_s);
  made.seed = view.options().seed;
  made.stale.event_loss = f.event_loss;
  made.stale.event_delay_s = made.stale.report_delay_s = made.stale.gossip_delay_s = f.delay_s;
  made.worker_outages = outages_of(f, fleet_outage::part::worker, begin_s, end_s);
  made.router_outages = outages_of(f, fleet_outage::part::router, begin_s, end_s);
  made.store_outages = outages_of(f, fleet_outage::part::store, begin_s, end_s);
  return made;
}

/// The hours in which session_hash + fcfs is as busy as was asked for. A fleet cannot be busier
/// than always: more load is less time for the same work.
fleet_span span_of(const replay_options& o, const sim::workload& workload) {
  const fleet_options& f = o.fleet;
  if (!f.load) {
    return {.hours = o.hours, .clones = f.clones};
  }
  constexpr double busiest = 0.9;
  const double target = std::min(*f.load, busiest);
  sim::cluster_options reference = fleet_of(o);
  reference.router = sim::router_kind::session_hash;
  reference.order = order_kind::fcfs;
  const activity telling{"finding the hours for the load"};
  const auto utilisation = [&](double hours) {
    const sim::workload_view view(workload, {.clones = f.clones, .hours = hours, .seed = o.seed});
    reference.seed = o.seed;
    const double found = run_cluster(view, reference).utilisation;
    telling.say(fmt::format(
        "finding the hours for load {:g}: utilisation {:.3f} with {:.3g} h", target, found, hours));
    return found;
  };
  const sim::load_found found = sim::find_hours(target, utilisation, {.first_hours = o.hours});
  return {.hours = found.hours * target / *f.load,
          .clones = f.clones,
          .is_near = found.is_near,
          .utilisation = found.utilisation};
}

/// All runs, as many at the same time as there are threads; they share nothing that is written.
class fleet_runs {
 public:
  fleet_runs(const replay_options& options,
             const sim::workload& workload,
             const fleet_span& span,
             const length_buckets& buckets)
      : options_(options),
        workload_(workload),
        span_(span),
        buckets_(buckets),
        policies_(policies_of(options.fleet)),
        ideal_hits_(replay::ideal_hit_tokens(workload)),
        figures_(policies_.size() * options.fleet.seeds),
        shares_(figures_.size()) {}

  /// Policy by policy, seed by seed, whatever ends first.
  std::vector<replay::run_figures> run() {
    const std::size_t count =
        std::min<std::size_t>(thread_count(options_.fleet.threads), figures_.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < count; ++i) {
      threads.emplace_back([this] { work(); });
    }
    if (shows_progress()) {
      show_progress();
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    return std::move(figures_);
  }

 private:
  void work() {
    for (;;) {
      const std::size_t i = next_.fetch_add(1);
      if (i >= figures_.size()) {
        return;
      }
      try {
        run_one(i);
      } catch (...) {
        if (!has_failed_.exchange(true)) {
          failure_ = std::current_exception();
        }
        next_ = figures_.size();
      }
      done_.fetch_add(1);
    }
  }

  void run_one(std::size_t i) {
    const sim::workload_view view(workload_,
                                  {.clones = span_.clones,
                                   .hours = span_.hours,
                                   .seed = options_.seed + i % options_.fleet.seeds});
    const auto tell = [](void* to, double now_s, double end_s) {
      static_cast<std::atomic<float>*>(to)->store(static_cast<float>(std::min(now_s / end_s, 1.0)));
    };
    const auto began = std::chrono::steady_clock::now();
    sim::run_outcome outcome =
        run_cluster(view,
                    run_options_of(options_, policies_[i / options_.fleet.seeds], view),
                    {.tell = tell, .to = &shares_[i]});
    outcome.wall_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    shares_[i] = 1.0f;
    figures_[i] = replay::figures_of(outcome, buckets_, ideal_hits_);
  }

  void show_progress() {
    progress_bar bar(1'000);
    while (done_ < figures_.size() && !has_failed_) {
      double share = 0;
      for (const std::atomic<float>& one : shares_) {
        share += static_cast<double>(one.load());
      }
      share /= static_cast<double>(shares_.size());
      bar.draw(static_cast<std::size_t>(999 * share),
               [&] { return fmt::format("{} of {} runs", done_.load(), figures_.size()); });
      std::this_thread::sleep_for(std::chrono::milliseconds{50});
    }
  }

  const replay_options& options_;
  const sim::workload& workload_;
  const fleet_span& span_;
  const length_buckets& buckets_;
  std::vector<fleet_policy> policies_;
  std::vector<std::uint32_t> ideal_hits_;
  std::vector<replay::run_figures> figures_;
  std::vector<std::atomic<float>> shares_;
  std::atomic<std::size_t> next_ = 0, done_ = 0;
  std::atomic<bool> has_failed_ = false;
  std::exception_ptr failure_;
};

std::string tokens_text(std::uint64_t tokens) {
  return replay::quantity_text(replay::fleet_metric::unit::tokens, static_cast<double>(tokens));
}

std::string tiers_text(const sim::tier_sizes& tiers) {
  std::string text = "device " + tokens_text(tiers.device_tokens);
  if (tiers.host_tokens != 0) {
    text += ", host " + tokens_text(tiers.host_tokens);
  }
  if (tiers.shared_tokens != 0) {
    text += ", L3 of all " + tokens_text(tiers.shared_tokens);
  }
  return text + " tokens";
}

std::string faults_text(const fleet_options& o) {
  std::string text;
  if (o.event_loss > 0) {
    text += fmt::format("{:g} % of events lost, ", 100 * o.event_loss);
  }
  if (o.delay_s > 0) {
    text += fmt::format("{:g} s late, ", o.delay_s);
  }
  if (!o.outages.empty()) {
    text += fmt::format("{} outage{}, ", o.outages.size(), o.outages.size() == 1 ? "" : "s");
  }
  return text.empty() ? text : text.substr(0, text.size() - 2);
}

std::vector<replay::fleet_fact> facts_of(const replay_options& o,
                                         const sim::workload& workload,
                                         const fleet_span& span) {
  const fleet_options& f = o.fleet;
  std::vector<replay::fleet_fact> facts{
      {"Workers", fmt::format("{} nodes of 8 GPUs", f.workers)},
      {"Sessions",
       fmt::format("{}, each {} over {:.3g} h",
                   replay::grouped(workload.sessions.size()),
                   span.clones == 1 ? "once" : fmt::format("{} times", span.clones),
                   span.hours)},
      {"Requests", replay::grouped(workload.requests.size() * std::uint64_t{span.clones})},
      {"Arrivals", f.is_open ? "open: as the trace says" : "closed: a turn waits for the last"}};
  if (f.load) {
    facts.push_back({"Load", fmt::format("{:g} of session_hash + fcfs", *f.load)});
  }
  facts.push_back({"Tiers of a node", tiers_text(f.tiers)});
  facts.push_back(
      {"Guard",
       f.guard ? fmt::format("{:g} s, {:g}× the work ahead", f.guard->least_wait_s, f.guard->factor)
               : "off"});
  facts.push_back({"Seeds",
                   f.seeds == 1 ? fmt::format("{}", o.seed)
                                : fmt::format("{} to {}", o.seed, o.seed + f.seeds - 1)});
  if (f.ranks > 1) {
    facts.push_back(
        {"Ranks of a node", fmt::format("{}{}", f.ranks, f.sticky_ranks ? ", sticky" : "")});
  }
  if (f.buckets) {
    facts.push_back({"Buckets", fmt::format("{}, workers of their own", f.buckets->size())});
  }
  if (f.routers > 1) {
    facts.push_back({"Routers", fmt::format("{}", f.routers)});
  }
  if (f.ahead_max_s) {
    facts.push_back({"Admission", fmt::format("up to {:g} s ahead", *f.ahead_max_s)});
  }
  if (const std::string faults = faults_text(f); !faults.empty()) {
    facts.push_back({"Faults", faults});
  }
  return facts;
}

/// With the cost of a step in use first, then others.
std::vector<sim::calibration> calibrations_of(double step_ms) {
  std::vector<sim::calibration> made{sim::calibrate_mimo_pro({.step_s = step_ms * 1e-3})};
  for (const double other_ms : {0.0, 5.0, 20.0}) {
    if (other_ms != step_ms) {
      made.push_back(sim::calibrate_mimo_pro({.step_s = other_ms * 1e-3}));
    }
  }
  return made;
}

sim::workload read_workload(const replay_options& o) {
  const activity reading{"reading the trace"};
  return replay::workload_of(replay::read_trace(o.trace, {.hours = o.hours}));
}

length_buckets lengths_of(const fleet_options& o) {
  return o.lengths ? *o.lengths : o.buckets.value_or(length_buckets{});
}

/// What a guard promised and did not keep, in any run. 0: nothing.
double broken_ms(const replay::fleet_report& report) {
  double broken = 0;
  for (const replay::run_figures& run : report.runs) {
    broken = std::max(broken, -run.guard_slack_ms.value_or(0));
  }
  return broken;
}

}  // namespace

int replay_fleet(const replay_options& o) {
  page_writer page(o.fleet.page_file, o.trace);
  const sim::workload workload = read_workload(o);
  const fleet_span span = span_of(o, workload);
  if (!span.is_near) {
    note(
        "oriel: warning: no hours give load {:g}: the nearest found has utilisation {:.3f}; take "
        "more --clones\n",
        *o.fleet.load,
        span.utilisation);
  }
  replay::fleet_report report{.trace = o.trace,
                              .facts = facts_of(o, workload, span),
                              .buckets = lengths_of(o.fleet),
                              .seeds = o.fleet.seeds,
                              .calibrations = calibrations_of(o.fleet.step_ms)};
  report.runs = fleet_runs(o, workload, span, report.buckets).run();
  summarise(report);
  if (o.json) {
    print_fleet_json(report,
                     {.options = o,
                      .hours = span.hours,
                      .clones = span.clones,
                      .page_tokens = workload.page_tokens});
  } else {
    print_fleet_table(report);
  }
  page.write(report);
  if (const double broken = broken_ms(report); broken > 0) {
    note("oriel: the guard's bound was broken by {:g} ms: that is a bug of oriel\n", broken);
    return exit_failure;
  }
  return exit_ok;
}

}  // namespace oriel::cli
