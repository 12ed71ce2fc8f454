// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/segment_disk_suite.hpp"

#include <catch2/catch.hpp>
#include <replay/replay_stores.hpp>
#include <replay/sparse_disk.hpp>
#include <support/scale.hpp>

#include <cstdint>

using namespace oriel;
using namespace oriel::replay;
using oriel_conformance::disk_bytes;
using oriel_conformance::move_blocks;

TEST_CASE("a sparse disk keeps the law of segment disks") {
  check_segment_disk([] { return sparse_disk(&trace_clock::now); }, scaled(4), 400);
}

TEST_CASE("a sparse disk keeps what lies before the zeros, and lets go of it") {
  sparse_disk disk(&trace_clock::now);
  REQUIRE(disk.create(3, 64 * 4096));
  const disk_bytes zeros(16);
  REQUIRE(move_blocks(disk, disk_op::write, 3, 0, zeros.all()) == 0);
  CHECK(disk.kept_bytes() == 0);
  disk_bytes some(16);
  some.all()[0] = std::byte{1};
  some.all()[2 * 4096 + 99] = std::byte{2};
  REQUIRE(move_blocks(disk, disk_op::write, 3, 8, some.all()) == 0);
  CHECK(disk.kept_bytes() == 8 + 104);
  const disk_bytes read(16, 7);
  REQUIRE(move_blocks(disk, disk_op::read, 3, 8, read.all()) == 0);
  CHECK(oriel_conformance::same_bytes(read.all(), some.all()));
  REQUIRE(move_blocks(disk, disk_op::write, 3, 8, zeros.all()) == 0);
  CHECK(disk.kept_bytes() == 0);
  REQUIRE(move_blocks(disk, disk_op::write, 3, 0, some.all()) == 0);
  REQUIRE(disk.remove(3));
  CHECK(disk.kept_bytes() == 0);
}
