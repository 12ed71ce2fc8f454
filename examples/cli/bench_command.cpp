// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel bench`: speed of prefill (pp) and decode (tg), beside what the machine can do.
#include "commands.hpp"
#include "device.hpp"
#include "support.hpp"

#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/presets.hpp>

#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <engine/machine_peaks.hpp>
#include <engine/model_runner.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

namespace oriel::cli {
namespace {

/// One line of the table: `pp512` or `tg128`.
struct bench_row {
  std::string test;
  std::uint32_t tokens;
  double bytes_per_token;  ///< of weights, K and V that are read (tg); 0: not known (pp)
  double work;  ///< bytes (tg) or floating-point operations (pp) of one repetition; 0: not known
  double accept_length = 0;       ///< tokens of a step, where drafts are verified
  double times_plain = 0;         ///< of the same range without drafts, median over the turns
  std::vector<double> seconds{};  ///< of each repetition
  std::vector<double> limits{};   ///< bytes or operations per second, measured beside each
};

struct statistics {
  double mean;                      ///< tokens per second
  std::optional<double> deviation;  ///< of a sample; one repetition has none
  double limit_fraction;            ///< median over the repetitions
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

statistics summarize(const bench_row& row) {
  statistics s{};
  std::vector<double> fractions;
  for (std::size_t i = 0; i < row.seconds.size(); ++i) {
    s.mean += row.tokens / row.seconds[i];
    fractions.push_back(row.work == 0 ? 0 : row.work / row.seconds[i] / row.limits[i]);
  }
  s.mean /= static_cast<double>(row.seconds.size());
  if (row.seconds.size() > 1) {
    double squares = 0;
    for (const double seconds : row.seconds) {
      squares += std::pow(row.tokens / seconds - s.mean, 2);
    }
    s.deviation = std::sqrt(squares / static_cast<double>(row.seconds.size() - 1));
  }
  s.limit_fraction = median(std::move(fractions));
  return s;
}

/// The first tokens of a text. @throws engine::error when it has less
std::vector<token_id> text_tokens(const std::filesystem::path& folder, const bench_options& o) {
  constexpr std::uint64_t text_bytes_max = std::uint64_t{256} << 20;
  const engine::tokenizer tokenizer = engine::tokenizer::load((folder / "tokenizer.json").string());
  std::vector<token_id> tokens = tokenizer.encode(read_text(o.prompt_file, text_bytes_max));
  if (tokens.size() < o.prompt_tokens) {
    throw engine::error(fmt::format(
        "{} has {} tokens, -p asks for {}", o.prompt_file, tokens.size(), o.prompt_tokens));
  }
  tokens.resize(o.prompt_tokens);
  return tokens;
}

std::vector<token_id> random_tokens(const model_geometry& model,
                                    std::uint32_t count,
                                    std::uint64_t seed) {
  std::vector<token_id> tokens(count);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto words =
        philox4x32({static_cast<std::uint32_t>(i), 0, 0, 0}, {static_cast<std::uint32_t>(seed), 0});
    tokens[i] = token_id{words[0] % model.vocabulary};
  }
  return tokens;
}

/// Of the runner that prefills sequences in turn and decodes them together.
engine::runner_limits limits_of(const bench_options& o) {
  return {.rows_max = std::max(o.chunk_tokens, o.batch),
          .logit_rows_max = o.batch,
          .sequences_max = o.batch,
          .context_tokens = o.prompt_tokens + o.new_tokens};
}

engine::planned_pools plan_pools(const model_geometry& model, dtype kv, const bench_options& o) {
  auto plan = pool_plan::make(kv_shapes_of(model.layers, kv),
                              {.page_size = 16, .step_tokens = o.chunk_tokens});
  if (!plan) {
    throw engine::error(fmt::format("the KV pools do not fit: {}", plan.error().detail));
  }
  pool_sizes sizes;
  for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
    sizes.pages.push_back(
        o.batch * std::max(1u, plan->pages_for(pool_id{pool}, o.prompt_tokens + o.new_tokens)));
  }
  return {std::move(*plan), std::move(sizes)};
}

/// A model, and sequences to run it on.
class bench_model {
  using sequence_type = engine::host_pools::sequence_type;

