// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Comparisons, predicates, selections and moves.
#include "lanes.hpp"

#include <type_traits>

namespace oriel::ptx_machine {
namespace {

struct eq {
  template <typename T>
  bool operator()(T a, T b) const {
    return a == b;
  }
};
struct lt {
  template <typename T>
  bool operator()(T a, T b) const {
    return a < b;
  }
};
struct le {
  template <typename T>
  bool operator()(T a, T b) const {
    return a <= b;
  }
};
struct gt {
  template <typename T>
  bool operator()(T a, T b) const {
    return a > b;
  }
};
struct ge {
  template <typename T>
  bool operator()(T a, T b) const {
    return a >= b;
  }
};
/// Of floats these are ordered: nothing is true of a NaN. (Integers are all ordered.)
struct ne {
  template <typename T>
  bool operator()(T a, T b) const {
    return a < b || a > b;
  }
};
struct nan {
  template <typename T>
  bool operator()(T a, T b) const {
    return a != a || b != b;
  }
};
template <typename Comparison>
struct opposite {
  template <typename T>
  bool operator()(T a, T b) const {
    return !Comparison{}(a, b);
  }
};

enum class combination : std::uint32_t { alone, with_and, with_or, with_xor };

std::uint32_t combine(combination how, std::uint32_t a, std::uint32_t b) {
  switch (how) {
    case combination::with_and:
      return a & b;
    case combination::with_or:
      return a | b;
    case combination::with_xor:
      return a ^ b;
    default:
      return a;
  }
}

/// setp p[|q], a, b[, c]: q has the comparison's opposite, combined with c in the same way.
template <typename T, typename Comparison>
outcome compare(warp& w, const decoded& d, std::uint32_t lanes) {
  const slot* sources = d.slots + (d.has_second ? 2 : 1);
  const T* a = w.at<T>(sources[0]);
  const T* b = w.at<T>(sources[1]);
  std::uint32_t found = 0;
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    found |= static_cast<std::uint32_t>(Comparison{}(a[i], b[i])) << i;
  }
  const auto how = static_cast<combination>(d.detail);
  const std::uint32_t c = how == combination::alone ? 0 : w.predicate(sources[2]);
  w.set_predicate(d.slots[0], combine(how, found, c), lanes);
  if (d.has_second) {
    w.set_predicate(d.slots[1], combine(how, ~found, c), lanes);
  }
  return outcome::advance;
}

template <typename T, typename Comparison>
void add_comparison(opcode_table& table, const std::string& comparison, const std::string& type) {
  const char* const combinations[]{"", ".and", ".or", ".xor"};
  for (std::uint32_t how = 0; how < 4; ++how) {
    table["setp." + comparison + combinations[how] + "." + type] = {
        &compare<T, Comparison>, how, {1, sizeof(T), sizeof(T), 1}};
  }
}

template <typename T>
void add_equality(opcode_table& table, const std::string& type) {
  add_comparison<T, eq>(table, "eq", type);
  add_comparison<T, opposite<eq>>(table, "ne", type);
}

template <typename T>
void add_integers(opcode_table& table, const std::string& type) {
  add_equality<T>(table, type);
  add_comparison<T, lt>(table, "lt", type);
  add_comparison<T, le>(table, "le", type);
  add_comparison<T, gt>(table, "gt", type);
  add_comparison<T, ge>(table, "ge", type);
}

template <typename T>
void add_floats(opcode_table& table, const std::string& type) {
  add_integers<T>(table, type);
  add_comparison<T, ne>(table, "ne", type);
  add_comparison<T, opposite<ne>>(table, "equ", type);
  add_comparison<T, opposite<eq>>(table, "neu", type);
  add_comparison<T, opposite<ge>>(table, "ltu", type);
  add_comparison<T, opposite<gt>>(table, "leu", type);
  add_comparison<T, opposite<le>>(table, "gtu", type);
  add_comparison<T, opposite<lt>>(table, "geu", type);
  add_comparison<T, nan>(table, "nan", type);
  add_comparison<T, opposite<nan>>(table, "num", type);
}

enum class logic : std::uint32_t { both, either, one, copy, invert };

outcome predicate_logic(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::uint32_t a = w.predicate(d.slots[1]);
  const std::uint32_t b = d.slot_count > 2 ? w.predicate(d.slots[2]) : 0;
  std::uint32_t result = a;
  switch (static_cast<logic>(d.detail)) {
    case logic::both:
      result = a & b;
      break;
    case logic::either:
      result = a | b;
      break;
    case logic::one:
      result = a ^ b;
      break;
    case logic::copy:
      break;
    case logic::invert:
      result = ~a;
      break;
  }
  w.set_predicate(d.slots[0], result, lanes);
  return outcome::advance;
}

template <typename T>
outcome select(warp& w, const decoded& d, std::uint32_t lanes) {
  const T* a = w.at<T>(d.slots[1]);
  const T* b = w.at<T>(d.slots[2]);
  const std::uint32_t chosen = w.predicate(d.slots[3]);
  T result[warp_lanes];
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    result[i] = ((chosen >> i) & 1) != 0 ? a[i] : b[i];
  }
  put_lanes(w.at<T>(d.slots[0]), result, lanes);
  return outcome::advance;
}

