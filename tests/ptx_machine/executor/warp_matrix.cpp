// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The operands of mma, movmatrix and wgmma; what they compute is matrix.hpp's and warpgroups.hpp's.
#include "warp.hpp"

#include <ptx_machine/block/async.hpp>

namespace oriel::ptx_machine {
namespace {

issuer who(const warp& w, const decoded& d) {
  return {w.index, pc_of(w, d)};
}

template <std::size_t Count>
void gather(const warp& w, const slot* from, lanes_b32 (&to)[Count]) {
  for (std::size_t i = 0; i < Count; ++i) {
    for (std::uint32_t lane = 0; lane < warp_lanes; ++lane) {
      to[i][lane] = static_cast<std::uint32_t>(w.bits(from[i], lane));
    }
  }
}

/// mma d (4), a (4), b (2), c (4).
outcome multiply_16x8x16(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  if (lanes != all_lanes) {
    fail(w, d, warp_lanes, "some of the warp's lanes have exited");
  }
  lanes_b32 a[4], b[2], c[4], result[4];
  gather(w, d.slots + 4, a);
  gather(w, d.slots + 8, b);
  gather(w, d.slots + 10, c);
  multiply_m16n8k16(a, b, c, result);
  for (std::uint32_t i = 0; i < 4; ++i) {
    std::memcpy(w.at<std::uint32_t>(d.slots[i]), result[i], sizeof result[i]);
  }
  return outcome::advance;
}

outcome transpose(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  if (lanes != all_lanes) {
    fail(w, d, warp_lanes, "some of the warp's lanes have exited");
  }
  lanes_b32 source[1], result;
  gather(w, d.slots + 1, source);
  transpose_m8n8_b16(source[0], result);
  std::memcpy(w.at<std::uint32_t>(d.slots[0]), result, sizeof result);
  return outcome::advance;
}

enum class product_step : std::uint32_t { fence, commit, wait };

outcome order_products(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  warpgroups& products = w.home->async->products();
  switch (static_cast<product_step>(d.detail)) {
    case product_step::fence:
      products.fence(who(w, d));
      break;
    case product_step::commit:
      products.commit(who(w, d));
      break;
    case product_step::wait:
      if (!products.try_wait(who(w, d),
                             static_cast<std::uint32_t>(uniform_bits(w, d, lanes, d.slots[0])))) {
        return outcome::blocked;
      }
      break;
  }
  ++w.owner->events;
  return outcome::advance;
}

bool uniform_predicate(const warp& w, const decoded& d, std::uint32_t lanes, const slot& s) {
  if (s.bytes != 0) {
    return uniform_bits(w, d, lanes, s) != 0;
  }
  const std::uint32_t bits = w.predicate(s) & lanes;
  if (bits != 0 && bits != lanes) {
    fail(w, d, warp_lanes, "scale-d is true in lanes " + hex(bits) + " only");
  }
  return bits != 0;
}

constexpr std::uint32_t columns_mask = 0xFFFF;
constexpr std::uint32_t e4m3_bit = 0x10000;

/// wgmma.mma_async d (n / 2), a (descriptor, or 4 registers), b (descriptor), scale-d, scale-a, scale-b, and of bf16
/// trans-a (where a is in memory), trans-b.
outcome multiply(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  product p;
  p.shape.n = d.detail & columns_mask;
  p.shape.element = (d.detail & e4m3_bit) != 0 ? matrix_element::e4m3 : matrix_element::bf16;
  std::uint32_t indexes[product_registers_max + 4];
  const std::uint32_t accumulators = p.shape.n / 2;
  const bool a_in_registers = d.slots[accumulators].bytes == 4;
  const std::uint32_t registers = accumulators + (a_in_registers ? 4 : 0);
  for (std::uint32_t i = 0; i < registers; ++i) {
    indexes[i] = d.slots[i].register_index;
    if (d.slots[i].bytes != 4 || indexes[i] == no_register) {
      fail(w, d, warp_lanes, "an operand that is no register of 32 bits");
    }
  }
  p.d = {indexes, accumulators};
  const slot* next = d.slots + registers;
  const slot* const end = d.slots + d.slot_count;
  if (a_in_registers) {
    p.a = {indexes + accumulators, 4};
  } else {
    p.a_descriptor = uniform_bits(w, d, lanes, *next++);
  }
  const bool transposable = p.shape.element == matrix_element::bf16;
  const std::ptrdiff_t flags = 4 + (transposable ? (a_in_registers ? 1 : 2) : 0);
  if (end - next != flags) {
    fail(w, d, warp_lanes, "the wrong number of operands");
  }
  p.b_descriptor = uniform_bits(w, d, lanes, *next++);
  p.accumulate = uniform_predicate(w, d, lanes, *next++);
  if (uniform_bits(w, d, lanes, next[0]) != 1 || uniform_bits(w, d, lanes, next[1]) != 1) {
    fail(w, d, warp_lanes, "the machine negates no operands: scale-a and scale-b have to be 1");
  }
  next += 2;
  if (transposable && !a_in_registers) {
    p.shape.a_transposed = uniform_bits(w, d, lanes, *next++) != 0;
  }
  if (transposable) {
    p.shape.b_transposed = uniform_bits(w, d, lanes, *next) != 0;
  }
  w.home->async->products().multiply(who(w, d), p);
  ++w.owner->events;
  return outcome::advance;
}

}  // namespace

void add_matrix_opcodes(opcode_table& table) {
  table["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] = {&multiply_16x8x16, 0, {}};
  table["movmatrix.sync.aligned.m8n8.trans.b16"] = {&transpose, 0, {4, 4}};
  const std::pair<const char*, product_step> steps[]{
      {"wgmma.fence.sync.aligned", product_step::fence},
      {"wgmma.commit_group.sync.aligned", product_step::commit},
      {"wgmma.wait_group.sync.aligned", product_step::wait}};
  for (const auto& [name, step] : steps) {
    table[name] = {&order_products, static_cast<std::uint32_t>(step), {4}};
  }
  for (std::uint32_t n = 8; n <= product_columns_max; n += 8) {
    const std::string shape = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(n);
    table[shape + "k16.f32.bf16.bf16"] = {&multiply, n, {}};
    table[shape + "k32.f32.e4m3.e4m3"] = {&multiply, n | e4m3_bit, {}};
  }
}

}  // namespace oriel::ptx_machine
