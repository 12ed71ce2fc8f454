// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `window_ring`: the circular allocator. One sequence's pages of one window kind, O(W) of them
/// however long the sequence grows, and still safe to share.
///
/// It is a ring of page *handles*, not of bytes. Logical page j lives in entry j mod R. Three
/// counters, in logical pages, cut the ring:
///
///        first            end             filled          first + R
///          |   live pages  |     spares     |  empty entries  |
///     -----+---------------+----------------+-----------------+-----
///
///   - live pages hold KV of this sequence that may still be read, the last of them partly;
///   - spares are pages of the ring that already stand in the entries of the next logical pages.
///
/// Opening logical page `end` turns a spare into a live page: no allocator traffic. When the window
/// moves on, page `first` slides out:
///
///   - nobody else holds it:  it becomes the last spare under a new handle. When the ring is full,
///     `filled` and `first` are the same entry, so the page is reused where it stands;
///   - someone does (a prefix tree to which it was published): the ring drops its reference, the
///     other keeps the page, and its bytes never change.
///
/// So content-stable sharing and O(W) storage go together. Only committed rows move the window;
/// rows that a step wrote and then rejected are simply written again.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/block_table.hpp>
#include <oriel/kv/page_allocator.hpp>
#include <oriel/kv/ring_geometry.hpp>

#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// A store whose pages may be published: a page can be shared by handle, and keeps its bytes while
/// it is shared. `window_ring` models it; `byte_ring` cannot.
// clang-format off
template <class S>
concept publishable = requires(S& s, std::uint32_t logical_page) {
  { s.share(logical_page) } noexcept -> std::same_as<page_handle>;
};
// clang-format on

/// @tparam Allocator  whose pages it holds; outlives the ring and does not move.
///
/// Invariant:     first_page() <= end_page() <= filled_page() <= first_page() + R, and one
///                reference to each page in [first_page(), filled_page()) is the ring's.
/// Thread safety: none.
/// Memory:        12 bytes per entry, taken in the constructor; nothing allocates later.
template <page_allocator Allocator>
class window_ring {
 public:
  /// An empty ring at length 0. Takes no page.
  /// @throws std::bad_alloc
  window_ring(Allocator& allocator, const ring_geometry& geometry)
      : allocator_(&allocator),
        geometry_(geometry),
        handles_(geometry.ring_pages()),
        ids_(geometry.ring_pages(), to_index(null_page)) {
    ORIEL_EXPECTS(geometry.page_size > 0 && geometry.window_tokens > 0);
  }

  window_ring(window_ring&& other) noexcept
      : allocator_(std::exchange(other.allocator_, nullptr)),
        geometry_(other.geometry_),
        handles_(std::move(other.handles_)),
        ids_(std::move(other.ids_)),
        length_(std::exchange(other.length_, 0)),
        first_(std::exchange(other.first_, 0)),
        end_(std::exchange(other.end_, 0)),
        filled_(std::exchange(other.filled_, 0)),
        scratch_end_(std::exchange(other.scratch_end_, 0)) {}
  window_ring& operator=(window_ring&&) = delete;

  ~window_ring() { release(); }

  [[nodiscard]] const ring_geometry& geometry() const noexcept { return geometry_; }
  /// Entries of the ring, R.
  [[nodiscard]] std::uint32_t ring_pages() const noexcept {
    return static_cast<std::uint32_t>(ids_.size());
  }
  /// Committed tokens.
  [[nodiscard]] std::uint32_t length() const noexcept { return length_; }
  /// First live logical page.
  [[nodiscard]] std::uint32_t first_page() const noexcept { return first_; }
  /// One past the last live logical page.
  [[nodiscard]] std::uint32_t end_page() const noexcept { return end_; }
  /// One past the last entry that has a page.
  [[nodiscard]] std::uint32_t filled_page() const noexcept { return filled_; }
  /// Pages the ring holds, live and spare; at most R.
  [[nodiscard]] std::uint32_t held_pages() const noexcept { return filled_ - first_; }

  /// The page of a live logical page. @pre first_page() <= logical < end_page()
  [[nodiscard]] page_handle operator[](std::uint32_t logical) const noexcept {
    ORIEL_EXPECTS(first_ <= logical && logical < end_);
    return handles_[entry(logical)];
  }

