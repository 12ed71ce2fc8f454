// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sequence_kv`: the pages of one running sequence in all pools, and the tables kernels read.
///
///     auto seq = pools.try_admit({.tokens_now = prompt, .tokens_max = prompt + max_new});
///     seq->reserve(n);                // pages for rows [length, length + n), all pools or none
///     kernels run on seq->table(pool)
///     seq->commit(accepted);          // accepted <= n rows count; windows move on
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kv/block_table.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/kv/window_ring.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// How a sequence starts that runs rows of a cached prefix again, because their window KV is gone.
/// What is computed of them is the runner's affair (prefix/heal.hpp).
struct heal_start {
  std::uint32_t first_row = 0;  ///< the position to start at; < borrowed_prefix::length
  /// Per window kind, the first page that the heal leaves whole. Earlier ones are never shared.
  std::span<const std::uint32_t> first_shared_pages;  ///< [window kinds]
};

/// Pages of a cached prefix, lent to a new sequence. The lender keeps them live until the sequence
/// exists; the sequence takes its own references.
struct borrowed_prefix {
  std::uint32_t length = 0;           ///< tokens, a multiple of page_size; 0 = nothing is lent
  std::span<const page_handle> full;  ///< [length / page_size]
  /// Per window kind, the last pages before the position where the sequence starts: `length`, or
  /// heal->first_row. At least need(start), see window_ring::adopt; of the soft kind what there is,
  /// and none to a heal. A heal that reads no earlier window lends none; it may then start anywhere
  /// in a page.
  std::span<const std::span<const page_handle>> windows = {};  ///< [window kinds], or none
  std::optional<heal_start> heal = {};
};

