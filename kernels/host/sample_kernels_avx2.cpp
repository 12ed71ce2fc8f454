// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/sample_kernels_body.hpp"

const oriel::detail::sample_kernels oriel::detail::sample_kernels_avx2 = this_isa;
