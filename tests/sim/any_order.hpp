// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// An evict order that is chosen at run time.
#pragma once

#include <oriel/prefix/order_cost_aware.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/order_s3_fifo.hpp>

#include <cstdint>
#include <utility>
#include <variant>

namespace sim {

class any_order {
 public:
  /// `which` counts through the orders, over and over.
  any_order(std::uint32_t which, std::uint32_t runs_max) : order_(made(which, runs_max)) {}

  [[nodiscard]] bool contains(oriel::run_id run) const noexcept {
    return std::visit([&](const auto& order) { return order.contains(run); }, order_);
  }
  void insert(oriel::run_id run, const oriel::run_facts& facts) noexcept {
    std::visit([&](auto& order) { order.insert(run, facts); }, order_);
  }
  void erase(oriel::run_id run) noexcept {
    std::visit([&](auto& order) { order.erase(run); }, order_);
  }
  void on_hit(oriel::run_id run, std::uint32_t pages, std::uint64_t now_us) noexcept {
    std::visit([&](auto& order) { order.on_hit(run, pages, now_us); }, order_);
  }
  void on_evict(oriel::run_id run, std::uint32_t pages, std::uint64_t now_us) noexcept {
    std::visit([&](auto& order) { order.on_evict(run, pages, now_us); }, order_);
  }
  void inherit(oriel::run_id to, oriel::run_id from) noexcept {
    std::visit([&](auto& order) { order.inherit(to, from); }, order_);
  }
  [[nodiscard]] oriel::run_id victim(std::uint64_t now_us) noexcept {
    return std::visit([&](auto& order) { return order.victim(now_us); }, order_);
  }

 private:
  using variant = std::variant<oriel::lru_order,
                               oriel::hit_density_order,
                               oriel::s3_fifo_order,
                               oriel::cost_aware_order<>>;
  template <std::size_t I = 0>
  static variant made(std::uint32_t which, std::uint32_t runs_max) {
    if constexpr (I + 1 < std::variant_size_v<variant>) {
      if (which % std::variant_size_v<variant> != I) {
        return made<I + 1>(which, runs_max);
      }
    }
    return variant(std::in_place_index<I>, runs_max);
  }

  variant order_;
};

static_assert(oriel::evict_order<any_order>);

}  // namespace sim
