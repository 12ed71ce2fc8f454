// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Locks as a policy: a shared mutex where probes run beside a writer, nothing where they do not.
#pragma once

#include <concepts>

namespace oriel {

/// What `std::shared_mutex` offers.
// clang-format off
template <class M>
concept shared_lockable = requires(M& m) { m.lock(); m.unlock(); m.lock_shared(); m.unlock_shared(); };
// clang-format on

/// One thread owns everything.
struct no_mutex {
  void lock() noexcept {}
  void unlock() noexcept {}
  void lock_shared() noexcept {}
  void unlock_shared() noexcept {}
};

namespace detail {

template <shared_lockable M>
class shared_guard {
 public:
  explicit shared_guard(M& m) noexcept : m_(m) { m_.lock_shared(); }
  ~shared_guard() { m_.unlock_shared(); }
  shared_guard(const shared_guard&) = delete;
  shared_guard& operator=(const shared_guard&) = delete;

 private:
  M& m_;
};

template <shared_lockable M>
class unique_guard {
 public:
  explicit unique_guard(M& m) noexcept : m_(m) { m_.lock(); }
  ~unique_guard() { m_.unlock(); }
  unique_guard(const unique_guard&) = delete;
  unique_guard& operator=(const unique_guard&) = delete;

 private:
  M& m_;
};

}  // namespace detail
}  // namespace oriel
