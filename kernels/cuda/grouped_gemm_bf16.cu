// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/grouped_gemm_kernel.cuh"

namespace oriel::detail {

status launch_grouped_gemm_bf16(const cuda::grouped_gemm_plan& plan,
                                const grouped_gemm_call& call,
                                CUstream_st* stream) {
  return launch_grouped_gemm<dtype::bf16>(plan, call, stream);
}

}  // namespace oriel::detail
