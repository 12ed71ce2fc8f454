// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel`: reads the command line, calls a command, turns errors into exit codes.
#include "commands.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>

namespace {

using namespace oriel::cli;

void add_sampling(CLI::App& command, run_options& o) {
  command.add_option("--temp", o.temperature, "temperature; 0 takes the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", o.top_k, "keep the k likeliest tokens; 0 keeps all")
      ->capture_default_str();
  command.add_option("--top-p", o.top_p, "keep the likeliest tokens up to this total probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--min-p", o.min_p, "drop tokens below this share of the likeliest")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("-s,--seed", o.seed, "seed of the sampler")->capture_default_str();
}

CLI::App* add_run(CLI::App& app, run_options& o) {
  CLI::App* command = app.add_subcommand("run", "generate text; with no arguments, the nano model");
  command->add_option("-m,--model", o.model_dir, "checkpoint folder (config.json, *.safetensors)");
  auto* prompt = command->add_option("-p,--prompt", o.prompt, "prompt");
  command->add_option("-f,--file", o.prompt_file, "read the prompt from a file; - is stdin")
      ->excludes(prompt);
  command->add_option("-n,--new-tokens", o.new_tokens, "tokens to generate at most")
      ->capture_default_str();
  command->add_option(
      "-c,--context", o.context_tokens, "context limit in tokens [the model's, at most 4096]");
  command->add_option("-t,--threads", o.threads, "threads [all cores]");
  add_sampling(*command, o);
  command->add_option("--stop", o.stop, "end before this text; may be given again");
  command->add_flag("--chat", o.chat, "wrap the prompt as a chat turn (ChatML)");
  command->add_flag("--json", o.json, "print one JSON object");
  command->add_option("--chunk", o.chunk_tokens, "tokens computed in one step")
      ->check(CLI::Range(1u, 65'536u))
      ->capture_default_str();
  command->add_option("--page", o.page_tokens, "tokens in a KV page, a multiple of 16")
      ->check(CLI::Range(16u, 4'096u))
      ->capture_default_str();
  command->add_option("--qkv-shards", o.qkv_shards, "shards of a fused QKV tensor");
  return command;
}

CLI::App* add_inspect(CLI::App& app, inspect_options& o) {
  CLI::App* command = app.add_subcommand("inspect", "what a model's KV costs, and what fits");
  auto* preset = command->add_option("--preset", o.preset, "a known model, e.g. mimo-v2.5-pro");
  command->add_option("-m,--model", o.model_dir, "checkpoint folder")->excludes(preset);
  command->add_option("--context", o.context_tokens, "tokens of each sequence")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 31))
      ->capture_default_str();
  command->add_option("--budget-gib", o.budget_gib, "memory for KV, in GiB")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command->add_option("--page", o.page_tokens, "tokens in a KV page, a multiple of 16")
      ->check(CLI::Range(16u, 4'096u))
      ->capture_default_str();
  command->add_flag("--json", o.json, "print one JSON object");
  return command;
}

CLI::App* add_bench(CLI::App& app, bench_options& o) {
  CLI::App* command = app.add_subcommand("bench", "prefill and decode speed beside the machine's");
  auto* random = command->add_option(
      "--random", o.random_preset, "random weights of a preset, e.g. bench-0.4b");
  command->add_option("-m,--model", o.model_dir, "checkpoint folder [nano]")->excludes(random);
  command->add_option("-p,--prompt-tokens", o.prompt_tokens, "tokens to prefill")
      ->capture_default_str();
  command->add_option("-n,--new-tokens", o.new_tokens, "tokens to decode")->capture_default_str();
  command->add_option("-r,--repetitions", o.repetitions, "repetitions")
      ->check(CLI::Range(1u, 1'000u))
      ->capture_default_str();
  command->add_option("-t,--threads", o.threads, "threads")->capture_default_str();
  command->add_option("--chunk", o.chunk_tokens, "tokens computed in one step")
      ->check(CLI::Range(1u, 65'536u))
      ->capture_default_str();
  command->add_option("-s,--seed", o.seed, "seed of weights and prompt")->capture_default_str();
  command->add_option("-o,--output", o.format, "md, csv or json")
      ->check(CLI::IsMember({"md", "csv", "json"}))
      ->capture_default_str();
  return command;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"oriel: LLM inference for hybrid sliding-window models", "oriel"};
  app.set_version_flag("--version", "oriel " ORIEL_VERSION);
  app.require_subcommand(1);
  run_options run_o;
  inspect_options inspect_o;
  bench_options bench_o;
  CLI::App* run_command = add_run(app, run_o);
  CLI::App* inspect_command = add_inspect(app, inspect_o);
  add_bench(app, bench_o);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? exit_ok : exit_usage;
  }
  try {
    if (run_command->parsed()) {
      return run(run_o);
    }
    return inspect_command->parsed() ? inspect(inspect_o) : bench(bench_o);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "oriel: out of memory: lower -c, or take a smaller model\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "oriel: {}\n", e.what());
  }
  return exit_failure;
}
