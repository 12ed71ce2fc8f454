// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel run`: prompts through the engine, one after another.
#include "commands.hpp"
#include "device.hpp"
#include "support.hpp"

#include <oriel/core/thread_pool.hpp>
#include <oriel/request/request.hpp>
#include <oriel/spec/draft_length.hpp>
#include <oriel/tier/numa_memory.hpp>

#include <engine/chat_format.hpp>
#include <engine/checkpoint.hpp>
#include <engine/engine.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/error.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace oriel::cli {
namespace {

/// Longer than several windows of the nano model, so that its summary shows what windows save.
constexpr const char* built_in_prompt = R"(import os
import sys


class FileReader:
    """Read lines from a file, one at a time."""

    def __init__(self, path, encoding="utf-8"):
        self.path = path
        self.encoding = encoding
        self._file = None

    def open(self):
        if self._file is None:
            self._file = open(self.path, encoding=self.encoding)
        return self._file

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def read_lines(self):
)";
constexpr std::uint32_t default_context_tokens = 4096;

volatile std::sig_atomic_t interrupted = 0;

/// From here on Ctrl-C ends the generation, not the program; a second one ends the program. A write
/// that waits for its reader goes on, so that none of the text is lost.
void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

/// What a run gave.
struct outcome {
  std::string text;
  std::vector<token_id> tokens;
  std::vector<token_logprobs> logprobs;  // of each token, if they were asked for
  finish_reason finish = finish_reason::none;
  engine::request_usage usage;
  engine::draft_counts drafts;
  std::uint64_t missing_mtp_rows = 0;  // that hits and heals left the MTP blocks without
  double prefill_ms = 0, decode_ms = 0;
  engine::kv_usage kv;  // held in the last step
  double stall_ms = 0;  // computing waited for tiers
  tier_counters moved;  // between pools and tiers, during the request; copies may end later
  std::array<std::optional<store_stats>, tier_roles> tiers = {};  // what those hold that there are
  std::array<store_fault, tier_roles> faults = {};                // the last of each
};

double ms_between(std::chrono::steady_clock::time_point a,
                  std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double, std::milli>(b - a).count();
}

void print_now(std::string_view text) {
  write_out(text);
  finish_output();
}

/// How the output is shown while it comes.
enum class form { nothing, text, ids };

void show(const engine::event& happened, std::size_t tokens_before, form shown) {
  if (shown == form::text) {
    print_now(happened.text);
  } else if (shown == form::ids && happened.token) {
    print_now(fmt::format("{}{}", tokens_before == 0 ? "" : " ", to_index(*happened.token)));
  }
}

tier_counters moved_by(engine::engine& engine) {
  const bool has_tiers = engine.cache() != nullptr && engine.cache()->tiers() != nullptr;
  return has_tiers ? engine.cache()->tiers()->counters() : tier_counters{};
}

/// Runs the one request that is queued to its end, or to Ctrl-C, and shows the output as it comes.
outcome generate(engine::engine& engine, request_id id, form shown) {
  outcome result;
  const tier_counters moved_before = moved_by(engine);
  const std::uint64_t stall_before_us = engine.metrics().stall_us.value();
  const std::uint64_t missing_before = engine.metrics().missing_mtp_rows.value();
  const auto take = [&](const engine::event& happened) {
    show(happened, result.tokens.size(), shown);
    if (happened.token) {
      result.tokens.push_back(*happened.token);
    }
    if (happened.logprobs) {
      result.logprobs.push_back(*happened.logprobs);
    }
    result.text += happened.text;
    result.finish = happened.finish;
    result.usage = happened.usage;
    result.drafts = happened.drafts;
  };
  const auto begin = std::chrono::steady_clock::now();
  auto first_token = begin;
  while (!engine.idle()) {
    if (interrupted != 0) {
      take(engine.cancel(id).value());
      break;
    }
    for (const engine::event& happened : engine.step()) {
      if (result.tokens.empty()) {
        first_token = std::chrono::steady_clock::now();
      }
      take(happened);
    }
    result.kv = engine.step_usage();
  }
  if (first_token == begin) {
    first_token = std::chrono::steady_clock::now();
  }
  result.prefill_ms = ms_between(begin, first_token);
  result.decode_ms = ms_between(first_token, std::chrono::steady_clock::now());
  result.stall_ms = 1e-3 * static_cast<double>(engine.metrics().stall_us.value() - stall_before_us);
  result.missing_mtp_rows = engine.metrics().missing_mtp_rows.value() - missing_before;
  result.moved = moved_by(engine);
  for (std::size_t role = 0; role < tier_roles; ++role) {
    result.moved.fetched_bytes[role] -= moved_before.fetched_bytes[role];
    result.moved.copied_bytes[role] -= moved_before.copied_bytes[role];
  }
  return result;
}

