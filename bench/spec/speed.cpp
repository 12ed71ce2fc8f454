// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What speculation gains in time: random weights of bench-1.4b, one thread, one sequence, drafts by
// three MTP blocks whose tokens are then replaced, so that a given number of them is accepted.
// The parts of a turn follow each other: single steps of one row and of four, plain decoding,
// decoding with drafts, and the single steps again. So a machine shared with others slows all that
// a ratio is made of, also what would be possible; figures are medians over turns of the ratios
// within one. `auto` begins each turn with an engine that knows nothing.
//
//     bench.spec.speed [turns] [tokens of a turn] [accepted drafts: 0 (auto) to 3]...
#include <oriel/core/executor.hpp>
#include <oriel/model/presets.hpp>

#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/model_runner.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>
#include <vector>

namespace {

using namespace oriel;
using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point begin) {
  return std::chrono::duration<double>(clock_type::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::vector<token_id> prompt_of(const model_geometry& model, std::uint32_t count) {
  std::vector<token_id> tokens;
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens.push_back(token_id{i * 7919 % model.vocabulary});
  }
  return tokens;
}

/// The first `right` drafts are what the model will say, the others are not.
class forced_drafts final : public engine::draft_editor {
 public:
  forced_drafts(const std::vector<token_id>& text, std::uint32_t right)
      : text_(text), right_(right) {}
  void on_drafts(request_id,
                 std::span<const token_id> known,
                 std::vector<token_id>& drafts) override {
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const std::size_t at = std::min(known.size() + i, text_.size() - 1);
      drafts[i] = i < right_ ? text_[at] : token_id{to_index(text_[at]) ^ 1u};
    }
  }

 private:
  const std::vector<token_id>& text_;
  std::uint32_t right_;
};

engine::tokenizer no_text() {
  return engine::tokenizer::parse(R"({
    "model": {"type": "BPE", "vocab": {"!": 0}, "merges": []},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    "decoder": {"type": "ByteLevel"}})");
}

constexpr std::uint32_t context = 512, prompt_tokens = 128;

/// Bytes that a run of the MTP blocks reads for one sequence, over those of a step of the model.
double draft_share(const engine::model_weights& weights) {
  const auto bytes_of = [](const engine::layer_weights& l) {
    const auto& ffn = std::get<engine::dense_ffn_weights>(l.ffn);
    return l.attention.qkv.bytes.size() + l.attention.o.bytes.size() + ffn.gate_up.bytes.size() +
           ffn.down.bytes.size();
  };
  std::size_t model = weights.lm_head.bytes.size(), drafts = 0;
  for (const engine::layer_weights& layer : weights.layers) {
    model += bytes_of(layer);
  }
  for (const engine::mtp_weights& block : weights.mtp) {
    drafts += block.eh_proj.bytes.size() + bytes_of(block.layer) + weights.lm_head.bytes.size();
  }
  return static_cast<double>(drafts) / static_cast<double>(model);
}

/// An engine that decodes.
class decoder {
 public:
  decoder(const model_geometry& model,
          const engine::model_weights& weights,
          const engine::tokenizer& tokens,
          const engine::speculation_options& speculation)
      : model_(model), engine_(model, weights, tokens, options_of(speculation), executor_) {}

  /// Tokens a second of one answer, its first token excluded.
  double run(std::uint32_t new_tokens, std::vector<token_id>& text) {
    request r;
    r.id = request_id{++id_};
    r.prompt = text = prompt_of(model_, prompt_tokens);
    r.max_new_tokens = new_tokens;
    r.sampling.temperature = 0;
    if (!engine_.submit(std::move(r))) {
      throw std::runtime_error("a request was refused");
    }
    take(engine_.step(), text);
    const auto begin = clock_type::now();
    const std::size_t first = text.size();
    while (!engine_.idle()) {
      take(engine_.step(), text);
    }
    return static_cast<double>(text.size() - first) / seconds_since(begin);
  }
  [[nodiscard]] const engine::draft_counts& drafts() const { return drafts_; }

 private:
  static engine::engine_options options_of(const engine::speculation_options& speculation) {
    engine::engine_options o{.chunk_tokens = prompt_tokens, .context_tokens = context};
    o.prefix_cache = false;
    o.speculation = speculation;
    return o;
  }
  void take(std::span<const engine::event> events, std::vector<token_id>& text) {
    for (const engine::event& happened : events) {
      text.push_back(happened.token.value());
      drafts_ = happened.drafts;
    }
  }

  const model_geometry& model_;
  serial_executor executor_;
  engine::engine engine_;
  engine::draft_counts drafts_;
  std::uint64_t id_ = 0;
};

/// Seconds of a forward pass with so many rows, all with logits.
class stepper {
 public:
  stepper(const model_geometry& model, const engine::model_weights& weights)
      : model_(model),
        pools_(engine::make_pools(model, options(), weights.compute)),
        runner_(model,
                weights,
                engine::layer_homes(pools_),
                options().page_tokens,
                weights.compute,
                {.rows_max = prompt_tokens,
                 .logit_rows_max = 8,
                 .sequences_max = 1,
                 .context_tokens = context},
                executor_),
        sequence_(*pools_.try_admit({.tokens_now = 0, .tokens_max = context})),
        tokens_(prompt_of(model, context)) {
    (void)run(prompt_tokens, 1);
    sequence_.commit(prompt_tokens);
  }
  double seconds(std::uint32_t rows) {
    const auto begin = clock_type::now();
    (void)run(rows, rows);
    return seconds_since(begin);
  }

