// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>
#include <replay/fleet_page.hpp>
#include <replay/fleet_plots.hpp>
#include <replay/fleet_text.hpp>
#include <replay/grouped.hpp>
#include <replay/svg.hpp>

#include <algorithm>
#include <cstddef>
#include <regex>
#include <span>
#include <string>
#include <vector>

namespace fleet_page_test {

using namespace oriel;
using namespace oriel::replay;

namespace {

sim::run_outcome some_run(const char* router, std::uint64_t seed, double slowness) {
  random_stream random{seed};
  sim::run_outcome run;
  run.router = router;
  run.order = "fcfs";
  run.seed = seed;
  run.measure_begin_s = 100;
  run.measure_end_s = 500;
  run.gpu_s = {90 * slowness, 110 * slowness};
  run.busy = {std::vector<float>(9, 0.4f), std::vector<float>(9, 0.6f)};
  run.guard_slack_ms = 250;
  for (std::uint32_t i = 0; i < 300; ++i) {
    const double at_s = 100 + i,
                 wait_s = slowness * static_cast<double>(random.next_below(100)) / 50;
    sim::request_outcome r{.arrived_s = at_s,
                           .started_s = at_s + wait_s,
                           .first_token_s = at_s + wait_s + 0.1,
                           .input_tokens = 1 + random.next_below(600'000)};
    r.hit_tokens[0] = random.next_below(10) == 0 ? 0 : r.input_tokens / 10 * 6;
    r.hit_tokens[2] = r.hit_tokens[0] / 3;
    r.local_miss_tokens = r.input_tokens - r.hit_tokens[0];
    run.requests.push_back(r);
  }
  return run;
}

const std::vector<std::uint32_t> ideal_hits(1);  // All are request 0, which is cold.

fleet_report some_report(std::size_t seeds) {
  fleet_report report{
      .trace = "<traces> & more", .facts = {{"Workers", "2 & \"two\""}}, .seeds = seeds};
  for (const auto& [router, slowness] :
       {std::pair{"session_hash", 3.0}, {"predicted_seconds", 1.0}}) {
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      report.runs.push_back(
          figures_of(some_run(router, seed, slowness), report.buckets, ideal_hits));
    }
  }
  report.calibrations = {sim::calibrate_mimo_pro(), sim::calibrate_mimo_pro({.step_s = 0})};
  summarise(report);
  return report;
}

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
    count += 1;
  }
  return count;
}

}  // namespace

