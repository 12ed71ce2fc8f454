// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Arithmetic of floats: IEEE's, each operation rounded once. A result that is not a number is the canonical one.
/// The approximate functions give the correctly rounded value, or what the C library takes for it: theirs is an
/// error bound, and zero error is within.
#include "lanes.hpp"
#include "narrow_floats.hpp"

#include <cmath>
#include <limits>

namespace oriel::ptx_machine {
namespace {

template <typename T>
T canonical(T value) {
  if constexpr (sizeof(T) == 4) {
    return value == value ? value : std::bit_cast<float>(0x7FFFFFFFU);
  } else {
    return value == value ? value : std::bit_cast<double>(0x7FF8'0000'0000'0000U);
  }
}

float flushed(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0F, value) : value;
}

struct add_op {
  template <typename T>
  T operator()(T a, T b) const {
    return canonical(a + b);
  }
};
struct sub_op {
  template <typename T>
  T operator()(T a, T b) const {
    return canonical(a - b);
  }
};
struct mul_op {
  template <typename T>
  T operator()(T a, T b) const {
    return canonical(a * b);
  }
};
struct div_op {
  template <typename T>
  T operator()(T a, T b) const {
    return canonical(a / b);
  }
};
struct fma_op {
  template <typename T>
  T operator()(T a, T b, T c) const {
    return canonical(std::fma(a, b, c));
  }
};
struct sqrt_op {
  template <typename T>
  T operator()(T a) const {
    return canonical(std::sqrt(a));
  }
};
struct rcp_op {
  template <typename T>
  T operator()(T a) const {
    return canonical(T{1} / a);
  }
};
struct rsqrt_op {
  float operator()(float a) const {
    return canonical(static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))));
  }
};
struct ex2_op {
  float operator()(float a) const { return canonical(std::exp2(a)); }
};
struct lg2_op {
  float operator()(float a) const { return canonical(std::log2(a)); }
};
/// Only the sign changes, of NaNs too.
struct neg_op {
  template <typename T>
  T operator()(T a) const {
    return -a;
  }
};
struct abs_op {
  template <typename T>
  T operator()(T a) const {
    return std::fabs(a);
  }
};
/// Of a number and a NaN the number; -0 is less than +0.
struct min_op {
  template <typename T>
  T operator()(T a, T b) const {
    if (a == b) {
      return std::signbit(a) ? a : b;
    }
    return a < b || b != b ? canonical(a) : b;
  }
};
struct max_op {
  template <typename T>
  T operator()(T a, T b) const {
    if (a == b) {
      return std::signbit(a) ? b : a;
    }
    return a > b || b != b ? canonical(a) : b;
  }
};
/// Denormals of the inputs and of the result become zeros of their sign.
template <typename Function>
struct ftz {
  template <typename... T>
  float operator()(T... a) const {
    return flushed(Function{}(flushed(a)...));
  }
};

struct mul_bf16x2_op {
  std::uint32_t operator()(std::uint32_t a, std::uint32_t b) const {
    // Eight bits by eight: the product of doubles is exact, so that it is rounded once.
    const double low = double{bf16_to_float(a & 0xFFFF)} * double{bf16_to_float(b & 0xFFFF)};
    const double high = double{bf16_to_float(a >> 16)} * double{bf16_to_float(b >> 16)};
    return bf16_from(low) | (std::uint32_t{bf16_from(high)} << 16);
  }
};

/// With the processor's own instruction where it has one: the C library's function is a call per lane.
__attribute__((target("avx2,fma"))) outcome fma_f32_hardware(warp& w,
                                                             const decoded& d,
                                                             std::uint32_t lanes) {
  const float* a = w.at<float>(d.slots[1]);
  const float* b = w.at<float>(d.slots[2]);
  const float* c = w.at<float>(d.slots[3]);
  float result[warp_lanes];
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    const float value = __builtin_fmaf(a[i], b[i], c[i]);
    result[i] = value == value ? value : std::bit_cast<float>(0x7FFFFFFFU);
  }
  put_lanes(w.at<float>(d.slots[0]), result, lanes);
  return outcome::advance;
}

template <typename T>
void add_arithmetic(opcode_table& table, const std::string& type) {
  table["add.rn." + type] = table["add." + type] = binary_entry<add_op, T, T, T>();
  table["sub.rn." + type] = table["sub." + type] = binary_entry<sub_op, T, T, T>();
  table["mul.rn." + type] = table["mul." + type] = binary_entry<mul_op, T, T, T>();
  table["div.rn." + type] = binary_entry<div_op, T, T, T>();
  table["fma.rn." + type] = ternary_entry<fma_op, T, T, T, T>();
  table["sqrt.rn." + type] = unary_entry<sqrt_op, T, T>();
  table["rcp.rn." + type] = unary_entry<rcp_op, T, T>();
  table["neg." + type] = unary_entry<neg_op, T, T>();
  table["abs." + type] = unary_entry<abs_op, T, T>();
  table["min." + type] = binary_entry<min_op, T, T, T>();
  table["max." + type] = binary_entry<max_op, T, T, T>();
}

template <typename Function>
void add_approximate(opcode_table& table, const std::string& name) {
  table[name + ".approx.f32"] = unary_entry<Function, float, float>();
  table[name + ".approx.ftz.f32"] = unary_entry<ftz<Function>, float, float>();
}

}  // namespace

void add_float_opcodes(opcode_table& table) {
  add_arithmetic<float>(table, "f32");
  add_arithmetic<double>(table, "f64");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    table["fma.rn.f32"].run = &fma_f32_hardware;
  }
  add_approximate<rcp_op>(table, "rcp");
  add_approximate<rsqrt_op>(table, "rsqrt");
  add_approximate<sqrt_op>(table, "sqrt");
  add_approximate<ex2_op>(table, "ex2");
  add_approximate<lg2_op>(table, "lg2");
  table["mul.rn.bf16x2"] =
      binary_entry<mul_bf16x2_op, std::uint32_t, std::uint32_t, std::uint32_t>();
}

}  // namespace oriel::ptx_machine