  /// What kernels read: [R] ids; an entry without a page is null_page.
  [[nodiscard]] block_table_view view() const noexcept { return {ids_, ring_pages()}; }

  /// Pages that `try_fill(tokens)` would take from the allocator. O(1).
  [[nodiscard]] std::uint32_t missing_pages(std::uint32_t tokens) const noexcept {
    const std::uint32_t pages = geometry_.ceil_pages(tokens), most = first_ + ring_pages();
    const std::uint32_t wanted = pages < most ? pages : most;
    return wanted > filled_ ? wanted - filled_ : 0;
  }

  /// Makes sure that there are pages for the first `tokens` tokens of the sequence, or for as many
  /// of them as the ring can hold at once: what an admission takes beforehand. The new pages are
  /// spares. Returns false and changes nothing if the allocator has too few. O(pages taken).
  [[nodiscard]] bool try_fill(std::uint32_t tokens) noexcept {
    std::uint32_t missing = missing_pages(tokens);
    filled_before_ = filled_;
    if (missing > allocator_->available()) {
      return false;
    }
    while (missing != 0) {  // The empty entries are one run, or two where it wraps.
      const std::uint32_t at = entry(filled_);
      const std::uint32_t run = missing < ring_pages() - at ? missing : ring_pages() - at;
      const std::span pages = std::span(handles_).subspan(at, run);
      if (!allocator_->try_allocate(pages)) {
        undo_fill();
        return false;
      }
      for (std::uint32_t i = 0; i < run; ++i) {
        ids_[at + i] = to_index(pages[i].id);
      }
      filled_ += run;
      missing -= run;
    }
    return true;
  }

  /// Returns what the last `try_fill` took: another pool said no. O(pages returned).
  /// @pre nothing happened to the ring in between
  void undo_fill() noexcept { give_back_spares(filled_before_); }

  /// Opens the pages for rows [length(), length() + rows), or returns false and changes nothing if
  /// the allocator has too few. O(pages opened).
  /// @pre rows <= geometry().step_tokens
  [[nodiscard]] bool try_reserve(std::uint32_t rows) noexcept {
    ORIEL_EXPECTS(rows <= geometry_.step_tokens);
    const std::uint32_t end = geometry_.ceil_pages(length_ + rows);
    ORIEL_ASSERT(end - first_ <= ring_pages());
    if (!try_fill(length_ + rows)) {
      return false;
    }
    end_ = end_ < end ? end : end_;
    return true;
  }

  /// Takes in the first `rows` reserved rows: accepted, and their KV is written. Rows reserved
  /// beyond are forgotten: reserve and write them again. No page slides out yet, so that all pages
  /// of the step can be shared; `slide_out` follows. O(1).
  /// @pre the rows were reserved
  void accept(std::uint32_t rows) noexcept {
    ORIEL_EXPECTS(geometry_.ceil_pages(length_ + rows) <= end_);
    length_ += rows;
  }

  /// Lets go of the pages that no boundary worth keeping needs (ring_geometry::first_kept_page).
  /// O(pages that slide out).
  void slide_out() noexcept {
    const std::uint32_t keep = geometry_.first_kept_page(length_);
    while (first_ < keep && !ORIEL_MUTANT(window_never_slides)) {
      slide();
    }
  }

  /// Both. O(pages that slide out).
  void commit(std::uint32_t rows) noexcept {
    accept(rows);
    slide_out();
  }

  /// First page that `share` may be asked for; pages before it have slid out, or are scratch.
  [[nodiscard]] std::uint32_t first_shareable_page() const noexcept {
    return first_ < scratch_end_ && !ORIEL_MUTANT(ring_hands_over_scratch) ? scratch_end_ : first_;
  }

  /// A reference to a live, whole, committed page, for a prefix tree to keep. The bytes of the page
  /// will not change while the reference is held; its holder releases it. O(1).
  /// @pre first_shareable_page() <= logical, (logical + 1) * page_size <= length()
  [[nodiscard]] page_handle share(std::uint32_t logical) noexcept {
    ORIEL_EXPECTS(logical >= scratch_end_ && logical < length_ / geometry_.page_size);
    const page_handle page = (*this)[logical];
    allocator_->add_ref(page);
    return page;
  }

