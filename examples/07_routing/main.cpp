// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 07: two routers, each a process, that share what they know through Redis. Three workers
// tell what they have; both routers send a conversation where its prefix is, and say why. One is
// killed, and a new one knows as much; Redis is restarted, and they go by session hash meanwhile.
// Without redis-server in the path: the same routers in one process, over the embedded log.
// Next: 08_attention reads KV out of pages.
#include "local_redis.hpp"

#include <oriel/core/random.hpp>
#include <oriel/route/affinity_router.hpp>
#include <oriel/route/embedded_state_store.hpp>
#include <oriel/route/fleet_mirror.hpp>
#include <oriel/tier/redis_state_store.hpp>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

using namespace oriel;

constexpr std::uint32_t workers = 3, conversations = 6, page = 64;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
void rest() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}
[[noreturn]] void give_up(const char* what) {
  std::printf("example 07: %s\n", what);
  std::exit(1);
}

/// The links of a conversation's 100 pages; an engine has them from hash_pages.
std::vector<chain_hash> links_of(std::uint32_t conversation) {
  std::vector<chain_hash> links(100);
  random_stream draw(conversation);
  for (chain_hash& link : links) {
    link = {std::uint64_t{draw.next_bits()} << 32 | draw.next_bits(), conversation};
  }
  return links;
}

/// A worker that has every third conversation, and says so.
template <class Store>
struct worker {
  worker_voice<Store> voice;
  std::uint32_t number;
  std::uint64_t beats = 0, sequence = 0;

  worker(Store& log, Store& wishes, std::uint32_t w)
      : voice(log, wishes, worker_id{w}), number(w) {}

  void tell(bool is_replay) {
    worker_event e{.worker = worker_id{number}, .epoch = 1};
    const auto mark = [&](worker_event_kind kind) {
      e.kind = kind;
      e.is_replay = false;
      e.sequence = sequence;
      e.links = {};
      voice.event(e, now_s());
    };
    is_replay ? mark(worker_event_kind::replay_begin) : void();
    std::uint64_t count = 0;
    for (std::uint32_t c = number; c < conversations; c += workers) {
      const auto links = links_of(c);
      for (const std::uint32_t pool : {0u, 1u}) {  // full pages; windows at the end of them
        e.kind = worker_event_kind::stored;
        e.is_replay = is_replay;
        e.pool = pool;
        e.first_page = pool == 0 ? 0 : 97;
        e.parent = pool == 0 ? chain_hash{} : links[96];
        e.links = std::span(links).subspan(e.first_page);
        e.sequence = is_replay ? 0 : ++sequence;
        voice.event(e, now_s());
        ++count;
      }
    }
    e.replay_events = count;
    is_replay ? mark(worker_event_kind::replay_end) : void();
  }
  void live() {
    voice.beat({.worker = worker_id{number}, .sequence = ++beats, .at_s = now_s()}, {}, now_s());
    if (voice.pump(now_s())) {
      tell(true);
    }
  }
};

template <class Store>
struct router_of {
  using affinity = affinity_router<predicted_seconds>;
  std::uint32_t number;
  affinity router;
  fleet_mirror<Store, affinity> mirror;
  std::uint64_t next_id = 1;

  router_of(Store& log, Store& wishes, std::uint32_t n)
      : number(n),
        router({.index = {.page_size = page, .windows = {128}, .workers = workers},
                .health = {.eject_after_s = 60.0},
                .router = n}),
        mirror(log, wishes, router, {.sender = 1000 + n, .degrade_after_s = 0.5}) {}

  void live() { mirror.pump(now_s()); }
  [[nodiscard]] bool knows_all() const {
    return router.index().memory().pages == 100 * conversations && !router.is_degraded();
  }
  [[nodiscard]] static route_request request(std::uint64_t id,
                                             std::uint32_t conversation,
                                             std::span<const chain_hash> links) {
    return {
        .id = id, .session = conversation + 1, .prompt_tokens = 100 * page + 20, .links = links};
  }
  void place(std::uint32_t conversation) {
    const auto links = links_of(conversation);
    const route_answer a = router.route(request(next_id, conversation, links), now_s());
    mirror.tell(a, now_s());
    std::printf(
        "  router %u: conversation %u goes to worker %u (%s; %u of 100 pages there, %.0f ms)\n",
        number,
        conversation,
        to_index(a.decision.worker),
        router.is_degraded() ? "by session hash" : "by prefix",
        a.decision.prefix.safe_pages[0],
        1e3 * a.decision.estimate_s);
    router.finished(next_id++, a.attempt, now_s());
  }
  void explain(std::uint32_t conversation) {
    const auto links = links_of(conversation);
    std::vector<route_candidate> rows;
    router.explain(request(0, conversation, links), now_s(), rows);
    std::printf(
        "  router %u, conversation %u:  worker  pages  queue   prefill  duplicate  total s\n",
        number,
        conversation);
    for (const route_candidate& r : rows) {
      std::printf("%36u %6u %6.3f %9.3f %10.3f %8.3f\n",
                  to_index(r.worker),
                  r.prefix.safe_pages[0],
                  r.terms.queue_s,
                  r.terms.prefill_s,
                  r.terms.duplicate_s,
                  r.terms.total);
    }
  }
};

redis_state_options options_for(std::uint16_t port, const char* name, bool reads) {
  redis_state_options o;
  o.redis.url = "redis://127.0.0.1:" + std::to_string(port);
  o.redis.backoff_max_us = 50'000;
  o.name = name;
  o.reads = reads;
  return o;
}