/// The bytes of a prompt that may fit `context_tokens`: no sensible token stands for more than 64,
/// runs of spaces included.
std::uint64_t prompt_bytes_max(std::uint32_t context_tokens) {
  constexpr std::uint64_t mib = std::uint64_t{1} << 20;
  return std::min(mib + std::uint64_t{64} * context_tokens, 256 * mib);
}

/// The texts to answer, if the prompts are texts.
std::vector<std::string> texts_of(const run_options& o, std::uint32_t context_tokens) {
  if (!o.prompts.empty()) {
    return o.prompts;
  }
  return {o.prompt_file.empty() ? built_in_prompt
                                : read_text(o.prompt_file, prompt_bytes_max(context_tokens))};
}

/// Tokens, and the text that is shown before the answer to them.
struct prompt {
  std::vector<token_id> tokens;
  std::string shown;
};

/// The tokenizer of a folder, or none: transformers saves models without.
/// @throws engine::error when what was asked for needs one, or when it is of another model
std::optional<engine::tokenizer> load_tokenizer(const std::filesystem::path& folder,
                                                const run_options& o,
                                                const model_geometry& model) {
  const std::filesystem::path path = folder / "tokenizer.json";
  std::error_code unknown;
  if (!std::filesystem::exists(path, unknown) && !unknown) {
    if (o.prompt_ids.empty() || !o.stop.empty()) {
      throw engine::error(fmt::format("{} is missing: {}",
                                      path.string(),
                                      o.prompt_ids.empty()
                                          ? "without it, give the prompt as tokens with --ids"
                                          : "without it, there is no text for --stop to end"));
    }
    return std::nullopt;
  }
  std::optional<engine::tokenizer> tokenizer = engine::tokenizer::load(path.string());
  if (tokenizer->vocab_size() > model.vocabulary) {
    throw engine::error(
        fmt::format("{} has ids up to {}, the model a vocabulary of {}: they do "
                    "not belong together",
                    path.string(),
                    tokenizer->vocab_size() - 1,
                    model.vocabulary));
  }
  return tokenizer;
}

std::vector<prompt> make_prompts(const run_options& o,
                                 const engine::tokenizer* tokenizer,
                                 std::uint32_t context_tokens) {
  if (!o.prompt_ids.empty()) {
    prompt p;
    for (const std::uint32_t id : o.prompt_ids) {
      p.tokens.push_back(token_id{id});
    }
    p.shown = tokenizer != nullptr ? tokenizer->decode(p.tokens) : "";
    return {std::move(p)};
  }
  std::vector<prompt> prompts;
  for (const std::string& text : texts_of(o, context_tokens)) {
    if (o.chat) {
      const engine::chat_message message{engine::chat_role::user, text};
      prompts.push_back({engine::encode_chat(*tokenizer, {&message, 1}), ""});
    } else {
      prompts.push_back({tokenizer->encode(text), text});
    }
  }
  return prompts;
}

std::uint32_t context_of(const run_options& o, const model_geometry& model) {
  if (o.context_tokens > model.context_tokens) {
    throw engine::error(fmt::format(
        "-c {}: the model allows a context of {} tokens", o.context_tokens, model.context_tokens));
  }
  return o.context_tokens != 0 ? o.context_tokens
                               : std::min(model.context_tokens, default_context_tokens);
}

/// Ids from the command line. @throws engine::error
void expect_in_vocabulary(std::uint32_t id, const char* option, const model_geometry& model) {
  if (id >= model.vocabulary) {
    throw engine::error(fmt::format("{} {} is outside the vocabulary of {}: 0 to {}",
                                    option,
                                    id,
                                    model.name,
                                    model.vocabulary - 1));
  }
}

