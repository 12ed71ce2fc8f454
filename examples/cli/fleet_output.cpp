// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "fleet_output.hpp"
#include "support.hpp"

#include <nlohmann/json.hpp>
#include <replay/fleet_text.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace oriel::cli {
namespace {

using json = nlohmann::ordered_json;
using figure_unit = replay::fleet_metric::unit;
using replay::bucket_name;
using replay::fleet_report;
using replay::run_figures;

constexpr double chunk_tokens = 16'384;

// -- Tables --------------------------------------------------------------------------------------

/// Columns as wide as what is in them, the first to the left, the others to the right.
class text_table {
 public:
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  void print() const {
    std::vector<std::size_t> widths;
    for (const auto& row : rows_) {
      widths.resize(std::max(widths.size(), row.size()));
      for (std::size_t i = 0; i < row.size(); ++i) {
        widths[i] = std::max(widths[i], characters_of(row[i]));
      }
    }
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::string blanks(widths[i] - characters_of(row[i]), ' ');
        line += i == 0 ? row[i] + blanks : "   " + blanks + row[i];
      }
      line.erase(line.find_last_not_of(' ') + 1);
      print_out("{}\n", line);
    }
  }

 private:
  /// Not bytes: "±" and "×" have two.
  static std::size_t characters_of(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
    }));
  }

  std::vector<std::vector<std::string>> rows_;
};

void print_facts(const fleet_report& report) {
  print_out("{}\n", report.trace);
  for (const replay::fleet_fact& fact : report.facts) {
    print_out("  {:<18} {}\n", fact.name, fact.value);
  }
}

void print_calibration(const fleet_report& report) {
  const sim::calibration& used = report.calibrations.front();
  print_out(
      "\nA prompt costs {:.4g} GFLOP a token at {:.2f} PFLOP/s, {:.4g} MFLOP a pair of tokens at "
      "{:.2f} PFLOP/s, and "
      "{:g} ms a step\n",
      used.linear_flops_token / 1e9,
      used.linear_flops_per_s / 1e15,
      used.attention_flops_pair / 1e6,
      used.attention_flops_per_s / 1e15,
      used.cost.step_s * 1e3);
  print_out("  fitted to  ");
  for (const bool held_out : {false, true}) {
    print_out("{}", held_out ? "\n  held out   " : "");
    for (const sim::prefill_point& point : used.points) {
      if (point.is_held_out == held_out) {
        print_out("{:>6.0f}K {:+.1f} %", point.tokens / 1024, 100 * point.error);
      }
    }
  }
  for (const sim::calibration& other : report.calibrations) {
    print_out(
        "{}{:<11}{:.2f} and {:.2f} PFLOP/s, held out {:.1f} % at most; 1K prompt {}, 256K prompt "
        "{}",
        &other == &used ? "\n  with t0 of\n    " : "\n    ",
        fmt::format("{:g} ms", other.cost.step_s * 1e3),
        other.linear_flops_per_s / 1e15,
        other.attention_flops_per_s / 1e15,
        100 * other.worst_held_out,
        replay::duration_text(1e3 * other.cost.seconds(0, 1 << 10, chunk_tokens)),
        replay::duration_text(1e3 * other.cost.seconds(0, 1 << 18, chunk_tokens)));
  }
  print_out("\n");
}

void print_comparison(const fleet_report& report) {
  constexpr std::array shown{"token_hit_rate",
                             "ttft_p50_ms",
                             "ttft_p90_ms",
                             "ttft_p99_ms",
                             "max_wait_ms",
                             "gpu_seconds_per_mtoken",
                             "local_miss_tokens_per_mtoken",
                             "tokens_per_second"};
  text_table table;
  std::vector<std::string> heading{"Means over seeds"};
  for (const char* const key : shown) {
    heading.emplace_back(replay::fleet_metrics()[replay::metric_index(key)].label);
  }
  table.add(heading);
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    const replay::policy_summary& row = report.policies[policy];
    std::vector<std::string> figures{policy_name(row)}, ratios{"  against the first"};
    for (const char* const key : shown) {
      const std::size_t i = replay::metric_index(key);
      figures.push_back(mean_text(replay::fleet_metrics()[i].in, row.metrics[i].mean));
      ratios.push_back(ratio_text(row.metrics[i].ratio));
    }
    table.add(figures);
    if (policy != 0) {
      table.add(ratios);
    }
  }
  print_out("\n");
  table.print();
}

