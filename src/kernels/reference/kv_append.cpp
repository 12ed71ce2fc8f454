// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/reference/kv_element.hpp>

namespace oriel::reference {

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
