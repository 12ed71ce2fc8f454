// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `numa_memory`: huge pages on one NUMA node, the one next to the device that pages come from.
/// A copy from the far node costs a third to a half of its speed.
#pragma once

#include <oriel/kv/memory.hpp>

#include <cstddef>

namespace oriel {

/// Where `numa_memory` reserves on this thread, as long as the scope lives. Scopes nest.
class numa_node_scope {
 public:
  /// @param node  of the system's numbering; one that is not there binds nothing
  explicit numa_node_scope(int node) noexcept;
  ~numa_node_scope();
  numa_node_scope(const numa_node_scope&) = delete;
  numa_node_scope& operator=(const numa_node_scope&) = delete;

 private:
  int before_;
};

/// As `huge_page_memory`, bound to the node of the innermost `numa_node_scope`, or of the CPU that
/// reserves. Where the system refuses (one node, a container without the right) it is
/// `huge_page_memory`, and `is_bound()` says so. The binding needs no libnuma: two system calls.
class numa_memory {
 public:
  static constexpr bool stores_bytes = true;
  [[nodiscard]] static result<numa_memory> reserve(std::size_t bytes) noexcept;
  /// Everything is committed from the start. @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept { return memory_.commit(bytes); }
  [[nodiscard]] std::byte* base() const noexcept { return memory_.base(); }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return memory_.size_bytes(); }
  [[nodiscard]] std::size_t committed_bytes() const noexcept { return memory_.committed_bytes(); }

  /// The node it was asked for; -1: reserved nothing.
  [[nodiscard]] int node() const noexcept { return node_; }
  /// Did the system accept the binding?
  [[nodiscard]] bool is_bound() const noexcept { return is_bound_; }

 private:
  huge_page_memory memory_;
  int node_ = -1;
  bool is_bound_ = false;
};

static_assert(kv_memory<numa_memory>);

/// Does the system move pages between nodes by itself (/proc/sys/kernel/numa_balancing)? It unmaps
/// what it watches: each first touch faults, and what is bound cannot move anyway. Whoever starts
/// an engine should say so to its operator. False where there is no such file.
[[nodiscard]] bool numa_balancing_is_on() noexcept;

}  // namespace oriel
