// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The program that tests kill: it opens a folder with a segment store, says what it finds there,
// and then puts, erases, drops and syncs pages until somebody kills it. It tells of each operation
// before it begins and after it ended, and judges nothing.
//
//     crash_worker FOLDER DISK SEED FIRST-SEQUENCE OPERATIONS SEGMENTS [MUTANT]
#include "crash/crash_page.hpp"

#include <oriel/core/mutation.hpp>
#include <oriel/core/random.hpp>
#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_store.hpp>

#include <sys/mman.h>
#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>

using namespace oriel;

namespace {

std::string chosen_mutant;

void tell(const crash::message& m) {
  if (::write(crash::pipe_fd, &m, sizeof(m)) != sizeof(m)) {
    ::_exit(3);  // nobody listens
  }
}

segment_store_options options_of(const crash::life_plan& plan) {
  segment_store_options o;
  o.segment_bytes = crash::segment_bytes;
  o.capacity_bytes = plan.segments * o.segment_bytes;
  o.pages_max = 4096;
  o.queue_items = 256;
  o.bounce_bytes = 2 << 20;
  o.batch_bytes = crash::segment_bytes;
  o.batches_in_flight = 2;
  o.reads_in_flight = 32;
  return o;
}

/// A page under way, with memory of its own: each slice at another place, so that a write has many
/// parts.
struct operation {
  explicit operation(std::uint32_t page) : names(page) {
    for (const std::size_t bytes : crash::slice_bytes_of(page)) {
      memory.emplace_back(bytes);
      names.slices.push_back(memory.back().bytes().first(bytes));
    }
  }
  crash::named_page names;
  std::vector<oriel_test::aligned_bytes> memory;
  std::uint64_t sequence = 0;
  bool is_under_way = false;
};

class worker {
 public:
  worker(const crash::life_plan& plan, directory_disk& disk, std::span<std::byte> memory)
      : plan_(plan),
        disk_(disk),
        store_(disk, options_of(plan)),
        memory_(memory),
        draw_(plan.seed, 1),
        present_(crash::pages) {
    const segment_store_state state = store_.state();
    tell({.what = crash::told::opened,
          .native = disk.direct() ? 1 : 0,
          .count = state.recovered_pages,
          .damaged = state.damaged_blocks + state.unreadable_blocks});
  }

  /// Gets most pages: what was not read since the start may be written a second time.
  void answer() {
    std::vector<std::unique_ptr<crash::named_page>> asked;
    std::vector<store_item> items;
    for (std::uint32_t page = 0; page < crash::pages; ++page) {
      if (draw_.next_below(4) != 0) {
        asked.push_back(std::make_unique<crash::named_page>(page));
        asked.back()->slices = crash::arrival(memory_, page);
        items.push_back(asked.back()->item(store_op::get, page));
      }
    }
    std::size_t taken = 0, done = 0;
    while (done < items.size()) {
      taken += store_.submit(std::span(items).subspan(taken), no_deadline);
      store_.wait(no_deadline);
      store_completion some[16];
      for (const store_completion& c : std::span(some).first(store_.poll(some))) {
        present_[c.user] = c.outcome == store_outcome::done;
        tell({.what = crash::told::answered,
              .outcome = c.outcome,
              .page = static_cast<std::uint32_t>(c.user),
              .native = c.native});
        ++done;
      }
    }
    tell({.what = crash::told::asked});
  }

  void work() {
    while (begun_ < plan_.operations) {
      begin_some();
      do {
        take_ended();
      } while (under_way_ >= depth && store_.wait(no_deadline));
    }
    while (under_way_ != 0) {
      store_.wait(no_deadline);
      take_ended();
    }
  }

 private:
  static constexpr std::size_t depth = 40;

  store_op draw_op() {
    const std::uint32_t n = draw_.next_below(100);
    return n < 86   ? store_op::put
           : n < 94 ? store_op::erase
           : n < 97 ? store_op::drop_session
                    : store_op::sync;
  }

