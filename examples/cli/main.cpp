// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel`: reads the command line, calls a command, turns errors into exit codes.
#include "commands.hpp"
#include "fleet_options.hpp"
#include "support.hpp"
#include "validators.hpp"

#include <oriel/core/thread_pool.hpp>
#include <oriel/request/request.hpp>

#include <CLI/CLI.hpp>
#include <engine/printable.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <limits>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace oriel::cli;

constexpr std::uint64_t u32_max = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint32_t threads_max = oriel::thread_pool::threads_max;
constexpr oriel::request_limits request_limits{.vocabulary = 0, .max_context_tokens = 0};

template <class T>
CLI::Option* add_page(CLI::App& command, T& tokens) {
  return command.add_option("--page", tokens, "tokens in a KV page, a multiple of 16")
      ->transform(whole_number(16, 4'096, 16))
      ->capture_default_str();
}

template <class T>
CLI::Option* add_chunk(CLI::App& command, T& tokens) {
  return command.add_option("--chunk", tokens, "tokens computed in one step")
      ->transform(whole_number(1, 65'536))
      ->capture_default_str();
}

/// @param page_tokens  lives as long as the command; 0: not known before the trace is read
CLI::Option* add_retain(CLI::App& command,
                        oriel::replay::retain_choice& choice,
                        const std::uint32_t& page_tokens) {
  const auto take = [&choice](const std::string& text) { choice = parse_retain(text).value(); };
  command.callback([&choice, &page_tokens] {  // --page may come later.
    const std::string wrong = page_tokens != 0 ? wrong_retention(choice, page_tokens) : "";
    if (!wrong.empty()) {
      throw CLI::ValidationError("--retain", wrong);
    }
  });
  return command
      .add_option_function<std::string>("--retain",
                                        take,
                                        "where windows are kept: tail, every:N, branch, dense:N, "
                                        "with commas between [tail,branch]")
      ->check(retention());
}

CLI::Option* add_heal(CLI::App& command, std::string& heal) {
  return command.add_option("--heal", heal, "on, or off: clip hits to where windows are left")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
}

/// What changes logits before they are sampled.
void add_penalties(CLI::App& command, run_options& o) {
  command
      .add_option("--repetition-penalty",
                  o.repetition_penalty,
                  "divides the logits of tokens in prompt and answer; 1 is off")
      ->check(number(0, 10, false))
      ->capture_default_str();
  command
      .add_option("--frequency-penalty",
                  o.frequency_penalty,
                  "taken from a token's logit for each use in the answer")
      ->check(number(-2, 2))
      ->capture_default_str();
  command
      .add_option(
          "--presence-penalty", o.presence_penalty, "taken from the logits of tokens in the answer")
      ->check(number(-2, 2))
      ->capture_default_str();
  const auto take = [&o](const std::string& list) { o.logit_bias = parse_biases(list).value(); };
  command
      .add_option_function<std::string>(
          "--logit-bias", take, "added to logits: ID:BIAS or ID:never, with commas between")
      ->check(token_biases());
}

void add_sampling(CLI::App& command, run_options& o) {
  command.add_option("--temp", o.temperature, "temperature; 0 takes the likeliest token")
      ->check(number(0, 100))
      ->capture_default_str();
  command.add_option("--top-k", o.top_k, "keep the k likeliest tokens; 0 keeps all")
      ->transform(whole_number(0, u32_max))
      ->capture_default_str();
  command.add_option("--top-p", o.top_p, "keep the likeliest tokens up to this total probability")
      ->check(number(0, 1, false))
      ->capture_default_str();
  command.add_option("--min-p", o.min_p, "drop tokens below this share of the likeliest")
      ->check(number(0, 1))
      ->capture_default_str();
  command
      .add_option("-s,--seed",
                  o.seed,
                  "seed of the sampler; repeats the answer, with --spec-accept rejection only for "
                  "the same drafts")
      ->transform(whole_number(0))
      ->capture_default_str();
}

/// The prompt in one of its three forms, and what is done to it.
void add_prompt(CLI::App& command, run_options& o) {
  // One text at a time: what follows it is no prompt.
  const auto take_prompt = [&o](const std::string& prompt) { o.prompts.push_back(prompt); };
  auto* text = command
                   .add_option_function<std::string>(
                       "-p,--prompt", take_prompt, "prompt; may be repeated, one after another")
                   ->trigger_on_parse()
                   ->check(some_text());
  auto* file =
      command.add_option("-f,--file", o.prompt_file, "read the prompt from a file; - is stdin")
          ->check(some_text())
          ->excludes(text);
  const auto take_ids = [&o](const std::string& list) { o.prompt_ids = parse_ids(list).value(); };
  auto* ids = command
                  .add_option_function<std::string>(
                      "--ids", take_ids, "prompt as token ids, with commas between")
                  ->check(token_ids())
                  ->excludes(text)
                  ->excludes(file);
  command.add_flag("--chat", o.chat, "wrap the prompt as a chat turn (ChatML)")->excludes(ids);
  // A string at a time: what follows it is no string of it.
  const auto take_stop = [&o](const std::string& stop) {
    if (o.stop.size() == request_limits.max_stop_strings) {
      throw CLI::ValidationError("--stop", fmt::format("at most {} are allowed", o.stop.size()));
    }
    o.stop.push_back(stop);
  };
  command
      .add_option_function<std::string>(
          "--stop", take_stop, "end before this text; may be repeated")
      ->trigger_on_parse()
      ->check(some_text(request_limits.max_stop_string_bytes));
}

/// Without the cache there is nothing that tiers could keep.
void add_tiers(CLI::App& command, tier_options& o, CLI::Option* no_cache) {
  command.add_option("--host-cache-gib", o.host_gib, "keep KV in so much host memory as well")
      ->check(number(0, 65'536))
      ->excludes(no_cache);
  auto* folder = command
                     .add_option("--disk-cache",
                                 o.disk_folder,
                                 "keep KV in this folder, for later runs too; made if missing")
                     ->check(some_text())
                     ->excludes(no_cache);
  command.add_option("--disk-cache-gib", o.disk_gib, "the most that the folder holds")
      ->check(number(0.0625, 1'048'576))
      ->capture_default_str()
      ->needs(folder);
  command
      .add_option("--remote",
                  o.remote_url,
                  "keep KV in a Redis server for others too: "
                  "redis[s]://[[user:]password@]host[:port][/database]")
      ->check(redis_server())
      ->excludes(no_cache);
  command
      .add_option("--tier-writes",
                  o.writes,
                  "what disk and remote get: through, all that is computed; selective, what is hit "
                  "twice; back, what the pools evict")
      ->check(CLI::IsMember({"through", "selective", "back"}))
      ->capture_default_str();
  command.add_option("--tier-ttl", o.ttl_s, "seconds that tiers keep a page [no limit]")
      ->check(number(0.001, 1e9));
  command.add_option("--disk-mb-per-s", o.disk_mb_per_s, "of the disk, for the folder [no limit]")
      ->check(number(0.1, 1e6))
      ->needs(folder);
  command.add_option("--tier-cpu", o.cpu_share, "of one CPU, for each tier; below 1 it yields too")
      ->check(number(0.01, 1))
      ->capture_default_str();
}

/// Who drafts, and how much at once. @param length  what --draft-len means beside numbers
CLI::Option* add_drafts(CLI::App& command, draft_options& o, const char* length) {
  auto* spec = command
                   .add_option("--spec",
                               o.spec,
                               "draft tokens and verify them together: mtp, by the model's MTP "
                               "blocks; lookup, by what the text said before")
                   ->check(CLI::IsMember({"off", "lookup", "mtp"}))
                   ->capture_default_str();
  command.add_option("--draft-len", o.length, length)
      ->check(CLI::IsMember({"auto", "1", "2", "3", "4", "5", "6", "7"}))
      ->needs(spec);
  return spec;
}

void add_speculation(CLI::App& command, draft_options& o) {
  auto* spec = add_drafts(
      command,
      o,
      "drafts a step: auto, as many as pays by measured time; mtp: 1 to 3, lookup: 1 to 7 "
      "[auto; with --spec-accept rejection all the model's blocks, at most 3, since there the "
      "answers depend on the lengths: with auto a seed does not repeat them]");
  command
      .add_option("--spec-accept",
                  o.accept,
                  "with --spec mtp and a temperature: match, the answers of --spec off; rejection, "
                  "other ones of the same distribution, with more drafts accepted")
      ->check(CLI::IsMember({"match", "rejection"}))
      ->needs(spec)
      ->capture_default_str();
}

void check_drafts(const CLI::App& command, const draft_options& o) {
  if (o.uses_mtp() && o.length != "auto" && o.length > "3") {
    throw CLI::ValidationError("--draft-len", "--spec mtp drafts 1 to 3 tokens a step");
  }
  if (!o.any() && command.count("--draft-len") != 0) {
    throw CLI::ValidationError("--draft-len", "needs --spec lookup or --spec mtp");
  }
}

void check_device(const CLI::App& command, const std::string& device) {
  if (device == "cpu" && command.count("--products") != 0) {
    throw CLI::ValidationError("--products", "needs --device cuda: the host has one order");
  }
}

/// What only several options together tell.
void check_run(const CLI::App& command, const run_options& o) {
  check_device(command, o.device);
  if (o.kv_type == "e4m3" && o.device != "cuda") {
    throw CLI::ValidationError("--kv-type", "e4m3 needs --device cuda");
  }
  check_drafts(command, o.drafts);
  if (!o.drafts.uses_mtp() && command.count("--spec-accept") != 0) {
    throw CLI::ValidationError("--spec-accept", "needs --spec mtp: lookups draw nothing");
  }
  const bool has_lower = !o.tiers.disk_folder.empty() || !o.tiers.remote_url.empty();
  if (command.count("--tier-writes") != 0 && !has_lower) {
    throw CLI::ValidationError("--tier-writes", "needs --disk-cache or --remote");
  }
  for (const char* option : {"--tier-ttl", "--tier-cpu"}) {
    if (command.count(option) != 0 && !has_lower && o.tiers.host_gib == 0.0) {
      throw CLI::ValidationError(option, "needs --host-cache-gib, --disk-cache or --remote");
    }
  }
}

void add_device(CLI::App& command,
                std::string& device,
                std::optional<bool>& order_fixed,
                const char* products_default) {
  command.add_option("--device", device, "where the model is computed: cpu, cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command
      .add_option_function<std::string>(
          "--products",
          [&order_fixed](const std::string& name) { order_fixed = name == "fixed"; },
          fmt::format("how a device multiplies: fixed, by one algorithm in all steps, so that hits "
                      "and drafts change no bit; fastest, by the best for each number of rows [{}]",
                      products_default))
      ->check(CLI::IsMember({"fixed", "fastest"}));
}

CLI::App* add_run(CLI::App& app, run_options& o) {
  CLI::App* command = app.add_subcommand("run", "generate text; with no arguments, the nano model");
  command->add_option("-m,--model", o.model_dir, "checkpoint folder (config.json, *.safetensors)")
      ->check(some_text());
  add_prompt(*command, o);
  command->add_option("-n,--new-tokens", o.new_tokens, "tokens to generate at most")
      ->transform(whole_number(1, u32_max))
      ->capture_default_str();
  command
      ->add_option(
          "-c,--context", o.context_tokens, "context limit in tokens [the model's, at most 4096]")
      ->transform(whole_number(2, u32_max));
  command->add_option("-t,--threads", o.threads, "threads [all cores]")
      ->transform(whole_number(0, threads_max));
  add_device(*command, o.device, o.order_fixed, "fixed; fastest with --no-cache and no --spec");
  command
      ->add_option("--kv-type",
                   o.kv_type,
                   "how K and V are kept: f32, bf16, with --device cuda e4m3 [as the weights]")
      ->check(CLI::IsMember({"f32", "bf16", "e4m3"}));
  add_sampling(*command, o);
  add_penalties(*command, o);
  auto* json = command->add_flag("--json", o.json, "print one JSON object");
  command
      ->add_option("--logprobs",
                   o.logprobs,
                   "tell how likely each token was, and the N likeliest; with --json")
      ->transform(whole_number(0, oriel::top_logprobs_max))
      ->needs(json);
  add_chunk(*command, o.chunk_tokens);
  add_page(*command, o.page_tokens);
  auto* no_cache =
      command->add_flag("--no-cache", o.no_cache, "compute every prompt from its first token")
          ->excludes(add_retain(*command, o.retain, o.page_tokens))
          ->excludes(add_heal(*command, o.heal));
  add_speculation(*command, o.drafts);
  add_tiers(*command, o.tiers, no_cache);
  command->add_option("--qkv-shards", o.qkv_shards, "shards of a fused QKV tensor")
      ->transform(whole_number(1, 65'536));
  command->parse_complete_callback([command, &o] { check_run(*command, o); });
  return command;
}

CLI::App* add_inspect(CLI::App& app, inspect_options& o) {
  CLI::App* command = app.add_subcommand("inspect", "what a model's KV costs, and what fits");
  auto* preset = command->add_option("--preset", o.preset, "a known model, e.g. mimo-v2.5-pro")
                     ->check(preset_name());
  command->add_option("-m,--model", o.model_dir, "checkpoint folder")
      ->check(some_text())
      ->excludes(preset);
  command
      ->add_option("--context",
                   o.context_tokens,
                   "tokens of each sequence [131072, or what the model allows]")
      ->transform(whole_number(1, std::uint64_t{1} << 31));
  command->add_option("--budget-gib", o.budget_gib, "memory for KV, in GiB")
      ->check(number(0, 65'536))
      ->capture_default_str();
  add_page(*command, o.page_tokens);
  command->add_flag("--json", o.json, "print one JSON object");
  return command;
}

CLI::App* add_bench(CLI::App& app, bench_options& o) {
  CLI::App* command = app.add_subcommand("bench", "prefill and decode speed beside the machine's");
  auto* random =
      command
          ->add_option("--random", o.random_preset, "random weights of a preset, e.g. bench-0.4b")
          ->check(preset_name());
  command->add_option("-m,--model", o.model_dir, "checkpoint folder [nano]")
      ->check(some_text())
      ->excludes(random);
  add_device(*command, o.device, o.order_fixed, "fastest; fixed for rows with --spec");
  command->add_option("-p,--prompt-tokens", o.prompt_tokens, "tokens to prefill")
      ->transform(whole_number(1, u32_max))
      ->capture_default_str();
  command->add_option("-n,--new-tokens", o.new_tokens, "tokens to decode")
      ->transform(whole_number(1, u32_max))
      ->capture_default_str();
  command->add_option("-b,--batch", o.batch, "sequences, prefilled in turn, that decode together")
      ->transform(whole_number(1, 1'024))
      ->capture_default_str();
  command->add_option("-r,--repetitions", o.repetitions, "repetitions")
      ->transform(whole_number(1, 1'000))
      ->capture_default_str();
  command->add_option("-t,--threads", o.threads, "threads; 0 takes all cores")
      ->transform(whole_number(0, threads_max))
      ->capture_default_str();
  add_chunk(*command, o.chunk_tokens);
  command->add_option("-s,--seed", o.seed, "seed of weights and prompt")
      ->transform(whole_number(0))
      ->capture_default_str();
  command
      ->add_option("-f,--file",
                   o.prompt_file,
                   "prefill the first tokens of this text; - is stdin [random tokens]")
      ->check(some_text())
      ->excludes(random);
  add_drafts(*command,
             o.drafts,
             "drafts a step: auto, as many as pays by measured time; mtp: 1 to 3, lookup: 1 to 7 "
             "[auto]");
  command->add_option("-o,--output", o.format, "md, csv or json")
      ->check(CLI::IsMember({"md", "csv", "json"}))
      ->capture_default_str();
  command->parse_complete_callback([command, &o] {
    check_device(*command, o.device);
    check_drafts(*command, o.drafts);
  });
  return command;
}

/// --tiers says other things of a fleet than of one cache. @pre --workers was added before
CLI::Option* add_levels(CLI::App& command, replay_options& o) {
  const auto take = [&o](const std::string& text) {
    if (o.fleet.workers != 0) {
      o.fleet.tiers = parse_fleet_tiers(text).value();
      return;
    }
    const cache_levels levels = parse_levels(text).value();
    o.tiers = oriel::replay::tier_question{.host = levels.host, .disk = levels.disk};
    if (levels.device.tokens != 0) {
      o.capacity_tokens = levels.device.tokens;
    } else {
      o.capacity_gib = static_cast<double>(levels.device.bytes) / gib;
    }
  };
  const auto check = [&o, one_cache = levels(), fleet = fleet_tiers()](std::string& text) {
    return o.fleet.workers != 0 ? fleet(text) : one_cache(text);
  };
  return command
      .add_option_function<std::string>(
          "--tiers",
          take,
          "instead: device=SIZE,host=SIZE,disk=SIZE; SIZE is tokens (1M) or memory (64GiB); of a "
          "fleet: device=2M,host=30M,l3=SIZE, in tokens")
      ->check(CLI::Validator{check, ""});
}

/// What the cache may hold, and where.
void add_capacity(CLI::App& command, replay_options& o) {
  auto* bytes =
      command
          .add_option("--capacity-gib", o.capacity_gib, "memory for everything: all pools [400]")
          ->check(number(0, 65'536, false));
  auto* tokens =
      command
          .add_option("--capacity-tokens",
                      o.capacity_tokens,
                      "tokens of the full pool, for the cache alone: requests compute beside it")
          ->transform(whole_number(1, std::uint64_t{1} << 40))
          ->excludes(bytes);
  auto* tiers = add_levels(command, o)->excludes(bytes)->excludes(tokens);
  command.add_option("--tier-writes", o.tier_writes, "what tiers get: through, selective or back")
      ->check(CLI::IsMember({"through", "selective", "back"}))
      ->needs(tiers)
      ->capture_default_str();
  command.add_option("--pools", o.pools, "uniform: every layer keeps all rows; or dual")
      ->check(CLI::IsMember({"uniform", "dual"}))
      ->capture_default_str();
  command.add_option("--window-share", o.window_share, "of all bytes, to the window pools")
      ->check(number(0, 0.9))
      ->capture_default_str();
  command.add_option("--page", o.page_tokens, "tokens in a page, a multiple of 16 [the trace's]")
      ->transform(whole_number(16, 4'096, 16));
}

/// What the cache does.
void add_policies(CLI::App& command, replay_options& o) {
  command.add_option("--evict", o.evict, "lru, s3-fifo, cost-aware or hit-density")
      ->check(CLI::IsMember({"lru", "s3-fifo", "cost-aware", "hit-density"}))
      ->capture_default_str();
  add_retain(command, o.retain, o.page_tokens);
  add_heal(command, o.heal);
  command
      .add_option(
          "-s,--seed", o.seed, "seed of an order that samples; of a fleet, of the first run")
      ->transform(whole_number(0))
      ->capture_default_str();
}

CLI::App* add_replay(CLI::App& app, replay_options& o) {
  CLI::App* command = app.add_subcommand("replay", "what a prefix cache reaches on a trace");
  command->add_option("trace", o.trace, "JSON lines, plain or .zst (docs/cli.md)")
      ->required()
      ->check(some_text());
  CLI::Option* workers = add_workers(*command, o.fleet);
  command->add_option("--preset", o.preset, "a known model")
      ->check(preset_name())
      ->capture_default_str();
  add_capacity(*command, o);
  add_policies(*command, o);
  command->add_option("--hours", o.hours, "window in which the sessions of a trace start")
      ->check(number(0, 8'784, false))
      ->capture_default_str();
  command->add_flag("--json", o.json, "print one JSON object");
  std::vector<CLI::Option*> cache_only;
  for (const char* const name : {"--capacity-gib",
                                 "--capacity-tokens",
                                 "--tier-writes",
                                 "--pools",
                                 "--page",
                                 "--evict",
                                 "--retain"}) {
    cache_only.push_back(command->get_option(name));
  }
  add_fleet(*command, o.fleet, *workers, cache_only);
  command->callback([&o] {  // What only all options together tell.
    if (o.page_tokens != 0) {
      if (const std::string wrong = wrong_retention(o.retain, o.page_tokens); !wrong.empty()) {
        throw CLI::ValidationError("--retain", wrong);
      }
    }
    if (o.fleet.workers != 0) {
      check_fleet(o);
    }
  });
  return command;
}

CLI::App* add_cache_action(
    CLI::App& cache, cache_options& o, cache_action action, const char* name, const char* text) {
  CLI::App* command = cache.add_subcommand(name, text);
  command->add_option("folder", o.folder, "what --disk-cache was given")
      ->required()
      ->check(some_text());
  command->callback([&o, action] { o.action = action; });
  return command;
}

CLI::App* add_cache(CLI::App& app, cache_options& o) {
  CLI::App* command = app.add_subcommand("cache", "looks after the folder of a disk cache");
  command->require_subcommand(1);
  auto* list = add_cache_action(*command, o, cache_action::list, "list", "what is in it");
  list->add_flag("--json", o.json, "print one JSON object");
  auto* verify = add_cache_action(
      *command, o, cache_action::verify, "verify", "reads every record and checks every checksum");
  verify->add_flag("--json", o.json, "print one JSON object");
  auto* clear = add_cache_action(*command, o, cache_action::clear, "clear", "erases, for good");
  auto* tenant = clear->add_option("--tenant", o.tenant, "what is this tenant's, as list shows it")
                     ->check(hex_digits(1, 16));
  clear->add_option("--session", o.session, "what is this session's of that tenant")
      ->check(hex_digits(1, 16))
      ->needs(tenant);
  clear->add_option("--namespace", o.name_space, "what is in the namespace that begins so")
      ->check(hex_digits(8, 64))
      ->excludes(tenant);
  clear->add_flag("--yes", o.yes, "do not ask");
  return command;
}

std::string names_of_commands(const CLI::App& app) {
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return names;
}

/// What is wrong, in words that name the word that is. Words come from anywhere: they are made fit
/// for a terminal.
std::string complaint(const CLI::App& command, const CLI::ParseError& e) {
  const std::vector<std::string> unknown = command.remaining();
  if (dynamic_cast<const CLI::RequiredError*>(&e) != nullptr &&
      command.get_require_subcommand_min() > 0) {
    const std::string names = names_of_commands(command);
    if (unknown.empty()) {
      return "a subcommand is required: " + names;
    }
    return fmt::format("no {} {} here; the subcommands are {}",
                       unknown.front().starts_with('-') ? "option" : "subcommand",
                       oriel::engine::printable(unknown.front()),
                       names);
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr) {
    std::string words;
    for (const std::string& word : unknown) {
      words += ' ' + oriel::engine::printable(word);
    }
    return "not expected:" + words;
  }
  std::string text = e.what();  // It may repeat a value.
  std::ranges::replace_if(
      text, [](char c) { return (c >= 0 && c < ' ' && c != '\n') || c == 0x7F; }, '?');
  return text;
}

/// What CLI11 has to say: help and version are output, the rest is wrong usage.
int answer(const CLI::App& app, const CLI::ParseError& e) {
  if (e.get_exit_code() == 0) {
    std::ostringstream text;
    app.exit(e, text, text);
    write_out(text.str());
    finish_output();
    return exit_ok;
  }
  std::string path;
  const CLI::App* command = &app;
  for (auto next = app.get_subcommands(); !next.empty(); next = command->get_subcommands()) {
    command = next.front();
    path += ' ' + command->get_name();
  }
  note("oriel: {}\nSee `oriel{} --help`.\n", complaint(*command, e), path);
  return exit_usage;
}

int start(int argc, char** argv) {
  CLI::App app{"oriel: LLM inference for hybrid sliding-window models", "oriel"};
  app.set_version_flag("--version", "oriel " ORIEL_VERSION);
  app.require_subcommand(1);
  run_options run_o;
  inspect_options inspect_o;
  bench_options bench_o;
  replay_options replay_o;
  CLI::App* run_command = add_run(app, run_o);
  CLI::App* inspect_command = add_inspect(app, inspect_o);
  CLI::App* bench_command = add_bench(app, bench_o);
  cache_options cache_o;
  CLI::App* replay_command = add_replay(app, replay_o);
  add_cache(app, cache_o);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return answer(app, e);
  }
  const int code = run_command->parsed()       ? run(run_o)
                   : inspect_command->parsed() ? inspect(inspect_o)
                   : bench_command->parsed()   ? bench(bench_o)
                   : replay_command->parsed()  ? replay(replay_o)
                                               : cache(cache_o);
  finish_output();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  hold_standard_streams();
  try {
    return start(argc, argv);
  } catch (const std::bad_alloc&) {
    const bool is_replay = argc > 1 && std::string_view(argv[1]) == "replay";
    note("oriel: out of memory: {}\n",
         is_replay ? "lower --workers, --seeds or the tokens of --capacity-tokens and --tiers"
                   : "lower -c, or take a smaller model");
  } catch (const std::exception& e) {
    note("oriel: {}\n", e.what());
  }
  return exit_failure;
}
