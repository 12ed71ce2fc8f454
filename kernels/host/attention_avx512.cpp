// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_body.hpp"
#include "detail/lanes_avx512.hpp"

namespace oriel::host::detail {

attention_steps attention_steps_avx512(dtype kv) noexcept {
  return kv == dtype::f32 ? attention_body<unit_f32<lanes_avx512>>::steps()
                          : attention_body<unit_bf16_wide<lanes_avx512>>::steps();
}

}  // namespace oriel::host::detail
