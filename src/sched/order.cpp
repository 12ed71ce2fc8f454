// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/sched/order.hpp>

namespace oriel {

const char* name_of(order_kind kind) noexcept {
  switch (kind) {
    case order_kind::fcfs:
      return "fcfs";
    case order_kind::longest_prefix:
      return "longest_prefix";
    case order_kind::least_tokens:
      return "least_tokens";
    case order_kind::least_seconds:
      return "least_seconds";
  }
  return "unknown";
}

}  // namespace oriel
