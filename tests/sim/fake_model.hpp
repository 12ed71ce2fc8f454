// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A model whose every value is one 64-bit word. A row's first state is a keyed function of its
/// namespace and all tokens up to it; a layer stores one word of KV per row, and adds to the state
/// a digest of the words that attention may legally read. So each word depends on namespace, token
/// path, layer and position, a row is exact if and only if everything it reads is, and a wrong,
/// stale or unwritten word changes the next token with probability 1 - 2^-64.
#pragma once

#include <oriel/core/ids.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace sim {

using word = std::uint64_t;

/// What no row ever holds: memory that was not written since it was handed out.
inline constexpr word poison = 0xCBCB'CBCB'CBCB'CBCBu;

/// A word that depends on both arguments and their order.
[[nodiscard]] constexpr word mixed(word a, word b) noexcept {
  word x = (a ^ (b * 0x9E37'79B9'7F4A'7C15u)) + 0xD1B5'4A32'D192'ED03u;
  x = (x ^ (x >> 31)) * 0xBF58'476D'1CE4'E5B9u;
  x = (x ^ (x >> 29)) * 0x94D0'49BB'1331'11EBu;
  return x ^ (x >> 32);
}

/// The layers, and what they compute.
struct fake_model {
  std::vector<std::uint32_t> windows;  ///< [layers] tokens, the query included; 0: full attention

  [[nodiscard]] std::uint32_t layers() const noexcept {
    return static_cast<std::uint32_t>(windows.size());
  }
  /// The first position that the row `position` reads in a layer.
  [[nodiscard]] std::uint32_t first_read(std::uint32_t layer,
                                         std::uint32_t position) const noexcept {
    const std::uint32_t window = windows[layer];
    return window == 0 || position < window ? 0 : position - (window - 1);
  }

  /// The path of a namespace before its first token; then of all tokens so far.
  [[nodiscard]] static word path_start(std::uint32_t space) noexcept {
    return mixed(0x5EED, space + 1);
  }
  [[nodiscard]] static word path_next(word path, oriel::token_id token) noexcept {
    return mixed(path, to_index(token));
  }

  [[nodiscard]] static word embed(word path, std::uint32_t position) noexcept {
    return mixed(path, ~word{position});
  }
  [[nodiscard]] static word kv(word state, std::uint32_t layer) noexcept {
    return mixed(state, 0x1000 + layer);
  }
  /// What one word of KV adds to the digest of what a row reads.
  [[nodiscard]] static word term(word kv, std::uint32_t position) noexcept {
    return mixed(kv, 0x2'0000'0000u + position);
  }
  [[nodiscard]] static word attend(word state, word digest) noexcept {
    return mixed(state, digest ^ 0x3'0000'0000'0000u);
  }
};

/// A run without any cache: the oracle.
class cold_run {
 public:
  cold_run(const fake_model& model, std::uint32_t space)
      : model_(&model), start_(fake_model::path_start(space)), digests_(model.layers()) {}

  /// Computes the row of the next token.
  void extend(oriel::token_id token) {
    const std::uint32_t position = rows(), layers = model_->layers();
    paths_.push_back(fake_model::path_next(path_before(position), token));
    word state = fake_model::embed(paths_.back(), position);
    for (std::uint32_t l = 0; l < layers; ++l) {
      kv_.push_back(fake_model::kv(state, l));
      digests_[l] += fake_model::term(kv_.back(), position);
      if (const std::uint32_t window = model_->windows[l]; window != 0 && position >= window) {
        const std::uint32_t gone = position - window;
        digests_[l] -= fake_model::term(kv(l, gone), gone);
      }
      state = fake_model::attend(state, digests_[l]);
    }
    outputs_.push_back(state);
  }

  [[nodiscard]] std::uint32_t rows() const noexcept {
    return static_cast<std::uint32_t>(paths_.size());
  }
  [[nodiscard]] word kv(std::uint32_t layer, std::uint32_t position) const noexcept {
    return kv_[std::size_t{position} * model_->layers() + layer];
  }
  /// The last state of a row: the next token is drawn from it.
  [[nodiscard]] word output(std::uint32_t position) const noexcept { return outputs_[position]; }
  /// Names the namespace and the tokens before a position.
  [[nodiscard]] word path_before(std::uint32_t position) const noexcept {
    return position == 0 ? start_ : paths_[position - 1];
  }

 private:
  const fake_model* model_;
  word start_;
  std::vector<word> paths_;    // [rows]
  std::vector<word> kv_;       // [rows, layers]
  std::vector<word> outputs_;  // [rows]
  std::vector<word> digests_;  // [layers] of what the last row read
};

}  // namespace sim