/// A request that the engine will take.
/// @throws engine::error
request make_request(const run_options& o,
                     std::uint64_t id,
                     std::vector<token_id> tokens,
                     const engine::model_config& config,
                     std::uint32_t context_tokens) {
  for (const std::uint32_t token : o.prompt_ids) {
    expect_in_vocabulary(token, "--ids", config.geometry);
  }
  for (const token_bias& bias : o.logit_bias) {
    expect_in_vocabulary(to_index(bias.id), "--logit-bias", config.geometry);
  }
  request r;
  r.id = request_id{id};
  r.prompt = std::move(tokens);
  if (r.prompt.empty()) {
    throw engine::error("the prompt is empty: give some text with -p or -f");
  }
  if (r.prompt.size() >= context_tokens) {
    throw engine::error(
        fmt::format("the prompt has {} tokens and the context limit is {}: shorten it or raise -c "
                    "(the model allows {})",
                    r.prompt.size(),
                    context_tokens,
                    config.geometry.context_tokens));
  }
  const auto room = context_tokens - static_cast<std::uint32_t>(r.prompt.size());
  r.max_new_tokens = std::min(o.new_tokens, room);
  r.stop.tokens = config.eos_tokens;
  r.stop.strings = o.stop;
  r.sampling = {.temperature = o.temperature,
                .top_k = o.top_k,
                .top_p = o.top_p,
                .min_p = o.min_p,
                .seed = o.seed,
                .repetition_penalty = o.repetition_penalty,
                .frequency_penalty = o.frequency_penalty,
                .presence_penalty = o.presence_penalty,
                .logit_bias = o.logit_bias,
                .logprobs = o.logprobs};
  const status fits =
      check(r, {.vocabulary = config.geometry.vocabulary, .max_context_tokens = context_tokens});
  if (!fits) {
    throw engine::error(fmt::format("the request was refused: {}", fits.error().detail));
  }
  return r;
}

/// Prompt tokens by where their KV was. A fetched page may, rarely, lose its use to another start.
std::array<std::uint32_t, 1 + tier_roles> hits_of(const engine::request_usage& usage) {
  std::array<std::uint32_t, 1 + tier_roles> hits = {usage.cached_tokens};
  for (std::size_t role = tier_roles; role-- > 0;) {
    hits[1 + role] = std::min(hits[0], usage.fetched_tokens[role]);
    hits[0] -= hits[1 + role];
  }
  return hits;
}

/// "write /kv/segment-00000003: No space left on device"; nothing without a fault.
std::string text_of(const store_fault& fault) {
  return fault.count == 0
             ? std::string()
             : fmt::format("{} {}{}{}",
                           fault.operation,
                           fault.where,
                           fault.native == 0 ? "" : ": ",
                           fault.native == 0 ? "" : std::generic_category().message(fault.native));
}

/// What each tier that there is holds, and how long what it evicted had been there.
nlohmann::ordered_json held_by_tier(const outcome& result) {
  nlohmann::ordered_json held = nlohmann::ordered_json::object();
  for (std::size_t role = 0; role < tier_roles; ++role) {
    if (!result.tiers[role]) {
      continue;
    }
    const store_stats& s = *result.tiers[role];
    const store_fault& fault = result.faults[role];
    nlohmann::ordered_json age_s;  // null
    if (s.evicted_pages != 0) {
      age_s =
          1e-6 * static_cast<double>(s.evicted_age_us_sum) / static_cast<double>(s.evicted_pages);
    }
    held[name_of(static_cast<tier_role>(role))] = {{"pages", s.pages},
                                                   {"used_bytes", s.used_bytes},
                                                   {"evicted_pages", s.evicted_pages},
                                                   {"mean_age_at_eviction_s", age_s},
                                                   {"health", name_of(s.health)},
                                                   {"faults", fault.count},
                                                   {"last_fault", text_of(fault)}};
  }
  return held;
}

/// Tokens that a decode step gave on average: accepted drafts, and the one behind them.
/// @returns nothing when there was no decode step
std::optional<double> mean_accept_length(const engine::draft_counts& d) {
  return d.decode_steps == 0 ? std::nullopt
                             : std::optional(double{1} * d.decode_tokens / d.decode_steps);
}

std::uint32_t sum_of(const std::array<std::uint32_t, draft_tokens_max>& counts) {
  return std::accumulate(counts.begin(), counts.end(), 0u);
}

/// Of the drafts at each place of a chain, the share that was accepted.
nlohmann::ordered_json acceptance_by_position(const engine::draft_counts& d) {
  nlohmann::ordered_json shares = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < draft_tokens_max && d.drafted[i] != 0; ++i) {
    shares.push_back(double{1} * d.accepted[i] / d.drafted[i]);
  }
  return shares;
}

