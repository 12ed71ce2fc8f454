// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/embed.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/death.hpp>

using oriel::bf16;
using oriel::dtype;
using oriel::token_id;

TEST_CASE("embed copies rows exactly, at any alignment of the table") {
  oriel::thread_pool pool(2);
  for (const dtype type : {dtype::f32, dtype::bf16}) {
    for (const std::uint32_t width : {1u, 7u, 16u, 33u, 256u}) {
      oriel::random_stream random(width);
      const std::uint32_t vocabulary = 41;
      // Any bit pattern, NaN included: a copy does not look.
      std::vector<std::byte> table(vocabulary * width * size_bytes(type) + 2);
      for (std::byte& b : table) {
        b = static_cast<std::byte>(random.next_below(256));
      }
      std::vector<token_id> tokens(500);
      for (token_id& t : tokens) {
        t = token_id{random.next_below(vocabulary)};
      }
      // A table of bf16 may begin at any even byte; one of f32 is aligned here.
      const void* first = table.data() + (type == dtype::bf16 ? 2 : 0);
      const oriel::embed_shape shape{.vocabulary = vocabulary, .width = width, .table = type};
      std::vector<float> expected = poisoned_floats(tokens.size() * width);
      oriel::reference::embed(
          shape, {.out = expected.data(), .out_stride = width, .table = first, .tokens = tokens});
      for (const oriel::isa path : supported_paths()) {
        std::vector<float> out = poisoned_floats(expected.size());
        const auto plan = oriel::host::plan_embed(shape, path);
        REQUIRE(plan);
        oriel::host::run_embed(
            *plan,
            {.out = out.data(), .out_stride = width, .table = first, .tokens = tokens},
            pool);
        INFO(oriel::name_of(type) << ", width " << width << ", " << oriel::name_of(path));
        CHECK(same_bits(out, expected));
      }
    }
  }
}

TEST_CASE("a token outside the vocabulary breaks the contract") {
  oriel::serial_executor serial;
  const std::vector<float> table(8);
  const std::vector<token_id> tokens{token_id{2}};
  std::vector<float> out(4);
  const auto plan = oriel::host::plan_embed({.vocabulary = 2, .width = 4, .table = dtype::f32});
  CHECK(aborts([&] {
    oriel::host::run_embed(
        *plan,
        {.out = out.data(), .out_stride = 4, .table = table.data(), .tokens = tokens},
        serial);
  }));
}

TEST_CASE("embed refuses what it cannot do") {
  CHECK_FALSE(oriel::host::plan_embed({.vocabulary = 0, .width = 4, .table = dtype::f32}));
  CHECK_FALSE(oriel::host::plan_embed({.vocabulary = 4, .width = 0, .table = dtype::f32}));
  CHECK_FALSE(oriel::host::plan_embed({.vocabulary = 4, .width = 4, .table = dtype::e4m3}));
}
