// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 01: hand out KV pages, run out, share one, give some back.
// Next: 02_window_ring keeps a sliding window in a fixed number of pages.
#include <oriel/kv/paged_allocator.hpp>

#include <array>
#include <cstdio>

int main() {
  // A pool of 4 pages. With 16 tokens a page it holds the KV of 64 tokens.
  oriel::paged_allocator<> pool{/*capacity_pages=*/4};

  // Request A has 40 tokens: ceil(40 / 16) = 3 pages.
  std::array<oriel::page_handle, 3> a{};
  std::printf("A admitted: %s\n", pool.try_allocate(a) ? "yes" : "no");  // yes

  // Request B needs 2 pages and 1 is left. Running out is an answer, not an error.
  std::array<oriel::page_handle, 2> b{};
  std::printf("B admitted: %s\n", pool.try_allocate(b) ? "yes" : "no");  // no

  // A prefix tree keeps A's first page by reference. A ends; two of its pages are free again.
  pool.add_ref(a[0]);
  pool.release(a);
  std::printf("B admitted: %s\n", pool.try_allocate(b) ? "yes" : "no");            // yes
  std::printf("A's first page is live: %s\n", pool.is_live(a[0]) ? "yes" : "no");  // yes
  std::printf("A's last page is live: %s\n", pool.is_live(a[2]) ? "yes" : "no");   // no: it is B's
}
