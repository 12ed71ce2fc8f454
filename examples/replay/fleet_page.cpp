// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/fleet_page.hpp>
#include <replay/fleet_plots.hpp>
#include <replay/fleet_style.hpp>
#include <replay/fleet_text.hpp>
#include <replay/grouped.hpp>
#include <replay/svg.hpp>

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>

namespace oriel::replay {
namespace {

using unit = fleet_metric::unit;

constexpr double chunk_tokens = 16'384;  ///< in which prompts of the tables are computed

template <class... Args>
void add(std::string& page, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(page), format, std::forward<Args>(args)...);
}

void add_facts(std::string& page, const fleet_report& report) {
  page += "<dl class=\"facts\">\n";
  for (const fleet_fact& fact : report.facts) {
    add(page, "<div><dt>{}</dt><dd>{}</dd></div>\n", escaped(fact.name), escaped(fact.value));
  }
  page += "</dl>\n";
}

void add_figure(std::string& page,
                std::string_view id,
                std::string_view heading,
                std::string_view words,
                const figure_panels& figure) {
  add(page, "<section id=\"{}\">\n<h2>{}</h2>\n<p>{}</p>\n", id, escaped(heading), escaped(words));
  if (!figure.key.empty()) {
    add(page, "<div class=\"key\">\n{}</div>\n", figure.key);
  }
  page += "<div class=\"panels\">\n";
  for (const std::string& panel : figure.panels) {
    add(page, "<div>\n{}</div>\n", panel);
  }
  page += "</div>\n</section>\n";
}

/// A row for each figure, a column for each policy: as wide as there are policies.
void add_comparison_table(std::string& page, const fleet_report& report) {
  page += "<div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead><tr><th></th>";
  for (const policy_summary& policy : report.policies) {
    add(page,
        "<th>{}<small>{}{}</small></th>",
        escaped(policy.router),
        escaped(policy.order),
        &policy == &report.policies.front() && report.policies.size() > 1 ? ", the reference" : "");
  }
  page += "</tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < fleet_metrics().size(); ++i) {
    const fleet_metric& metric = fleet_metrics()[i];
    add(page, "<tr><th>{}</th>", metric.label);
    for (const policy_summary& policy : report.policies) {
      const metric_summary& figure = policy.metrics[i];
      add(page, "<td>{}", mean_text(metric.in, figure.mean));
      if (&policy != &report.policies.front() && figure.ratio) {
        add(page,
            "<small class=\"{}\">{}</small>",
            verdict(*figure.ratio, metric.more_is_better),
            ratio_text(figure.ratio));
      }
      page += "</td>";
    }
    page += "</tr>\n";
  }
  page += "</tbody>\n</table>\n</div>\n";
}

/// The longest waits of a policy in all its runs.
std::vector<std::pair<std::uint64_t, long_wait>> longest_waits(const fleet_report& report,
                                                               std::size_t policy,
                                                               std::size_t count) {
  std::vector<std::pair<std::uint64_t, long_wait>> waits;
  for (const run_figures& run : report.runs_of(policy)) {
    for (const long_wait& wait : run.longest_waits) {
      waits.emplace_back(run.seed, wait);
    }
  }
  std::stable_sort(waits.begin(), waits.end(), [](const auto& a, const auto& b) {
    return a.second.wait_ms > b.second.wait_ms;
  });
  waits.resize(std::min(waits.size(), count));
  return waits;
}

void add_waits(std::string& page, const fleet_report& report) {
  constexpr std::size_t shown = 3;
  add(page,
      "<section id=\"waits\">\n<h2>Longest waits</h2>\n<p>{}</p>\n<div class=\"scroll\" "
      "tabindex=\"0\">\n<table>\n"
      "<thead><tr><th>Policy</th><th>Waited</th><th>Work ahead<small>estimated, at "
      "arrival</small></th>"
      "<th>First token after</th><th>Input tokens</th><th>Cached</th><th>Worker</th><th>Arrived "
      "at</th><th>Seed</th>"
      "</tr></thead>\n<tbody>\n",
      escaped(wait_sentence(report)));
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    for (const auto& [seed, wait] : longest_waits(report, policy, shown)) {
      const double cached =
          wait.input_tokens == 0 ? 0 : double{wait.hit_tokens * 1.0} / wait.input_tokens;
      add(page,
          "<tr><th>{}<small>{}</small></th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</"
          "td><td>{}</"
          "td><td>{:.2f} h</td><td>{}</td></tr>\n",
          escaped(report.policies[policy].router),
          escaped(report.policies[policy].order),
          duration_text(wait.wait_ms),
          duration_text(wait.ahead_ms),
          duration_text(wait.ttft_ms),
          grouped(wait.input_tokens),
          quantity_text(unit::share, cached),
          wait.worker,
          wait.arrived_s / 3600,
          seed);
    }
  }
  page += "</tbody>\n</table>\n</div>\n</section>\n";
}