/// mov d, {a, b, ...}: the first element is the lowest.
void pack(warp& w, const decoded& d, std::uint32_t lane) {
  std::uint64_t value = 0;
  std::uint32_t shift = 0;
  for (std::uint32_t i = 1; i < d.slot_count; ++i) {
    value |= w.bits(d.slots[i], lane) << shift;
    shift += 8U * d.slots[i].bytes;
  }
  w.set_bits(d.slots[0], lane, value);
}

void unpack(warp& w, const decoded& d, std::uint32_t lane, std::uint32_t element_bits) {
  std::uint64_t value = w.bits(d.slots[d.slot_count - 1], lane);
  for (std::uint32_t i = 0; i + 1 < d.slot_count; ++i) {
    if (!d.slots[i].none) {
      w.set_bits(d.slots[i], lane, value);
    }
    value >>= element_bits;
  }
}

/// Two halves and a whole, all lanes at once.
template <typename T, typename Half>
bool move_halves(const warp& w, const decoded& d, std::uint32_t lanes, bool is_packing) {
  const slot* const halves = d.slots + (is_packing ? 1 : 0);
  if (d.slot_count != 3 || halves[0].bytes != sizeof(Half) || halves[1].bytes != sizeof(Half) ||
      d.slots[is_packing ? 0 : 2].bytes != sizeof(T)) {
    return false;
  }
  if (is_packing) {
    const Half* const low = w.at<Half>(halves[0]);
    const Half* const high = w.at<Half>(halves[1]);
    T result[warp_lanes];
    for (std::uint32_t i = 0; i < warp_lanes; ++i) {
      result[i] = static_cast<T>(low[i] | T{high[i]} << 8 * sizeof(Half));
    }
    put_lanes(w.at<T>(d.slots[0]), result, lanes);
    return true;
  }
  const T* const whole = w.at<T>(d.slots[2]);
  Half low[warp_lanes], high[warp_lanes];
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    low[i] = static_cast<Half>(whole[i]);
    high[i] = static_cast<Half>(whole[i] >> 8 * sizeof(Half));
  }
  put_lanes(w.at<Half>(halves[0]), low, lanes);
  put_lanes(w.at<Half>(halves[1]), high, lanes);
  return true;
}

template <typename T>
outcome move(warp& w, const decoded& d, std::uint32_t lanes) {
  if (d.slot_count == 2) {
    put_lanes(w.at<T>(d.slots[0]), w.at<T>(d.slots[1]), lanes);
    return outcome::advance;
  }
  const bool is_packing = d.slots[0].bytes == sizeof(T) && !d.slots[0].none;
  if constexpr (sizeof(T) > 2) {
    using half = std::conditional_t<sizeof(T) == 8, std::uint32_t, std::uint16_t>;
    if (move_halves<T, half>(w, d, lanes, is_packing)) {
      return outcome::advance;
    }
  }
  if (is_packing) {
    for_lanes(lanes, [&](std::uint32_t lane) { pack(w, d, lane); });
  } else {
    const auto bits = static_cast<std::uint32_t>(8 * sizeof(T) / (d.slot_count - 1));
    for_lanes(lanes, [&](std::uint32_t lane) { unpack(w, d, lane, bits); });
  }
  return outcome::advance;
}

template <typename T>
void add_moves(opcode_table& table, std::initializer_list<const char*> types) {
  for (const std::string type : types) {
    table["mov." + type] = {&move<T>, 0, {sizeof(T), sizeof(T)}};
    table["selp." + type] = {&select<T>, 0, {sizeof(T), sizeof(T), sizeof(T), 1}};
  }
}

}  // namespace

void add_comparison_opcodes(opcode_table& table) {
  add_integers<std::uint16_t>(table, "u16");
  add_integers<std::int16_t>(table, "s16");
  add_integers<std::uint32_t>(table, "u32");
  add_integers<std::int32_t>(table, "s32");
  add_integers<std::uint64_t>(table, "u64");
  add_integers<std::int64_t>(table, "s64");
  add_equality<std::uint16_t>(table, "b16");
  add_equality<std::uint32_t>(table, "b32");
  add_equality<std::uint64_t>(table, "b64");
  add_floats<float>(table, "f32");
  add_floats<double>(table, "f64");
}

void add_move_opcodes(opcode_table& table) {
  const std::pair<const char*, logic> two[]{
      {"and.pred", logic::both}, {"or.pred", logic::either}, {"xor.pred", logic::one}};
  for (const auto& [name, what] : two) {
    table[name] = {&predicate_logic, static_cast<std::uint32_t>(what), {1, 1, 1}};
  }
  table["mov.pred"] = {&predicate_logic, static_cast<std::uint32_t>(logic::copy), {1, 1}};
  table["not.pred"] = {&predicate_logic, static_cast<std::uint32_t>(logic::invert), {1, 1}};
  add_moves<std::uint16_t>(table, {"b16", "u16", "s16"});
  add_moves<std::uint32_t>(table, {"b32", "u32", "s32", "f32"});
  add_moves<std::uint64_t>(table, {"b64", "u64", "s64", "f64"});
}

}  // namespace oriel::ptx_machine
