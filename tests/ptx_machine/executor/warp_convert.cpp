// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// cvt and cvta. A register may be wider than its type here: the source's upper bits are not read, the destination's
/// get the sign or zeros.
#include "lanes.hpp"
#include "narrow_floats.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

namespace oriel::ptx_machine {
namespace {

enum class rounding : std::uint32_t { nearest, zero, down, up };
constexpr std::uint32_t ftz_bit = 4;

template <typename T>
using bits_t = std::conditional_t<
    sizeof(T) == 1,
    std::uint8_t,
    std::conditional_t<sizeof(T) == 2,
                       std::uint16_t,
                       std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>>;

template <typename T>
T flushed(T value, std::uint32_t detail) {
  if constexpr (std::is_same_v<T, float>) {
    if ((detail & ftz_bit) != 0 && std::fabs(value) < std::numeric_limits<float>::min()) {
      return std::copysign(0.0F, value);
    }
  }
  return value;
}

/// The nearest, moved by one where it lies on the wrong side of the exact value.
template <typename F, typename Exact>
F directed(F nearest, Exact exact, rounding mode) {
  const auto there = static_cast<Exact>(nearest);
  constexpr F infinity = std::numeric_limits<F>::infinity();
  const bool too_high = there > exact;
  const bool too_low = there < exact;
  switch (mode) {
    case rounding::zero:
      if (exact > 0 ? too_high : too_low) {
        return std::nextafter(nearest, F{0});
      }
      return nearest;
    case rounding::down:
      return too_high ? std::nextafter(nearest, -infinity) : nearest;
    case rounding::up:
      return too_low ? std::nextafter(nearest, infinity) : nearest;
    default:
      return nearest;
  }
}

template <typename F>
F to_integral(F value, rounding mode) {
  switch (mode) {
    case rounding::zero:
      return std::trunc(value);
    case rounding::down:
      return std::floor(value);
    case rounding::up:
      return std::ceil(value);
    default:
      return std::nearbyint(value);
  }
}

template <typename D, typename S>
D float_to_integer(S value, rounding mode) {
  if (value != value) {
    constexpr bool zero = sizeof(S) < 8 && sizeof(D) < 8;
    return zero ? D{0} : static_cast<D>(std::uint64_t{1} << (8 * sizeof(D) - 1));
  }
  const S whole = to_integral(value, mode);
  // One above the largest is a power of two, which floats hold exactly.
  const S above = std::ldexp(S{1}, std::numeric_limits<D>::digits);
  if (whole >= above) {
    return std::numeric_limits<D>::max();
  }
  const S least = std::is_signed_v<D> ? -above : S{0};
  return whole <= least ? std::numeric_limits<D>::min() : static_cast<D>(whole);
}

template <typename D, typename S>
D convert_one(S value, std::uint32_t detail) {
  const auto mode = static_cast<rounding>(detail & 3);
  if constexpr (std::is_integral_v<D> && std::is_integral_v<S>) {
    return static_cast<D>(value);
  } else if constexpr (std::is_integral_v<D>) {
    return float_to_integer<D>(flushed(value, detail), mode);
  } else if constexpr (std::is_integral_v<S>) {
    const D nearest = static_cast<D>(value);
    return mode == rounding::nearest ? nearest
                                     : directed(nearest, static_cast<long double>(value), mode);
  } else {
    const S from = flushed(value, detail);
    if (from != from) {
      return sizeof(D) == 4 ? static_cast<D>(std::bit_cast<float>(0x7FFFFFFFU))
                            : static_cast<D>(std::bit_cast<double>(0x7FF8'0000'0000'0000U));
    }
    if constexpr (std::is_same_v<D, S>) {
      return to_integral(from, mode);
    } else {
      return flushed(directed(static_cast<D>(from), static_cast<double>(from), mode), detail);
    }
  }
}

template <typename D, typename S>
outcome convert(warp& w, const decoded& d, std::uint32_t lanes) {
  const slot& to = d.slots[0];
  const slot& from = d.slots[1];
  if (to.bytes == sizeof(D) && from.bytes == sizeof(S)) {
    const S* source = w.at<S>(from);
    D result[warp_lanes];
    for (std::uint32_t i = 0; i < warp_lanes; ++i) {
      result[i] = convert_one<D, S>(source[i], d.detail);
    }
    put_lanes(w.at<D>(to), result, lanes);
    return outcome::advance;
  }
  for_lanes(lanes, [&](std::uint32_t i) {
    const D value =
        convert_one<D, S>(std::bit_cast<S>(static_cast<bits_t<S>>(w.bits(from, i))), d.detail);
    if constexpr (std::is_integral_v<D>) {
      w.set_bits(to, i, static_cast<std::uint64_t>(value));
    } else {
      w.set_bits(to, i, std::bit_cast<bits_t<D>>(value));
    }
  });
  return outcome::advance;
}

template <typename D, typename S>
void add_conversion(opcode_table& table, const std::string& to, const std::string& from) {
  constexpr bool float_to = std::is_floating_point_v<D>;
  constexpr bool float_from = std::is_floating_point_v<S>;
  const std::string types = to + "." + from;
  if constexpr (float_to && float_from && sizeof(D) > sizeof(S)) {
    table["cvt." + types] = {&convert<D, S>, 0, {}};
    table["cvt.ftz." + types] = {&convert<D, S>, ftz_bit, {}};
  } else if constexpr (float_to || float_from) {
    constexpr bool integral = float_from && (!float_to || sizeof(D) == sizeof(S));
    const char* const modes[]{"rn", "rz", "rm", "rp"};
    for (std::uint32_t mode = 0; mode < 4; ++mode) {
      const std::string start = std::string("cvt.") + modes[mode] + (integral ? "i." : ".");
      table[start + types] = {&convert<D, S>, mode, {}};
      if constexpr (float_from && (sizeof(S) == 4 || sizeof(D) == 4)) {
        table[start + "ftz." + types] = {&convert<D, S>, mode | ftz_bit, {}};
      }
    }
  } else {
    table["cvt." + types] = {&convert<D, S>, 0, {}};
  }
}

template <typename D>
void add_conversions_to(opcode_table& table, const std::string& to) {
  add_conversion<D, std::uint8_t>(table, to, "u8");
  add_conversion<D, std::int8_t>(table, to, "s8");
  add_conversion<D, std::uint16_t>(table, to, "u16");
  add_conversion<D, std::int16_t>(table, to, "s16");
  add_conversion<D, std::uint32_t>(table, to, "u32");
  add_conversion<D, std::int32_t>(table, to, "s32");
  add_conversion<D, std::uint64_t>(table, to, "u64");
  add_conversion<D, std::int64_t>(table, to, "s64");
  add_conversion<D, float>(table, to, "f32");
  add_conversion<D, double>(table, to, "f64");
}

struct to_bf16_op {
  std::uint16_t operator()(float a) const { return bf16_from(a); }
};
struct from_bf16_op {
  float operator()(std::uint16_t a) const { return bf16_to_float(a); }
};
/// The first source goes to the upper half.
struct to_bf16x2_op {
  std::uint32_t operator()(float a, float b) const {
    return (std::uint32_t{bf16_from(a)} << 16) | bf16_from(b);
  }
};
struct to_e4m3x2_op {
  std::uint16_t operator()(float a, float b) const {
    return static_cast<std::uint16_t>((std::uint32_t{e4m3_from_saturating(a)} << 8) |
                                      e4m3_from_saturating(b));
  }
};

/// To and from generic addresses. `detail`: the window's top byte; to_generic: the direction.
template <bool to_generic>
outcome convert_address(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::uint64_t window = std::uint64_t{d.detail} << 56;
  const std::uint64_t expected = to_generic ? 0 : window;
  const auto* addresses = w.at<std::uint64_t>(d.slots[1]);
  std::uint64_t result[warp_lanes];
  std::uint32_t wrong = 0;
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    wrong |= std::uint32_t{(addresses[i] & generic_window_mask) != expected} << i;
    result[i] = to_generic ? addresses[i] | window : addresses[i] & ~generic_window_mask;
  }
  for_lanes(wrong & lanes, [&](std::uint32_t i) {
    fail(w, d, i, "the address " + hex(addresses[i]) + " is of another space");
  });
  put_lanes(w.at<std::uint64_t>(d.slots[0]), result, lanes);
  return outcome::advance;
}

}  // namespace

void add_conversion_opcodes(opcode_table& table) {
  add_conversions_to<std::uint8_t>(table, "u8");
  add_conversions_to<std::int8_t>(table, "s8");
  add_conversions_to<std::uint16_t>(table, "u16");
  add_conversions_to<std::int16_t>(table, "s16");
  add_conversions_to<std::uint32_t>(table, "u32");
  add_conversions_to<std::int32_t>(table, "s32");
  add_conversions_to<std::uint64_t>(table, "u64");
  add_conversions_to<std::int64_t>(table, "s64");
  add_conversions_to<float>(table, "f32");
  add_conversions_to<double>(table, "f64");
  table["cvt.rn.bf16.f32"] = unary_entry<to_bf16_op, std::uint16_t, float>();
  table["cvt.f32.bf16"] = unary_entry<from_bf16_op, float, std::uint16_t>();
  table["cvt.rn.bf16x2.f32"] = binary_entry<to_bf16x2_op, std::uint32_t, float, float>();
  table["cvt.rn.satfinite.e4m3x2.f32"] = binary_entry<to_e4m3x2_op, std::uint16_t, float, float>();
  const std::pair<const char*, std::uint64_t> windows[]{{"global", 0},
                                                        {"shared", generic_shared},
                                                        {"local", generic_local},
                                                        {"param", generic_parameter}};
  for (const auto& [name, window] : windows) {
    const auto top = static_cast<std::uint32_t>(window >> 56);
    table[std::string("cvta.") + name + ".u64"] = {&convert_address<true>, top, {8, 8}};
    table[std::string("cvta.to.") + name + ".u64"] = {&convert_address<false>, top, {8, 8}};
  }
}

}  // namespace oriel::ptx_machine