nlohmann::ordered_json by_tier(const std::array<std::uint64_t, tier_roles>& counts) {
  return {{"host", counts[0]}, {"disk", counts[1]}, {"remote", counts[2]}};
}

/// Of each token of the answer: its log-probability, and those of the likeliest tokens there.
nlohmann::ordered_json logprobs_json(const outcome& result) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < result.logprobs.size(); ++i) {
    nlohmann::ordered_json top = nlohmann::ordered_json::array();
    for (const token_logprob& t : result.logprobs[i].top) {
      top.push_back({{"token", to_index(t.id)}, {"logprob", t.logprob}});
    }
    all.push_back({{"token", to_index(result.tokens[i])},
                   {"logprob", result.logprobs[i].chosen},
                   {"top", std::move(top)}});
  }
  return all;
}

void print_json(const outcome& result, std::size_t prompt_tokens, bool has_logprobs) {
  const auto hits = hits_of(result.usage);
  nlohmann::ordered_json ids = nlohmann::ordered_json::array(), accept_length;  // null
  for (const token_id id : result.tokens) {
    ids.push_back(to_index(id));
  }
  if (const auto mean = mean_accept_length(result.drafts)) {
    accept_length = *mean;
  }
  nlohmann::ordered_json object{
      {"text", result.text},
      {"tokens", std::move(ids)},
      {"prompt_tokens", prompt_tokens},
      {"completion_tokens", result.tokens.size()},
      {"cached_tokens", result.usage.cached_tokens},
      {"healed_tokens", result.usage.healed_tokens},
      {"computed_tokens", result.usage.computed_tokens},
      {"hits", {{"device", hits[0]}, {"host", hits[1]}, {"disk", hits[2]}, {"remote", hits[3]}}},
      {"fetched_bytes", by_tier(result.moved.fetched_bytes)},
      {"copied_bytes", by_tier(result.moved.copied_bytes)},
      {"stall_ms", result.stall_ms},
      {"tiers", held_by_tier(result)},
      {"drafted", sum_of(result.drafts.drafted)},
      {"accepted", sum_of(result.drafts.accepted)},
      {"mean_accept_length", std::move(accept_length)},
      {"acceptance_by_position", acceptance_by_position(result.drafts)},
      {"missing_mtp_rows", result.missing_mtp_rows},
      {"finish_reason", name_of(result.finish)},
      {"prefill_ms", result.prefill_ms},
      {"decode_ms", result.decode_ms},
      {"kv_bytes", result.kv.bytes},
      {"kv_bytes_uniform", result.kv.uniform_bytes}};
  if (has_logprobs) {
    object["logprobs"] = logprobs_json(result);
  }
  print_out("{}\n", object.dump());
}

void print_summary(const outcome& result, std::size_t prompt_tokens) {
  const double decoded = static_cast<double>(result.tokens.size()) - 1;
  note(
      "\n\nprompt      {:>6} tokens in {:.1f} ms ({:.0f} tokens/s), {} cached, {} of them healed\n"
      "generated   {:>6} tokens in {:.1f} ms ({:.0f} tokens/s), finish: {}\n"
      "KV in use   {:>10}; a uniform cache would hold {} ({:.1f}x)\n",
      prompt_tokens,
      result.prefill_ms,
      1e3 * static_cast<double>(prompt_tokens) / std::max(result.prefill_ms, 1e-3),
      result.usage.cached_tokens,
      result.usage.healed_tokens,
      result.tokens.size(),
      result.decode_ms,
      1e3 * std::max(decoded, 0.0) / std::max(result.decode_ms, 1e-3),
      name_of(result.finish),
      bytes_text(result.kv.bytes),
      bytes_text(result.kv.uniform_bytes),
      static_cast<double>(result.kv.uniform_bytes) /
          std::max(1.0, static_cast<double>(result.kv.bytes)));
  if (const std::uint32_t drafted = sum_of(result.drafts.drafted); drafted != 0) {
    note("drafted     {:>6} tokens, {} accepted; {:.2f} tokens a step{}\n",
         drafted,
         sum_of(result.drafts.accepted),
         mean_accept_length(result.drafts).value_or(0),
         result.missing_mtp_rows == 0 ? std::string()
                                      : fmt::format("; the cache lacked {} rows of the MTP blocks",
                                                    result.missing_mtp_rows));
  }
  if (const auto hits = hits_of(result.usage); hits[1] + hits[2] + hits[3] != 0) {
    note("from tiers  {:>6} tokens: {} host, {} disk, {} remote; waited {:.1f} ms\n",
         hits[1] + hits[2] + hits[3],
         hits[1],
         hits[2],
         hits[3],
         result.stall_ms);
  }
}

