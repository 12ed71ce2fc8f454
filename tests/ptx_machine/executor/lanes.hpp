// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Handlers of functions that each lane computes for itself. The result goes through an array of its own, so that the
/// compiler sees no aliases and makes vectors of the loop.
#pragma once

#include "warp.hpp"

namespace oriel::ptx_machine {

template <typename T>
inline void put_lanes(T* to, const T* from, std::uint32_t lanes) {
  if (lanes == all_lanes) {
    std::memcpy(to, from, sizeof(T) * warp_lanes);
    return;
  }
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    to[i] = (lanes >> i & 1) != 0 ? from[i] : to[i];
  }
}

template <typename Function, typename D, typename A>
outcome unary(warp& w, const decoded& d, std::uint32_t lanes) {
  const A* a = w.at<A>(d.slots[1]);
  D result[warp_lanes];
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    result[i] = Function{}(a[i]);
  }
  put_lanes(w.at<D>(d.slots[0]), result, lanes);
  return outcome::advance;
}

template <typename Function, typename D, typename A, typename B>
outcome binary(warp& w, const decoded& d, std::uint32_t lanes) {
  const A* a = w.at<A>(d.slots[1]);
  const B* b = w.at<B>(d.slots[2]);
  D result[warp_lanes];
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    result[i] = Function{}(a[i], b[i]);
  }
  put_lanes(w.at<D>(d.slots[0]), result, lanes);
  return outcome::advance;
}

template <typename Function, typename D, typename A, typename B, typename C>
outcome ternary(warp& w, const decoded& d, std::uint32_t lanes) {
  const A* a = w.at<A>(d.slots[1]);
  const B* b = w.at<B>(d.slots[2]);
  const C* c = w.at<C>(d.slots[3]);
  D result[warp_lanes];
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    result[i] = Function{}(a[i], b[i], c[i]);
  }
  put_lanes(w.at<D>(d.slots[0]), result, lanes);
  return outcome::advance;
}

template <typename Function, typename D, typename A>
opcode_entry unary_entry() {
  return {&unary<Function, D, A>, 0, {sizeof(D), sizeof(A)}};
}
template <typename Function, typename D, typename A, typename B>
opcode_entry binary_entry() {
  return {&binary<Function, D, A, B>, 0, {sizeof(D), sizeof(A), sizeof(B)}};
}
template <typename Function, typename D, typename A, typename B, typename C>
opcode_entry ternary_entry() {
  return {&ternary<Function, D, A, B, C>, 0, {sizeof(D), sizeof(A), sizeof(B), sizeof(C)}};
}

}  // namespace oriel::ptx_machine
