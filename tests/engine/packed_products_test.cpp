// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// No order-fixed product of a program is one that cuBLASLt refuses; a stand-in for it refuses some.
#include "engine/with_blocks.hpp"
#include "support/toy_geometry.hpp"

#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>
#include <engine/packed_products.hpp>
#include <engine/step_program.hpp>

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

using namespace oriel;          // NOLINT: a test
using namespace oriel::engine;  // NOLINT
using namespace engine_life;    // NOLINT

namespace {

/// (n, k, rows_max): what this cuBLASLt has no algorithm for.
using refusals = std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>>;

bool is_refused(const refusals& refused, const gemm_op& o) {
  return refused.contains({o.plan.shape.n, o.plan.shape.k, o.plan.rows_max});
}

struct asked_products {
  refusals refused;
  std::size_t asked = 0;
  bool takes(const library_product& p) {
    ++asked;
    return std::visit(
        [&](const auto& plan) {
          CHECK(plan.order == cuda::gemm_order::fixed);
          CHECK(p.layout.x_alignment == 16);
          CHECK(p.layout.out_alignment == 16);
          if constexpr (requires { plan.shape; }) {
            CHECK(p.layout.weight_stride == plan.shape.k);
            return !refused.contains({plan.shape.n, plan.shape.k, plan.rows_max});
          } else {
            return !refused.contains({plan.n, plan.k, plan.rows_max});
          }
        },
        p.plan);
  }
};

model_geometry geometry_with_blocks() {
  model_geometry m = toy_geometry({0, 16, 0}, true);
  m.mtp_layers.assign(2, m.layers[0]);
  return m;
}

program_model model_for(const model_geometry& geometry, std::uint32_t product_rows) {
  return {
      .geometry = &geometry,
      .context_tokens = 128,
      .pool_of = std::vector<std::uint32_t>(geometry.layers.size() + geometry.mtp_layers.size()),
      .mtp_blocks = static_cast<std::uint32_t>(geometry.mtp_layers.size()),
      .product_rows = product_rows};
}

std::vector<step_program> programs_of(const program_model& model) {
  std::vector<step_program> programs;
  for (const program_kind kind :
       {program_kind::forward, program_kind::draft, program_kind::decode}) {
    for (std::uint32_t block = 0; block < (kind == program_kind::draft ? 2u : 1u); ++block) {
      programs.push_back(make_program(model,
                                      {.kind = kind,
                                       .sequences = 4,
                                       .rows = 40,
                                       .logit_rows = 16,
                                       .drafts = kind == program_kind::decode ? 2u : 0u,
                                       .block = block,
                                       .drafts_next = kind == program_kind::decode}));
    }
  }
  return programs;
}

}  // namespace

