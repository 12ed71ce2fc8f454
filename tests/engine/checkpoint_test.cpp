// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/error.hpp>

#include <string>

using namespace oriel;
using namespace oriel::engine;

TEST_CASE("every golden checkpoint opens, all tensors accounted for") {
  for (const char* name : {"native_w4",
                           "native_w7_odd_rotary",
                           "native_w16_groups",
                           "native_w64_dense",
                           "native_w128",
                           "bf16_w8",
                           "bf16_w32",
                           "released_w5"}) {
    INFO(name);
    const checkpoint opened = open_checkpoint(std::string(ORIEL_TEST_DIR "/golden/") + name);
    CHECK(opened.warnings.empty());
    CHECK(opened.layout.layers.size() == opened.config.geometry.layers.size());
  }
}
