// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/fleet_plots.hpp>
#include <replay/fleet_text.hpp>
#include <replay/svg.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

namespace oriel::replay {
namespace {

// A panel: title, rows of a name above its marks, an axis. Numbers stand right of the marks.
constexpr double width = 360, title_height = 30, row_height = 40, axis_height = 24;
constexpr double marks_left = 6, marks_right = 236;

/// A logarithmic axis over the marks' part of a panel.
struct log_axis {
  double least = 1, most = 10;

  [[nodiscard]] double at(double value) const {
    const double share = std::log(std::clamp(value, least, most) / least) / std::log(most / least);
    return marks_left + share * (marks_right - marks_left);
  }
};

/// The axis with room for all values, from one 1, 2 or 5 to another.
log_axis axis_over(const std::vector<double>& values) {
  double least = 1e300, most = 0;
  for (const double value : values) {
    if (value > 0) {
      least = std::min(least, value);
      most = std::max(most, value);
    }
  }
  if (most == 0) {
    return {};
  }
  const double below = std::pow(10, std::floor(std::log10(least)));
  const double above = std::pow(10, std::floor(std::log10(most)));
  log_axis axis{.least = least >= 5 * below   ? 5 * below
                         : least >= 2 * below ? 2 * below
                                              : below,
                .most = most <= 2 * above   ? 2 * above
                        : most <= 5 * above ? 5 * above
                                            : 10 * above};
  return axis;
}

/// 1, 2, 5 of each decade, or where that is too close 1 alone.
std::vector<double> ticks_of(const log_axis& axis) {
  const double decades = std::log10(axis.most / axis.least);
  std::vector<double> ticks;
  for (double decade = std::pow(10, std::floor(std::log10(axis.least)));
       decade <= axis.most * 1.001;
       decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      const double tick = decade * step;
      if (tick >= axis.least * 0.999 && tick <= axis.most * 1.001 &&
          (step == 1.0 || decades <= 1.7)) {
        ticks.push_back(tick);
      }
    }
  }
  return ticks;
}

double panel_height(std::size_t rows) {
  return title_height + static_cast<double>(rows) * row_height + axis_height;
}

/// Where the marks of a row are.
double row_y(std::size_t row) {
  return title_height + static_cast<double>(row) * row_height + 25;
}

/// A line at each tick. Labels where they do not run into others: 1 first, then powers of ten, then
/// the rest.
template <class Label>
void draw_axis(svg& drawing, const log_axis& axis, std::size_t rows, Label label) {
  constexpr double character = 6.3, space = 6;  // of the axis' font
  const double bottom = title_height + static_cast<double>(rows) * row_height + 4;
  std::vector<double> ticks = ticks_of(axis);
  const auto rank = [](double tick) {
    const double digit = tick / std::pow(10, std::floor(std::log10(tick) + 1e-9));
    return std::abs(tick - 1) < 1e-9 ? 0 : std::abs(digit - 1) < 1e-6 ? 1 : 2;
  };
  std::ranges::stable_sort(ticks, {}, rank);
  std::vector<std::pair<double, double>> taken;
  for (const double tick : ticks) {
    const double x = axis.at(tick);
    drawing.line(x, title_height, x, bottom, "grid");
    const std::string text = label(tick);
    const double wide = character * static_cast<double>(text.size());
    const bool is_first = x < 20;
    const double from = is_first ? x : x - wide / 2, to = from + wide;
    const bool is_free = std::ranges::all_of(taken, [&](const auto& other) {
      return to + space < other.first || other.second + space < from;
    });
    if (is_free) {
      taken.emplace_back(from, to);
      drawing.text(x, bottom + 14, "axis", text, is_first ? "start" : "middle");
    }
  }
}

std::string seconds_label(double ms) {
  return ms < 1'000 ? fmt::format("{:g} ms", ms) : fmt::format("{:g} s", ms / 1e3);
}

std::vector<std::string> names_of(const fleet_report& report) {
  std::vector<std::string> names;
  for (const policy_summary& policy : report.policies) {
    names.push_back(policy_name(policy));
  }
  return names;
}

/// Percentiles of one class of requests with one policy, means over the seeds.
struct ttft_row {
  bool has_requests = false;
  double p50_ms = 0, p90_ms = 0, p99_ms = 0;
};

template <class Of>
std::vector<ttft_row> ttft_rows(const fleet_report& report, Of of) {
  std::vector<ttft_row> rows;
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    const auto mean = [&](double ttft_figures::*figure) {
      return seed_mean(
          report, policy, [&](const run_figures& r) { return time_of(of(r), figure); });
    };
    const std::optional<double> p50_ms = mean(&ttft_figures::p50_ms);
    rows.push_back({.has_requests = p50_ms.has_value(),
                    .p50_ms = p50_ms.value_or(0),
                    .p90_ms = mean(&ttft_figures::p90_ms).value_or(0),
                    .p99_ms = mean(&ttft_figures::p99_ms).value_or(0)});
  }
  return rows;
}

