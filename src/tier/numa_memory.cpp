// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/numa_memory.hpp>

#include <sys/syscall.h>

#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace oriel {
namespace {

constexpr int nodes_max = 1'024;
constexpr int mpol_bind = 2;  // <linux/mempolicy.h>, which comes with libnuma on some systems.

thread_local int chosen_node = -1;

int node_of_this_cpu() noexcept {
  unsigned cpu = 0, node = 0;
  return ::syscall(SYS_getcpu, &cpu, &node, nullptr) == 0 ? static_cast<int>(node) : 0;
}

bool bind(void* base, std::size_t bytes, int node) noexcept {
  if (node < 0 || node >= nodes_max) {
    return false;
  }
  constexpr int bits = 8 * sizeof(unsigned long);
  unsigned long mask[nodes_max / bits] = {};
  mask[node / bits] = 1ul << (node % bits);
  // The kernel wants one more than the bits it reads.
  return ::syscall(SYS_mbind, base, bytes, mpol_bind, mask, nodes_max + 1ul, 0u) == 0;
}

}  // namespace

numa_node_scope::numa_node_scope(int node) noexcept : before_(chosen_node) {
  chosen_node = node;
}

numa_node_scope::~numa_node_scope() {
  chosen_node = before_;
}

result<numa_memory> numa_memory::reserve(std::size_t bytes) noexcept {
  auto reserved = huge_page_memory::reserve(bytes);
  if (!reserved) {
    return reserved.error();
  }
  numa_memory memory;
  memory.memory_ = std::move(*reserved);
  if (bytes != 0) {
    memory.node_ = chosen_node >= 0 ? chosen_node : node_of_this_cpu();
    memory.is_bound_ = bind(memory.base(), bytes, memory.node_);
  }
  return memory;
}

bool numa_balancing_is_on() noexcept {
  const int file = ::open("/proc/sys/kernel/numa_balancing", O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return false;
  }
  char digit = '0';
  const bool is_read = ::read(file, &digit, 1) == 1;
  ::close(file);
  return is_read && digit != '0';
}

}  // namespace oriel