 public:
  /// @param prompt  [o.prompt_tokens] of each sequence; random tokens, other ones each, are decoded
  /// behind it
  bench_model(const model_geometry& model,
              const engine::model_weights& weights,
              const bench_options& o,
              const runner_maker& maker,
              std::span<const token_id> prompt,
              thread_pool& threads)
      : options_(o),
        tokens_(random_tokens(model, o.batch * tokens_of_one(), o.seed)),
        pools_(make_pools(model, weights.compute, o, static_cast<bool>(maker))),
        runner_(make_runner(model, weights, maker, threads)) {
    for (std::uint32_t s = 0; s < o.batch; ++s) {
      std::ranges::copy(prompt, tokens_.begin() + s * std::ptrdiff_t{tokens_of_one()});
    }
  }

  [[nodiscard]] const bench_options& options() const noexcept { return options_; }

  /// Seconds to prefill the prompts, and seconds to decode the new tokens after them.
  std::pair<double, double> run() {
    std::vector<sequence_type> sequences;
    for (std::uint32_t s = 0; s < options_.batch; ++s) {
      sequences.push_back(
          std::move(*pools_.try_admit({.tokens_now = 0, .tokens_max = tokens_of_one()})));
    }
    const auto begin = std::chrono::steady_clock::now();
    for (std::uint32_t s = 0; s < options_.batch; ++s) {
      while (sequences[s].length() < options_.prompt_tokens) {
        step(std::span(sequences).subspan(s, 1),
             s,
             std::min(options_.chunk_tokens, options_.prompt_tokens - sequences[s].length()));
      }
    }
    const auto prefilled = std::chrono::steady_clock::now();
    for (std::uint32_t i = 0; i < options_.new_tokens; ++i) {
      step(sequences, 0, 1);
    }
    const auto end = std::chrono::steady_clock::now();
    return {std::chrono::duration<double>(prefilled - begin).count(),
            std::chrono::duration<double>(end - prefilled).count()};
  }

 private:
  std::unique_ptr<engine::step_runner> make_runner(const model_geometry& model,
                                                   const engine::model_weights& weights,
                                                   const runner_maker& maker,
                                                   thread_pool& threads) const {
    const engine::runner_limits limits = limits_of(options_);
    const std::uint32_t page_size = pools_.plan().options().page_size;
    if (maker) {
      return maker({.model = model,
                    .pools = pools_,
                    .page_size = page_size,
                    .kv = weights.compute,
                    .limits = limits,
                    .order_fixed = options_.order_fixed.value_or(false)});
    }
    return std::make_unique<engine::model_runner>(
        model, weights, homes(), page_size, weights.compute, limits, threads);
  }

  static engine::host_pools make_pools(const model_geometry& model,
                                       dtype kv,
                                       const bench_options& o,
                                       bool is_on_device) {
    const auto [plan, sizes] = plan_pools(model, kv, o);
    auto pools = engine::host_pools::make(
        plan,
        sizes,
        is_on_device ? &engine::engine_memory::reserve_addresses : &engine::engine_memory::reserve);
    if (!pools) {
      throw engine::error(fmt::format("no memory for the KV pools: {}", pools.error().detail));
    }
    return std::move(*pools);
  }

  [[nodiscard]] std::vector<pool_layer> homes() const {
    std::vector<pool_layer> homes;
    for (std::uint32_t l = 0; l < pools_.plan().layers(); ++l) {
      homes.push_back(pools_.layer(l));
    }
    return homes;
  }

  [[nodiscard]] std::uint32_t tokens_of_one() const noexcept {
    return options_.prompt_tokens + options_.new_tokens;
  }

  /// So many rows of each of these; `first` is the number of the first.
  void step(std::span<sequence_type> sequences, std::size_t first, std::uint32_t rows) {
    const std::uint32_t pools = pools_.plan().pools();
    tables_.clear();
    for (sequence_type& sequence : sequences) {
      if (!sequence.reserve(rows)) {
        throw engine::error("the bench's own pools are too small");
      }
      for (std::uint32_t pool = 0; pool < pools; ++pool) {
        tables_.push_back(sequence.table(pool_id{pool}));
      }
    }
    rows_.clear();
    decoding_.clear();
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      const std::uint32_t length = sequences[s].length();
      rows_.push_back(
          {.tokens = std::span(tokens_).subspan((first + s) * tokens_of_one() + length, rows),
           .first_position = length,
           .tables = std::span(tables_).subspan(s * pools, pools),
           .logit_rows = 1});
      decoding_.push_back({.rows = rows_.back(), .sampling = &greedy_});
    }
    if (rows != 1 || !runner_->decode(decoding_, false)) {
      (void)runner_->forward(rows_);
    }
    for (sequence_type& sequence : sequences) {
      sequence.commit(rows);
    }
  }