/// @param ttft  of a run
template <class Ttft>
void add_ttft(text_table& table, const fleet_report& report, const std::string& title, Ttft ttft) {
  table.add({title});
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    const std::optional<double> requests =
        replay::seed_mean(report, policy, [&](const run_figures& r) {
          return static_cast<double>(ttft(r).requests);
        });
    std::vector<std::string> row{"  " + policy_name(report.policies[policy]),
                                 fmt::format("{:.0f}", *requests)};
    for (const auto figure : {&replay::ttft_figures::p50_ms,
                              &replay::ttft_figures::p90_ms,
                              &replay::ttft_figures::p99_ms}) {
      row.push_back(replay::duration_text(replay::seed_mean(
          report, policy, [&](const run_figures& r) { return replay::time_of(ttft(r), figure); })));
    }
    table.add(std::move(row));
  }
}

void print_ttft(const fleet_report& report) {
  text_table table;
  table.add({"Time to first token", "requests", "p50", "p90", "p99"});
  for (std::size_t bucket = 0; bucket < report.buckets.size(); ++bucket) {
    add_ttft(
        table,
        report,
        fmt::format("{} tokens", bucket_name(report.buckets, bucket)),
        [&](const run_figures& r) -> const auto& { return r.ttft_by_bucket[bucket]; });
  }
  add_ttft(
      table, report, "cold", [](const run_figures& r) -> const auto& { return r.cold; });
  add_ttft(
      table, report, "hot", [](const run_figures& r) -> const auto& { return r.hot; });
  print_out("\n");
  table.print();
}

void print_hits(const fleet_report& report) {
  text_table table;
  std::vector<std::string> heading{"Input tokens from"};
  heading.insert(heading.end(), replay::hit_tier_names.begin(), replay::hit_tier_names.end());
  heading.emplace_back("computed");
  table.add(std::move(heading));
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    std::vector<std::string> row{"  " + policy_name(report.policies[policy])};
    for (std::size_t tier = 0; tier <= replay::hit_tiers; ++tier) {
      const std::optional<double> share = replay::seed_mean(
          report, policy, [&](const run_figures& r) { return replay::source_share(r, tier); });
      row.push_back(share ? replay::quantity_text(figure_unit::share, *share) : replay::no_figure);
    }
    table.add(std::move(row));
  }
  print_out("\n");
  table.print();
}

// -- JSON ----------------------------------------------------------------------------------------

json or_null(const std::optional<double>& figure) {
  return figure ? json(*figure) : json(nullptr);
}

json ttft_json(const replay::ttft_figures& t) {
  const auto time = [&](double replay::ttft_figures::*ms) { return or_null(time_of(t, ms)); };
  return {{"requests", t.requests},
          {"mean", time(&replay::ttft_figures::mean_ms)},
          {"p50", time(&replay::ttft_figures::p50_ms)},
          {"p90", time(&replay::ttft_figures::p90_ms)},
          {"p99", time(&replay::ttft_figures::p99_ms)},
          {"max", time(&replay::ttft_figures::max_ms)}};
}

json hits_json(const run_figures& r) {
  json hits = json::object();
  for (std::size_t tier = 0; tier < replay::hit_tiers; ++tier) {
    hits[replay::hit_tier_names[tier]] = r.hit_tokens[tier];
  }
  return hits;
}

json counters_json(const sim::run_counters& c) {
  return {{"arrived", c.arrived},
          {"completed", c.completed},
          {"rejected", c.rejected},
          {"cancelled", c.cancelled},
          {"timed_out", c.timed_out},
          {"failed", c.failed},
          {"retried", c.retried},
          {"heals", c.heals},
          {"twin_waits", c.twin_waits},
          {"guard_demands", c.guard_demands},
          {"preemptions", c.preemptions},
          {"fetches", c.fetches},
          {"fetch_stalls", c.fetch_stalls},
          {"stale_decisions", c.stale_decisions},
          {"lost_events", c.lost_events},
          {"replays", c.replays},
          {"degraded_decisions", c.degraded_decisions}};
}

json run_json(const fleet_report& report, const run_figures& r) {
  json by_bucket = json::object();
  for (std::size_t bucket = 0; bucket < report.buckets.size(); ++bucket) {
    by_bucket[bucket_name(report.buckets, bucket)] = ttft_json(r.ttft_by_bucket[bucket]);
  }
  return {{"router", r.router},
          {"order", r.order},
          {"seed", r.seed},
          {"requests", r.completed},
          {"token_hit_rate", r.input_tokens == 0 ? json(nullptr) : json(r.token_hit_rate())},
          {"hits", hits_json(r)},
          {"ttft_ms", ttft_json(r.ttft)},
          {"ttft_ms_by_bucket", std::move(by_bucket)},
          {"ttft_ms_cold", ttft_json(r.cold)},
          {"ttft_ms_hot", ttft_json(r.hot)},
          {"gpu_seconds", r.gpu_seconds},
          {"gpu_seconds_per_mtoken", or_null(r.per_million_tokens(r.gpu_seconds))},
          {"gpu_most_over_mean", r.gpu_most_over_mean},
          {"ten_minutes_most_over_mean", r.ten_minutes_most_over_mean},
          {"offered_load", r.offered_load},
          {"utilisation", r.utilisation},
          {"input_tokens", r.input_tokens},
          {"local_miss_tokens", r.local_miss_tokens},
          {"local_miss_tokens_per_mtoken",
           or_null(r.per_million_tokens(static_cast<double>(r.local_miss_tokens)))},
          {"fetched_tokens", r.fetched_tokens},
          {"healed_tokens", r.healed_tokens},
          {"duplicated_tokens", r.duplicated_tokens},
          {"rejected", r.rejected},
          {"max_wait_ms", r.completed == 0 ? json(nullptr) : json(r.max_wait_ms)},
          {"guard_slack_ms", or_null(r.guard_slack_ms)},
          {"tokens_per_second", r.tokens_per_second},
          {"simulated_requests_per_second", r.simulated_requests_per_s},
          {"whole_run", counters_json(r.counters)}};
}

