// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/svg.hpp>

#include <cmath>
#include <iterator>

namespace oriel::replay {
namespace {

/// A tenth of a pixel is enough.
double tenths(double length) {
  return std::round(length * 10) / 10 + 0.0;
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string made;
  for (const char c : text) {
    switch (c) {
      case '&':
        made += "&amp;";
        break;
      case '<':
        made += "&lt;";
        break;
      case '>':
        made += "&gt;";
        break;
      case '"':
        made += "&quot;";
        break;
      default:
        made += c;
    }
  }
  return made;
}

svg::svg(double width, double height, std::string_view label)
    : text_(fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
                        tenths(width),
                        tenths(height),
                        escaped(label))) {}

void svg::end(std::string_view element, std::string_view hint) {
  text_ += hint.empty() ? "/>\n" : fmt::format("><title>{}</title></{}>\n", escaped(hint), element);
}

void svg::text(
    double x, double y, std::string_view css, std::string_view words, std::string_view anchor) {
  text_ += fmt::format("<text x=\"{}\" y=\"{}\" class=\"{}\"", tenths(x), tenths(y), css);
  text_ += anchor == "start" ? "" : fmt::format(" text-anchor=\"{}\"", anchor);
  text_ += fmt::format(">{}</text>\n", escaped(words));
}

void svg::line(double x1, double y1, double x2, double y2, std::string_view css) {
  text_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{}\"/>\n",
                       tenths(x1),
                       tenths(y1),
                       tenths(x2),
                       tenths(y2),
                       css);
}

void svg::rect(
    double x, double y, double width, double height, std::string_view css, std::string_view hint) {
  text_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" class=\"{}\"",
                       tenths(x),
                       tenths(y),
                       tenths(width),
                       tenths(height),
                       css);
  end("rect", hint);
}

void svg::circle(double x, double y, double radius, std::string_view css, std::string_view hint) {
  text_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" class=\"{}\"",
                       tenths(x),
                       tenths(y),
                       tenths(radius),
                       css);
  end("circle", hint);
}

void svg::diamond(double x, double y, double radius, std::string_view css, std::string_view hint) {
  text_ += fmt::format("<path d=\"M{0} {1}l{2} {2} -{2} {2} -{2} -{2}z\" class=\"{3}\"",
                       tenths(x),
                       tenths(y - radius),
                       tenths(radius),
                       css);
  end("path", hint);
}

void svg::path(const std::vector<std::pair<double, double>>& points,
               bool closed,
               std::string_view css) {
  text_ += "<path d=\"";
  char command = 'M';
  for (const auto& [x, y] : points) {
    fmt::format_to(std::back_inserter(text_), "{}{} {}", command, tenths(x), tenths(y));
    command = 'L';
  }
  text_ += fmt::format("{}\" class=\"{}\"/>\n", closed ? "z" : "", css);
}

std::string svg::finish() && {
  text_ += "</svg>\n";
  return std::move(text_);
}

}  // namespace oriel::replay
