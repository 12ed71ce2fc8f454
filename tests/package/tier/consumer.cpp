// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A user's program that keeps a page in a host tier and names it.
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/page_key.hpp>

#include <cstdio>
#include <vector>

int main() {
  const oriel::page_shape shape{.page_size = 16, .slice_bytes = {{4096}}};
  const oriel::page_digest start =
      oriel::chain_start(oriel::cache_namespace({.tenant_salt = "t", .model = "m"}), shape);
  const std::vector<oriel::token_id> tokens(16);
  std::vector<oriel::page_digest> links;
  oriel::extend_chain(start, tokens, shape.page_size, links);

  oriel::memory_store<> host(
      {.page_size = shape.page_size, .slice_bytes = shape.slice_bytes, .capacity_bytes = 1 << 20});
  const oriel::page_identity identity{.name_space = start, .parent = start, .tokens = tokens};
  std::vector<std::byte> bytes(4096);
  const std::span<std::byte> slice(bytes);
  const oriel::store_item item{.op = oriel::store_op::put,
                               .key = {links[0], 0},
                               .identity = &identity,
                               .slices = {&slice, 1}};
  oriel::store_completion done;
  if (host.submit({&item, 1}, oriel::no_deadline) != 1 || host.poll({&done, 1}) != 1 ||
      done.outcome != oriel::store_outcome::done) {
    return 1;
  }
  std::printf("oriel::tier keeps %llu page\n", static_cast<unsigned long long>(host.stats().pages));
}
