// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A user's program: it takes something header-only and something compiled from Oriel.
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/kv/paged_allocator.hpp>

#include <array>
#include <cstdio>

int main() {
  oriel::paged_allocator<> pool{4};
  std::array<oriel::page_handle, 3> pages{};
  if (!pool.try_allocate(pages)) {
    return 1;
  }
  pool.release(pages);
  oriel::thread_pool threads{1};
  std::printf("oriel on %s, %u free pages\n", oriel::name_of(oriel::best_isa()), pool.available());
}