  /// Starts a sequence behind a cached prefix: `pages` hold the logical pages that end at `length`.
  /// Takes a reference of its own to each; never writes to them. O(pages.size()).
  /// @pre the ring is new, length is a multiple of page_size, every page is live, and unless it
  ///      `may_lack` some, the pages reach back to the first_kept_page of a ring without slack, or
  ///      to position 0
  void adopt(std::uint32_t length,
             std::span<const page_handle> pages,
             bool may_lack = false) noexcept {
    const std::uint32_t end = length / geometry_.page_size;
    ORIEL_EXPECTS(length_ == 0 && filled_ == 0 && length % geometry_.page_size == 0);
    ORIEL_EXPECTS(pages.size() <= end &&
                  (may_lack || end - pages.size() <= first_needed_page(length)));
    ORIEL_EXPECTS(pages.size() <= ring_pages());
    length_ = length;
    first_ = end - static_cast<std::uint32_t>(pages.size());
    end_ = filled_ = first_;
    for (const page_handle page : pages) {
      allocator_->add_ref(page);
      put(filled_++, page);
    }
    end_ = filled_;
    commit(0);  // The lender may have given more than this ring keeps.
  }

  /// Starts a sequence that heals (prefix/heal.hpp) with no page, at any position: rows from `row`
  /// on will be written, and none before it read. O(1).
  /// @pre the ring is new
  void start_at(std::uint32_t row) noexcept {
    ORIEL_EXPECTS(length_ == 0 && filled_ == 0);
    length_ = row;
    first_ = end_ = filled_ = row / geometry_.page_size;
  }

  /// Makes the pages before logical page `end` scratch: some of their rows stay unwritten in some
  /// layers, so `share` refuses them until the ring is released. O(1).
  void keep_private_below(std::uint32_t end) noexcept { scratch_end_ = end; }

  /// Returns spares until `filled_page()` is at most `filled` (or no spare is left): after a
  /// prefill, whose steps are longer than a decode's. O(pages returned).
  void give_back_spares(std::uint32_t filled) noexcept {
    while (filled_ > end_ && filled_ > filled) {
      --filled_;
      drop(filled_);
    }
  }

  /// Lets go of every page; the ring is then as new. O(pages held).
  void release() noexcept {
    while (filled_ > first_) {
      --filled_;
      drop(filled_);
    }
    length_ = first_ = end_ = filled_ = scratch_end_ = 0;
  }

 private:
  [[nodiscard]] std::uint32_t entry(std::uint32_t logical) const noexcept {
    return logical % ring_pages();
  }

  [[nodiscard]] std::uint32_t first_needed_page(std::uint32_t length) const noexcept {
    ring_geometry without_slack = geometry_;
    without_slack.slack_pages = 0;
    return without_slack.first_kept_page(length);
  }

  void put(std::uint32_t logical, page_handle page) noexcept {
    handles_[entry(logical)] = page;
    ids_[entry(logical)] = to_index(page.id);
  }

  void drop(std::uint32_t logical) noexcept {
    const page_handle page = handles_[entry(logical)];
    put(logical, page_handle{});
    allocator_->release(std::span(&page, 1));
  }

  /// Page `first_` leaves the window.
  void slide() noexcept {
    const page_handle page = handles_[entry(first_)];
    if (allocator_->ref_count(page) == 1 || ORIEL_MUTANT(ring_reuses_a_shared_page)) {
      put(first_, page_handle{});
      ++first_;
      put(filled_, allocator_->renew(page));  // The same entry, if the ring was full.
      ++filled_;
    } else {
      drop(first_);
      ++first_;
    }
  }

  Allocator* allocator_;
  ring_geometry geometry_;
  std::vector<page_handle> handles_;                // [R]
  std::vector<std::uint32_t> ids_;                  // [R], the same pages as kernels take them
  std::uint32_t length_ = 0;                        // tokens
  std::uint32_t first_ = 0, end_ = 0, filled_ = 0;  // logical pages; see the picture above
  std::uint32_t filled_before_ = 0;                 // filled_ before the last try_fill
  std::uint32_t scratch_end_ = 0;                   // logical pages before it are never shared
};

}  // namespace oriel
