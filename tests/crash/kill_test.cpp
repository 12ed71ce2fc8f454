// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Real processes, really killed: what was acknowledged is found by the next one, what was deleted
// is not, and no byte is wrong. Which moment a kill hits is chance; what must hold then is not.
#include "crash/oracle.hpp"
#include "support/scale.hpp"

#include <oriel/tier/uring_disk.hpp>

#include <catch2/catch.hpp>

#include <string>

namespace kill_test {

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

TEST_CASE("kill -9 over threads", "[crash]") {
  check_lives(900, 2, "threads");
}

TEST_CASE("kill -9 over threads and the page cache", "[crash]") {
  check_lives(600, 3, "buffered");
}

TEST_CASE("kill -9 of a store that evicts: no wrong byte, and nothing that was deleted",
          "[crash]") {
  for (const std::string disk : {"threads", "buffered"}) {
    crash::tally t;
    REQUIRE(run_lives(scaled(100), 4, {.disk = disk, .segments = 4}, false, t) == "");
    say(disk, t);
    CHECK((t.kills < 100 || (t.hits > t.kills && t.gone > t.kills)));
  }
}

TEST_CASE("two programs, one folder: the second is told so, and harms nothing", "[crash]") {
  crash::tally t;
  crash::oracle first(ORIEL_CRASH_WORKER, {.disk = "threads"}, 5'001, true, t);
  for (int round = 0; round < 8; ++round) {
    INFO("round " << round);
    REQUIRE(first.start_until(crash::told::asked) == "");
    REQUIRE(first.go_on(std::chrono::milliseconds(2)) == "");
    // Another owner of the same folder, while the first is at work.
    const crash::message said = first.rival();
    CHECK(said.what == crash::told::closed);
    CHECK(said.count == static_cast<std::uint64_t>(oriel::errc::locked));
    REQUIRE(first.go_on(std::chrono::milliseconds(2)) == "");
    REQUIRE(first.end_life() == "");  // Killed. The next round opens at once and misses nothing.
  }
  CHECK(t.kills == 8);
  CHECK(t.must_hits > 0);
}

#ifdef ORIEL_CRASH_WORKER_MUTANTS
TEST_CASE("kill -9 finds planted bugs", "[crash]") {
  struct planted {
    std::string name;
    bool is_chance = false;  ///< only torn writes show it, and these are rare: told, not demanded
  };
  const planted mutant = GENERATE(planted{""},
                                  planted{"put_is_acknowledged_early"},
                                  planted{"tombstone_is_not_written"},
                                  planted{"tombstones_are_not_replayed"},
                                  planted{"slice_checksum_is_ignored", true});
  crash::tally t;
  const std::string why = run_lives(mutant.name.empty() ? 40 : 300,
                                    6,
                                    {.disk = "threads", .mutant = mutant.name},
                                    true,
                                    t,
                                    ORIEL_CRASH_WORKER_MUTANTS);
  WARN((mutant.name.empty() ? "no mutant" : mutant.name)
       << (why.empty() ? " survives " + std::to_string(t.kills) + " kills" : ": " + why));
  CHECK((mutant.is_chance || why.empty() == mutant.name.empty()));
}
#endif

}  // namespace kill_test
