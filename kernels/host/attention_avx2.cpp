// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_body.hpp"
#include "detail/lanes_avx2.hpp"

namespace oriel::host::detail {

attention_steps attention_steps_avx2(dtype kv) noexcept {
  return kv == dtype::f32 ? attention_body<unit_f32<lanes_avx2>>::steps()
                          : attention_body<unit_bf16_wide<lanes_avx2>>::steps();
}

}  // namespace oriel::host::detail