TEST_CASE("products of bf16 that are refused for some number of rows are packed in all programs") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  INFO("seed " << seed);
  random_stream random(seed, 131);
  const model_geometry geometry = geometry_with_blocks();
  std::map<weight_name, std::set<std::tuple<std::uint32_t, std::uint32_t>>> sizes;
  for (const step_program& p : programs_of(model_for(geometry, 1'024))) {
    for (const operation& op : p.operations) {
      if (const auto* const o = std::get_if<gemm_op>(&op);
          o != nullptr && o->x.type != dtype::f32) {
        sizes[o->weight].insert({o->plan.shape.n, o->plan.shape.k});
      }
    }
  }
  asked_products library;
  for (const auto& [weight, of] : sizes) {
    REQUIRE(of.size() == 1);
    if (random.next_below(3) == 0) {
      const auto [n, k] = *of.begin();
      library.refused.insert({n, k, 1'024u << random.next_below(6)});
    }
  }
  const product_kinds kinds = with_packed(
      geometry, dtype::bf16, 2, {}, [&](const library_product& p) { return library.takes(p); });
  CHECK(library.asked >=
        6 * (sizes.size() - kinds.size()));  // One that is refused is not asked again.
  std::size_t packed = 0;
  for (std::uint32_t rows = 1'024; rows <= 32'768; rows *= 2) {
    program_model model = model_for(geometry, rows);
    model.products = kinds;
    for (const step_program& p : programs_of(model)) {
      for (const operation& op : p.operations) {
        if (const auto* const o = std::get_if<gemm_op>(&op); o != nullptr) {
          CHECK((o->x.type == dtype::f32 || !is_refused(library.refused, *o)));
          CHECK(!kinds.contains(o->weight));
        } else if (const auto* const s = std::get_if<scaled_gemm_op>(&op)) {
          CHECK(kinds.at(s->weight) == product_kind::packed);
          const auto& plan = std::get<cuda::grouped_gemm_plan>(s->plan);
          CHECK(plan.shape.weights == dtype::bf16);
          CHECK(plan.shape.groups == 1);
          CHECK(s->x.scales == no_buffer);
          ++packed;
        }
      }
    }
  }
  CHECK((packed != 0) == !library.refused.empty());
  for (const auto& [weight, kind] : kinds) {  // And none for nothing.
    bool is_one_refused = false;
    for (const auto& [n, k, rows] : library.refused) {
      is_one_refused = is_one_refused || sizes.at(weight).contains({n, k});
    }
    CHECK(is_one_refused);
  }
}

TEST_CASE("block-scaled products that are refused are grouped; those of f32 stay") {
  model_geometry geometry = toy_geometry({0, 16}, false);
  geometry.hidden = 48;
  const product_kinds e4m3{{{weight_role::o, 0}, product_kind::block_scaled},
                           {{weight_role::down, 0}, product_kind::grouped}};
  const auto none = [](const library_product&) { return false; };
  const product_kinds kinds = with_packed(geometry, dtype::bf16, 0, e4m3, none);
  CHECK(kinds.at({weight_role::o, 0}) == product_kind::grouped);
  CHECK(kinds.at({weight_role::down, 0}) == product_kind::grouped);
  CHECK(kinds.at({weight_role::qkv, 1}) == product_kind::packed);
  CHECK(!kinds.contains({weight_role::router, 1}));
  CHECK(with_packed(geometry, dtype::f32, 0, {}, none).empty());
  const auto all = [](const library_product&) { return true; };
  CHECK(with_packed(geometry, dtype::bf16, 0, e4m3, all) == e4m3);
}

TEST_CASE("rows of bf16 that are no multiple of 16 bytes are left to cuBLASLt") {
  model_geometry geometry = toy_geometry({0}, false);
  geometry.hidden = 52;
  const product_kinds kinds =
      with_packed(geometry, dtype::bf16, 0, {}, [](const library_product&) { return false; });
  CHECK(!kinds.contains({weight_role::qkv, 0}));
  CHECK(!kinds.contains({weight_role::lm_head}));
}

TEST_CASE("what is said of a refused product names its sizes, its types, and what would help") {
  const auto fixed = cuda::plan_gemm(
      {.n = 384, .k = 52, .weights = dtype::f32}, dtype::f32, 1'024, cuda::gemm_order::fixed);
  REQUIRE(fixed);
  for (const int status : {15, 7}) {  // NOT_SUPPORTED and INVALID_VALUE: the same words.
    CHECK(refusal_text(*fixed, 3, {errc::unsupported_shape, status, "refused"}) ==
          "no product of 3 rows x 52 by a matrix of 384 x 52, f32 to f32, in the order of 1024 "
          "rows on this device: refused (unsupported_shape, cuBLAS status " +
              std::to_string(status) +
              "); CUBLASLT_LOG_LEVEL=5 lets cuBLASLt say why; products in no fixed order "
              "(--products fastest), weights in bf16, another version of cuBLASLt or the host "
              "(--device cpu) may have one");
  }
  const auto fastest =
      cuda::plan_block_scaled_gemm({.n = 256, .k = 640, .weights = dtype::e4m3}, dtype::bf16, 36);
  REQUIRE(fastest);
  CHECK(refusal_text(*fastest, 36, {errc::unsupported_shape, 15, "refused"}) ==
        "no product of 36 rows x 640 by a matrix of 256 x 640, e4m3 to bf16 on this device: "
        "refused (unsupported_shape, cuBLAS status 15); CUBLASLT_LOG_LEVEL=5 lets cuBLASLt say "
        "why; another version of cuBLASLt or the host (--device cpu) may have one");
  CHECK(refusal_text(*fastest, 4, {errc::device_failure, 13, "failed"}) ==
        "no product of 4 rows x 640 by a matrix of 256 x 640, e4m3 to bf16 on this device: failed "
        "(device_failure, cuBLAS status 13)");
}

TEST_CASE("the digest of products names who multiplies with which matrix") {
  CHECK(digest_of({}) == 0);
  std::set<std::uint64_t> met{0};
  for (std::uint32_t layer = 0; layer < 80; ++layer) {
    for (const weight_role role : {weight_role::qkv, weight_role::o, weight_role::down}) {
      for (const product_kind kind :
           {product_kind::block_scaled, product_kind::grouped, product_kind::packed}) {
        CHECK(met.insert(digest_of({{{role, layer}, kind}})).second);
        CHECK(met.insert(digest_of({{{role, layer}, kind},
                                    {{weight_role::lm_head}, product_kind::packed}}))
                  .second);
      }
    }
  }
}