TEST_CASE("the page needs nothing but itself") {
  const std::string page = fleet_page(some_report(5));
  for (const char* const foreign : {"http", "//", "<script", "@import", "url(", "src="}) {
    INFO(foreign);
    CHECK(page.find(foreign) == std::string::npos);
  }
  CHECK(page.size() < 300'000);
  CHECK(count_of(page, "<svg") == count_of(page, "</svg>"));
  CHECK(count_of(page, "<section") == count_of(page, "</section>"));
  CHECK(page.find("prefers-color-scheme:dark") != std::string::npos);
  CHECK(page.find("nan") == std::string::npos);
  CHECK(page.find("inf") == std::string::npos);
}

TEST_CASE("what others wrote is text on the page, never markup") {
  const std::string page = fleet_page(some_report(2));
  CHECK(page.find("<traces>") == std::string::npos);
  CHECK(page.find("&lt;traces&gt; &amp; more") != std::string::npos);
  CHECK(page.find("2 &amp; &quot;two&quot;") != std::string::npos);
  CHECK(escaped("a<b>&\"c\"") == "a&lt;b&gt;&amp;&quot;c&quot;");
}

TEST_CASE("one seed has no intervals, one policy no comparison") {
  fleet_report report = some_report(1);
  CHECK(fleet_page(report).find("±") == fleet_page(report).rfind("±"));  // In the words alone.
  CHECK(fleet_page(report).find("id=\"comparison\"") != std::string::npos);
  report.runs.pop_back();
  summarise(report);
  CHECK(fleet_page(report).find("id=\"comparison\"") == std::string::npos);
  CHECK(comparison_sentence(report).find("TTFT p50") != std::string::npos);
}

TEST_CASE("a run without requests has a page too") {
  fleet_report report{.trace = "empty", .seeds = 1};
  sim::run_outcome nothing;
  nothing.router = "least_load";
  nothing.order = "fcfs";
  report.runs.push_back(figures_of(nothing, report.buckets, ideal_hits));
  summarise(report);
  const std::string page = fleet_page(report);
  CHECK(page.find("no requests") != std::string::npos);
  CHECK(page.find("nan") == std::string::npos);
  CHECK(page.find("nothing bounds them") != std::string::npos);
  CHECK(page.find("<tr><th>TTFT p99</th><td>-</td></tr>") != std::string::npos);
  CHECK(page.find("<tr><th>Token hit rate</th><td>-</td></tr>") != std::string::npos);
  CHECK(page.find("No policy completed a request") == std::string::npos);  // There is but one.
  CHECK(comparison_sentence(report).find("p99 -;") != std::string::npos);
  CHECK(hits_sentence(report) == "No request was completed.");
}

TEST_CASE("who completes nothing is not the quickest") {
  fleet_report report = some_report(2);
  for (run_figures& run : std::span(report.runs).last(2)) {
    run = {.router = run.router, .order = run.order, .seed = run.seed};
    run.ttft_by_bucket.resize(report.buckets.size());
  }
  summarise(report);
  CHECK(comparison_sentence(report).find("No policy has a lower TTFT p99") == 0);
  CHECK(fleet_page(report).find("nan") == std::string::npos);
}

TEST_CASE("labels of an axis do not run into each other, however wide it is") {
  for (const double spread : {1.2, 5.0, 40.0, 3e3, 1e6, 1e12}) {
    INFO("spread " << spread);
    fleet_report report = some_report(2);
    for (metric_summary& metric : report.policies[1].metrics) {
      metric.ratio =
          sample_ratio{.mean = 1, .low = 1 / spread, .high = spread, .has_interval = true};
    }
    const std::string panel = comparison_plot(report).panels.front();
    const std::regex label(
        R"re(<text x="([0-9.]+)" y="[0-9.]+" class="axis" text-anchor="middle">([^<]*×)</text>)re");
    std::vector<std::pair<double, double>> places;
    bool has_one = false;
    for (std::sregex_iterator at(panel.begin(), panel.end(), label), end; at != end; ++at) {
      const std::string text = (*at)[2];
      const double x = std::stod((*at)[1]);
      const double half = 3.0 * static_cast<double>(text.size() - 1);  // × has two bytes.
      places.emplace_back(x - half, x + half);
      has_one = has_one || text == "1×";
    }
    CHECK(has_one);
    REQUIRE(places.size() >= 2);
    std::ranges::sort(places);
    for (std::size_t i = 1; i < places.size(); ++i) {
      CHECK(places[i - 1].second + 2 < places[i].first);
    }
  }
}

TEST_CASE("every policy is named in every panel, and its marks tell their figures") {
  const fleet_report report = some_report(5);
  const figure_panels buckets = ttft_by_bucket_plot(report);
  REQUIRE(buckets.panels.size() == 3);
  for (const std::string& panel : buckets.panels) {
    CHECK(count_of(panel, ">session_hash + fcfs</text>") == 1);
    CHECK(count_of(panel, "<title>predicted_seconds + fcfs") == 3);
  }
  CHECK(ttft_by_class_plot(report).panels.size() == 2);
  CHECK(comparison_plot(report).panels.size() == 6);
  CHECK(hits_plot(report).panels.size() == 1);
  CHECK(load_plot(report).panels.size() == 2);
}

TEST_CASE("the sentences say which policy is best, and what the guard did") {
  fleet_report report = some_report(5);
  CHECK(comparison_sentence(report).find("predicted_seconds + fcfs has the lowest TTFT p99") == 0);
  CHECK(wait_sentence(report).find("held in every run; the tightest wait ended 250 ms before") !=
        std::string::npos);
  report.runs.back().guard_slack_ms = -3;
  CHECK(wait_sentence(report).find("BROKEN by 3.00 ms") != std::string::npos);
}

TEST_CASE("figures have three digits, a unit, and an interval in that unit") {
  using unit = fleet_metric::unit;
  CHECK(quantity_text(unit::milliseconds, 412.4) == "412 ms");
  CHECK(quantity_text(unit::milliseconds, 8'214) == "8.21 s");
  CHECK(quantity_text(unit::milliseconds, 738'000) == "12.3 min");
  CHECK(quantity_text(unit::share, 0.9461) == "94.6 %");
  CHECK(quantity_text(unit::tokens, 12.34e6) == "12.3 M");
  CHECK(quantity_text(unit::tokens_per_second, 148'200) == "148 K/s");
  CHECK(quantity_text(unit::count, 17) == "17");
  CHECK(mean_text(unit::milliseconds, sample_mean{.mean = 8'214, .half_width = 340, .n = 5}) ==
        "8.21 ± 0.34 s");
  CHECK(mean_text(unit::milliseconds, sample_mean{.mean = 8'214, .n = 1}) == "8.21 s");
  CHECK(ratio_text(sample_ratio{.mean = 0.412, .low = 0.38, .high = 0.44, .has_interval = true}) ==
        "0.41× (0.38-0.44)");
  CHECK(ratio_text(std::nullopt) == "-");
  CHECK(short_number(0.0412) == "0.041");
  CHECK(short_number(31.2) == "31");
  CHECK(grouped(12'345'678) == "12,345,678");
}

}  // namespace fleet_page_test
