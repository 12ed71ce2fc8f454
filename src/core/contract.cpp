// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace oriel {
namespace {
std::atomic<contract_handler> installed_handler{nullptr};
}  // namespace

contract_handler set_contract_handler(contract_handler handler) noexcept {
  return installed_handler.exchange(handler);
}

namespace detail {

void contract_failed(const char* expression, const char* file, int line) noexcept {
  if (const contract_handler handler = installed_handler.load()) {
    handler(expression, file, line);
  } else {
    std::fprintf(stderr, "%s:%d: contract broken: %s\n", file, line, expression);
    std::fflush(stderr);  // It may have been reopened with a buffer, which abort drops.
  }
  std::abort();
}

}  // namespace detail
}  // namespace oriel
