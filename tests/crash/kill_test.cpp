// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Real processes, really killed: what was acknowledged is found by the next one, what was deleted
// is not, and no byte is wrong. Which moment a kill hits is chance; what must hold then is not.
#include "crash/oracle.hpp"
#include "support/scale.hpp"

#include <oriel/tier/uring_disk.hpp>

#include <catch2/catch.hpp>

#include <string>

namespace {

bool has_io_uring() {
  const temporary_directory place;
  const auto disk = oriel::uring_disk::open({.directory = (place.path() / "kv").string()});
  if (!disk) {
    WARN("skipped: io_uring is not to be had here: " << disk.error().detail);
  }
  return disk.has_value();
}

void say(const std::string& disk, const crash::tally& t) {
  WARN(disk << (t.is_direct ? ", O_DIRECT" : ", through the page cache") << ": killed " << t.kills
            << " times, " << t.early_kills << " before it had answered, " << t.begun_kills
            << " with a write begun, " << t.write_kills << " with one on the disk; "
            << t.orderly_ends << " orderly ends; " << t.acknowledged << " acknowledged, " << t.hits
            << " hits (" << t.must_hits << " that had to be), " << t.gone
            << " misses; unacknowledged puts found whole " << t.landed << ", in parts " << t.torn
            << ", not at all " << t.absent << "; damaged blocks " << t.damaged_blocks);
}

/// Lives until `kills` were killed. @returns empty, or what went wrong
std::string run_lives(std::uint64_t kills,
                      std::uint64_t seed,
                      const crash::life_plan& plan,
                      bool is_strict,
                      crash::tally& t,
                      const char* program = ORIEL_CRASH_WORKER) {
  for (std::uint64_t folder = 1; t.kills < kills; ++folder) {
    crash::oracle oracle(program, plan, seed * 1'000 + folder, is_strict, t);
    for (int lives = 0; t.kills < kills && lives < 40 && !(is_strict && oracle.is_full());
         ++lives) {
      if (std::string why = oracle.live(); !why.empty()) {
        return why;
      }
    }
  }
  return {};
}

void check_lives(std::uint64_t kills, std::uint64_t seed, const std::string& disk) {
  crash::tally t;
  REQUIRE(run_lives(scaled(kills), seed, {.disk = disk}, true, t) == "");
  say(disk, t);
  if (t.kills < 100) {
    return;  // Too few to say something of shares.
  }
  CHECK(10 * t.write_kills >= 3 * t.kills);
  CHECK(t.must_hits > t.kills);
  CHECK(t.gone > t.kills);
  CHECK(t.landed > 0);
  CHECK(t.orderly_ends > 0);
}

}  // namespace

TEST_CASE("kill -9 over io_uring", "[crash]") {
  if (has_io_uring()) {
    check_lives(1'500, 1, "io_uring");
  } else {
    check_lives(1'500, 1, "threads");
  }
}

TEST_CASE("kill -9 over threads", "[crash]") { check_lives(900, 2, "threads"); }

TEST_CASE("kill -9 over threads and the page cache", "[crash]") { check_lives(600, 3, "buffered"); }
