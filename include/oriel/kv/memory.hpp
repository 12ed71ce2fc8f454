// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `kv_memory`: where the bytes of a pool live, and when they start to cost anything.
///
///     policy                 after reserve(n)             commit(m)          for
///     host_memory            n bytes, paged in by use     nothing to do      engines; the default
///     huge_page_memory       the same, on 2 MiB pages     nothing to do      long contexts (fewer
///                            where the system offers it                      TLB misses)
///     on_demand_memory       n addresses, no bytes        the first m bytes  "grows on demand"
///     address_only_memory    n addresses, no bytes        nothing, for ever  planning (inspect)
#pragma once

#include <oriel/core/result.hpp>

#include <concepts>
#include <cstddef>

namespace oriel {

/// One contiguous range of addresses for the pages of one pool.
///
///  - `M::reserve(n)` gives a range of n bytes whose base is a multiple of 64 (null when n is 0),
///    or errc::out_of_memory with errno. It commits as little as the policy can.
///  - `commit(m)` makes the bytes [0, m) usable and returns success, or errc::out_of_memory with
///    errno and changes nothing. Committed bytes never move and stay committed.   @pre m <= n
///  - `committed_bytes()` is at least the largest m committed so far and at most n; 0 for ever
///    where nothing can be stored.
///  - `M::stores_bytes` is false if the range can never be read or written.
///
/// The law is `tests/conformance/kv_memory_suite.hpp`.
/// Models: the four of the table above.
// clang-format off
template <class M>
concept kv_memory =
    std::movable<M> &&
    requires(M m, const M& cm, std::size_t bytes) {
      { M::stores_bytes } -> std::convertible_to<bool>;
      { M::reserve(bytes) } noexcept -> std::same_as<result<M>>;
      { m.commit(bytes) } noexcept -> std::same_as<status>;
      { cm.base() } noexcept -> std::same_as<std::byte*>;
      { cm.size_bytes() } noexcept -> std::same_as<std::size_t>;
      { cm.committed_bytes() } noexcept -> std::same_as<std::size_t>;
    };
// clang-format on

}  // namespace oriel

namespace oriel::detail {

/// Owns a range of addresses; gives it back in the destructor. What the policies share.
class memory_range {
 public:
  using giver_back = void (*)(std::byte* base, std::size_t size_bytes) noexcept;

  memory_range() noexcept = default;
  memory_range(std::byte* base, std::size_t size, std::size_t committed, giver_back give) noexcept
      : base_(base), size_bytes_(size), committed_bytes_(committed), give_back_(give) {}
  memory_range(memory_range&& other) noexcept { swap(other); }
  memory_range& operator=(memory_range&& other) noexcept {
    memory_range old(static_cast<memory_range&&>(other));
    swap(old);
    return *this;
  }
  ~memory_range() {
    if (base_ != nullptr) {
      give_back_(base_, size_bytes_);
    }
  }

  /// First byte; null when size_bytes() is 0.
  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] std::size_t committed_bytes() const noexcept { return committed_bytes_; }

 protected:
  void set_committed(std::size_t bytes) noexcept { committed_bytes_ = bytes; }

 private:
  void swap(memory_range& other) noexcept;

  std::byte* base_ = nullptr;
  std::size_t size_bytes_ = 0;
  std::size_t committed_bytes_ = 0;
  giver_back give_back_ = nullptr;
};

}  // namespace oriel::detail

namespace oriel {

/// Ordinary memory of the process, aligned to 64 bytes. The system backs a page when it is first
/// touched; nothing is zeroed by us.
class host_memory : public detail::memory_range {
 public:
  static constexpr bool stores_bytes = true;
  [[nodiscard]] static result<host_memory> reserve(std::size_t bytes) noexcept;
  /// Everything is committed from the start. @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept;

 private:
  using memory_range::memory_range;
};

/// Memory aligned to 2 MiB and offered to the system for transparent huge pages. Where they are
/// switched off this is ordinary zeroed memory.
class huge_page_memory : public detail::memory_range {
 public:
  static constexpr bool stores_bytes = true;
  static constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;
  [[nodiscard]] static result<huge_page_memory> reserve(std::size_t bytes) noexcept;
  /// Everything is committed from the start. @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept;

 private:
  using memory_range::memory_range;
};

/// Addresses first, bytes when a page is first handed out: the pool grows on demand without a copy
/// and without a second budget. Touching what is not committed faults at once.
class on_demand_memory : public detail::memory_range {
 public:
  static constexpr bool stores_bytes = true;
  /// Bytes are committed in steps of this, so that a growing pool rarely enters the kernel.
  static constexpr std::size_t commit_step_bytes = std::size_t{16} << 20;
  [[nodiscard]] static result<on_demand_memory> reserve(std::size_t bytes) noexcept;
  /// @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept;

 private:
  using memory_range::memory_range;
};

/// Addresses that can never be touched: to build pools of any size and count what fits, for free.
/// A pool over it has no `layer` and no `bytes`: not storing is visible in the type.
class address_only_memory : public detail::memory_range {
 public:
  static constexpr bool stores_bytes = false;
  [[nodiscard]] static result<address_only_memory> reserve(std::size_t bytes) noexcept;
  /// Commits nothing, and says so: committed_bytes() stays 0. @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept;

 private:
  using memory_range::memory_range;
};

static_assert(kv_memory<host_memory>);
static_assert(kv_memory<huge_page_memory>);
static_assert(kv_memory<on_demand_memory>);
static_assert(kv_memory<address_only_memory>);

}  // namespace oriel