json interval_json(const std::optional<replay::sample_mean>& m) {
  const bool has_interval = m && m->half_width;
  json object{{"mean", m ? json(m->mean) : json(nullptr)}};
  object["low"] = has_interval ? json(m->low()) : json(nullptr);
  object["high"] = has_interval ? json(m->high()) : json(nullptr);
  return object;
}

json ratio_json(const std::optional<replay::sample_ratio>& ratio) {
  if (!ratio) {
    return nullptr;
  }
  json object{{"mean", ratio->mean}};
  object["low"] = ratio->has_interval ? json(ratio->low) : json(nullptr);
  object["high"] = ratio->has_interval ? json(ratio->high) : json(nullptr);
  return object;
}

json summary_json(const fleet_report& report, const replay::policy_summary& policy) {
  json object{{"router", policy.router}, {"order", policy.order}, {"seeds", report.seeds}};
  for (std::size_t i = 0; i < policy.metrics.size(); ++i) {
    const replay::metric_summary& metric = policy.metrics[i];
    json figure = interval_json(metric.mean);
    figure["difference"] = interval_json(metric.difference);
    figure["ratio"] = ratio_json(metric.ratio);
    object[replay::fleet_metrics()[i].key] = std::move(figure);
  }
  return object;
}

json calibration_json(const sim::calibration& c) {
  json points = json::array();
  for (const sim::prefill_point& point : c.points) {
    points.push_back({{"tokens", point.tokens},
                      {"published_tokens_per_s", point.published_tokens_per_s},
                      {"predicted_tokens_per_s", point.predicted_tokens_per_s},
                      {"error", point.error},
                      {"held_out", point.is_held_out}});
  }
  return {{"step_s", c.cost.step_s},
          {"linear_flops_per_s", c.linear_flops_per_s},
          {"attention_flops_per_s", c.attention_flops_per_s},
          {"worst_held_out_error", c.worst_held_out},
          {"points", std::move(points)}};
}

}  // namespace

void print_fleet_table(const fleet_report& report) {
  print_facts(report);
  print_calibration(report);
  print_comparison(report);
  print_ttft(report);
  print_hits(report);
  print_out(
      "\n{}\n{}\n{}\n", comparison_sentence(report), cold_sentence(report), wait_sentence(report));
}

void print_fleet_json(const fleet_report& report, const fleet_question& question) {
  const replay_options& o = question.options;
  const fleet_options& f = o.fleet;
  json object{{"model", o.preset},
              {"trace", o.trace},
              {"workers", f.workers},
              {"ranks", f.ranks},
              {"routers", f.routers},
              {"guard",
               f.guard ? json{{"least_wait_s", f.guard->least_wait_s}, {"factor", f.guard->factor}}
                       : json(nullptr)},
              {"tiers",
               {{"device", f.tiers.device_tokens},
                {"host", f.tiers.host_tokens},
                {"l3", f.tiers.shared_tokens}}},
              {"load", f.load ? json(*f.load) : json(nullptr)},
              {"open", f.is_open},
              {"hours", question.hours},
              {"clones", question.clones},
              {"page_tokens", question.page_tokens}};
  object["student_t"] =
      report.seeds < 2 ? json(nullptr) : json(replay::student_t(report.seeds - 1));
  json calibrations = json::array(), runs = json::array(), summary = json::array();
  for (const sim::calibration& one : report.calibrations) {
    calibrations.push_back(calibration_json(one));
  }
  for (const run_figures& run : report.runs) {
    runs.push_back(run_json(report, run));
  }
  for (const replay::policy_summary& policy : report.policies) {
    summary.push_back(summary_json(report, policy));
  }
  object["calibration"] = std::move(calibrations);
  object["runs"] = std::move(runs);
  object["summary"] = std::move(summary);
  print_out("{}\n", object.dump());
}

}  // namespace oriel::cli
