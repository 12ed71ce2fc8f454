// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/presets.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace presets_test {

using namespace oriel;

namespace {

std::vector<std::uint32_t> full_ids(const model_geometry& m) {
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < m.layers.size(); ++i) {
    if (m.layers[i].attention.kind == attention_kind::full) {
      ids.push_back(i);
    }
  }
  return ids;
}

}  // namespace

TEST_CASE("every listed preset exists, is named and sound; nothing else exists") {
  CHECK(preset_names().size() == 9);
  for (const std::string_view name : preset_names()) {
    INFO(name);
    const auto m = preset(name);
    REQUIRE(m);
    CHECK(m->name == name);
    CHECK(problem_in(*m).value_or("") == "");
  }
  CHECK_FALSE(preset("mimo"));
  CHECK_FALSE(preset(""));
}

TEST_CASE("MiMo presets have the published layers") {
  const model_geometry flash = *preset("mimo-v2-flash");
  CHECK(flash.full_layers() == 9);
  CHECK(flash.window_layers() == 39);
  CHECK(full_ids(flash) == std::vector<std::uint32_t>{0, 5, 11, 17, 23, 29, 35, 41, 47});
  CHECK(flash.layers[0].attention.kv_heads == 4);
  CHECK(flash.layers[1].attention.kv_heads == 8);
  CHECK(flash.layers[0].attention.rope_theta == 5e6);
  CHECK(flash.mtp_layers.size() == 3);
  CHECK(preset("mimo-v2.5")->layers[0].attention.rope_theta == 1e7);
  const model_geometry pro = *preset("mimo-v2.5-pro");
  CHECK(full_ids(pro) == std::vector<std::uint32_t>{0, 7, 15, 23, 31, 39, 47, 55, 62, 69});
  CHECK(pro.window_layers() == 60);
  CHECK_FALSE(pro.layers[0].ffn.is_moe());
  CHECK(pro.layers[69].ffn.experts == 384);
  CHECK(pro.attention_value_scale == 0.612);
}

TEST_CASE("the other families alternate as published") {
  const model_geometry oss = *preset("gpt-oss-120b");
  CHECK(oss.full_layers() == 18);
  CHECK(oss.layers[0].attention.kind == attention_kind::window);
  CHECK(oss.layers[1].attention.has_sink);
  const model_geometry gemma = *preset("gemma-3-27b");
  CHECK(full_ids(gemma) == std::vector<std::uint32_t>{5, 11, 17, 23, 29, 35, 41, 47, 53, 59});
  CHECK(gemma.layers[0].attention.window_tokens == 1024);
}

}  // namespace presets_test