engine::engine_options engine_options_of(const run_options& o,
                                         const engine::checkpoint& checkpoint,
                                         std::uint32_t context_tokens) {
  engine::engine_options options{.page_tokens = o.page_tokens,
                                 .chunk_tokens = o.chunk_tokens,
                                 .sequences_max = 1,
                                 .context_tokens = context_tokens};
  if (!o.kv_type.empty()) {
    options.kv = o.kv_type == "e4m3" ? dtype::e4m3 : o.kv_type == "bf16" ? dtype::bf16 : dtype::f32;
  }
  options.prefix_cache = !o.no_cache;
  options.order_fixed = o.order_fixed;
  options.heal = o.heal == "on";
  options.retain = {.every_tokens = o.retain.every_tokens,
                    .branch_points = o.retain.branch_points,
                    .dense_head_tokens = o.retain.dense_head_tokens};
  options.speculation = speculation_of(o.drafts, checkpoint.config.geometry);
  options.model_digest = engine::checkpoint_digest(checkpoint);
  options.tier_moves.drain_us_max = 0;  // See end_tiers.
  options.tier_moves.ttl_us = static_cast<std::uint64_t>(o.tiers.ttl_s * 1e6);
  return options;
}

std::vector<tier> tiers_of(const tier_options& o,
                           const model_geometry& model,
                           const engine::engine_options& options,
                           dtype kv) {
  constexpr double gib = 1024.0 * 1024.0 * 1024.0;
  if (o.host_gib != 0.0 && numa_balancing_is_on()) {
    note(
        "warning: the kernel moves pages between memory nodes (numa_balancing), which stalls "
        "copies; "
        "echo 0 > /proc/sys/kernel/numa_balancing\n");
  }
  const engine::tier_choice choice{
      .host_bytes = static_cast<std::uint64_t>(o.host_gib * gib),
      .disk_folder = o.disk_folder,
      .disk_bytes = static_cast<std::uint64_t>(o.disk_gib * gib),
      .remote_url = o.remote_url,
      .writes = o.writes == "selective" ? placement::selective
                : o.writes == "back"    ? placement::write_back
                                        : placement::write_through,
      .disk_bytes_per_s_max = static_cast<std::uint64_t>(o.disk_mb_per_s * 1e6),
      .cpu_share = o.cpu_share};
  return choice.any() ? engine::make_tiers(choice, engine::kv_page_shape(model, options, kv))
                      : std::vector<tier>{};
}

/// The figures count the copies to tiers that the request brought about; waits a moment for them.
void end_copies(engine::engine& engine, outcome& result) {
  constexpr std::uint64_t moment_us = 1'000'000;
  if (engine.cache() == nullptr || engine.cache()->tiers() == nullptr) {
    return;
  }
  auto& tiers = *engine.cache()->tiers();
  const auto before = tiers.counters().copied_bytes;
  tiers.finish(engine::steady_now_us() + moment_us);
  for (std::size_t role = 0; role < tier_roles; ++role) {
    result.moved.copied_bytes[role] += tiers.counters().copied_bytes[role] - before[role];
  }
  for (const tier& t : tiers.tiers()) {
    result.tiers[static_cast<std::size_t>(t.role)] = t.store.stats();
    result.faults[static_cast<std::size_t>(t.role)] = t.store.last_fault();
  }
}