  const bench_options& options_;
  std::vector<token_id> tokens_;
  sampling_options greedy_ = {.temperature = 0.0f};
  engine::host_pools pools_;
  std::unique_ptr<engine::step_runner> runner_;
  // Of a step.
  std::vector<block_table_view> tables_;
  std::vector<engine::step_rows> rows_;
  std::vector<engine::decoding_rows> decoding_;
};

/// The two rows, with what one repetition of each moves and computes.
std::pair<bench_row, bench_row> make_rows(const model_geometry& model,
                                          dtype compute,
                                          const bench_options& o) {
  const std::uint32_t prompt = o.prompt_tokens, decoded = o.new_tokens;
  const double head_flops = 2.0 * model.hidden * model.vocabulary;
  double flops = 0, kv_bytes = 0;
  for (std::uint32_t p = 0; p < prompt; ++p) {
    flops += static_cast<double>(flops_per_token(model, p)) - head_flops;
  }
  const std::uint32_t chunks = (prompt + o.chunk_tokens - 1) / o.chunk_tokens;
  flops += head_flops * chunks;  // A chunk's last row alone.
  for (std::uint32_t p = prompt; p < prompt + decoded; ++p) {
    kv_bytes += static_cast<double>(kv_bytes_read_per_token(model, p, compute));
  }
  const auto weight_bytes = static_cast<double>(weight_bytes_per_token(model, compute));
  const bool is_moe = std::ranges::any_of(
      model.layers, [](const layer_geometry& layer) { return layer.ffn.is_moe(); });
  // Of the experts, how many a chunk or a batch reads depends on the tokens.
  const double tg_bytes =
      is_moe && o.batch > 1 ? 0 : weight_bytes / o.batch + kv_bytes / std::max(1u, decoded);
  const std::string together = o.batch == 1 ? "" : fmt::format(" x{}", o.batch);
  return {{.test = fmt::format("pp{}{}", prompt, together),
           .tokens = prompt * o.batch,
           .bytes_per_token = 0,
           .work = flops * o.batch},
          {.test = fmt::format("tg{}{}", decoded, together),
           .tokens = decoded * o.batch,
           .bytes_per_token = tg_bytes,
           .work = tg_bytes * decoded * o.batch}};
}

/// Runs the repetitions on a device, whose limits are not taken.
void measure(bench_model& model, bench_row& pp, bench_row& tg) {
  (void)model.run();  // Warm: programs and graphs are made.
  for (std::uint32_t r = 0; r < model.options().repetitions; ++r) {
    const auto [prefill_seconds, decode_seconds] = model.run();
    pp.seconds.push_back(prefill_seconds);
    tg.seconds.push_back(decode_seconds);
  }
  for (bench_row* const row : {&pp, &tg}) {
    row->limits.assign(row->seconds.size(), 1);
    row->work = 0;
  }
}

/// Runs the repetitions; the machine's limits are taken before and after each.
void measure(
    bench_model& model, bench_row& pp, bench_row& tg, thread_pool& threads, dtype compute) {
  const auto kind =
      compute == dtype::bf16 ? engine::multiply_kind::bf16 : engine::multiply_kind::f32;
  engine::read_bandwidth_probe memory;
  const auto limits = [&] {
    const std::uint32_t cores = std::min(threads.concurrency(), thread_count(0));
    return std::pair{engine::measure_multiply_rate(kind, best_isa()) * cores,
                     memory.measure(threads, 0.25)};
  };
  (void)model.run();  // Warm: page faults of the pools, frequency.
  for (std::uint32_t r = 0; r < model.options().repetitions; ++r) {
    const auto [multiply_before, read_before] = limits();
    const auto [prefill_seconds, decode_seconds] = model.run();
    const auto [multiply_after, read_after] = limits();
    pp.seconds.push_back(prefill_seconds);
    pp.limits.push_back((multiply_before + multiply_after) / 2);
    tg.seconds.push_back(decode_seconds);
    tg.limits.push_back((read_before + read_after) / 2);
  }
}