 private:
  static engine::engine_options options() {
    engine::engine_options o{.chunk_tokens = prompt_tokens, .context_tokens = context};
    o.prefix_cache = false;
    return o;
  }
  std::span<const float> run(std::uint32_t rows, std::uint32_t logit_rows) {
    if (!sequence_.reserve(rows)) {
      throw std::runtime_error("the pools are too small");
    }
    std::vector<block_table_view> tables;
    for (std::uint32_t pool = 0; pool < pools_.pools(); ++pool) {
      tables.push_back(sequence_.table(pool_id{pool}));
    }
    const engine::step_rows step{.tokens = std::span(tokens_).subspan(sequence_.length(), rows),
                                 .first_position = sequence_.length(),
                                 .tables = tables,
                                 .logit_rows = logit_rows};
    return runner_.forward({&step, 1});
  }

  const model_geometry& model_;
  serial_executor executor_;
  engine::host_pools pools_;
  engine::model_runner runner_;
  engine::host_pools::sequence_type sequence_;
  std::vector<token_id> tokens_;
};

/// Of single steps, some before and some after what a turn measures.
struct step_seconds {
  std::vector<double> decode, verify;  // 1 and 4 rows

  void take(stepper& steps) {
    for (int i = 0; i < 4; ++i) {
      decode.push_back(steps.seconds(1));
      verify.push_back(steps.seconds(4));
    }
  }
  [[nodiscard]] double ratio() const { return median(verify) / median(decode); }
};

/// Of each turn.
struct turns {
  std::vector<double> plain, drafting;  // tokens/s
  std::vector<double> times;            // drafting over plain
  std::vector<double> verify_ratio;     // seconds of four rows over those of one
  std::vector<double> of_possible;      // times, over what the turn's own ratio allows
  std::uint64_t tokens = 0, steps = 0, drafted = 0;

  [[nodiscard]] double accept_length() const {
    return static_cast<double>(tokens) / static_cast<double>(steps);
  }
};

class bench {
 public:
  bench(const model_geometry& model, const engine::model_weights& weights)
      : model_(model),
        weights_(weights),
        steps_(model, weights),
        plain_(model, weights, tokens_, {}),
        share_(draft_share(weights)) {}

  /// @param right  of three drafts; 0: `auto`, none of them
  turns run(int rounds, std::uint32_t new_tokens, std::uint32_t right) {
    // Whole steps: the last one is not cut, and the accept length is what it says.
    const std::uint32_t count = 1 + (new_tokens + right - 1) / (1 + right) * (1 + right);
    if (text_.size() < prompt_tokens + count + 3) {
      (void)plain_.run(count + 3, text_);
    }
    forced_drafts editor(text_, right);
    const engine::speculation_options speculation{.drafter = engine::drafter_kind::mtp,
                                                  .drafts_max = 3,
                                                  .is_adaptive = right == 0,
                                                  .editor = &editor};
    std::optional<decoder> drafting;
    turns all;
    for (int round = 0; round < rounds; ++round) {
      if (!drafting || right == 0) {
        drafting.emplace(model_, weights_, tokens_, speculation);
      }
      step_seconds steps;
      steps.take(steps_);
      all.plain.push_back(plain_.run(count, spoken_));
      all.drafting.push_back(drafting->run(count, spoken_));
      steps.take(steps_);
      if (!std::equal(spoken_.begin(), spoken_.end(), text_.begin())) {
        throw std::runtime_error("speculation changed the answer");
      }
      all.tokens += drafting->drafts().decode_tokens;
      all.steps += drafting->drafts().decode_steps;
      all.drafted += drafting->drafts().drafted[0];
      all.times.push_back(all.drafting.back() / all.plain.back());
      all.verify_ratio.push_back(steps.ratio());
      all.of_possible.push_back(all.times.back() * (steps.ratio() + share_) / all.accept_length());
    }
    return all;
  }
  [[nodiscard]] double share() const noexcept { return share_; }

 private:
  const model_geometry& model_;
  const engine::model_weights& weights_;
  engine::tokenizer tokens_ = no_text();
  stepper steps_;
  decoder plain_;
  double share_;
  std::vector<token_id> text_, spoken_;
};

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  const auto new_tokens = static_cast<std::uint32_t>(argc > 2 ? std::atoi(argv[2]) : 65);
  const model_geometry model = *preset("bench-1.4b");
  const engine::model_weights weights = engine::random_weights(model, dtype::bf16, 1);
  std::vector<std::uint32_t> accepted;
  for (int i = 3; i < argc; ++i) {
    accepted.push_back(static_cast<std::uint32_t>(std::atoi(argv[i])));
  }
  if (accepted.empty()) {
    accepted = {2, 3, 1, 0};
  }
  bench measure(model, weights);
  for (const std::uint32_t right : accepted) {
    const turns t = measure.run(rounds, new_tokens, right);
    std::printf("%s accept length %.2f: %.3f tokens/s, plain %.3f: %.3f times",
                right == 0 ? "auto," : "3 drafts,",
                t.accept_length(),
                median(t.drafting),
                median(t.plain),
                median(t.times));
    if (right == 0) {
      std::printf(" (goal 0.97); drafted %.1f a turn\n", double(t.drafted) / rounds);
    } else {
      std::printf("; verify(4) / decode(1) %.3f; %.3f of %.2f / (that + %.3f) (goal 0.92)\n",
                  median(t.verify_ratio),
                  median(t.of_possible),
                  t.accept_length(),
                  measure.share());
    }
    std::fflush(stdout);
  }
  return 0;
}
