// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Time is modelled: a step's seconds are a function of its batch and rows, so these tests never
// look at a clock.
#include <oriel/core/random.hpp>
#include <oriel/spec/draft_length.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace draft_length_test {

using namespace oriel;

namespace {

/// Seconds of a step: weights are read once, each row adds its work, each drafted token the
/// drafter's.
struct machine {
  double weights_s = 1.0;
  double row_s = 0.05;
  double draft_s = 0.03;
  double noise = 0.0;  ///< factor of up to 1 + noise

  [[nodiscard]] double seconds(std::uint32_t batch, std::uint32_t rows) const {
    return weights_s + row_s * rows + draft_s * (rows - batch);
  }
};

struct run_result {
  double tokens = 0.0;
  double seconds = 0.0;
  std::vector<double> steps_by_drafts = std::vector<double>(draft_tokens_max + 1);

  [[nodiscard]] double rate() const { return tokens / seconds; }
};

/// What disturbs the steps of a run.
struct trouble {
  std::uint32_t stalls_at = draft_tokens_max + 1;  ///< the first step of this length stalls
  double stalls = 0.0;                             ///< of all steps
  double stall_factor = 10.0;
  double has_drafts = 1.0;  ///< how often the drafter has something to draft
};

/// A batch that decodes for `steps`; draft i of a sequence is accepted with its acceptance.
class decoding {
 public:
  decoding(std::uint32_t batch, machine m, std::uint64_t seed)
      : curves_(batch), machine_(m), random_(seed) {
    for (const acceptance_curve& c : curves_) {
      pointers_.push_back(&c);
    }
  }

  template <class Length, class Acceptance>
  run_result run(Length& length,
                 std::uint32_t steps,
                 Acceptance&& acceptance,
                 const trouble& met = {}) {
    run_result result;
    bool has_stalled = false;
    std::vector<std::uint32_t> lengths(curves_.size());
    const auto batch = static_cast<std::uint32_t>(curves_.size());
    for (std::uint32_t step = 0; step < steps; ++step) {
      length.plan(pointers_, lengths);
      std::uint32_t rows = batch, tokens = batch;
      if (met.has_drafts < 1.0 && random_.next_uniform() >= met.has_drafts) {
        std::fill(lengths.begin(), lengths.end(), 0u);
      }
      for (std::uint32_t s = 0; s < batch; ++s) {
        std::uint32_t accepted = 0;
        while (accepted < lengths[s] && random_.next_uniform() < acceptance(s, accepted)) {
          ++accepted;
        }
        curves_[s].on_verified(lengths[s], accepted);
        rows += lengths[s];
        tokens += accepted;
        ++result.steps_by_drafts[lengths[s]];
      }
      const double noisy = 1.0 + machine_.noise * double{random_.next_uniform()};
      double seconds = machine_.seconds(batch, rows) * noisy;
      const bool stalls_first = !has_stalled && lengths[0] == met.stalls_at;
      if (stalls_first || (met.stalls > 0.0 && random_.next_uniform() < met.stalls)) {
        seconds *= met.stall_factor;
        has_stalled = true;
      }
      length.on_step({.batch = batch, .rows = rows, .tokens = tokens, .seconds = seconds});
      result.tokens += tokens;
      result.seconds += seconds;
    }
    return result;
  }