constexpr std::uint32_t range_tokens = 128, ranges = 2;  // of the output

/// One way to decode: an engine, and what it took for each range of the output.
class range_bench {
 public:
  range_bench(const model_geometry& model,
              const engine::model_weights& weights,
              const engine::tokenizer& tokens,
              const bench_options& o,
              const engine::speculation_options& speculation,
              const runner_maker& maker,
              thread_pool& threads)
      : engine_(model, weights, tokens, options_of(o, speculation, maker), threads) {}

  /// Decodes greedily behind the prompt.
  void run(const std::vector<token_id>& prompt) {
    request r;
    r.id = request_id{++id_};
    r.prompt = prompt;
    r.max_new_tokens = ranges * range_tokens;
    r.sampling.temperature = 0;
    if (const status queued = engine_.submit(std::move(r)); !queued) {
      throw engine::error(fmt::format("the request was refused: {}", queued.error().detail));
    }
    std::uint32_t given = 0;
    auto begin = std::chrono::steady_clock::now();
    engine::draft_counts before;
    while (!engine_.idle()) {
      for (const engine::event& happened : engine_.step()) {
        const auto now = std::chrono::steady_clock::now();
        begin = given == 0 ? now : begin;
        if (++given % range_tokens == 0) {
          const std::uint32_t i = given / range_tokens - 1;
          seconds_[i].push_back(std::chrono::duration<double>(now - begin).count());
          steps_[i] += happened.drafts.decode_steps - before.decode_steps;
          tokens_[i] += happened.drafts.decode_tokens - before.decode_tokens;
          before = happened.drafts;
          begin = now;
        }
      }
    }
  }
  /// @param name  of the way
  [[nodiscard]] bench_row row(std::uint32_t range, const std::string& name) const {
    return {
        .test = fmt::format("tg{}-{} {}", range * range_tokens, (range + 1) * range_tokens, name),
        .tokens = range_tokens - (range == 0 ? 1 : 0),  // The first token is the prefill's.
        .bytes_per_token = 0,
        .work = 0,
        .accept_length = double{1} * tokens_[range] / std::max(1u, steps_[range]),
        .seconds = seconds_[range],
        .limits = std::vector<double>(seconds_[range].size(), 1.0)};
  }

 private:
  static engine::engine_options options_of(const bench_options& o,
                                           const engine::speculation_options& speculation,
                                           const runner_maker& maker) {
    engine::engine_options options{.chunk_tokens = o.chunk_tokens,
                                   .context_tokens = o.prompt_tokens + ranges * range_tokens};
    options.prefix_cache = false;
    options.speculation = speculation;
    options.order_fixed = o.order_fixed;
    options.make_runner = maker;
    return options;
  }

  engine::engine engine_;
  std::uint64_t id_ = 0;
  std::array<std::vector<double>, ranges> seconds_;
  std::array<std::uint32_t, ranges> steps_ = {}, tokens_ = {};
};

/// Decodes without and with drafts, turn by turn, through the same engine and sampler, and takes
/// the time of two ranges of the output: MTP blocks that have not seen the prompt show in the
/// first.
std::vector<bench_row> measure_drafts(const model_geometry& model,
                                      const engine::model_weights& weights,
                                      const bench_options& o,
                                      const engine::speculation_options& speculation,
                                      const std::vector<token_id>& prompt,
                                      const runner_maker& maker,
                                      thread_pool& threads) {
  const engine::tokenizer tokens = no_tokenizer();
  range_bench plain{model, weights, tokens, o, {}, maker, threads};
  range_bench drafting{model, weights, tokens, o, speculation, maker, threads};
  for (std::uint32_t turn = 0; turn < o.repetitions; ++turn) {
    plain.run(prompt);
    drafting.run(prompt);
  }
  std::vector<bench_row> rows;
  for (std::uint32_t i = 0; i < ranges; ++i) {
    rows.push_back(plain.row(i, "plain"));
    rows.push_back(drafting.row(i, o.drafts.spec));
    std::vector<double> times;
    for (std::size_t turn = 0; turn < o.repetitions; ++turn) {
      times.push_back(rows[2 * i].seconds[turn] / rows[2 * i + 1].seconds[turn]);
    }
    rows.back().times_plain = median(std::move(times));
  }
  return rows;
}

