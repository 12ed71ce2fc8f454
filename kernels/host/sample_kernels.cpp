// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/sample_kernels.hpp"

const oriel::detail::sample_kernels& oriel::detail::sample_kernels_for(isa path) noexcept {
  return path >= isa::avx512 ? sample_kernels_avx512
         : path == isa::avx2 ? sample_kernels_avx2
                             : sample_kernels_scalar;
}
