// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_allocator`: what every KV pool, on every tier, promises to the layers above it.
#pragma once

#include <oriel/core/ids.hpp>

#include <concepts>
#include <cstdint>
#include <span>

namespace oriel {

/// A bounded source of equal-sized, reference-counted KV pages.
///
/// Syntax is checked by the compiler; the semantics below are checked by
/// `tests/conformance/page_allocator_suite.hpp`, which a user can run on a model of their own.
/// A handle is *live* from the call that made it until the last reference to its page is released
/// or the page is renewed; after that it is *stale* for ever, whoever owns the page next.
///
///  - `capacity()` never changes after construction.
///  - `available()` == capacity() - number of pages with at least one reference.
///  - `try_allocate(out)` fills all of `out` with live handles of distinct, unreferenced pages, one
///    reference each, and returns true; or returns false and changes nothing.
///  - `add_ref(h)` adds a reference.                                    @pre is_live(h)
///  - `release(pages)` takes one reference from each; a page left with none is allocatable again.
///                                                      @pre each is live, and has that many
///  - `renew(h)` gives the page a new handle and makes `h` stale, as release + try_allocate would,
///    but the page never passes through the free pages.       @pre is_live(h), ref_count(h) == 1
///  - `is_live(h)` is a question: any handle may be asked about.
///  - `ref_count(h)` is at least 1.                                     @pre is_live(h)
///
/// Models: `paged_allocator`, `page_pool`. (`window_ring` is a user of one.)
// clang-format off
template <class A>
concept page_allocator =
    std::movable<A> &&
    requires(A a, const A& ca, std::span<page_handle> out, std::span<const page_handle> in,
             page_handle h) {
      { ca.capacity() } noexcept -> std::same_as<std::uint32_t>;   // pages
      { ca.available() } noexcept -> std::same_as<std::uint32_t>;  // pages
      { a.try_allocate(out) } noexcept -> std::same_as<bool>;
      { a.add_ref(h) } noexcept -> std::same_as<void>;
      { a.release(in) } noexcept -> std::same_as<void>;
      { a.renew(h) } noexcept -> std::same_as<page_handle>;
      { ca.is_live(h) } noexcept -> std::same_as<bool>;
      { ca.ref_count(h) } noexcept -> std::same_as<std::uint32_t>;
    };
// clang-format on

}  // namespace oriel