/// What the output says beside the rows.
struct bench_context {
  std::string model;  ///< a name that breaks neither a table nor a line of CSV
  std::uint32_t threads;
  std::uint64_t weight_bytes;
};

void print_csv(const bench_context& of, std::span<const bench_row> rows) {
  print_out(
      "model,threads,test,tokens_per_s,deviation,bytes_per_token,limit_fraction,accept_length,"
      "times_plain\n");
  for (const bench_row& row : rows) {
    const statistics s = summarize(row);
    print_out("{},{},{},{:.3f},{},{},{},{},{}\n",
              of.model,
              of.threads,
              row.test,
              s.mean,
              s.deviation ? fmt::format("{:.3f}", *s.deviation) : "",
              row.bytes_per_token == 0 ? "" : fmt::format("{:.0f}", row.bytes_per_token),
              row.work == 0 ? "" : fmt::format("{:.4f}", s.limit_fraction),
              row.accept_length == 0 ? "" : fmt::format("{:.3f}", row.accept_length),
              row.times_plain == 0 ? "" : fmt::format("{:.3f}", row.times_plain));
  }
}

void print_json(const bench_context& of, std::span<const bench_row> rows) {
  nlohmann::ordered_json objects = nlohmann::ordered_json::array();
  for (const bench_row& row : rows) {
    const statistics s = summarize(row);
    nlohmann::ordered_json deviation, bytes, limit, fraction, accepted, times;  // null
    if (s.deviation) {
      deviation = *s.deviation;
    }
    if (row.bytes_per_token != 0) {
      bytes = row.bytes_per_token;
    }
    if (row.work != 0) {
      limit = median(row.limits);
      fraction = s.limit_fraction;
    }
    if (row.accept_length != 0) {
      accepted = row.accept_length;
    }
    if (row.times_plain != 0) {
      times = row.times_plain;
    }
    objects.push_back({{"model", of.model},
                       {"threads", of.threads},
                       {"test", row.test},
                       {"repetitions", row.seconds.size()},
                       {"tokens_per_s", s.mean},
                       {"tokens_per_s_deviation", std::move(deviation)},
                       {"bytes_per_token", std::move(bytes)},
                       {"limit_per_s", std::move(limit)},
                       {"limit_fraction", std::move(fraction)},
                       {"accept_length", std::move(accepted)},
                       {"times_plain", std::move(times)}});
  }
  print_out("{}\n", objects.dump(2));
}

void print_markdown(const bench_context& of, std::span<const bench_row> rows) {
  print_out(
      "| model | threads | test | tokens/s | MB/token | of limit |\n|---|---|---|---|---|---|\n");
  for (const bench_row& row : rows) {
    const statistics s = summarize(row);
    print_out("| {} | {} | {}{}{} | {:.2f}{} | {} | {} |\n",
              of.model,
              of.threads,
              row.test,
              row.accept_length == 0 ? "" : fmt::format(", {:.2f} a step", row.accept_length),
              row.times_plain == 0 ? "" : fmt::format(", {:.2f} times plain", row.times_plain),
              s.mean,
              s.deviation ? fmt::format(" ± {:.2f}", *s.deviation) : "",
              row.bytes_per_token == 0 ? "" : fmt::format("{:.2f}", row.bytes_per_token / 1e6),
              row.work == 0 ? "" : fmt::format("{:.2f}", s.limit_fraction));
  }
  if (rows[0].work == 0) {
    return;  // A device: its limits were not taken.
  }
  print_out(
      "\nLimits, measured around each repetition: {:.0f} GFLOP/s of multiply-adds on registers "
      "(pp), {:.1f} GB/s of reads (tg). Path: {}.\n",
      median(rows[0].limits) / 1e9,
      median(rows[1].limits) / 1e9,
      name_of(best_isa()));
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 where the system does not tell.
  if (cache > 0 && of.weight_bytes <= static_cast<std::uint64_t>(cache)) {
    print_out(
        "The weights ({}) fit the last cache ({}), and the limit of reads is the memory's: `of "
        "limit` says little about tg here and may be above 1.\n",
        bytes_text(of.weight_bytes),
        bytes_text(static_cast<std::uint64_t>(cache)));
  }
}

