// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/row_kernels_body.hpp"

const oriel::detail::row_kernels oriel::detail::row_kernels_avx2 = this_isa;
