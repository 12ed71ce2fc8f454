// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Who is served next: the concept of an order, and four of them.
#pragma once

#include <concepts>
#include <cstdint>

namespace oriel {

/// What an order may look at. Seconds are estimates (model/cost.hpp): with long contexts equal
/// tokens are not equal work, 1 K tokens behind 500 K cost 4.2 times those of an empty prefix on
/// MiMo-V2.5-Pro.
struct service_facts {
  double arrived_s = 0.0;
  double remaining_s = 0.0;           ///< of its prefill, from where it would start or is
  std::uint32_t cached_tokens = 0;    ///< of its prompt, that it starts behind or has computed
  std::uint32_t uncached_tokens = 0;  ///< the rest of its prompt
};

/// A number for each request; the lowest is served first, of equal ones the one that came first.
/// `is_strict`: where the first cannot be admitted, nobody behind it is.
template <class O>
concept service_order = requires(const O& order, const service_facts& facts) {
  { order.rank(facts) }
  noexcept->std::same_as<double>;
  { O::is_strict } -> std::convertible_to<bool>;
};

/// First come, first served: the least maximum of all waits, and long means where sizes differ.
struct fcfs_order {
  static constexpr bool is_strict = true;
  [[nodiscard]] double rank(const service_facts& f) const noexcept { return f.arrived_s; }
};

/// The longest cached prefix: most hits before they are evicted. It lets whoever hits nothing
/// starve.
struct longest_prefix_order {
  static constexpr bool is_strict = false;
  [[nodiscard]] double rank(const service_facts& f) const noexcept {
    return -static_cast<double>(f.cached_tokens);
  }
};

/// The fewest tokens to compute: Xiaomi's order. Blind to where in the context they are.
struct least_tokens_order {
  static constexpr bool is_strict = false;
  [[nodiscard]] double rank(const service_facts& f) const noexcept { return f.uncached_tokens; }
};

/// The least work: of all orders the least mean time (SRPT; L. Schrage, 1968), as far as estimates
/// go.
struct least_seconds_order {
  static constexpr bool is_strict = false;
  [[nodiscard]] double rank(const service_facts& f) const noexcept { return f.remaining_s; }
};

enum class order_kind : std::uint8_t { fcfs, longest_prefix, least_tokens, least_seconds };

/// "fcfs", "longest_prefix", "least_tokens", "least_seconds".
[[nodiscard]] const char* name_of(order_kind kind) noexcept;

/// One of them, chosen when the program runs. fcfs is not strict here: whoever does not fit is
/// passed.
struct chosen_order {
  static constexpr bool is_strict = false;
  order_kind kind = order_kind::least_seconds;

  [[nodiscard]] double rank(const service_facts& f) const noexcept {
    switch (kind) {
      case order_kind::fcfs:
        return fcfs_order{}.rank(f);
      case order_kind::longest_prefix:
        return longest_prefix_order{}.rank(f);
      case order_kind::least_tokens:
        return least_tokens_order{}.rank(f);
      case order_kind::least_seconds:
        return least_seconds_order{}.rank(f);
    }
    return 0.0;
  }
};

static_assert(service_order<fcfs_order> && service_order<longest_prefix_order>);
static_assert(service_order<least_tokens_order> && service_order<least_seconds_order>);
static_assert(service_order<chosen_order>);

}  // namespace oriel
