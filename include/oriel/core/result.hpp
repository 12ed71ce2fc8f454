// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `result<T>`: a value, or the reason there is none. The subset of `std::expected` we use, under
/// the same member names, so that a C++23 reader needs no manual.
#pragma once

#include <oriel/core/contract.hpp>

#include <cstdint>
#include <optional>
#include <utility>

namespace oriel {

/// Outcomes a correct caller must be ready for. Broken preconditions are not here: see
/// ORIEL_EXPECTS.
enum class errc : std::uint8_t {
  out_of_pages,       ///< A pool cannot serve the request now; evict, preempt or wait.
  request_too_large,  ///< No pool of this size could ever serve the request.
  unsupported_shape,  ///< No kernel was built for this (head_dim, group_size, dtype).
  out_of_memory,      ///< The operating system refused the memory; `failure::native` holds errno.
  invalid_argument,   ///< A value outside its documented range, found while reading user input.
  device_failure,     ///< A CUDA call failed; `failure::native` holds the cudaError_t.
  io_failure,         ///< A file or connection failed; `failure::native` holds errno.
  locked,             ///< Another process owns it.
};

/// Why an operation gave no value. Trivially copyable: making one never allocates.
struct failure {
  errc code;
  int native = 0;           ///< Backend code (errno, cudaError_t), or 0.
  const char* detail = "";  ///< Static string; never freed.
};

/// A `T`, or a `failure`. Ignoring one is a compile-time warning.
template <class T>
class [[nodiscard]] result {
 public:
  constexpr result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design
  constexpr result(failure f) noexcept : failure_(f) {}    // NOLINT: implicit by design

  [[nodiscard]] constexpr bool has_value() const noexcept { return value_.has_value(); }
  constexpr explicit operator bool() const noexcept { return has_value(); }

  /// @pre has_value()
  constexpr T& operator*() & noexcept { return ORIEL_EXPECTS(has_value()), *value_; }
  constexpr const T& operator*() const& noexcept { return ORIEL_EXPECTS(has_value()), *value_; }
  constexpr T&& operator*() && noexcept { return ORIEL_EXPECTS(has_value()), std::move(*value_); }
  constexpr T* operator->() noexcept { return &**this; }
  constexpr const T* operator->() const noexcept { return &**this; }

  /// @pre !has_value()
  constexpr const failure& error() const noexcept { return ORIEL_EXPECTS(!has_value()), failure_; }

 private:
  std::optional<T> value_;
  failure failure_{};
};

/// Success, or a `failure`. What a launch returns.
class [[nodiscard]] status {
 public:
  constexpr status() noexcept = default;
  constexpr status(failure f) noexcept : failure_(f), failed_(true) {}  // NOLINT: implicit
  constexpr explicit operator bool() const noexcept { return !failed_; }
  /// @pre the status holds a failure
  constexpr const failure& error() const noexcept { return ORIEL_EXPECTS(failed_), failure_; }

 private:
  failure failure_{};
  bool failed_ = false;
};

/// The name of an error code, for messages: "out_of_pages".
[[nodiscard]] constexpr const char* name_of(errc code) noexcept {
  switch (code) {
    case errc::out_of_pages:
      return "out_of_pages";
    case errc::request_too_large:
      return "request_too_large";
    case errc::unsupported_shape:
      return "unsupported_shape";
    case errc::out_of_memory:
      return "out_of_memory";
    case errc::invalid_argument:
      return "invalid_argument";
    case errc::device_failure:
      return "device_failure";
    case errc::io_failure:
      return "io_failure";
    case errc::locked:
      return "locked";
  }
  return "unknown";
}

}  // namespace oriel
