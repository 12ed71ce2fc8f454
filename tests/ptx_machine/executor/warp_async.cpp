// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The operands of mbarriers, copies, fences, stores to other blocks and setmaxnreg; what they do is block_async's.
#include "warp.hpp"
#include "warp_memory.hpp"

#include <ptx_machine/block/async.hpp>

namespace oriel::ptx_machine {
namespace {

block_async& async_of(const warp& w) {
  return *w.home->async;
}

issuer who(const warp& w, const decoded& d) {
  return {w.index, pc_of(w, d)};
}

std::uint32_t low_bits(const warp& w, const slot& s, std::uint32_t lane) {
  return static_cast<std::uint32_t>(w.bits(s, lane));
}

/// [a] of an mbarrier, and a function of (lane, offset) to call with each.
template <typename F>
outcome for_mbarriers(
    warp& w, const decoded& d, std::uint32_t lanes, const slot& memory, F function) {
  std::uint32_t offsets[warp_lanes];
  shared_offsets(w, d, lanes, memory, 8, offsets);
  for_lanes(lanes, [&](std::uint32_t i) { function(i, offsets[i]); });
  ++w.owner->events;
  return outcome::advance;
}

outcome mbarrier_init(warp& w, const decoded& d, std::uint32_t lanes) {
  return for_mbarriers(w, d, lanes, d.slots[0], [&](std::uint32_t i, std::uint32_t offset) {
    async_of(w).init(who(w, d), offset, low_bits(w, d.slots[1], i));
  });
}

outcome mbarrier_invalidate(warp& w, const decoded& d, std::uint32_t lanes) {
  return for_mbarriers(w, d, lanes, d.slots[0], [&](std::uint32_t, std::uint32_t offset) {
    async_of(w).invalidate(who(w, d), offset);
  });
}

/// mbarrier.arrive _, [a][, count]. The state that it could return nobody of ours reads.
outcome mbarrier_arrive(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!d.slots[0].none) {
    fail(w, d, warp_lanes, "the machine has no states of mbarriers to return");
  }
  return for_mbarriers(w, d, lanes, d.slots[1], [&](std::uint32_t i, std::uint32_t offset) {
    async_of(w).arrive(who(w, d), offset, d.slot_count > 2 ? low_bits(w, d.slots[2], i) : 1);
  });
}

/// `detail`: 1 for .relaxed.
outcome mbarrier_arrive_expect(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!d.slots[0].none) {
    fail(w, d, warp_lanes, "the machine has no states of mbarriers to return");
  }
  return for_mbarriers(w, d, lanes, d.slots[1], [&](std::uint32_t i, std::uint32_t offset) {
    async_of(w).arrive_expect(who(w, d), offset, low_bits(w, d.slots[2], i), d.detail == 0);
  });
}

outcome mbarrier_expect(warp& w, const decoded& d, std::uint32_t lanes) {
  return for_mbarriers(w, d, lanes, d.slots[0], [&](std::uint32_t i, std::uint32_t offset) {
    async_of(w).expect(who(w, d), offset, low_bits(w, d.slots[1], i));
  });
}

/// mbarrier.try_wait.parity p, [a], parity.
outcome mbarrier_try_wait(warp& w, const decoded& d, std::uint32_t lanes) {
  std::uint32_t offsets[warp_lanes];
  shared_offsets(w, d, lanes, d.slots[1], 8, offsets);
  std::uint32_t complete = 0;
  for_lanes(lanes, [&](std::uint32_t i) {
    const bool yes = async_of(w).try_wait(who(w, d), offsets[i], low_bits(w, d.slots[2], i));
    complete |= std::uint32_t{yes} << i;
  });
  w.set_predicate(d.slots[0], complete, lanes);
  return complete == lanes ? outcome::advance : outcome::yield;
}

outcome fence_proxy(warp& w, const decoded& d, std::uint32_t) {
  async_of(w).fence_proxy_async(who(w, d));
  return outcome::advance;
}

/// fence.acq_rel. (Device memory has one order for all here.)
outcome fence_memory(warp& w, const decoded&, std::uint32_t) {
  async_of(w).watch().fence(w.index);
  return outcome::advance;
}

