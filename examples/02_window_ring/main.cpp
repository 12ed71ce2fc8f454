// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 02: a sliding window in a fixed number of pages, one of which a prefix tree keeps.
// Next: 03_prefix_tree lets requests share pages.
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/kv/window_ring.hpp>

#include <cstdio>
#include <cstdlib>

namespace {

using allocator = oriel::paged_allocator<>;
using ring = oriel::window_ring<allocator>;

/// One line: which page every entry of the ring holds, and which logical pages are live.
void show(const char* what, const ring& r, const allocator& pages) {
  std::printf("%-8s  length %2u  live logical pages [%u, %2u)  ring of pages [",
              what,
              r.length(),
              r.first_page(),
              r.end_page());
  for (const std::uint32_t id : r.view().pages) {
    if (id == to_index(oriel::null_page)) {
      std::printf(" -");
    } else {
      std::printf(" %u", id);
    }
  }
  std::printf(" ]  free %u of %u\n", pages.available(), pages.capacity());
}

/// One step of the engine: pages for the new rows, kernels write them, the rows count.
void step(ring& r, std::uint32_t rows) {
  if (!r.try_reserve(rows)) {
    std::puts("out of pages");
    std::exit(1);
  }
  r.commit(rows);
}

}  // namespace

int main() {
  allocator pages{/*capacity_pages=*/8};
  // A query sees 9 tokens, itself included; pages of 4 tokens; a step appends up to 4.
  ring r(pages, {.page_size = 4, .window_tokens = 9, .step_tokens = 4, .slack_pages = 0});
  std::printf("A window of 9 tokens in pages of 4: a ring of %u entries.\n\n", r.ring_pages());

  // Admission takes the pages of the whole ring; no prompt, however long, will need more while
  // nobody else keeps one of them.
  if (!r.try_fill(1'000)) {
    return 1;
  }
  show("admitted", r, pages);
  for (int i = 0; i < 5; ++i) {
    step(r, i == 0 ? 3 : 4);
    show("a step", r, pages);
  }

  // So far pages that left the window were reused where they stood. Now a prefix tree takes a
  // reference to logical page 3 (tokens 12..15), which is whole.
  const oriel::page_handle published = r.share(3);
  std::printf("\npage %u is published\n\n", to_index(published.id));

  // When the published page slides out it leaves by reference, its bytes as they are; the ring
  // takes another page when it needs one.
  for (int i = 0; i < 5; ++i) {
    step(r, 4);
    show("a step", r, pages);
  }

  r.release();
  std::printf("\nthe request has ended: free %u of %u\n", pages.available(), pages.capacity());
  std::printf("page %u is live: %s, references: %u\n",
              to_index(published.id),
              pages.is_live(published) ? "yes" : "no",
              pages.ref_count(published));
  pages.release(published);
}
