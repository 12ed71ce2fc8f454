// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: pages out of a Redis on the same machine, `depth` GETs in flight, into the slices of pages.
// Why:  redis_store reads into the slices; hiredis reads into a buffer of its own, allocates a
//       reply, and its user copies. Goals: >= 1.2x hiredis, >= 0.90 of a raw client.
// How:  each round runs all contestants once, in changing order; figures are medians over rounds,
//       ratios the medians of the rounds' ratios. All send the same GETs.
//         ours              bytes in the page, every slice summed, identity and order checked
//         raw               the known number of bytes into one buffer that stays in the cache
//         pages             the bytes in the page, what lies between not looked at
//         verified_pages    the same, and every slice summed: what is left of `ours` is its logic
//         hiredis           a reply of its own, copied into the page
//         verified_hiredis  the same, and every slice summed
//       Starts a redis-server of its own; without one there is nothing to measure.
#include <oriel/tier/crc32c.hpp>
#include <oriel/tier/redis_store.hpp>

#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#ifdef ORIEL_BENCH_HIREDIS
#include <hiredis/hiredis.h>
#endif

namespace {

constexpr std::uint16_t port = 17'379;
constexpr std::size_t slices_per_page = 8;
constexpr std::size_t rounds = 31;

int connected() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0) {
    return fd;
  }
  ::close(fd);
  return -1;
}

/// redis-server for as long as the benchmark runs.
class server {
 public:
  server() {
    process_ = ::fork();
    if (process_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int bin = ::open("/dev/null", O_RDWR);
      ::dup2(bin, 0), ::dup2(bin, 1), ::dup2(bin, 2);
      const std::string number = std::to_string(port);
      ::execlp("redis-server",
               "redis-server",
               "--port",
               number.c_str(),
               "--bind",
               "127.0.0.1",
               "--save",
               "",
               "--appendonly",
               "no",
               "--dir",
               "/tmp",
               static_cast<char*>(nullptr));
      ::_exit(127);
    }
    for (int tries = 0; tries < 2'000 && !is_up_; ++tries) {
      const int fd = connected();
      is_up_ = fd >= 0;
      ::close(fd);
      ::usleep(2'000);
    }
  }
  ~server() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  [[nodiscard]] bool is_up() const { return is_up_; }

 private:
  pid_t process_ = 0;
  bool is_up_ = false;
};

struct page {
  oriel::page_key key;
  oriel::page_identity identity;
  std::vector<std::byte> bytes;
  std::vector<std::span<std::byte>> slices;
  std::string name;  ///< of its value
};

std::vector<page> make_pages(std::size_t count, std::size_t page_bytes) {
  std::vector<page> pages(count);
  std::mt19937_64 random(5);
  for (page& p : pages) {
    p.bytes.resize(page_bytes);
    for (std::size_t i = 0; i < page_bytes; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(p.bytes.data() + i, &word, 8);
    }
    p.name = "bench:p:";
    for (std::byte& b : p.key.link.bytes) {
      b = static_cast<std::byte>(random());
      constexpr std::string_view digits = "0123456789abcdef";
      p.name += digits[static_cast<unsigned>(b) >> 4];
      p.name += digits[static_cast<unsigned>(b) & 15];
    }
    p.name += ":0";
    for (std::size_t i = 0; i < slices_per_page; ++i) {
      p.slices.push_back(std::span(p.bytes).subspan(i * page_bytes / slices_per_page,
                                                    page_bytes / slices_per_page));
    }
  }
  return pages;
}

/// Runs items to their end. @returns how many ended done
std::size_t run(oriel::redis_store& store,
                oriel::store_op op,
                std::span<page> pages,
                std::size_t depth) {
  std::vector<oriel::store_item> items;
  for (page& p : pages) {
    items.push_back({.op = op, .key = p.key, .identity = &p.identity, .slices = p.slices});
  }
  std::size_t next = 0, done = 0, ended = 0;
  std::vector<oriel::store_completion> out(64);
  while (ended < items.size()) {
    const std::size_t room = std::min(items.size() - next, depth - (next - ended));
    next += store.submit(std::span(items).subspan(next, room), oriel::no_deadline);
    store.wait(oriel::no_deadline);
    const std::size_t count = store.poll(out);
    for (std::size_t i = 0; i < count; ++i) {
      done += out[i].outcome == oriel::store_outcome::done;
    }
    ended += count;
  }
  return done;
}

/// The limit: `depth` GETs in flight, and their bytes into one buffer.
bool read_raw(int fd, std::span<const page> pages, std::size_t depth, std::size_t reply_bytes) {
  static std::vector<char> buffer(4 << 20);
  std::size_t asked = 0;
  std::uint64_t got_bytes = 0;
  const std::uint64_t all_bytes = reply_bytes * pages.size();
  while (got_bytes < all_bytes) {
    const std::size_t answered = got_bytes / reply_bytes;
    std::string out;
    for (; asked < pages.size() && asked < answered + depth; ++asked) {
      out += "*2\r\n$3\r\nGET\r\n$" + std::to_string(pages[asked].name.size()) + "\r\n" +
             pages[asked].name + "\r\n";
    }
    if (!out.empty() && ::send(fd, out.data(), out.size(), MSG_NOSIGNAL) < 0) {
      return false;
    }
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got <= 0) {
      return false;
    }
    got_bytes += static_cast<std::uint64_t>(got);
  }
  return true;
}