outcome fence_init(warp& w, const decoded& d, std::uint32_t) {
  async_of(w).fence_mbarrier_init(who(w, d));
  return outcome::advance;
}

/// cp.async [destination], [source], bytes[, source bytes].
outcome copy(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::uint64_t bytes = uniform_bits(w, d, lanes, d.slots[2]);
  if (bytes != 16 && (d.detail != 0 || (bytes != 4 && bytes != 8))) {
    fail(w, d, warp_lanes, "a copy of " + std::to_string(bytes) + " bytes");
  }
  const auto size = static_cast<std::uint32_t>(bytes);
  std::uint32_t destination[warp_lanes];
  std::uint64_t source[warp_lanes];
  std::uint32_t source_bytes[warp_lanes] = {};
  shared_offsets(w, d, lanes, d.slots[0], size, destination);
  compute_addresses(w, d.slots[1], source);
  for_lanes(lanes, [&](std::uint32_t i) {
    source_bytes[i] = d.slot_count > 3 ? low_bits(w, d.slots[3], i) : size;
    if (source_bytes[i] > size) {
      fail(
          w, d, i, std::to_string(source_bytes[i]) + " bytes of source of " + std::to_string(size));
    }
  });
  async_of(w).copy(who(w, d), lanes, destination, source, size, source_bytes);
  ++w.owner->events;
  return outcome::advance;
}

outcome copy_commit(warp& w, const decoded& d, std::uint32_t lanes) {
  async_of(w).copy_commit(who(w, d), lanes);
  return outcome::advance;
}

outcome copy_wait(warp& w, const decoded& d, std::uint32_t lanes) {
  async_of(w).copy_wait(
      who(w, d), lanes, static_cast<std::uint32_t>(uniform_bits(w, d, lanes, d.slots[0])));
  ++w.owner->events;
  return outcome::advance;
}

outcome copy_wait_all(warp& w, const decoded& d, std::uint32_t lanes) {
  async_of(w).copy_wait_all(who(w, d), lanes);
  ++w.owner->events;
  return outcome::advance;
}

/// `detail`: 1 for .noinc.
outcome copy_arrive(warp& w, const decoded& d, std::uint32_t lanes) {
  return for_mbarriers(w, d, lanes, d.slots[0], [&](std::uint32_t i, std::uint32_t offset) {
    async_of(w).copy_arrive(who(w, d), i, offset, d.detail == 0);
  });
}

/// [destination], [source], bytes, [mbarrier].
outcome bulk_load(warp& w, const decoded& d, std::uint32_t lanes) {
  std::uint32_t destination[warp_lanes];
  std::uint64_t source[warp_lanes];
  std::uint32_t mbarrier[warp_lanes];
  shared_offsets(w, d, lanes, d.slots[0], 16, destination);
  compute_addresses(w, d.slots[1], source);
  shared_offsets(w, d, lanes, d.slots[3], 8, mbarrier);
  for_lanes(lanes, [&](std::uint32_t i) {
    async_of(w).bulk_load(
        who(w, d), destination[i], source[i], low_bits(w, d.slots[2], i), mbarrier[i]);
  });
  ++w.owner->events;
  return outcome::advance;
}

/// mapa.shared::cluster d, a, b: the address in the shared memory of block b that is a in this one.
outcome map_address(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::size_t blocks = w.home->group->blocks.size();
  for_lanes(lanes, [&](std::uint32_t i) {
    const std::uint32_t address = low_bits(w, d.slots[1], i);
    const std::uint32_t rank = low_bits(w, d.slots[2], i);
    if (rank >= blocks) {
      fail(w,
           d,
           i,
           "there is no block " + std::to_string(rank) + " in a cluster of " +
               std::to_string(blocks));
    }
    if (address >= w.home->shared.size()) {
      fail(w, d, i, hex(address) + " is no address of the block's own shared memory");
    }
    const bool is_own = rank == w.home->rank_in_cluster;
    w.set_bits(d.slots[0], i, is_own ? address : (rank + 1) << cluster_window_shift | address);
  });
  return outcome::advance;
}