/// A router in a process of its own. It takes orders of two bytes and answers each with one.
class router_process {
 public:
  router_process(std::uint32_t number, std::uint16_t port) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      give_up("no socket pair");
    }
    std::fflush(stdout);
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      serve(number, port, ends[1]);
    }
    ::close(ends[1]);
    fd_ = ends[0];
  }
  ~router_process() { kill(); }
  router_process(const router_process&) = delete;
  router_process& operator=(const router_process&) = delete;

  void kill() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
      ::close(fd_);
      child_ = 0;
    }
  }
  /// @returns its answer; 'x' if it is gone
  char order(char what, char conversation = 0) const {
    const char out[2] = {what, conversation};
    char in = 'x';
    if (::write(fd_, out, 2) != 2 || ::read(fd_, &in, 1) != 1) {
      return 'x';
    }
    return in;
  }

 private:
  [[noreturn]] static void serve(std::uint32_t number, std::uint16_t port, int fd) {
    redis_state_store log(options_for(port, "log", true)),
        wishes(options_for(port, "wishes", true));
    router_of<redis_state_store> r(log, wishes, number);
    for (char order[2];;) {
      const ssize_t got = ::recv(fd, order, 2, MSG_DONTWAIT);
      if (got == 0) {
        ::_exit(0);
      }
      r.live();
      if (got != 2) {
        rest();
        continue;
      }
      char answer = 'y';
      if (order[0] == 'p') {
        r.place(static_cast<std::uint32_t>(order[1]));
      } else if (order[0] == 'e') {
        r.explain(static_cast<std::uint32_t>(order[1]));
      } else {  // 'k': do you know all?  'd': is your view too old?
        answer = (order[0] == 'k' ? r.knows_all() : r.router.is_degraded()) ? 'y' : 'n';
      }
      std::fflush(stdout);
      if (::send(fd, &answer, 1, MSG_NOSIGNAL) != 1) {
        ::_exit(0);
      }
    }
  }

  pid_t child_ = 0;
  int fd_ = -1;
};

void over_redis(const std::string& program) {
  local_redis redis(program);
  std::vector<std::unique_ptr<router_process>> routers;
  for (std::uint32_t n = 1; n <= 2; ++n) {
    routers.push_back(std::make_unique<router_process>(n, redis.port()));
  }
  std::deque<redis_state_store> doors;
  std::deque<worker<redis_state_store>> fleet;
  for (std::uint32_t w = 0; w < workers; ++w) {
    redis_state_store& log = doors.emplace_back(options_for(redis.port(), "log", false));
    fleet.emplace_back(log, doors.emplace_back(options_for(redis.port(), "wishes", true)), w)
        .tell(false);
  }
  const auto live_until = [&](char question) {
    for (const double end_s = now_s() + 30.0; now_s() < end_s; rest()) {
      bool is_so = true;
      for (auto& w : fleet) {
        w.live();
      }
      for (auto& r : routers) {
        is_so = r->order(question) == 'y' && is_so;
      }
      if (is_so) {
        return;
      }
    }
    give_up("the routers do not come to know what they should");
  };
  std::puts("Two routers, two processes, one Redis. Both go by the prefix:");
  live_until('k');
  for (char c = 0; c < 3; ++c) {
    routers[static_cast<std::size_t>(c) % 2]->order('p', c);
  }
  routers[1]->order('e', 4);
  std::puts("Router 1 is killed. A new one reads the log:");
  routers[0] = nullptr;
  routers[0] = std::make_unique<router_process>(3, redis.port());
  live_until('k');
  routers[0]->order('p', 4);
  std::puts("Redis is gone. Nobody waits for it:");
  redis.stop();
  live_until('d');
  routers[0]->order('p', 5);
  routers[1]->order('p', 5);
  std::puts("Redis is back, empty. Routers go on; a new one asks the workers:");
  redis.start();
  routers.push_back(std::make_unique<router_process>(4, redis.port()));
  live_until('k');
  for (auto& r : routers) {
    r->order('p', 5);
  }
}

void in_one_process() {
  std::puts("There is no redis-server here: two routers of this process share the embedded log.");
  embedded_log log(4096), wishes(256);
  std::deque<embedded_state_store> doors;
  const auto door = [&](embedded_log& to) -> embedded_state_store& {
    return doors.emplace_back(to);
  };
  std::deque<worker<embedded_state_store>> fleet;
  std::deque<router_of<embedded_state_store>> routers;
  for (std::uint32_t w = 0; w < workers; ++w) {
    embedded_state_store& to_log = door(log);
    fleet.emplace_back(to_log, door(wishes), w).tell(false);
  }
  const auto add_router = [&](std::uint32_t number) {
    embedded_state_store& to_log = door(log);
    routers.emplace_back(to_log, door(wishes), number);
  };
  const auto live = [&] {
    for (int i = 0; i < 5; ++i) {
      for (auto& w : fleet) {
        w.live();
      }
      for (auto& r : routers) {
        r.live();
      }
      rest();
    }
  };
  add_router(1);
  add_router(2);
  live();
  for (std::uint32_t c = 0; c < 3; ++c) {
    routers[c % 2].place(c);
  }
  routers[1].explain(4);
  std::puts("Router 1 is gone. A new one reads the log:");
  routers.pop_front();
  add_router(3);
  live();
  routers.back().place(4);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // Several processes write.
  if (const std::string program = find_redis_server(); program.empty()) {
    in_one_process();
  } else {
    over_redis(program);
  }
}
