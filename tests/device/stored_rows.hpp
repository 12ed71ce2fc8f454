// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Rows as a device may store them, f32 or bf16, for the tests of its kernels on the host.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/random.hpp>

#include <support/arrays.hpp>

#include <cstddef>
#include <type_traits>
#include <vector>

namespace oriel::test {

/// 16-byte aligned rows of T. Elements that nobody writes are NaN.
template <class T>
class stored_rows {
 public:
  explicit stored_rows(std::size_t count) : bytes_(count * sizeof(T)), count_(count) {}
  explicit stored_rows(const std::vector<float>& values) : stored_rows(values.size()) {
    for (std::size_t i = 0; i < count_; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        data()[i] = to_bf16(values[i]);
      } else {
        data()[i] = values[i];
      }
    }
  }

  [[nodiscard]] T* data() { return reinterpret_cast<T*>(bytes_.span().data()); }

  /// As floats: exact.
  [[nodiscard]] std::vector<float> floats() {
    std::vector<float> values(count_);
    for (std::size_t i = 0; i < count_; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        values[i] = to_float(data()[i]);
      } else {
        values[i] = data()[i];
      }
    }
    return values;
  }

 private:
  workspace_bytes bytes_;
  std::size_t count_;
};

/// `count` random floats that T stores exactly.
template <class T>
std::vector<float> exact_floats(std::size_t count, random_stream& random, float limit = 4.0f) {
  std::vector<float> values = ::random_floats(count, random, -limit, limit);
  for (float& x : values) {
    x = std::is_same_v<T, bf16> ? round_to_bf16(x) : x;
  }
  return values;
}

}  // namespace oriel::test
