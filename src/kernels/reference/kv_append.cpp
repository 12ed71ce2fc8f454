// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/reference/kv_element.hpp>

#include <cmath>
#include <cstring>

namespace oriel::reference {
namespace {

/// A head's numbers x[d] * factor to e4m3, and their scale.
template <class Element>
void append_scaled(
    const float* x, std::uint32_t dims, float factor, std::byte* scale_at, Element&& element) {
  float largest = 0.0f;
  for (std::uint32_t d = 0; d < dims; ++d) {
    const float size = std::fabs(x[d] * factor);
    largest = std::isnan(size) || size > largest ? size : largest;
    if (std::isnan(largest)) {
      break;
    }
  }
  const float scale = kv_scale_of(largest), inverse = 1.0f / scale;
  for (std::uint32_t d = 0; d < stored_head_dims(dims, dtype::e4m3); ++d) {
    const float number = d < dims ? x[d] * factor * inverse : 0.0f;
    *element(d) = static_cast<std::byte>(to_e4m3(number));
  }
  std::memcpy(scale_at, &scale, sizeof scale);
}

}  // namespace

void kv_append(const attention_shape& shape, const kv_append_args& args) {
  std::size_t row = 0;
  for (const paged_sequence& sequence : args.sequences) {
    for (std::uint32_t r = 0; r < sequence.rows; ++r, ++row) {
      const std::uint32_t position = sequence.first_position + r;
      if (position < sequence.first_key) {
        continue;
      }
      const float* k = args.k + row * args.k_stride;
      const float* v = args.v + row * args.v_stride;
      for (std::uint32_t head = 0; head < shape.kv_heads; ++head) {
        if (shape.kv == dtype::e4m3) {
          append_scaled(k,
                        shape.head_dim_qk,
                        1.0f,
                        k_scale(shape, args.kv, sequence, position, head),
                        [&](std::uint32_t d) {
                          return k_element(shape, args.kv, sequence, position, head, d);
                        });
          append_scaled(v,
                        shape.head_dim_vo,
                        args.v_scale,
                        v_scale(shape, args.kv, sequence, position, head),
                        [&](std::uint32_t d) {
                          return v_element(shape, args.kv, sequence, position, head, d);
                        });
          k += shape.head_dim_qk;
          v += shape.head_dim_vo;
          continue;
        }
        for (std::uint32_t d = 0; d < shape.head_dim_qk; ++d) {
          store_kv(shape.kv, k_element(shape, args.kv, sequence, position, head, d), *k++);
        }
        if (shape.kv == dtype::bf16 && shape.head_dim_qk % 2 == 1) {  // The padding dim.
          const std::uint32_t d = shape.head_dim_qk;
          store_kv(shape.kv, k_element(shape, args.kv, sequence, position, head, d), 0.0f);
        }
        for (std::uint32_t d = 0; d < shape.head_dim_vo; ++d) {
          const float scaled = *v++ * args.v_scale;
          store_kv(shape.kv, v_element(shape, args.kv, sequence, position, head, d), scaled);
        }
      }
    }
  }
}

}  // namespace oriel::reference
