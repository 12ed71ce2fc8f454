// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A user's program that links the CUDA kernels; it needs a device only to run one.
#include <oriel/config.hpp>
#include <oriel/kernels/kv_append.hpp>

#include <cstdio>

static_assert(ORIEL_HAS_CUDA);

int main(int argc, char**) {
  const oriel::attention_shape shape{64, 8, 192, 128, 16, 128, oriel::dtype::bf16};
  const auto plan = oriel::cuda::plan_kv_append(shape, 100);
  if (!plan || plan->row_blocks != 7) {
    return 1;
  }
  if (argc > 1 && !oriel::cuda::run_kv_append(*plan, {}, nullptr)) {
    std::printf("refused\n");
  }
  std::printf("oriel::cuda: %u blocks of rows\n", plan->row_blocks);
}