std::string ttft_panel(const std::string& title,
                       const std::vector<std::string>& names,
                       const std::vector<ttft_row>& rows,
                       const log_axis& axis) {
  svg drawing(width, panel_height(rows.size()), fmt::format("Time to first token, {}", title));
  drawing.text(0, 16, "title", title);
  drawing.text(width, 16, "axis", "p50 · p90 · p99, s", "end");
  draw_axis(drawing, axis, rows.size(), seconds_label);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const ttft_row& row = rows[i];
    const double y = row_y(i);
    drawing.text(0, y - 10, "name", names[i]);
    if (!row.has_requests) {
      drawing.text(width, y + 4, "axis", "no requests", "end");
      continue;
    }
    drawing.line(axis.at(row.p50_ms), y, axis.at(row.p99_ms), y, "range");
    const auto hint = [&](const char* what, double ms) {
      return fmt::format("{}, {}: {} {}", names[i], title, what, duration_text(ms));
    };
    drawing.rect(axis.at(row.p99_ms) - 2, y - 7, 4, 14, "p99", hint("p99", row.p99_ms));
    drawing.diamond(axis.at(row.p90_ms), y, 6, "p90", hint("p90", row.p90_ms));
    drawing.circle(axis.at(row.p50_ms), y, 5, "p50", hint("p50", row.p50_ms));
    drawing.text(width,
                 y + 4,
                 "value",
                 fmt::format("{} · {} · {}",
                             short_number(row.p50_ms / 1e3),
                             short_number(row.p90_ms / 1e3),
                             short_number(row.p99_ms / 1e3)),
                 "end");
  }
  return std::move(drawing).finish();
}

struct ttft_class {
  std::string title;
  std::vector<ttft_row> rows;
};

/// Panels on one axis, so that they compare.
figure_panels ttft_panels(const fleet_report& report, const std::vector<ttft_class>& classes) {
  std::vector<double> all;
  for (const ttft_class& one : classes) {
    for (const ttft_row& row : one.rows) {
      all.insert(all.end(), {row.p50_ms, row.p99_ms});
    }
  }
  const log_axis axis = axis_over(all);
  svg key(width, 20, "Key: p50, p90 and p99");
  key.circle(6, 10, 5, "p50");
  key.text(16, 14, "axis", "p50");
  key.diamond(60, 10, 6, "p90");
  key.text(71, 14, "axis", "p90");
  key.rect(113, 3, 4, 14, "p99");
  key.text(123, 14, "axis", "p99");
  figure_panels made{.key = std::move(key).finish(), .panels = {}};
  for (const ttft_class& one : classes) {
    made.panels.push_back(ttft_panel(one.title, names_of(report), one.rows, axis));
  }
  return made;
}

std::string comparison_panel(const fleet_report& report, std::size_t metric, const log_axis& axis) {
  const fleet_metric& about = fleet_metrics()[metric];
  svg drawing(width,
              panel_height(report.policies.size()),
              fmt::format("{}: ratio to the reference", about.label));
  drawing.text(0, 16, "title", about.label);
  drawing.text(
      width, 16, "axis", about.more_is_better ? "more is better" : "less is better", "end");
  draw_axis(drawing, axis, report.policies.size(), [](double tick) {
    return fmt::format("{:g}×", tick);
  });
  drawing.line(axis.at(1), title_height, axis.at(1), row_y(report.policies.size() - 1) + 17, "one");
  for (std::size_t i = 0; i < report.policies.size(); ++i) {
    const policy_summary& policy = report.policies[i];
    const std::optional<sample_ratio>& ratio = policy.metrics[metric].ratio;
    const double y = row_y(i);
    drawing.text(0, y - 10, "name", policy_name(policy));
    if (i == 0) {
      drawing.circle(axis.at(1), y, 4.5, "same");
      drawing.text(
          width,
          y + 4,
          "value",
          policy.metrics[metric].mean
              ? fmt::format("{} = 1×", quantity_text(about.in, policy.metrics[metric].mean->mean))
              : no_figure,
          "end");
      continue;
    }
    if (!ratio) {
      drawing.text(width, y + 4, "value", mean_text(about.in, policy.metrics[metric].mean), "end");
      continue;
    }
    const std::string_view said = verdict(*ratio, about.more_is_better);
    drawing.line(axis.at(ratio->low), y, axis.at(ratio->high), y, fmt::format("whisker {}", said));
    drawing.circle(axis.at(ratio->mean),
                   y,
                   4.5,
                   said,
                   fmt::format("{}: {} {}, {} the reference's",
                               policy_name(policy),
                               about.label,
                               mean_text(about.in, policy.metrics[metric].mean),
                               ratio_text(ratio)));
    drawing.text(width, y + 4, "value", ratio_text(ratio), "end");
  }
  return std::move(drawing).finish();
}