/// st.async [destination], values, [mbarrier]; `detail`: bytes of a value.
outcome store_async(warp& w, const decoded& d, std::uint32_t lanes) {
  const cluster& group = *w.home->group;
  if (group.blocks.size() == 1) {
    fail(w, d, warp_lanes, "an st.async in a cluster of one block");
  }
  const std::uint32_t elements = d.slot_count - 2;
  std::uint64_t destinations[warp_lanes];
  std::uint64_t mbarriers[warp_lanes];
  compute_addresses(w, d.slots[0], destinations);
  compute_addresses(w, d.slots[elements + 1], mbarriers);
  const sender from{who(w, d),
                    w.home->rank_in_cluster,
                    std::make_shared<const shared_watch::cluster_clocks>(
                        async_of(w).watch().release_to_cluster(w.index))};
  for_lanes(lanes, [&](std::uint32_t i) {
    const cluster_place to = in_cluster(w, d, i, destinations[i]);
    const cluster_place at = in_cluster(w, d, i, mbarriers[i]);
    if (to.rank != at.rank) {
      fail(w,
           d,
           i,
           "it writes to the cluster's block " + std::to_string(to.rank) +
               ", and its mbarrier is in block " + std::to_string(at.rank));
    }
    std::byte value[16];
    for (std::uint32_t e = 0; e < elements; ++e) {
      const std::uint64_t bits = w.bits(d.slots[1 + e], i);
      std::memcpy(value + std::size_t{e} * d.detail, &bits, d.detail);
    }
    try {
      group.blocks[to.rank]->async->store_async(
          from, to.offset, {value, std::size_t{elements} * d.detail}, at.offset);
    } catch (const machine_error& e) {
      fail(w, d, i, "to the cluster's block " + std::to_string(to.rank) + ": " + e.what());
    }
  });
  ++w.owner->events;
  return outcome::advance;
}

/// [destination], [source], bytes.
outcome bulk_store(warp& w, const decoded& d, std::uint32_t lanes) {
  std::uint64_t destination[warp_lanes];
  std::uint32_t source[warp_lanes];
  compute_addresses(w, d.slots[0], destination);
  shared_offsets(w, d, lanes, d.slots[1], 16, source);
  for_lanes(lanes, [&](std::uint32_t i) {
    async_of(w).bulk_store(who(w, d), i, destination[i], source[i], low_bits(w, d.slots[2], i));
  });
  ++w.owner->events;
  return outcome::advance;
}

outcome bulk_prefetch(warp& w, const decoded& d, std::uint32_t lanes) {
  std::uint64_t source[warp_lanes];
  compute_addresses(w, d.slots[0], source);
  for_lanes(lanes, [&](std::uint32_t i) {
    async_of(w).bulk_prefetch(source[i], low_bits(w, d.slots[1], i));
  });
  return outcome::advance;
}

outcome bulk_commit(warp& w, const decoded& d, std::uint32_t lanes) {
  async_of(w).bulk_commit(who(w, d), lanes);
  return outcome::advance;
}

/// `detail`: 1 for .read.
outcome bulk_wait(warp& w, const decoded& d, std::uint32_t lanes) {
  const auto groups = static_cast<std::uint32_t>(uniform_bits(w, d, lanes, d.slots[0]));
  async_of(w).bulk_wait(who(w, d), lanes, groups, d.detail != 0);
  ++w.owner->events;
  return outcome::advance;
}

/// setmaxnreg; `detail`: 1 for .inc.
outcome set_registers(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  const auto registers = static_cast<std::uint32_t>(uniform_bits(w, d, lanes, d.slots[0]));
  if (d.detail != 0) {
    if (!async_of(w).registers().try_increase(who(w, d), registers)) {
      return outcome::blocked;
    }
  } else {
    async_of(w).registers().decrease(who(w, d), registers);
  }
  ++w.owner->events;
  return outcome::advance;
}

