// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `svg`: a drawing as text, element by element. Colours and fonts are classes of the page's style.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace oriel::replay {

/// What has a meaning in HTML, written such that it has none.
[[nodiscard]] std::string escaped(std::string_view text);

/// Lengths are in CSS pixels of a drawing that is shown at its own size.
class svg {
 public:
  /// @param label  what a reader who does not see it is told
  svg(double width, double height, std::string_view label);

  /// @param anchor  start, middle, end
  void text(double x,
            double y,
            std::string_view css,
            std::string_view words,
            std::string_view anchor = "start");
  void line(double x1, double y1, double x2, double y2, std::string_view css);
  /// @param hint  shown while a pointer rests on it; empty: none
  void rect(double x,
            double y,
            double width,
            double height,
            std::string_view css,
            std::string_view hint = "");
  void circle(double x, double y, double radius, std::string_view css, std::string_view hint = "");
  /// A square on its corner.
  void diamond(double x, double y, double radius, std::string_view css, std::string_view hint = "");
  void path(const std::vector<std::pair<double, double>>& points,
            bool closed,
            std::string_view css);
  [[nodiscard]] std::string finish() &&;

 private:
  void end(std::string_view element, std::string_view hint);
  std::string text_;
};

}  // namespace oriel::replay