struct hit_part {
  const char* name;
  const char* css;
};
constexpr std::array<hit_part, hit_tiers + 1> hit_parts{{{"device", "device"},
                                                         {"host", "host"},
                                                         {"L3", "l3"},
                                                         {"remote", "remote"},
                                                         {"computed", "computed"}}};

void draw_hits(svg& drawing, const fleet_report& report, std::size_t policy, double y) {
  const std::string name = policy_name(report.policies[policy]);
  drawing.text(0, y, "name", name);
  const auto share_of = [&](std::size_t part) {
    return seed_mean(report, policy, [&](const run_figures& r) { return source_share(r, part); });
  };
  const std::optional<double> computed = share_of(hit_tiers);
  if (!computed) {
    drawing.text(width, y, "axis", "no requests", "end");
    return;
  }
  drawing.text(width,
               y,
               "value",
               fmt::format("{} hit", quantity_text(fleet_metric::unit::share, 1 - *computed)),
               "end");
  double x = 0;
  for (std::size_t part = 0; part < hit_parts.size(); ++part) {
    const double share = share_of(part).value_or(0), wide = share * width;
    if (wide < 0.05) {
      continue;
    }
    const std::string said = quantity_text(fleet_metric::unit::share, share);
    drawing.rect(x,
                 y + 6,
                 wide,
                 20,
                 fmt::format("tier {}", hit_parts[part].css),
                 fmt::format("{}: {} {}", name, hit_parts[part].name, said));
    if (wide > 48) {
      drawing.text(
          x + wide / 2, y + 20, fmt::format("on {}-ink", hit_parts[part].css), said, "middle");
    }
    x += wide;
  }
}

std::string hits_panel(const fleet_report& report) {
  constexpr double row = 46;
  svg drawing(width,
              static_cast<double>(report.policies.size()) * row + 2,
              "Input tokens by where they came from");
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    draw_hits(drawing, report, policy, static_cast<double>(policy) * row + 14);
  }
  return std::move(drawing).finish();
}

constexpr double plot_top = 26, plot_bottom = 126, plot_left = 40;

/// Round hours, or minutes of a short run, that leave room for their labels.
double tick_hours(double hours) {
  for (const double step : {1 / 60.0, 5 / 60.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 24.0}) {
    if (hours / step <= 6) {
      return step;
    }
  }
  return hours / 4;
}

void draw_load_axes(svg& drawing, const run_figures& run, double hours) {
  const auto x = [&](double hour) { return plot_left + hour / hours * (width - plot_left); };
  const double begin = run.measure_begin_s / 3600, end = std::min(run.measure_end_s / 3600, hours);
  drawing.rect(
      plot_left, plot_top, x(std::min(begin, hours)) - plot_left, plot_bottom - plot_top, "warm");
  if (end < hours) {
    drawing.rect(x(end), plot_top, width - x(end), plot_bottom - plot_top, "warm");
  }
  for (const int percent : {0, 50, 100}) {
    const double y = plot_bottom - (plot_bottom - plot_top) * percent / 100;
    drawing.line(plot_left, y, width, y, "grid");
    drawing.text(plot_left - 6, y + 4, "axis", fmt::format("{} %", percent), "end");
  }
  const double step = tick_hours(hours);
  for (double tick = 0; tick <= hours * 0.97; tick += step) {
    const std::string label =
        step < 1 ? fmt::format("{:.0f} min", tick * 60) : fmt::format("{:g} h", tick);
    drawing.text(x(tick), plot_bottom + 15, "axis", label, tick == 0 ? "start" : "middle");
  }
}

