// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel cache`: looks after the folder of a disk tier.
#include "cache_folder.hpp"
#include "commands.hpp"
#include "support.hpp"

#include <oriel/tier/segment_store.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <unistd.h>

namespace oriel::cli {
namespace {

using json = nlohmann::ordered_json;

constexpr const char* snapshot_name = "index-snapshot";

json group_json(const cache_group& g) {
  json sessions = json::array();
  for (const std::uint64_t session : g.sessions) {
    sessions.push_back(tenant_text(session));
  }
  return {{"namespace", digest_text(g.name_space)},
          {"tenant", tenant_text(g.tenant)},
          {"sessions", std::move(sessions)},
          {"full_pages", g.full_pages},
          {"window_pages", g.window_pages},
          {"tokens", g.tokens},
          {"bytes", g.bytes},
          {"oldest_s", g.oldest_s},
          {"youngest_s", g.youngest_s},
          {"next_expiry_s", g.next_expiry_s ? json(*g.next_expiry_s) : json(nullptr)}};
}

json damage_json(const cache_contents& c) {
  json all = json::array();
  for (const cache_damage& d : c.damage) {
    all.push_back({{"file", d.file}, {"offset", d.offset}, {"bytes", d.bytes}, {"kind", d.kind}});
  }
  return all;
}

json contents_json(const std::string& folder, const cache_contents& c) {
  return {{"folder", folder},
          {"health", c.damage.empty() ? "healthy" : "damaged"},
          {"segments", c.segments},
          {"segment_bytes", c.segment_bytes},
          {"records", c.records},
          {"pages", c.pages},
          {"bytes", c.bytes},
          {"over_pages", c.over_pages},
          {"tombstones", c.tombstones}};
}

std::string span_text(double seconds) {
  return seconds < 120     ? fmt::format("{:.0f} s", seconds)
         : seconds < 7'200 ? fmt::format("{:.0f} min", seconds / 60)
                           : fmt::format("{:.1f} h", seconds / 3'600);
}

void print_damage(const cache_contents& c) {
  for (const cache_damage& d : c.damage) {
    print_out("{}: {} bytes at {}: {}\n", d.file, d.bytes, d.offset, d.kind);
  }
}

void list(const cache_options& o) {
  directory_disk disk = open_cache_folder(o.folder, disk_access::read_only);
  const cache_contents c = read_cache_folder(disk, false);
  if (o.json) {
    json object = contents_json(o.folder, c);
    object["damaged_places"] = c.damage.size();
    object["groups"] = json::array();
    for (const cache_group& g : c.groups) {
      object["groups"].push_back(group_json(g));
    }
    print_out("{}\n", object.dump());
    return;
  }
  print_out("{}: {} pages, {} of {} in {} segments; {} pages are over, {} tombstones\n",
            o.folder,
            c.pages,
            bytes_text(c.bytes),
            bytes_text(c.segment_bytes),
            c.segments,
            c.over_pages,
            c.tombstones);
  if (!c.groups.empty()) {
    print_out("{:<16}  {:<16} {:>8} {:>8} {:>8} {:>10} {:>11} {:>16} {:>10}\n",
              "namespace",
              "tenant",
              "sessions",
              "full",
              "window",
              "tokens",
              "size",
              "written",
              "expires");
  }
  for (const cache_group& g : c.groups) {
    print_out("{:<16}  {:<16} {:>8} {:>8} {:>8} {:>10} {:>11} {:>16} {:>10}\n",
              digest_text(g.name_space).substr(0, 16),
              tenant_text(g.tenant),
              g.sessions.size() - g.sessions.count(0),
              g.full_pages,
              g.window_pages,
              g.tokens,
              bytes_text(g.bytes),
              fmt::format("{} - {}", span_text(g.youngest_s), span_text(g.oldest_s)),
              g.next_expiry_s ? span_text(*g.next_expiry_s) : "never");
  }
  if (!c.damage.empty()) {
    print_out(
        "{} places are damaged: `oriel cache verify {}` says which\n", c.damage.size(), o.folder);
  }
}

int verify(const cache_options& o) {
  directory_disk disk = open_cache_folder(o.folder, disk_access::read_only);
  const cache_contents c = read_cache_folder(disk, true);
  if (o.json) {
    json object = contents_json(o.folder, c);
    object["read_bytes"] = c.read_bytes;
    object["damage"] = damage_json(c);
    print_out("{}\n", object.dump());
  } else {
    print_damage(c);
    print_out("{}: {} records in {} segments read, {}: {}\n",
              o.folder,
              c.records,
              c.segments,
              bytes_text(c.read_bytes),
              c.damage.empty() ? "all sound"
                               : fmt::format("{} damaged places; hits avoid them, and they go "
                                             "with their segments",
                                             c.damage.size()));
  }
  return c.damage.empty() ? exit_ok : exit_failure;
}

std::uint64_t id_of(const std::string& text) {
  std::uint64_t id = 0;  // The command line was checked: hex digits, 16 at most.
  std::from_chars(text.data(), text.data() + text.size(), id, 16);
  return id;
}

/// The one namespace of the folder that begins so.
page_digest name_space_of(const cache_contents& c, const cache_options& o) {
  const cache_group* found = nullptr;
  for (const cache_group& g : c.groups) {
    if (digest_text(g.name_space).starts_with(o.name_space) &&
        (found == nullptr || !(found->name_space == g.name_space))) {
      if (found != nullptr) {
        throw engine::error(fmt::format(
            "{}: several namespaces begin with {}: give more digits", o.folder, o.name_space));
      }
      found = &g;
    }
  }
  if (found == nullptr) {
    throw engine::error(
        fmt::format("{}: no namespace begins with {}: `oriel cache list --json {}` "
                    "shows them",
                    o.folder,
                    o.name_space,
                    o.folder));
  }
  return found->name_space;
}

void expect(const cache_options& o, const status& done) {
  if (!done) {
    throw engine::error(fmt::format("{}: {}: {}; run it again",
                                    o.folder,
                                    done.error().detail,
                                    std::strerror(done.error().native)));
  }
}

/// The snapshot first, then the oldest segments: a tombstone goes after what it killed.
void remove_all(directory_disk& disk, const cache_options& o) {
  expect(o, disk.remove_small(snapshot_name));
  expect(o, disk.sync_names());
  const auto files = disk.list();
  if (!files) {
    throw engine::error(fmt::format("{}: {}", o.folder, files.error().detail));
  }
  for (const disk_file& file : *files) {
    expect(o, disk.remove(file.file));
    expect(o, disk.sync_names());
  }
}

/// Tombstones, by the store itself: they are durable when it says done.
/// @param records  that the folder has
void drop(directory_disk& disk,
          const cache_options& o,
          const store_item& item,
          std::uint64_t records) {
  const auto files = disk.list();
  if (!files) {
    throw engine::error(fmt::format("{}: {}", o.folder, files.error().detail));
  }
  std::uint64_t bytes = 0;
  for (const disk_file& file : *files) {
    bytes += file.bytes;
  }
  // With room for some more segments, and for twice the entries, none is reclaimed. Small ones, but
  // not so small that all would be more than a store can have.
  const std::uint64_t segment_bytes =
      std::max(std::uint64_t{1} << 20, record_padded(bytes / 16'384));
  segment_store store(disk,
                      {.capacity_bytes = bytes + 8 * segment_bytes,
                       .segment_bytes = segment_bytes,
                       .pages_max = static_cast<std::uint32_t>(
                           std::min<std::uint64_t>(2 * records + 16, 0xFFFF'FFF0u))});
  store_completion done;
  if (store.submit({&item, 1}, no_deadline) != 1) {
    throw engine::error(fmt::format("{}: the store takes nothing", o.folder));
  }
  while (store.poll({&done, 1}) == 0) {
    store.wait(no_deadline);
  }
  if (done.outcome != store_outcome::done) {
    const store_fault fault = store.last_fault();
    throw engine::error(fmt::format("{}: not erased: {}: {} {}: {}",
                                    o.folder,
                                    name_of(done.outcome),
                                    fault.operation,
                                    fault.where,
                                    std::strerror(fault.native)));
  }
}

bool is_confirmed(const cache_options& o, const std::string& what) {
  if (o.yes) {
    return true;
  }
  note("erase {} from {}? Type yes: ", what, o.folder);
  std::array<char, 16> answer{};
  return std::fgets(answer.data(), answer.size(), stdin) != nullptr &&
         std::strcmp(answer.data(), "yes\n") == 0;
}

int clear(const cache_options& o) {
  if (!o.yes && isatty(STDIN_FILENO) == 0) {
    note("oriel: cache clear erases for good: say --yes\nSee `oriel cache --help`.\n");
    return exit_usage;
  }
  directory_disk disk = open_cache_folder(o.folder, disk_access::existing);
  const cache_contents before = read_cache_folder(disk, false);
  store_item item;
  std::string what = "everything";
  if (!o.name_space.empty()) {
    item.op = store_op::drop_space;
    item.key = {name_space_of(before, o), 0};
    what = "namespace " + digest_text(item.key.link);
  } else if (!o.session.empty()) {
    item.op = store_op::drop_session;
    item.owner = {id_of(o.tenant), id_of(o.session)};
    what = fmt::format("session {} of tenant {}", o.session, o.tenant);
  } else if (!o.tenant.empty()) {
    item.op = store_op::drop_tenant;
    item.owner = {id_of(o.tenant), 0};
    what = "tenant " + o.tenant;
  }
  if (!o.tenant.empty() && std::ranges::none_of(before.groups, [&](const cache_group& g) {
        return g.tenant == item.owner.tenant &&
               (o.session.empty() || g.sessions.contains(item.owner.session));
      })) {
    throw engine::error(
        fmt::format("{}: nothing in it is {}'s: `oriel cache list --json {}` names all of them",
                    o.folder,
                    what,
                    o.folder));
  }
  if (!is_confirmed(o, what)) {
    note("oriel: nothing was erased\n");
    return exit_failure;
  }
  if (item.op == store_op::get) {
    remove_all(disk, o);
  } else {
    drop(disk, o, item, before.records);
  }
  const cache_contents after = read_cache_folder(disk, false);
  print_out("{}: {} of {} pages erased: {}\n",
            o.folder,
            before.pages - std::min(before.pages, after.pages),
            before.pages,
            what);
  return exit_ok;
}

}  // namespace

int cache(const cache_options& o) {
  switch (o.action) {
    case cache_action::list:
      list(o);
      return exit_ok;
    case cache_action::verify:
      return verify(o);
    case cache_action::clear:
      return clear(o);
  }
  return exit_failure;
}

}  // namespace oriel::cli