/// The name of the checkpoint's folder.
std::string label_of(const std::filesystem::path& folder) {
  std::error_code unknown;
  const std::filesystem::path whole = std::filesystem::canonical(folder, unknown);
  std::string label = (unknown ? folder : whole).filename().string();
  for (char& c : label) {
    c = c > ' ' && c <= '~' && c != '|' && c != ',' && c != '"' ? c : '_';
  }
  return label;
}

engine::model_weights draw_with_progress(const model_geometry& model,
                                         std::uint64_t seed,
                                         engine::weight_form form) {
  const std::uint64_t parameters = count_parameters(model).total;
  expect_memory_for_weights(parameters * size_bytes(dtype::bf16), model.name);
  if (shows_progress()) {
    note("drawing {:.2f} G random weights", static_cast<double>(parameters) / 1e9);
  }
  engine::model_weights weights = engine::random_weights(
      model, dtype::bf16, seed, best_isa(), host::gemm_backend::automatic, form);
  if (shows_progress()) {
    note("\r\x1b[K");
  }
  return weights;
}

}  // namespace

int bench(const bench_options& o) {
  const compute_device device(o.device);
  const bool is_random = !o.random_preset.empty();
  const std::filesystem::path folder = is_random ? "" : model_folder(o.model_dir);
  std::optional<engine::checkpoint> opened;
  if (!is_random) {
    opened.emplace(open_model(folder));
  }
  const model_geometry model =
      is_random ? preset(o.random_preset).value() : opened->config.geometry;
  const std::uint64_t tokens = std::uint64_t{o.prompt_tokens} + o.new_tokens;
  if (tokens > model.context_tokens) {
    throw engine::error(fmt::format(
        "-p + -n is {} tokens, the context of {} is {}", tokens, model.name, model.context_tokens));
  }
  const engine::speculation_options speculation = speculation_of(o.drafts, model);
  if (o.drafts.any() && std::uint64_t{o.prompt_tokens} + 256 > model.context_tokens) {
    throw engine::error(
        fmt::format("--spec decodes 256 tokens behind -p {}, the context of {} is {}",
                    o.prompt_tokens,
                    model.name,
                    model.context_tokens));
  }
  const std::vector<token_id> prompt = o.prompt_file.empty()
                                           ? random_tokens(model, o.prompt_tokens, o.seed)
                                           : text_tokens(folder, o);
  const dtype compute = is_random ? dtype::bf16 : engine::compute_type_of(*opened);
  const auto [plan, sizes] = plan_pools(model, compute, o);
  device.expect(
      {.model = model,
       .plan = plan,
       .sizes = sizes,
       .limits = limits_of(o),
       .compute = compute,
       .kv = compute,
       .order_fixed = o.order_fixed.value_or(false),
       .kept = is_random ? engine::kept_matrices() : engine::kept_in_e4m3(*opened, compute)});
  engine::model_weights weights =
      is_random ? draw_with_progress(model, o.seed, device.form())
                : load_with_progress(*opened, o.drafts.uses_mtp(), device.form());
  const std::uint64_t weight_bytes = weights.bytes();
  const runner_maker maker = device.take(model, weights);
  thread_pool threads{thread_count(o.threads)};
  bench_model bench{model, weights, o, maker, prompt, threads};
  auto [pp, tg] = make_rows(model, weights.compute, o);
  if (device.is_host()) {
    measure(bench, pp, tg, threads, weights.compute);
  } else {
    measure(bench, pp, tg);
  }
  const bench_context of{.model = is_random ? o.random_preset : label_of(folder),
                         .threads = threads.concurrency(),
                         .weight_bytes = weight_bytes};
  const auto print = o.format == "md" ? print_markdown : o.format == "csv" ? print_csv : print_json;
  std::vector<bench_row> rows{pp, tg};
  if (o.drafts.any()) {
    std::ranges::move(measure_drafts(model, weights, o, speculation, prompt, maker, threads),
                      std::back_inserter(rows));
  }
  print(of, rows);
  return exit_ok;
}

}  // namespace oriel::cli
