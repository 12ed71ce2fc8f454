// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/row_kernels.hpp"

const oriel::detail::row_kernels& oriel::detail::row_kernels_for(isa path) noexcept {
  return path >= isa::avx512 ? row_kernels_avx512
         : path == isa::avx2 ? row_kernels_avx2
                             : row_kernels_scalar;
}