/// Owns one reference to each page it holds and releases them when it goes. The full table is the
/// authority on length; it never shrinks while the sequence runs. A window page hangs below it in
/// the ring of its kind, or has slid out.
///
/// @tparam Pool  a page_pool; the array of pools outlives the sequence and does not move.
///
/// Thread safety: none.
/// Memory:        12 bytes per page of tokens_max and per ring entry, taken at admission. Nothing
///                allocates later.
template <class Pool>
class sequence_kv {
 public:
  /// Tables without pages; `dual_pool::try_admit` makes sequences and fills them.
  /// @param pools  [1 + plan.window_kinds()]
  /// @throws std::bad_alloc
  sequence_kv(std::span<Pool> pools, const pool_plan& plan, std::uint32_t tokens_max)
      : pools_(pools.data()),
        step_tokens_(plan.options().step_tokens),
        page_size_(plan.options().page_size),
        soft_kind_(plan.soft_kind()),
        full_(plan.pages_for(full_pool, tokens_max)) {
    rings_.reserve(plan.window_kinds());
    for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
      rings_.emplace_back(pools_[kind + 1], plan.ring(kind));
    }
  }

  sequence_kv(sequence_kv&& other) noexcept
      : pools_(std::exchange(other.pools_, nullptr)),
        step_tokens_(other.step_tokens_),
        page_size_(other.page_size_),
        length_(std::exchange(other.length_, 0)),
        reserved_(std::exchange(other.reserved_, 0)),
        lent_tokens_(std::exchange(other.lent_tokens_, 0)),
        soft_kind_(other.soft_kind_),
        soft_(std::exchange(other.soft_, {})),
        full_(std::move(other.full_)),
        rings_(std::move(other.rings_)) {}
  sequence_kv& operator=(sequence_kv&& other) noexcept {
    sequence_kv old(std::move(other));
    std::swap(pools_, old.pools_);
    std::swap(step_tokens_, old.step_tokens_);
    std::swap(page_size_, old.page_size_);
    std::swap(length_, old.length_);
    std::swap(reserved_, old.reserved_);
    std::swap(lent_tokens_, old.lent_tokens_);
    std::swap(soft_kind_, old.soft_kind_);
    std::swap(soft_, old.soft_);
    std::swap(full_, old.full_);
    std::swap(rings_, old.rings_);
    return *this;
  }
  ~sequence_kv() { release(); }

  /// Committed tokens.
  [[nodiscard]] std::uint32_t length() const noexcept { return length_; }
  /// Tokens whose full KV was lent. Rows before it are read from the full pool and never written
  /// there, also those that a heal runs.
  [[nodiscard]] std::uint32_t lent_tokens() const noexcept { return lent_tokens_; }
  /// The rows to run next belong to the lent prefix.
  [[nodiscard]] bool healing() const noexcept { return length_ < lent_tokens_; }
  /// Rows of the soft kind that nobody writes any more, of this sequence or of its lender:
  /// [first, end). Pages with other rows are not shared. Who drafts says how far that is; rows
  /// before `first` were never written, and are not read.
  struct row_range {
    std::uint32_t first = 0, end = 0;
    friend bool operator==(const row_range&, const row_range&) = default;
  };
  [[nodiscard]] row_range soft_rows() const noexcept { return soft_; }
  /// O(1). @pre rows.end <= length(); soft_rows() grows at its end, or is given up for later rows
  void set_soft_rows(row_range rows) noexcept {
    ORIEL_EXPECTS(rows.first <= rows.end && rows.end <= length_ && rows.end >= soft_.end);
    ORIEL_EXPECTS(rows.first == soft_.first || rows.first >= soft_.end);
    soft_ = rows;
  }
  /// The window pages of a kind that may be shared now: [first, end), in logical pages. O(1).
  /// @pre kind < window_kinds()
  [[nodiscard]] row_range shareable_pages(std::uint32_t kind) const noexcept {
    const window_ring<Pool>& pages = ring(kind);
    row_range shared{pages.first_shareable_page(),
                     std::min(length_ / page_size_, pages.end_page())};
    if (kind == soft_kind_) {
      const std::uint32_t first = soft_.first / page_size_ + (soft_.first % page_size_ != 0);
      shared.first = std::max(shared.first, first);
      shared.end = std::min(shared.end, soft_.end / page_size_);
    }
    shared.end = std::max(shared.first, shared.end);
    return shared;
  }
  /// Tokens per page, in every pool.
  [[nodiscard]] std::uint32_t page_size() const noexcept { return page_size_; }
  /// Tokens that have room in the tables: pages of tokens_max.
  [[nodiscard]] std::uint64_t capacity_tokens() const noexcept {
    return std::uint64_t{full_.capacity_pages()} * page_size_;
  }
  [[nodiscard]] std::uint32_t window_kinds() const noexcept {
    return static_cast<std::uint32_t>(rings_.size());
  }

  /// The table of a pool, for kernels: flat for the full pool, circular for a window pool. The ids
  /// stay in place while the sequence lives; take the view again after `reserve` and `commit`.
  [[nodiscard]] block_table_view table(pool_id pool) const noexcept {
    return pool == full_pool ? full_table() : ring_table(to_index(pool) - 1);
  }
  [[nodiscard]] block_table_view full_table() const noexcept { return full_.view(); }
  /// @pre kind < window_kinds()
  [[nodiscard]] block_table_view ring_table(std::uint32_t kind) const noexcept {
    return ring(kind).view();
  }

  /// The pages by handle.
  [[nodiscard]] const block_table& full_pages() const noexcept { return full_; }
  /// @pre kind < window_kinds()
  [[nodiscard]] const window_ring<Pool>& ring(std::uint32_t kind) const noexcept {
    ORIEL_EXPECTS(kind < rings_.size());
    return rings_[kind];
  }

  /// Makes room for rows [length(), length() + rows) in every pool, or changes nothing in any.
  /// Reserving again before `commit` replaces the earlier reservation; rows it had and this one has
  /// not are forgotten, their pages are kept for later. O(pools + pages taken).
  /// @pre     rows <= step_tokens of the pools
  /// @returns errc::request_too_large beyond tokens_max, errc::out_of_pages, errc::out_of_memory
  status reserve(std::uint32_t rows) noexcept {
    ORIEL_EXPECTS(rows <= step_tokens_);
    if (rows > capacity_tokens() - length_) {
      return failure{errc::request_too_large, 0, "beyond the tokens_max of the admission"};
    }
    if (status taken = take_pages(length_ + rows); !taken) {
      return taken;
    }
    for (window_ring<Pool>& ring : rings_) {
      const bool opened = ring.try_reserve(rows);
      ORIEL_EXPECTS(opened);  // Its pages are there already.
    }
    reserved_ = rows;
    return {};
  }

  /// Takes in the first `rows` reserved rows: they are accepted and their KV is written. Rows
  /// reserved beyond are rolled back. Windows keep every page of the step, so that a prefix tree
  /// can be given any of them; call `slide_out` before the next `reserve`. O(pools).
  /// @pre rows <= the rows last reserved
  void accept(std::uint32_t rows) noexcept {
    ORIEL_EXPECTS(rows <= reserved_);
    length_ += ORIEL_MUTANT(rejected_rows_count) ? reserved_ : rows;
    reserved_ = 0;
    for (window_ring<Pool>& ring : rings_) {
      ring.accept(rows);
    }
  }

  /// Windows let go of what no boundary needs. O(pools + pages that slide out).
  void slide_out() noexcept {
    for (window_ring<Pool>& ring : rings_) {
      ring.slide_out();
    }
  }

  /// Both. O(pools + pages that slide out). @pre as accept
  void commit(std::uint32_t rows) noexcept {
    accept(rows);
    slide_out();
  }

  /// Pages that `take_pages(tokens)` would take from a pool. O(1).
  [[nodiscard]] std::uint32_t missing_pages(pool_id pool, std::uint32_t tokens) const noexcept {
    if (pool != full_pool) {
      return rings_[to_index(pool) - 1].missing_pages(tokens);
    }
    const std::uint32_t pages = tokens / page_size_ + (tokens % page_size_ != 0 ? 1u : 0u);
    return pages - std::min(pages, full_.size_pages());
  }

  /// Takes full pages for `tokens` tokens and window pages for as many of them as the rings hold,
  /// in every pool or in none; the rings' pages are spares. What admission and `reserve` share.
  /// O(pools + pages taken).
  /// @pre     tokens <= capacity_tokens()
  /// @returns errc::out_of_pages, errc::out_of_memory
  status take_pages(std::uint32_t tokens) noexcept {
    const std::uint32_t pages = tokens / page_size_ + (tokens % page_size_ != 0 ? 1u : 0u);
    const std::uint32_t had = full_.size_pages();
    const std::uint32_t missing = pages > had ? pages - had : 0;
    if (missing > pools_[0].available()) {
      return failure{errc::out_of_pages, 0, "full pages"};
    }
    for (std::uint32_t kind = 0; kind < rings_.size(); ++kind) {
      if (rings_[kind].missing_pages(tokens) > pools_[kind + 1].available() &&
          !ORIEL_MUTANT(shortfall_keeps_full_pages)) {
        return failure{errc::out_of_pages, 0, "window pages"};
      }
    }
    // There are pages everywhere. From here on only the system can refuse, while it commits bytes.
    if (!pools_[0].try_allocate(full_.tail(missing))) {
      return pools_[0].refusal();
    }
    full_.append_tail(missing);
    for (std::uint32_t kind = 0; kind < rings_.size(); ++kind) {
      if (!rings_[kind].try_fill(tokens)) {
        for (std::uint32_t filled = kind; filled-- > 0;) {
          rings_[filled].undo_fill();
        }
        // Backwards: the free pages keep their order.
        while (full_.size_pages() > had && !ORIEL_MUTANT(shortfall_keeps_full_pages)) {
          pools_[0].release(full_[full_.size_pages() - 1]);
          full_.truncate(full_.size_pages() - 1);
        }
        return pools_[kind + 1].refusal();
      }
    }
    return {};
  }

  /// Starts behind a cached prefix, whose pages are shared and never written, or inside it to heal
  /// its windows. O(pages lent).
  /// @pre the sequence is new, and see window_ring::adopt
  void adopt(const borrowed_prefix& prefix) noexcept {
    ORIEL_EXPECTS(length_ == 0 && full_.size_pages() == 0);
    ORIEL_EXPECTS(prefix.length == std::uint64_t{page_size_} * prefix.full.size());
    for (const page_handle page : prefix.full) {
      pools_[0].add_ref(page);
    }
    full_.append(prefix.full);
    lent_tokens_ = prefix.length;
    length_ = prefix.heal ? prefix.heal->first_row : prefix.length;
    if (!prefix.heal || !prefix.windows.empty()) {
      ORIEL_EXPECTS(prefix.windows.size() == rings_.size());
      for (std::uint32_t kind = 0; kind < rings_.size(); ++kind) {
        rings_[kind].adopt(length_, prefix.windows[kind], kind == soft_kind_);
      }
    } else {
      for (window_ring<Pool>& ring : rings_) {
        ring.start_at(length_);
      }
    }
    if (prefix.heal) {
      ORIEL_EXPECTS(healing() && prefix.heal->first_shared_pages.size() == rings_.size());
      for (std::uint32_t kind = 0; kind < rings_.size(); ++kind) {
        rings_[kind].keep_private_below(prefix.heal->first_shared_pages[kind]);
      }
    }
    if (soft_kind_) {
      const std::uint32_t first =
          prefix.heal ? prefix.length : rings_[*soft_kind_].first_page() * page_size_;
      soft_ = {first, prefix.heal ? first : prefix.length};
    }
  }

  /// A reference to a whole committed page, for a prefix tree to keep; its holder releases it to
  /// the pool. The bytes of the page do not change any more. O(1).
  /// @pre (logical + 1) * page_size <= length(), and in a window pool
  ///      ring(kind).first_shareable_page() <= logical
  [[nodiscard]] page_handle share(pool_id pool, std::uint32_t logical) noexcept {
    ORIEL_EXPECTS(to_index(pool) <= rings_.size() && logical < length_ / page_size_);
    if (pool != full_pool) {
      return rings_[to_index(pool) - 1].share(logical);
    }
    pools_[0].add_ref(full_[logical]);
    return full_[logical];
  }

  /// Takes another page with the same bytes into the full table: a prefix tree that already has the
  /// tokens keeps its own page, and the sequence goes on with that one. O(1).
  /// @pre (logical + 1) * page_size <= length(), `page` is a live page of the full pool
  void switch_full_page(std::uint32_t logical, page_handle page) noexcept {
    ORIEL_EXPECTS(logical < length_ / page_size_);
    const page_handle old = full_[logical];
    pools_[0].add_ref(page);
    full_.replace(logical, ORIEL_MUTANT(switch_leaves_the_table) ? old : page);
    pools_[0].release(ORIEL_MUTANT(switch_leaves_the_table) ? page : old);
  }

  /// Returns the window pages that steps of up to `step_tokens` rows cannot need: call it between a
  /// prefill and its decode, whose steps are shorter. A later, longer step takes pages again.
  /// O(pages returned).
  void give_back_spares(std::uint32_t step_tokens) noexcept {
    for (window_ring<Pool>& ring : rings_) {
      ring_geometry shorter = ring.geometry();
      shorter.step_tokens = step_tokens;
      ring.give_back_spares(ring.first_page() + shorter.ring_pages());
    }
  }

  /// Lets go of every page. The sequence is then as new, with the same tables. O(pages held).
  void release() noexcept {
    if (pools_ != nullptr) {
      pools_[0].release(full_.handles());
      full_.truncate(0);
      for (window_ring<Pool>& ring : rings_) {
        ring.release();
      }
      length_ = reserved_ = lent_tokens_ = 0;
      soft_ = {};
    }
  }

 private:
  Pool* pools_;  // [1 + window kinds]; null once moved from
  std::uint32_t step_tokens_;
  std::uint32_t page_size_;
  std::uint32_t length_ = 0;    // tokens
  std::uint32_t reserved_ = 0;  // rows
  std::uint32_t lent_tokens_ = 0;
  std::optional<std::uint32_t> soft_kind_;
  row_range soft_;
  block_table full_;
  std::vector<window_ring<Pool>> rings_;  // [window kinds]
};

}  // namespace oriel
