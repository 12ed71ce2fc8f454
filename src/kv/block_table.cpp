// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/block_table.hpp>

namespace oriel {

block_table::block_table(std::uint32_t capacity_pages)
    : handles_(capacity_pages), ids_(capacity_pages) {}

void block_table::append(std::span<const page_handle> pages) noexcept {
  ORIEL_EXPECTS(pages.size() <= capacity_pages() - size_pages_);
  for (const page_handle page : pages) {
    handles_[size_pages_] = page;
    ids_[size_pages_] = to_index(page.id);
    ++size_pages_;
  }
}

}  // namespace oriel
