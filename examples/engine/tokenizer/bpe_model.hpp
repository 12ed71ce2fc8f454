// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `bpe_model`: byte-pair encoding of one word (a pre-token) into token ids.
#pragma once

#include <engine/tokenizer/token_table.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// "No token" among raw ids.
inline constexpr std::uint32_t no_token = 0xFFFF'FFFFu;

/// Two tokens that become one. Its place in the list is its rank: lower merges first.
struct bpe_merge {
  std::uint32_t left, right, merged;
};

/// What a `bpe_model` is made of. Ids index `tokens`.
struct bpe_vocabulary {
  token_table tokens;             ///< bytes of each id
  std::vector<bool> in_alphabet;  ///< per id: spelled in the byte alphabet, so a word can hold it
  std::vector<bpe_merge> merges;  ///< by rank
  /// Stands for a byte without a token; none: the byte is dropped.
  std::uint32_t unknown = no_token;
  bool fuse_unknown = false;   ///< unknown bytes in a row become one token
  bool ignore_merges = false;  ///< a word that is a token is that token, whatever the merges say
};

/// Encodes words. *Thread safety*: `encode` may run on any number of threads.
class bpe_model {
 public:
  /// What `encode` works in; keep one per thread to save allocations.
  struct scratch {
    struct symbol {
      std::uint32_t id;              ///< no_token: merged into the one before
      std::uint32_t previous, next;  ///< indices; no_token at the ends
    };
    struct candidate {
      std::uint32_t rank, at, merged;
      /// Heap order: the lowest rank on top, the leftmost of equals.
      friend bool operator<(const candidate& a, const candidate& b) noexcept {
        return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
      }
    };
    std::vector<std::uint32_t> ids, ranks;
    std::vector<symbol> symbols;
    std::vector<candidate> heap;
  };

  /// Looks at `vocabulary.tokens` in place: it must outlive the model and stay where it is.
  explicit bpe_model(const bpe_vocabulary& vocabulary);

  /// Appends the tokens of `word` to `out`. O(n log n).
  void encode(std::string_view word, scratch& space, std::vector<std::uint32_t>& out) const;

 private:
  struct pair_entry {
    std::uint64_t pair = ~std::uint64_t{0};
    std::uint32_t rank = 0;
    std::uint32_t merged = 0;
  };

  [[nodiscard]] const pair_entry* find_pair(std::uint32_t left, std::uint32_t right) const noexcept;
  void start_symbols(std::string_view word, std::vector<std::uint32_t>& ids) const;
  void merge_short(scratch& space) const;
  void merge_long(scratch& space) const;
  void push_candidate(scratch& space, std::uint32_t at) const;
  void encode_by_merges(std::string_view word, scratch& space) const;

  const token_table* tokens_;
  std::array<std::uint32_t, 256> byte_tokens_{};
  token_index words_;
  std::vector<pair_entry> pairs_;
  std::uint64_t pair_mask_ = 0;
  std::uint32_t unknown_;
  bool fuse_unknown_;
  bool ignore_merges_;
  /// Per id: do the merges make exactly this token out of its bytes? 0 not known yet, 1 yes, 2 no.
  /// Found out on first use; all threads find the same, so relaxed order is enough.
  std::unique_ptr<std::atomic<std::uint8_t>[]> is_whole_;
};

}  // namespace oriel::engine
