// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/grouped_gemm_kernel.cuh"

namespace oriel::detail {

status launch_grouped_gemm_e4m3(const cuda::grouped_gemm_plan& plan,
                                const grouped_gemm_call& call,
                                CUstream_st* stream) {
  return launch_grouped_gemm<dtype::e4m3>(plan, call, stream);
}

}  // namespace oriel::detail