/// What a client cannot do without that fills pages: `depth` GETs in flight, and each reply's bytes
/// into the slices of its page, as far as they have come; what lies between them is known in
/// advance and not looked at. @param verifies  and the checksum of each slice is taken
bool read_pages(
    int fd, std::span<page> pages, std::size_t depth, std::size_t front_bytes, bool verifies) {
  static std::vector<std::byte> between(4'096);
  std::vector<iovec> parts;  // of all replies, in order
  for (page& p : pages) {
    parts.push_back({between.data(), front_bytes});
    for (const auto& slice : p.slices) {
      parts.push_back({slice.data(), slice.size()});
    }
    parts.push_back({between.data(), 2});
  }
  const std::size_t parts_per_page = slices_per_page + 2;
  std::size_t asked = 0, next = 0, summed = 0;
  std::uint32_t sums = 0;
  while (next < parts.size()) {
    std::string out;
    for (; asked < pages.size() && asked < next / parts_per_page + depth; ++asked) {
      out += "*2\r\n$3\r\nGET\r\n$" + std::to_string(pages[asked].name.size()) + "\r\n" +
             pages[asked].name + "\r\n";
    }
    if (!out.empty() && ::send(fd, out.data(), out.size(), MSG_NOSIGNAL) < 0) {
      return false;
    }
    const std::size_t last = std::min(parts.size(), next + 64);
    ssize_t got = ::readv(fd, &parts[next], static_cast<int>(last - next));
    if (got <= 0) {
      return false;
    }
    for (; got > 0 && next < last; ++next) {
      const std::size_t step =
          std::min<std::size_t>(static_cast<std::size_t>(got), parts[next].iov_len);
      parts[next].iov_base = static_cast<char*>(parts[next].iov_base) + step;
      parts[next].iov_len -= step;
      got -= static_cast<ssize_t>(step);
      if (parts[next].iov_len > 0) {
        break;
      }
    }
    for (; verifies && summed < next / parts_per_page; ++summed) {
      for (const auto& slice : pages[summed].slices) {
        sums ^= oriel::crc32c(slice);
      }
    }
  }
  benchmark::DoNotOptimize(sums);
  return true;
}

#ifdef ORIEL_BENCH_HIREDIS
bool read_hiredis(redisContext* context,
                  std::span<page> pages,
                  std::size_t depth,
                  std::size_t head_bytes,
                  bool verifies) {
  std::size_t asked = 0;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    for (; asked < pages.size() && asked < i + depth; ++asked) {
      redisAppendCommand(context, "GET %b", pages[asked].name.data(), pages[asked].name.size());
    }
    void* any = nullptr;
    if (redisGetReply(context, &any) != REDIS_OK) {
      return false;
    }
    auto* const reply = static_cast<redisReply*>(any);
    std::size_t at = head_bytes;
    for (const auto& slice : pages[i].slices) {
      std::memcpy(slice.data(), reply->str + at, slice.size());
      if (verifies) {
        benchmark::DoNotOptimize(oriel::crc32c(slice));
      }
      at += slice.size();
    }
    freeReplyObject(reply);
  }
  return true;
}
#endif

