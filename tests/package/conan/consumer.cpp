// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/isa.hpp>

#include <cstdio>

int main() {
  std::printf("oriel on %s\n", oriel::name_of(oriel::best_isa()));
}