void add_calibration(std::string& page, const fleet_report& report) {
  add(page,
      "<section id=\"calibration\">\n<h2>What a prompt is taken to cost</h2>\n<p>{}</p>\n<div "
      "class=\"two\">\n"
      "<div class=\"scroll\" tabindex=\"0\"><table>\n"
      "<thead><tr><th>Prompt</th><th>Published</th><th>Predicted</th><th>Error</th><th></th></tr></"
      "thead>\n<tbody>\n",
      escaped(calibration_sentence(report)));
  for (const sim::prefill_point& point : report.calibrations.front().points) {
    add(page,
        "<tr><th>{:.0f}K</th><td>{}</td><td>{}</td><td>{:+.1f} %</td><td>{}</td></tr>\n",
        point.tokens / 1024,
        quantity_text(unit::tokens_per_second, point.published_tokens_per_s),
        quantity_text(unit::tokens_per_second, point.predicted_tokens_per_s),
        100 * point.error,
        point.is_held_out ? "held out" : "fitted");
  }
  page +=
      "</tbody>\n</table></div>\n<div>\n<div class=\"scroll\" tabindex=\"0\"><table>\n"
      "<thead><tr><th>Cost of a step, t0</th><th>Linear part</th><th>Attention</th><th>1K "
      "prompt</th>"
      "<th>256K prompt</th><th>Worst error<small>held out</small></th></tr></thead>\n<tbody>\n";
  for (const sim::calibration& choice : report.calibrations) {
    add(page,
        "<tr><th>{:g} ms{}</th><td>{:.2f} PFLOP/s</td><td>{:.2f} "
        "PFLOP/s</td><td>{}</td><td>{}</td><td>{:.1f} %</td></tr>\n",
        choice.cost.step_s * 1e3,
        &choice == &report.calibrations.front() ? " <small>in use</small>" : "",
        choice.linear_flops_per_s / 1e15,
        choice.attention_flops_per_s / 1e15,
        duration_text(1e3 * choice.cost.seconds(0, 1 << 10, chunk_tokens)),
        duration_text(1e3 * choice.cost.seconds(0, 1 << 18, chunk_tokens)),
        100 * choice.worst_held_out);
  }
  page +=
      "</tbody>\n</table></div>\n<p style=\"margin-top:12px\">The published speeds do not tell "
      "what a step costs "
      "before its first token. The other rows show what would "
      "change.</p>\n</div>\n</div>\n</section>\n";
}

void add_sections(std::string& page, const fleet_report& report) {
  if (report.policies.size() > 1) {
    add_figure(page,
               "comparison",
               "Against the reference",
               fmt::format("Each figure divided by that of {} with the same seed. Lines are 95 % "
                           "intervals; where one "
                           "crosses 1×, the seeds do not tell the two apart.",
                           policy_name(report.policies.front())),
               comparison_plot(report));
  }
  page += "<section id=\"table\">\n<h2>All figures</h2>\n<p>Means over the seeds, ± 95 %. ";
  page += report.policies.size() > 1 ? "Below each: the ratio to the reference.</p>\n" : "</p>\n";
  add_comparison_table(page, report);
  page += "</section>\n";
  add_figure(page,
             "buckets",
             "Time to first token by length",
             bucket_sentence(report),
             ttft_by_bucket_plot(report));
  add_figure(page,
             "classes",
             "Time to first token, cold and hot",
             cold_sentence(report),
             ttft_by_class_plot(report));
  add_figure(page, "hits", "Where the input came from", hits_sentence(report), hits_plot(report));
  add_figure(page, "load", "Load over time", load_sentence(report), load_plot(report));
  add_waits(page, report);
  if (!report.calibrations.empty()) {
    add_calibration(page, report);
  }
}

}  // namespace

std::string fleet_page(const fleet_report& report) {
  std::string page;
  add(page,
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<title>Fleet replay: {0}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style "
      "id=\"drawings\">{1}</style>\n<style>{2}</style>\n</head>\n"
      "<body>\n<main>\n<header>\n<h1>Fleet replay</h1>\n<p class=\"file\">{0}</p>\n<p "
      "class=\"lede\">{3}</p>\n",
      escaped(report.trace),
      fleet_style,
      page_style,
      escaped(comparison_sentence(report)));
  add_facts(page, report);
  page += "</header>\n";
  add_sections(page, report);
  page +=
      "<footer>Made by <code>oriel replay</code>. A percentile is the time of one request: the "
      "least that so many do not "
      "exceed; shown is its mean over the seeds. docs/cli.md says what each figure "
      "is.</footer>\n</main>\n</body>\n</html>\n";
  return page;
}

}  // namespace oriel::replay