double median(std::vector<double> x) {
  std::ranges::sort(x);
  return x.empty() ? 0 : x[x.size() / 2];
}

struct seconds {
  double wall = 0, cpu = 0;  ///< cpu: of this thread
};

double thread_cpu_s() {
  rusage used = {};
  ::getrusage(RUSAGE_THREAD, &used);
  const auto s = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return s(used.ru_utime) + s(used.ru_stime);
}

template <class F>
seconds seconds_of(F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  const double cpu = thread_cpu_s();
  f();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
          thread_cpu_s() - cpu};
}

void gets(benchmark::State& state) {
  const auto page_bytes = static_cast<std::size_t>(state.range(0)) << 10;
  const auto depth = static_cast<std::size_t>(state.range(1));
  const server redis;
  if (!redis.is_up()) {
    state.SkipWithError("there is no redis-server");
    return;
  }
  std::vector<page> pages = make_pages((32u << 20) / page_bytes, page_bytes);
  oriel::redis_store store(
      {.url = "redis://127.0.0.1:" + std::to_string(port), .key_prefix = "bench:"});
  if (run(store, oriel::store_op::put, pages, 8) != pages.size()) {
    state.SkipWithError("a put failed");
    return;
  }
  const int fd = connected();
  const std::size_t head_bytes = 208 + 16 * slices_per_page;
  const std::size_t value_bytes = head_bytes + page_bytes;
  const std::size_t reply_bytes = value_bytes + std::to_string(value_bytes).size() + 5;
  bool is_fine = fd >= 0;
#ifdef ORIEL_BENCH_HIREDIS
  redisContext* const context = redisConnect("127.0.0.1", port);
  is_fine = is_fine && context != nullptr && context->err == 0;
#endif
  const std::size_t front_bytes = reply_bytes - page_bytes - 2;
  struct contestant {
    const char* name;
    std::vector<seconds> took = {};
  };
  contestant all[] = {{"ours"},
                      {"raw"},
                      {"pages"},
                      {"verified_pages"},
#ifdef ORIEL_BENCH_HIREDIS
                      {"hiredis"},
                      {"verified_hiredis"}
#endif
  };
  const auto turn = [&](std::size_t who) {
    switch (who) {
      case 0:
        return run(store, oriel::store_op::get, pages, depth) == pages.size();
      case 1:
        return read_raw(fd, pages, depth, reply_bytes);
      case 2:
      case 3:
        return read_pages(fd, pages, depth, front_bytes, who == 3);
      default:
#ifdef ORIEL_BENCH_HIREDIS
        return read_hiredis(context, pages, depth, head_bytes, who == 5);
#else
        return false;
#endif
    }
  };
  const double gigabytes = static_cast<double>(page_bytes * pages.size()) / 1e9;
  for (auto _ : state) {
    for (std::size_t round = 0; round < rounds && is_fine; ++round) {
      for (std::size_t i = 0; i < std::size(all); ++i) {
        const std::size_t who = (i + round) % std::size(all);
        all[who].took.push_back(seconds_of([&] { is_fine &= turn(who); }));
      }
    }
  }
#ifdef ORIEL_BENCH_HIREDIS
  redisFree(context);
#endif
  ::close(fd);
  if (!is_fine) {
    state.SkipWithError("a get failed");
    return;
  }
  for (const contestant& c : all) {
    std::vector<double> rate, ratio, cpu_ratio;
    for (std::size_t round = 0; round < c.took.size(); ++round) {
      rate.push_back(gigabytes / c.took[round].wall);
      ratio.push_back(c.took[round].wall / all[0].took[round].wall);
      cpu_ratio.push_back(c.took[round].cpu / all[0].took[round].cpu);
    }
    state.counters[std::string(c.name) + "_GB_s"] = median(rate);
    if (&c != all) {
      state.counters[std::string("of_") + c.name] = median(ratio);
      state.counters[std::string("cpu_of_") + c.name] = median(cpu_ratio);
    }
  }
}
BENCHMARK(gets)
    ->ArgNames({"page_KiB", "depth"})
    ->ArgsProduct({{256, 1024}, {1, 4, 16}})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
