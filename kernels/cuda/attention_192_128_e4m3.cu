// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_kernel.cuh"

namespace oriel::detail {

status launch_attention_192_128_e4m3(const attention_launch& launch,
                                     const attention_call& call,
                                     CUstream_st* stream) {
  return launch_attention<attention_dims<192, 128, dtype::e4m3>>(launch, call, stream);
}

}  // namespace oriel::detail