  /// Puts go where nothing is, or it would be nothing to do; erases where something is.
  std::uint32_t draw_page(store_op op) {
    std::uint32_t page = draw_.next_below(crash::pages);
    for (int tries = 0; tries < 8 && present_[page] == (op == store_op::put); ++tries) {
      page = draw_.next_below(crash::pages);
    }
    return page;
  }

  operation& free_operation(std::uint32_t page) {
    for (const std::unique_ptr<operation>& o : operations_[page]) {
      if (!o->is_under_way) {
        return *o;
      }
    }
    return *operations_[page].emplace_back(std::make_unique<operation>(page));
  }

  /// Several at once, so that one write carries many.
  void begin_some() {
    std::vector<store_item> items;
    const std::size_t burst = std::min<std::size_t>(1 + draw_.next_below(16), depth - under_way_);
    const std::uint64_t first = begun_;
    for (std::size_t i = 0; i < burst; ++i) {
      const store_op op = draw_op();
      const std::uint32_t page = draw_page(op);
      operation& o = free_operation(page);
      o.sequence = plan_.first_sequence + begun_++;
      o.is_under_way = true;
      ++under_way_;
      if (op == store_op::put) {
        crash::fill(o.names.slices, page, o.sequence);
      }
      present_[page] = op == store_op::put || (op == store_op::sync && present_[page]);
      items.push_back(o.names.item(op, reinterpret_cast<std::uintptr_t>(&o)));
      tell({.what = crash::told::begun, .op = op, .page = page, .sequence = o.sequence});
    }
    for (std::size_t taken = 0; taken < items.size();) {
      const std::size_t more = store_.submit(std::span(items).subspan(taken), no_deadline);
      taken += more;
      if (more == 0) {
        store_.wait(no_deadline);
      }
    }
    tell({.what = crash::told::sent,
          .sequence = plan_.first_sequence + first,
          .last_sequence = plan_.first_sequence + begun_ - 1,
          .count = disk_.in_flight()});
  }

  void take_ended() {
    store_completion some[16];
    for (const store_completion& c : std::span(some).first(store_.poll(some))) {
      auto& o = *reinterpret_cast<operation*>(static_cast<std::uintptr_t>(c.user));
      tell({.what = crash::told::ended,
            .op = c.op,
            .outcome = c.outcome,
            .native = c.native,
            .sequence = o.sequence,
            .count = disk_.in_flight()});
      o.is_under_way = false;
      --under_way_;
    }
  }

  const crash::life_plan& plan_;
  directory_disk& disk_;
  segment_store<directory_disk> store_;
  std::span<std::byte> memory_;
  random_stream draw_;
  std::vector<bool> present_;  // as far as we know; a hint for what to do next
  std::vector<std::unique_ptr<operation>> operations_[crash::pages];
  std::uint64_t begun_ = 0;
  std::size_t under_way_ = 0;
};

}  // namespace

#ifdef ORIEL_MUTANTS
bool oriel::detail::mutant_was_chosen(const char* name) noexcept {
  return !chosen_mutant.empty() && chosen_mutant == name;
}
#endif

int main(int count, char** arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // Never outlives the test.
  if (count < 7) {
    return 2;
  }
  const auto number = [&](int i) { return std::strtoull(arguments[i], nullptr, 10); };
  const crash::life_plan plan{.folder = arguments[1],
                              .disk = arguments[2],
                              .seed = number(3),
                              .first_sequence = number(4),
                              .operations = number(5),
                              .segments = number(6)};
  chosen_mutant = count > 7 ? arguments[7] : "";
  constexpr std::size_t bytes = crash::pages * crash::page_room_bytes;
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, crash::memory_fd, 0);
  if (memory == MAP_FAILED) {
    return 2;
  }
  auto disk = directory_disk::open(
      {.directory = plan.folder,
       .backend = plan.disk == "io_uring" ? disk_backend::io_uring : disk_backend::threads,
       .threads = 4,
       .direct = plan.disk != "buffered"});
  if (!disk) {
    tell({.what = crash::told::closed,
          .native = disk.error().native,
          .count = static_cast<std::uint64_t>(disk.error().code)});
    return 0;
  }
  {
    worker w(plan, *disk, {static_cast<std::byte*>(memory), bytes});
    w.answer();
    w.work();
  }
  return 0;
}
