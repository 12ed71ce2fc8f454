// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/block_table.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <cstdint>
#include <vector>

namespace block_table_test {

using oriel::block_table;
using oriel::block_table_view;
using oriel::page_handle;
using oriel::page_id;

namespace {

page_handle page(std::uint32_t index, std::uint32_t generation = 1) {
  return {page_id{index}, generation};
}

std::vector<std::uint32_t> ids_of(const block_table& table) {
  return {table.view().pages.begin(), table.view().pages.end()};
}

}  // namespace

TEST_CASE("a flat view looks logical pages up as they are, a circular one modulo its entries") {
  const std::uint32_t pages[] = {9, 4, 7};
  const block_table_view flat{pages, 0}, ring{pages, 3};
  CHECK(flat.page_of(2) == page_id{7});
  CHECK(ring.page_of(2) == page_id{7});
  CHECK(ring.page_of(3) == page_id{9});
  CHECK(ring.page_of(301) == page_id{4});
}

TEST_CASE("a kernel's view has the table's pages and the rows asked for") {
  const std::uint32_t pages[] = {9, 4, 7};
  const oriel::paged_sequence s = block_table_view{pages, 3}.rows_at(40, 5);
  CHECK(s.first_position == 40);
  CHECK(s.rows == 5);
  CHECK(page_at(s, 4) == 4);
}

TEST_CASE("a table keeps handles and ids of the same pages") {
  block_table table(4);
  CHECK(table.capacity_pages() == 4);
  CHECK(table.size_pages() == 0);
  CHECK(ids_of(table).empty());
  const page_handle first[] = {page(3), page(1, 8)};
  table.append(first);
  table.tail(1)[0] = page(2);
  CHECK(table.size_pages() == 2);  // Not taken in yet.
  table.append_tail(1);
  CHECK(ids_of(table) == std::vector<std::uint32_t>{3, 1, 2});
  CHECK(table[1] == page(1, 8));
  CHECK(table.handles().size() == 3);
  CHECK(table.view().ring_pages == 0);
}

TEST_CASE("truncating forgets the end, and the place is used again") {
  block_table table(3);
  const page_handle pages[] = {page(5), page(6), page(7)};
  table.append(pages);
  table.truncate(1);
  CHECK(ids_of(table) == std::vector<std::uint32_t>{5});
  table.append(std::span(pages).last(2));
  CHECK(ids_of(table) == std::vector<std::uint32_t>{5, 6, 7});
}

TEST_CASE("contracts of a block table") {
  const page_handle pages[] = {page(5), page(6), page(7)};
  CHECK(aborts([&] { block_table(2).append(pages); }));
  CHECK(aborts([] { static_cast<void>(block_table(2).tail(3)); }));
  CHECK(aborts([] { static_cast<void>(block_table(2)[0]); }));
  CHECK(aborts([] { block_table(2).truncate(1); }));
}

}  // namespace block_table_test