 private:
  std::vector<acceptance_curve> curves_;
  std::vector<const acceptance_curve*> pointers_;
  machine machine_;
  random_stream random_;
};

auto constant(double a) {
  return [a](std::uint32_t, std::uint32_t) { return a; };
}

run_result adaptive(std::uint32_t batch,
                    machine m,
                    double acceptance,
                    std::uint32_t steps = 3'000) {
  adaptive_draft_length length;
  return decoding(batch, m, 1).run(length, steps, constant(acceptance));
}

run_result fixed(std::uint32_t batch, machine m, double acceptance, std::uint32_t drafts) {
  fixed_draft_length length(drafts);
  return decoding(batch, m, 1).run(length, 3'000, constant(acceptance));
}

}  // namespace

TEST_CASE("a curve learns acceptance by place, and counts only what was judged") {
  acceptance_curve curve;
  CHECK(curve.expected_tokens(0) == 1.0);
  for (int i = 0; i < 400; ++i) {
    curve.on_verified(3, i % 2 == 0 ? 0 : 2);  // 1/2; then always; then never
  }
  CHECK(curve.acceptance(0) == Approx(0.5).margin(0.03));
  CHECK(curve.acceptance(1) > 0.95);
  CHECK(curve.acceptance(2) < 0.05);
  CHECK(curve.expected_tokens(2) == Approx(2.0).margin(0.06));
  // It forgets: 100 failures outweigh 400 older verifications.
  for (int i = 0; i < 100; ++i) {
    curve.on_verified(1, 0);
  }
  CHECK(curve.acceptance(0) < 0.05);
  // A sequence begins like its class, and leaves it quickly.
  acceptance_curve young = acceptance_curve::like(curve);
  CHECK(young.acceptance(1) > 0.8);
  for (int i = 0; i < 4; ++i) {
    young.on_verified(1, 1);
  }
  CHECK(young.acceptance(0) > 0.45);
  CHECK(aborts([&] { curve.on_verified(2, 3); }));
  CHECK(aborts([&] { curve.on_verified(draft_tokens_max + 1, 0); }));
}

TEST_CASE("with acceptance near zero, auto is no slower than 0.97 of plain decoding") {
  for (const double acceptance : {0.0, 0.01, 0.03}) {
    for (const std::uint32_t batch : {1u, 2u, 7u, 64u}) {
      for (const machine& m : {machine{},
                               machine{.row_s = 0.3, .draft_s = 0.2},
                               machine{.row_s = 0.01, .draft_s = 0.2, .noise = 0.3}}) {
        const double plain_rate = fixed(batch, m, acceptance, 0).rate();
        for (const std::uint32_t steps : {batch < 64 ? 256u : 512u, 3'000u}) {
          INFO("acceptance " << acceptance << ", batch " << batch << ", row_s " << m.row_s
                             << ", steps " << steps);
          CHECK(adaptive(batch, m, acceptance, steps).rate() >= 0.97 * plain_rate);
        }
      }
    }
  }
}

TEST_CASE("auto finds the best length") {
  for (const double acceptance : {0.2, 0.4, 0.6, 0.8, 0.95}) {
    for (const std::uint32_t batch : {1u, 4u, 32u}) {
      for (const machine& m : {machine{}, machine{.row_s = 0.02, .noise = 0.1}}) {
        double best_rate = 0.0, worst_rate = 1e30;
        for (std::uint32_t k = 0; k <= 3; ++k) {
          const double rate = fixed(batch, m, acceptance, k).rate();
          best_rate = std::max(best_rate, rate);
          worst_rate = std::min(worst_rate, rate);
        }
        const run_result result = adaptive(batch, m, acceptance);
        INFO("acceptance " << acceptance << ", batch " << batch << ", row_s " << m.row_s
                           << ": best " << best_rate << ", worst " << worst_rate << ", auto "
                           << result.rate());
        CHECK(result.rate() >= 0.96 * best_rate);
      }
    }
  }
}

TEST_CASE("auto gives drafts to the sequences that are guessed well") {
  adaptive_draft_length length;
  decoding batch(8, {.row_s = 0.1, .draft_s = 0.02}, 3);
  const auto acceptance = [](std::uint32_t s, std::uint32_t) { return s < 4 ? 0.9 : 0.0; };
  const double mixed = batch.run(length, 4'000, acceptance).rate();
  for (std::uint32_t k = 0; k <= 3; ++k) {
    fixed_draft_length same(k);
    decoding other(8, {.row_s = 0.1, .draft_s = 0.02}, 3);
    CHECK(mixed > 1.1 * other.run(same, 4'000, acceptance).rate());
  }
}

TEST_CASE("auto recovers when acceptance comes back, and stops when it goes") {
  for (const std::uint32_t batch : {1u, 8u}) {
    const machine m{};
    const double plain_rate = fixed(batch, m, 0.0, 0).rate();
    const double best_rate = fixed(batch, m, 0.9, 3).rate();
    adaptive_draft_length length;
    decoding d(batch, m, 5);
    for (int round = 0; round < 3; ++round) {
      INFO("batch " << batch << ", round " << round);
      (void)d.run(length, 400, constant(0.0));
      CHECK(d.run(length, 1'000, constant(0.0)).rate() >= 0.975 * plain_rate);
      (void)d.run(length, 400, constant(0.9));
      CHECK(d.run(length, 1'000, constant(0.9)).rate() >= 0.96 * best_rate);
    }
  }
}

TEST_CASE("auto follows a machine that changes") {
  // Rows become dear: what paid does not any more.
  adaptive_draft_length length;
  (void)decoding(4, {.row_s = 0.01, .draft_s = 0.0}, 6).run(length, 500, constant(0.7));
  const machine dear{.row_s = 0.5, .draft_s = 0.2};
  (void)decoding(4, dear, 6).run(length, 1'000, constant(0.7));
  CHECK(decoding(4, dear, 7).run(length, 1'000, constant(0.7)).rate() >=
        0.96 * fixed(4, dear, 0.7, 0).rate());
}

TEST_CASE("a gain below gain_min is no reason to draft") {
  // Three drafts of acceptance 1/2 give 1.875 tokens in 1.23 of the time.
  for (const double gain_min : {1.02, 2.0}) {
    adaptive_draft_length length({.gain_min = gain_min});
    const run_result result = decoding(1, {}, 8).run(length, 2'000, constant(0.5));
    INFO("gain_min " << gain_min << ": " << result.steps_by_drafts[0] << " plain steps");
    CHECK((gain_min < 1.5 ? result.steps_by_drafts[0] < 200 : result.steps_by_drafts[0] > 1'500));
  }
}

TEST_CASE("auto is a function of its calls") {
  const auto once = [] {
    adaptive_draft_length length({.drafts_max = 7});
    return decoding(5, {.noise = 0.2}, 9).run(length, 2'000, constant(0.6)).steps_by_drafts;
  };
  CHECK(once() == once());
}

TEST_CASE("a stalled step changes little") {
  adaptive_draft_length length;
  decoding d(1, {}, 10);
  (void)d.run(length, 500, constant(0.9));
  const double before_s = length.step_seconds(1, 3.0);
  length.on_step({.batch = 1, .rows = 4, .tokens = 4, .seconds = 1'000.0});
  CHECK(length.step_seconds(1, 3.0) < 1.1 * before_s);
  CHECK(length.step_seconds(1, 3.0) >= before_s);
}

TEST_CASE("the first step of a length stalls: it is tried again, and chosen when it pays") {
  const machine m{};
  const double plain_rate = fixed(1, m, 0.0, 0).rate(), best_rate = fixed(1, m, 0.9, 3).rate();
  for (std::uint32_t drafts = 0; drafts <= 3; ++drafts) {
    for (const double factor : {3.0, 5.0, 20.0, 1'000.0}) {
      INFO("first step with " << drafts << " drafts takes " << factor << " times as long");
      const trouble stall{.stalls_at = drafts, .stall_factor = factor};
      adaptive_draft_length pays, does_not;
      decoding d(1, m, 14), e(1, m, 15);
      (void)d.run(pays, 300, constant(0.9), stall);
      CHECK(d.run(pays, 1'000, constant(0.9)).rate() >= 0.95 * best_rate);
      CHECK(e.run(does_not, 64, constant(0.0), stall).steps_by_drafts[0] >= 55);
      (void)e.run(does_not, 236, constant(0.0));
      const run_result after = e.run(does_not, 1'000, constant(0.0));
      CHECK(after.rate() >= 0.975 * plain_rate);
      CHECK(after.steps_by_drafts[drafts] > 5);
    }
  }
}

TEST_CASE("a length that seemed dearer than all credit is tried again") {
  adaptive_draft_length length({.drafts_max = draft_tokens_max});
  const machine dear{.weights_s = 1.0, .row_s = 0.0, .draft_s = 1.5}, cheap{.draft_s = 0.01};
  decoding first(1, dear, 16), then(1, cheap, 16);
  const run_result slow = first.run(length, 4'000, constant(0.97));
  CHECK(slow.rate() >= 0.97);
  (void)then.run(length, 20'000, constant(0.97));
  CHECK(then.run(length, 1'000, constant(0.97)).rate() >=
        0.9 * decoding(1, cheap, 16).run(length, 1'000, constant(0.97)).rate());
  CHECK(then.run(length, 1'000, constant(0.97)).steps_by_drafts[draft_tokens_max] > 500);
}

TEST_CASE("where a drafter has nothing to draft, nothing was tried") {
  // Plain steps stall; they are not the fault of the drafts that nobody made.
  for (std::uint64_t seed = 20; seed < 28; ++seed) {
    adaptive_draft_length length;
    decoding d(1, {}, seed);
    (void)d.run(length, 400, constant(0.9), {.stalls = 0.2, .has_drafts = 0.0});
    const run_result then = d.run(length, 60, constant(0.9));
    INFO("seed " << seed << ": " << then.tokens << " tokens in 60 steps");
    CHECK(then.tokens >= 170.0);
    const run_result rare = d.run(length, 400, constant(0.9), {.has_drafts = 0.5});
    CHECK(rare.tokens >= 800.0);
  }
}

TEST_CASE("short answers whose drafts are never right lose little, from the first on") {
  // Seconds of 64 plain steps over those of an answer of 64 tokens, by policies that know nothing.
  const auto of_plain = [](std::uint64_t seed, double noise) {
    adaptive_draft_length length;
    acceptance_curve curve;
    const acceptance_curve* const curves[]{&curve};
    random_stream random(seed);
    double plain_s = 0.0, seconds = 0.0;
    for (int step = 0; step < 64; ++step) {
      std::uint32_t drafts[1];
      length.plan(curves, drafts);
      curve.on_verified(drafts[0], 0);
      const double each_s = 1.0 + noise * double{random.next_uniform()};
      const double step_s = each_s * (1.0 + 0.06 * drafts[0]);
      length.on_step({.batch = 1, .rows = 1 + drafts[0], .tokens = 1, .seconds = step_s});
      plain_s += each_s;
      seconds += step_s;
    }
    return plain_s / seconds;
  };
  struct goal {
    double noise, median, one_in_ten;
  };
  for (const goal& g : {goal{0.2, 0.983, 0.978}, goal{0.6, 0.975, 0.963}}) {
    std::vector<double> shares;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      shares.push_back(of_plain(seed, g.noise));
    }
    std::sort(shares.begin(), shares.end());
    INFO("noise " << g.noise << ": median " << shares[150] << ", one in ten below " << shares[30]);
    CHECK(shares[150] >= g.median);
    CHECK(shares[30] >= g.one_in_ten);
  }
}

TEST_CASE("plans keep to their bounds") {
  random_stream random(12);
  for (int round = 0; round < 200; ++round) {
    adaptive_draft_length length({.drafts_max = 1 + random.next_below(draft_tokens_max)});
    std::vector<acceptance_curve> curves(random.next_below(20));
    std::vector<const acceptance_curve*> pointers;
    for (acceptance_curve& c : curves) {
      c.on_verified(1, random.next_below(2));
      pointers.push_back(&c);
    }
    std::vector<std::uint32_t> lengths(curves.size(), 99);
    length.plan(pointers, lengths);
    for (const std::uint32_t k : lengths) {
      REQUIRE(k <= draft_tokens_max);
    }
  }
  CHECK(aborts([] { adaptive_draft_length({.drafts_max = 0}); }));
  CHECK(aborts([] { adaptive_draft_length({.drafts_max = draft_tokens_max + 1}); }));
  CHECK(aborts([] { fixed_draft_length{draft_tokens_max + 1}; }));
  CHECK(aborts([] {
    adaptive_draft_length length;
    length.on_step({.batch = 1, .rows = 0, .tokens = 1, .seconds = 1.0});
  }));
}

}  // namespace draft_length_test
