// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A tokenizer that stands in where no text matters.
#pragma once

#include <engine/tokenizer/tokenizer.hpp>

inline oriel::engine::tokenizer no_text() {
  return oriel::engine::tokenizer::parse(R"({
    "model": {"type": "BPE", "vocab": {"!": 0}, "merges": []},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    "decoder": {"type": "ByteLevel"}})");
}