std::string load_panel(const run_figures& run, const std::string& name) {
  svg drawing(
      width, plot_bottom + 20, fmt::format("Busy share of the workers over time, {}", name));
  drawing.text(0, 13, "name", name);
  drawing.text(width,
               13,
               "axis",
               fmt::format("{} used", quantity_text(fleet_metric::unit::share, run.utilisation)),
               "end");
  if (run.load.empty()) {
    return std::move(drawing).finish();
  }
  const double hours = (run.load.back().at_s + run.load.front().at_s) / 3600;
  draw_load_axes(drawing, run, hours);
  const auto place = [&](const load_point& point, double share) {
    return std::pair{plot_left + point.at_s / 3600 / hours * (width - plot_left),
                     plot_bottom - std::clamp(share, 0.0, 1.0) * (plot_bottom - plot_top)};
  };
  std::vector<std::pair<double, double>> band, mean;
  for (const load_point& point : run.load) {
    band.push_back(place(point, point.most));
    mean.push_back(place(point, point.mean));
  }
  for (auto point = run.load.rbegin(); point != run.load.rend(); ++point) {
    band.push_back(place(*point, point->least));
  }
  drawing.path(band, true, "band");
  drawing.path(mean, false, "mean");
  return std::move(drawing).finish();
}

}  // namespace

figure_panels ttft_by_bucket_plot(const fleet_report& report) {
  std::vector<ttft_class> classes;
  for (std::size_t bucket = 0; bucket < report.buckets.size(); ++bucket) {
    classes.push_back({fmt::format("{} tokens", bucket_name(report.buckets, bucket)),
                       ttft_rows(report, [&](const run_figures& r) -> const ttft_figures& {
                         return r.ttft_by_bucket[bucket];
                       })});
  }
  return ttft_panels(report, classes);
}

figure_panels ttft_by_class_plot(const fleet_report& report) {
  return ttft_panels(report,
                     {{"Cold",
                       ttft_rows(
                           report, [](const run_figures& r) -> const auto& { return r.cold; })},
                      {"Hot",
                       ttft_rows(
                           report, [](const run_figures& r) -> const auto& { return r.hot; })}});
}

figure_panels comparison_plot(const fleet_report& report) {
  constexpr std::array shown{"ttft_p50_ms",
                             "ttft_p90_ms",
                             "ttft_p99_ms",
                             "gpu_seconds_per_mtoken",
                             "local_miss_tokens_per_mtoken",
                             "tokens_per_second"};
  std::vector<double> all{0.9, 1.1};
  for (const char* const key : shown) {
    for (const policy_summary& policy : report.policies) {
      if (const auto& ratio = policy.metrics[metric_index(key)].ratio; ratio) {
        all.insert(all.end(), {ratio->low, ratio->high});
      }
    }
  }
  const log_axis axis = axis_over(all);
  svg key(width, 20, "Key: better, worse, and cannot be told");
  double x = 6;
  for (const auto& [css, words, step] : {std::tuple{"better", "better", 62.0},
                                         std::tuple{"worse", "worse", 58.0},
                                         std::tuple{"same", "not to be told apart", 0.0}}) {
    key.circle(x, 10, 4.5, css);
    key.text(x + 9, 14, "axis", words);
    x += step;
  }
  figure_panels made{.key = std::move(key).finish(), .panels = {}};
  for (const char* const name : shown) {
    made.panels.push_back(comparison_panel(report, metric_index(name), axis));
  }
  return made;
}

figure_panels hits_plot(const fleet_report& report) {
  svg key(width, 20, "Key: the tiers");
  double x = 0;
  for (const auto& [css, words, step] : {std::tuple{"device", "device", 68.0},
                                         std::tuple{"host", "host", 56.0},
                                         std::tuple{"l3", "L3", 46.0},
                                         std::tuple{"remote", "remote", 72.0},
                                         std::tuple{"computed", "computed", 0.0}}) {
    key.rect(x, 4, 12, 12, fmt::format("tier {}", css));
    key.text(x + 17, 14, "axis", words);
    x += step;
  }
  return {.key = std::move(key).finish(), .panels = {hits_panel(report)}};
}

figure_panels load_plot(const fleet_report& report) {
  figure_panels made;
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    made.panels.push_back(
        load_panel(report.runs_of(policy).front(), policy_name(report.policies[policy])));
  }
  return made;
}

}  // namespace oriel::replay