void add_cluster_opcodes(opcode_table& table) {
  table["mapa.shared::cluster.u32"] = {&map_address, 0, {4, 4, 4}};
  for (const std::string weak : {"", ".weak"}) {
    for (const std::string vector : {"", ".v2", ".v4"}) {
      const std::string start =
          "st.async" + weak + ".shared::cluster.mbarrier::complete_tx::bytes" + vector;
      for (const std::string type : {".b32", ".u32", ".s32", ".f32"}) {
        table[start + type] = {&store_async, 4, {0, 4}};
      }
      if (vector == ".v4") {
        continue;  // 16 bytes are the most.
      }
      for (const std::string type : {".b64", ".u64", ".s64", ".f64"}) {
        table[start + type] = {&store_async, 8, {0, 8}};
      }
    }
  }
}

void add_mbarriers(opcode_table& table) {
  for (const std::string space : {".shared.b64", ".shared::cta.b64"}) {
    table["mbarrier.init" + space] = {&mbarrier_init, 0, {0, 4}};
    table["mbarrier.inval" + space] = {&mbarrier_invalidate, 0, {}};
    table["mbarrier.arrive" + space] = {&mbarrier_arrive, 0, {0, 0, 4}};
    table["mbarrier.arrive.expect_tx" + space] = {&mbarrier_arrive_expect, 0, {0, 0, 4}};
    for (const std::string scope : {".cta", ".cluster"}) {
      table["mbarrier.arrive.expect_tx.release" + scope + space] = {
          &mbarrier_arrive_expect, 0, {0, 0, 4}};
      table["mbarrier.arrive.expect_tx.relaxed" + scope + space] = {
          &mbarrier_arrive_expect, 1, {0, 0, 4}};
      table["mbarrier.expect_tx.relaxed" + scope + space] = {&mbarrier_expect, 0, {0, 4}};
    }
    for (const std::string order : {"", ".acquire.cta", ".acquire.cluster"}) {
      table["mbarrier.try_wait.parity" + order + space] = {&mbarrier_try_wait, 0, {1, 0, 4}};
    }
    table["cp.async.mbarrier.arrive" + space] = {&copy_arrive, 0, {}};
    table["cp.async.mbarrier.arrive.noinc" + space] = {&copy_arrive, 1, {}};
  }
  table["fence.mbarrier_init.release.cluster"] = {&fence_init, 0, {}};
  table["fence.acq_rel.cluster"] = {&fence_memory, 0, {}};
  table["fence.acq_rel.gpu"] = {&fence_memory, 0, {}};
}

}  // namespace

void add_async_opcodes(opcode_table& table) {
  add_mbarriers(table);
  add_cluster_opcodes(table);
  table["fence.proxy.async"] = {&fence_proxy, 0, {}};
  table["fence.proxy.async.shared::cta"] = {&fence_proxy, 0, {}};
  table["cp.async.ca.shared.global"] = {&copy, 0, {0, 0, 4, 4}};
  table["cp.async.cg.shared.global"] = {&copy, 1, {0, 0, 4, 4}};
  table["cp.async.commit_group"] = {&copy_commit, 0, {}};
  table["cp.async.wait_group"] = {&copy_wait, 0, {4}};
  table["cp.async.wait_all"] = {&copy_wait_all, 0, {}};
  table["cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"] = {
      &bulk_load, 0, {0, 0, 4, 0}};
  table["cp.async.bulk.global.shared::cta.bulk_group"] = {&bulk_store, 0, {0, 0, 4}};
  table["cp.async.bulk.prefetch.L2.global"] = {&bulk_prefetch, 0, {0, 4}};
  table["cp.async.bulk.commit_group"] = {&bulk_commit, 0, {}};
  table["cp.async.bulk.wait_group"] = {&bulk_wait, 0, {4}};
  table["cp.async.bulk.wait_group.read"] = {&bulk_wait, 1, {4}};
  table["setmaxnreg.dec.sync.aligned.u32"] = {&set_registers, 0, {4}};
  table["setmaxnreg.inc.sync.aligned.u32"] = {&set_registers, 1, {4}};
}

}  // namespace oriel::ptx_machine
