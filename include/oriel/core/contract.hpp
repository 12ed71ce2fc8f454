// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// ORIEL_EXPECTS: a caller broke a documented precondition. Always on; one predictable branch.
/// ORIEL_ASSERT:  this library broke its own invariant. Debug builds only.
#pragma once

namespace oriel {

/// What to do when a contract is broken. It must not return: log, break, end the worker, abort.
/// If it does return, the library aborts.
using contract_handler = void (*)(const char* expression, const char* file, int line);

/// Installs `handler` for the whole process and returns the previous one. Null restores the
/// default, which prints one line to stderr and aborts. Safe from any thread.
contract_handler set_contract_handler(contract_handler handler) noexcept;

}  // namespace oriel

namespace oriel::detail {
/// Calls the installed handler, then aborts. Out of line so that call sites stay small.
[[noreturn]] void contract_failed(const char* expression, const char* file, int line) noexcept;
}  // namespace oriel::detail

#define ORIEL_EXPECTS(cond) \
  ((cond) ? static_cast<void>(0) : ::oriel::detail::contract_failed(#cond, __FILE__, __LINE__))

#ifdef NDEBUG
#define ORIEL_ASSERT(cond) static_cast<void>(0)
#else
#define ORIEL_ASSERT(cond) ORIEL_EXPECTS(cond)
#endif
