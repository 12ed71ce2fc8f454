// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/memory.hpp>

#include <catch2/catch.hpp>
#include <support/resident.hpp>
#include <sys/wait.h>

#include <csignal>
#include <cstddef>
#include <cstdio>

#include <unistd.h>

namespace memory_test {

namespace {

/// Does reading `*p` end the process? Asked of a forked child.
bool faults(const std::byte* p) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    const std::byte read = *const_cast<const volatile std::byte*>(p);
    ::_exit(static_cast<int>(read) * 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

constexpr std::size_t gib = std::size_t{1} << 30;

}  // namespace

TEST_CASE("hundreds of GiB of addresses cost nothing") {
  const std::size_t before = resident_bytes();
  auto addresses = oriel::address_only_memory::reserve(512 * gib);
  auto grown = oriel::on_demand_memory::reserve(256 * gib);
  REQUIRE(addresses);
  REQUIRE(grown);
  CHECK(addresses->commit(512 * gib));
  CHECK(addresses->committed_bytes() == 0);
  CHECK(grown->committed_bytes() == 0);
  CHECK(resident_bytes() < before + (std::size_t{8} << 20));
}

TEST_CASE("what is not committed cannot be touched") {
  auto addresses = oriel::address_only_memory::reserve(gib);
  REQUIRE(addresses);
  REQUIRE(addresses->commit(gib));
  CHECK(faults(addresses->base()));

  auto grown = oriel::on_demand_memory::reserve(gib);
  REQUIRE(grown);
  CHECK(faults(grown->base()));
  REQUIRE(grown->commit(1));
  CHECK_FALSE(faults(grown->base()));
  CHECK(grown->committed_bytes() == oriel::on_demand_memory::commit_step_bytes);
  CHECK_FALSE(faults(grown->base() + grown->committed_bytes() - 1));
  CHECK(faults(grown->base() + grown->committed_bytes()));
}

TEST_CASE("huge pages are aligned to themselves") {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{5} << 20, std::size_t{32} << 20}) {
    auto memory = oriel::huge_page_memory::reserve(bytes);
    REQUIRE(memory);
    CHECK(reinterpret_cast<std::uintptr_t>(memory->base()) %
              oriel::huge_page_memory::huge_page_bytes ==
          0);
    memory->base()[bytes - 1] = std::byte{1};
    CHECK(memory->base()[0] == (bytes == 1 ? std::byte{1} : std::byte{0}));
  }
}

}  // namespace memory_test
