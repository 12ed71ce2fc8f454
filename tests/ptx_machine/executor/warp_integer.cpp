// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Arithmetic of integers and of bits.
#include "lanes.hpp"

#include <limits>
#include <type_traits>

namespace oriel::ptx_machine {
namespace {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

template <typename T>
struct twice;
template <>
struct twice<u16> {
  using type = u32;
};
template <>
struct twice<s16> {
  using type = s32;
};
template <>
struct twice<u32> {
  using type = u64;
};
template <>
struct twice<s32> {
  using type = s64;
};
template <>
struct twice<u64> {
  __extension__ using type = unsigned __int128;
};
template <>
struct twice<s64> {
  __extension__ using type = __int128;
};
template <typename T>
using twice_t = typename twice<T>::type;

/// Sums and products of unsigned 64 bits wrap and have the low bits of all others.
template <typename T>
T low(u64 value) {
  return static_cast<T>(value);
}

struct add_op {
  template <typename T>
  T operator()(T a, T b) const {
    return low<T>(static_cast<u64>(a) + static_cast<u64>(b));
  }
};
struct sub_op {
  template <typename T>
  T operator()(T a, T b) const {
    return low<T>(static_cast<u64>(a) - static_cast<u64>(b));
  }
};
struct mul_lo_op {
  template <typename T>
  T operator()(T a, T b) const {
    return low<T>(static_cast<u64>(a) * static_cast<u64>(b));
  }
};
struct mul_hi_op {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>((twice_t<T>{a} * twice_t<T>{b}) >> (8 * sizeof(T)));
  }
};
struct mul_wide_op {
  template <typename T>
  twice_t<T> operator()(T a, T b) const {
    return twice_t<T>{a} * twice_t<T>{b};
  }
};
struct mad_lo_op {
  template <typename T>
  T operator()(T a, T b, T c) const {
    return low<T>(static_cast<u64>(a) * static_cast<u64>(b) + static_cast<u64>(c));
  }
};
struct mad_wide_op {
  template <typename T>
  twice_t<T> operator()(T a, T b, twice_t<T> c) const {
    return low<twice_t<T>>(static_cast<u64>(twice_t<T>{a} * twice_t<T>{b}) + static_cast<u64>(c));
  }
};
/// By zero the ISA leaves the value open; devices give all ones.
struct div_op {
  template <typename T>
  T operator()(T a, T b) const {
    if (b == 0) {
      return static_cast<T>(-1);
    }
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) {
        return low<T>(0 - static_cast<u64>(a));
      }
    }
    return static_cast<T>(a / b);
  }
};
struct rem_op {
  template <typename T>
  T operator()(T a, T b) const {
    if (b == 0) {
      return static_cast<T>(-1);
    }
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) {
        return 0;
      }
    }
    return static_cast<T>(a % b);
  }
};
struct min_op {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct max_op {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct neg_op {
  template <typename T>
  T operator()(T a) const {
    return low<T>(0 - static_cast<u64>(a));
  }
};
struct abs_op {
  template <typename T>
  T operator()(T a) const {
    return a < 0 ? low<T>(0 - static_cast<u64>(a)) : a;
  }
};
struct and_op {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct or_op {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct xor_op {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct not_op {
  template <typename T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};
/// Counts beyond the width clamp: nothing but zeros, or signs, is left.
struct shl_op {
  template <typename T>
  T operator()(T a, u32 count) const {
    return count < 8 * sizeof(T) ? low<T>(static_cast<u64>(a) << count) : T{0};
  }
};
struct shr_op {
  template <typename T>
  T operator()(T a, u32 count) const {
    constexpr u32 bits = 8 * sizeof(T);
    if constexpr (std::is_signed_v<T>) {
      return static_cast<T>(a >> (count < bits ? count : bits - 1));
    } else {
      return count < bits ? static_cast<T>(a >> count) : T{0};
    }
  }
};
struct popc_op {
  template <typename T>
  u32 operator()(T a) const {
    return static_cast<u32>(std::popcount(a));
  }
};
struct clz_op {
  template <typename T>
  u32 operator()(T a) const {
    return static_cast<u32>(std::countl_zero(a));
  }
};

/// The low `count` bits of a, put into b at `position`; what lies beyond the register falls away.
template <typename T>
T insert_bits(T a, T b, u32 position, u32 count) {
  constexpr u32 bits = 8 * sizeof(T);
  position &= 0xFF;
  count &= 0xFF;
  if (position >= bits || count == 0) {
    return b;
  }
  const T mask = static_cast<T>((count < bits ? (T{1} << count) - 1 : ~T{0}) << position);
  return static_cast<T>((b & ~mask) | ((a << position) & mask));
}

template <typename T>
outcome bfi(warp& w, const decoded& d, std::uint32_t lanes) {
  const T* a = w.at<T>(d.slots[1]);
  const T* b = w.at<T>(d.slots[2]);
  const u32* position = w.at<u32>(d.slots[3]);
  const u32* count = w.at<u32>(d.slots[4]);
  T result[warp_lanes];
  for (u32 i = 0; i < warp_lanes; ++i) {
    result[i] = insert_bits(a[i], b[i], position[i], count[i]);
  }
  put_lanes(w.at<T>(d.slots[0]), result, lanes);
  return outcome::advance;
}

template <typename T>
void add_arithmetic(opcode_table& table, const std::string& type) {
  table["add." + type] = binary_entry<add_op, T, T, T>();
  table["sub." + type] = binary_entry<sub_op, T, T, T>();
  table["mul.lo." + type] = binary_entry<mul_lo_op, T, T, T>();
  table["mul.hi." + type] = binary_entry<mul_hi_op, T, T, T>();
  table["mad.lo." + type] = ternary_entry<mad_lo_op, T, T, T, T>();
  table["div." + type] = binary_entry<div_op, T, T, T>();
  table["rem." + type] = binary_entry<rem_op, T, T, T>();
  table["min." + type] = binary_entry<min_op, T, T, T>();
  table["max." + type] = binary_entry<max_op, T, T, T>();
  table["shr." + type] = binary_entry<shr_op, T, T, u32>();
  if constexpr (sizeof(T) < 8) {
    table["mul.wide." + type] = binary_entry<mul_wide_op, twice_t<T>, T, T>();
    table["mad.wide." + type] = ternary_entry<mad_wide_op, twice_t<T>, T, T, twice_t<T>>();
  }
  if constexpr (std::is_signed_v<T>) {
    table["neg." + type] = unary_entry<neg_op, T, T>();
    table["abs." + type] = unary_entry<abs_op, T, T>();
  }
}

template <typename T>
void add_bits(opcode_table& table, const std::string& type) {
  table["and." + type] = binary_entry<and_op, T, T, T>();
  table["or." + type] = binary_entry<or_op, T, T, T>();
  table["xor." + type] = binary_entry<xor_op, T, T, T>();
  table["not." + type] = unary_entry<not_op, T, T>();
  table["shl." + type] = binary_entry<shl_op, T, T, u32>();
  table["shr." + type] = binary_entry<shr_op, T, T, u32>();
  if constexpr (sizeof(T) > 2) {
    table["popc." + type] = unary_entry<popc_op, u32, T>();
    table["clz." + type] = unary_entry<clz_op, u32, T>();
    table["bfi." + type] = {&bfi<T>, 0, {sizeof(T), sizeof(T), sizeof(T), 4, 4}};
  }
}

}  // namespace

void add_integer_opcodes(opcode_table& table) {
  add_arithmetic<u16>(table, "u16");
  add_arithmetic<s16>(table, "s16");
  add_arithmetic<u32>(table, "u32");
  add_arithmetic<s32>(table, "s32");
  add_arithmetic<u64>(table, "u64");
  add_arithmetic<s64>(table, "s64");
  add_bits<u16>(table, "b16");
  add_bits<u32>(table, "b32");
  add_bits<u64>(table, "b64");
}

}  // namespace oriel::ptx_machine