/// Waits for the pages that are on their way to tiers; Ctrl-C ends that. Then says what went wrong
/// there.
void end_tiers(engine::engine& engine) {
  constexpr std::uint64_t step_us = 100'000, quiet_us = 1'000'000, most_us = 60'000'000;
  if (engine.cache() == nullptr || engine.cache()->tiers() == nullptr) {
    return;
  }
  auto& tiers = *engine.cache()->tiers();
  const std::uint64_t begin_us = engine::steady_now_us();
  bool has_told = false;
  for (std::uint64_t now_us = begin_us;
       !tiers.finish(now_us + step_us) && interrupted == 0 && now_us < begin_us + most_us;
       now_us = engine::steady_now_us()) {
    if (!has_told && now_us >= begin_us + quiet_us) {
      note("waiting for {} pages on their way to tiers; Ctrl-C drops them\n",
           tiers.copies_under_way());
      has_told = true;
    }
  }
  if (!tiers.idle()) {
    note("warning: {} pages did not reach their tiers\n", tiers.copies_under_way());
  }
  for (const tier& t : tiers.tiers()) {
    const store_fault fault = t.store.last_fault();
    const store_health health = t.store.stats().health;
    if (fault.count != 0 || health != store_health::healthy) {
      note("warning: the {} tier {}{}\n",
           name_of(t.role),
           health == store_health::healthy        ? "works now, but had faults"
           : health == store_health::write_paused ? "takes no more pages"
                                                  : "is off",
           fault.count == 0
               ? std::string()
               : fmt::format("; faults: {}, the last: {}", fault.count, text_of(fault)));
    }
  }
}

/// Serves one request and prints what it gave.
/// @param has_text  false: ids stand for text
finish_reason answer(engine::engine& engine,
                     request asked,
                     const std::string& shown,
                     const run_options& o,
                     bool has_text) {
  const std::size_t prompt_tokens = asked.prompt.size();
  const request_id id = asked.id;
  if (const status queued = engine.submit(std::move(asked)); !queued) {
    throw engine::error(fmt::format("the request was refused: {}", queued.error().detail));
  }
  if (!o.json) {
    print_now(shown);
  }
  outcome result = generate(engine, id, o.json ? form::nothing : has_text ? form::text : form::ids);
  if (result.finish == finish_reason::failed) {
    throw engine::error(fmt::format(
        "{}: the logits hold no number after {} tokens: the weights are damaged (NaN or infinity)",
        model_folder(o.model_dir).string(),
        prompt_tokens + result.tokens.size()));
  }
  if (!has_text) {
    result.text.clear();
  }
  if (o.json) {
    end_copies(engine, result);
    print_json(result, prompt_tokens, o.logprobs.has_value());
    finish_output();
  } else {
    print_now(has_text ? "" : "\n");
    print_summary(result, prompt_tokens);
  }
  return result.finish;
}

}  // namespace

int run(const run_options& o) {
  // All that may be refused, before the weights are read.
  const compute_device device(o.device);
  const std::filesystem::path folder = model_folder(o.model_dir);
  const engine::checkpoint checkpoint = open_model(folder, o.qkv_shards);
  const model_geometry& model = checkpoint.config.geometry;
  const std::uint32_t context = context_of(o, model);
  const auto found = load_tokenizer(folder, o, model);
  std::vector<prompt> prompts = make_prompts(o, found ? &*found : nullptr, context);
  std::vector<request> requests;
  requests.reserve(prompts.size());
  for (prompt& p : prompts) {
    requests.push_back(
        make_request(o, requests.size() + 1, std::move(p.tokens), checkpoint.config, context));
  }

  engine::engine_options options = engine_options_of(o, checkpoint, context);
  device.expect(
      model,
      options,
      engine::compute_type_of(checkpoint),
      engine::kept_in_e4m3(checkpoint, engine::compute_type_of(checkpoint)),
      o.tiers.host_gib != 0.0 || !o.tiers.disk_folder.empty() || !o.tiers.remote_url.empty());

  engine::model_weights weights =
      load_with_progress(checkpoint, o.drafts.uses_mtp(), device.form());
  options.make_runner = device.take(model, weights);
  thread_pool threads{thread_count(o.threads)};
  const auto stand_in = found ? std::nullopt : std::optional{no_tokenizer()};
  engine::engine engine{model,
                        weights,
                        found ? *found : *stand_in,
                        options,
                        threads,
                        tiers_of(o.tiers, model, options, options.kv.value_or(weights.compute))};
  catch_interrupts();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (i != 0 && !o.json && found) {
      print_now("\n");
    }
    const finish_reason finish =
        answer(engine, std::move(requests[i]), prompts[i].shown, o, found.has_value());
    if (finish == finish_reason::cancelled) {
      end_tiers(engine);
      return exit_interrupted;
    }
  }
  end_tiers(engine);
  return exit_ok;
}

}  // namespace oriel::cli
