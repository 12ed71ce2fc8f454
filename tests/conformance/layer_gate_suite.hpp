// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `layer_gate`.
#pragma once

#include <oriel/tier/layer_gate.hpp>

#include <catch2/catch.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

/// One step whose layers somebody brings.
// clang-format off
template <class S>
concept layer_gate_subject = requires(S& s, std::uint32_t layer) {
  requires oriel::layer_gate<std::remove_reference_t<decltype(s.gate())>>;
  { s.layers() } -> std::convertible_to<std::uint32_t>;
  s.begin();                                       // the load, of pages that were wiped
  s.compute();                                     // some of a layer's time passes
  { s.is_in_place(layer) } -> std::same_as<bool>;  // every byte of the layer
  { s.may_fail(layer) } -> std::same_as<bool>;     // something of it may never come
};
// clang-format on

/// Checks every sentence of the concept. @param make  a subject, each time it is called
template <class Make>
void check_layer_gate(Make&& make) {
  {  // Yes means in place; what comes without a fault comes; no means that something is missing.
    auto s = make();
    static_assert(layer_gate_subject<decltype(s)>);
    for (int step = 0; step < 3; ++step) {
      s.begin();
      for (std::uint32_t l = 0; l < s.layers(); ++l) {
        CAPTURE(step, l);
        const bool is_open = s.gate().wait(l);
        REQUIRE((is_open ? s.is_in_place(l) : s.may_fail(l)));
        s.compute();
      }
    }
  }
  {  // Layers may be left out, as a forward pass does whose sequence has gone.
    auto s = make();
    s.begin();
    const std::uint32_t last = s.layers() - 1;
    const bool is_open = s.gate().wait(last);
    REQUIRE((is_open ? s.is_in_place(last) : s.may_fail(last)));
  }
  {  // By reference it is the same gate.
    auto s = make();
    s.begin();
    oriel::layer_gate_ref gate = s.gate();
    REQUIRE(static_cast<bool>(gate));
    for (std::uint32_t l = 0; l < s.layers(); ++l) {
      const bool is_open = gate.wait(l);
      REQUIRE((is_open ? s.is_in_place(l) : s.may_fail(l)));
    }
  }
}
