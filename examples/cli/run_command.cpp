// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel run`: one prompt through the engine.
#include "commands.hpp"
#include "support.hpp"

#include <oriel/core/thread_pool.hpp>

#include <engine/chat_format.hpp>
#include <engine/checkpoint.hpp>
#include <engine/engine.hpp>
#include <engine/error.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

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

/// From here on Ctrl-C ends the generation, not the program; a second one ends the program.
void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

/// What a run gave.
struct outcome {
  std::string text;
  std::vector<token_id> tokens;
  finish_reason finish = finish_reason::none;
  double prefill_ms = 0, decode_ms = 0;
  engine::kv_usage kv;  // the most held after any step
};

double ms_between(std::chrono::steady_clock::time_point a,
                  std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double, std::milli>(b - a).count();
}

void print_now(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// Runs the request to its end, or to Ctrl-C, and shows the text as it comes.
outcome generate(engine::engine& engine, request_id id, bool show) {
  outcome result;
  const auto take = [&](const engine::event& happened) {
    if (happened.token) {
      result.tokens.push_back(*happened.token);
    }
    result.text += happened.text;
    result.finish = happened.finish;
    if (show) {
      print_now(happened.text);
    }
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
    const engine::kv_usage kv = engine.usage();
    if (kv.uniform_bytes > 0) {
      result.kv = kv;
    }
  }
  if (first_token == begin) {
    first_token = std::chrono::steady_clock::now();
  }
  result.prefill_ms = ms_between(begin, first_token);
  result.decode_ms = ms_between(first_token, std::chrono::steady_clock::now());
  return result;
}

std::string prompt_of(const run_options& o) {
  return o.prompt ? *o.prompt : o.prompt_file.empty() ? built_in_prompt : read_text(o.prompt_file);
}

std::vector<token_id> encode(const engine::tokenizer& tokenizer,
                             const std::string& prompt,
                             bool chat) {
  if (!chat) {
    return tokenizer.encode(prompt);
  }
  const engine::chat_message message{engine::chat_role::user, prompt};
  return engine::encode_chat(tokenizer, {&message, 1});
}

request make_request(const run_options& o,
                     const std::string& prompt,
                     const engine::tokenizer& tokenizer,
                     const engine::model_config& config,
                     std::uint32_t context_tokens) {
  request r;
  r.id = request_id{1};
  r.prompt = encode(tokenizer, prompt, o.chat);
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
                .seed = o.seed};
  return r;
}

void print_json(const outcome& result, std::size_t prompt_tokens) {
  nlohmann::ordered_json ids = nlohmann::ordered_json::array();
  for (const token_id id : result.tokens) {
    ids.push_back(to_index(id));
  }
  const nlohmann::ordered_json object{{"text", result.text},
                                      {"tokens", std::move(ids)},
                                      {"prompt_tokens", prompt_tokens},
                                      {"completion_tokens", result.tokens.size()},
                                      {"finish_reason", name_of(result.finish)},
                                      {"prefill_ms", result.prefill_ms},
                                      {"decode_ms", result.decode_ms},
                                      {"kv_bytes", result.kv.bytes},
                                      {"kv_bytes_uniform", result.kv.uniform_bytes}};
  fmt::print("{}\n", object.dump());
}

void print_summary(const outcome& result, std::size_t prompt_tokens) {
  const double decoded = static_cast<double>(result.tokens.size()) - 1;
  fmt::print(stderr,
             "\n\nprompt      {:>6} tokens in {:.1f} ms ({:.0f} tokens/s)\n"
             "generated   {:>6} tokens in {:.1f} ms ({:.0f} tokens/s), finish: {}\n"
             "KV in use   {:>10}; a uniform cache would hold {} ({:.1f}x)\n",
             prompt_tokens,
             result.prefill_ms,
             1e3 * static_cast<double>(prompt_tokens) / std::max(result.prefill_ms, 1e-3),
             result.tokens.size(),
             result.decode_ms,
             1e3 * std::max(decoded, 0.0) / std::max(result.decode_ms, 1e-3),
             name_of(result.finish),
             bytes_text(result.kv.bytes),
             bytes_text(result.kv.uniform_bytes),
             static_cast<double>(result.kv.uniform_bytes) /
                 std::max(1.0, static_cast<double>(result.kv.bytes)));
}

}  // namespace

int run(const run_options& o) {
  const std::filesystem::path folder = model_folder(o.model_dir);
  const engine::checkpoint checkpoint = open_model(folder, o.qkv_shards);
  const engine::model_config& config = checkpoint.config;
  const auto tokenizer = engine::tokenizer::load((folder / "tokenizer.json").string());
  const std::uint32_t context =
      o.context_tokens != 0 ? o.context_tokens
                            : std::min(config.geometry.context_tokens, default_context_tokens);
  if (context > config.geometry.context_tokens) {
    throw engine::error(fmt::format(
        "-c {}: the model allows a context of {} tokens", context, config.geometry.context_tokens));
  }
  const std::string prompt = prompt_of(o);
  request asked = make_request(o, prompt, tokenizer, config, context);
  const std::size_t prompt_tokens = asked.prompt.size();
  if (o.new_tokens == 0) {
    throw engine::error("-n 0: at least one token must be generated");
  }

  const engine::model_weights weights = load_with_progress(checkpoint);
  thread_pool threads{thread_count(o.threads)};
  engine::engine engine{config.geometry,
                        weights,
                        tokenizer,
                        {.page_tokens = o.page_tokens,
                         .chunk_tokens = o.chunk_tokens,
                         .sequences_max = 1,
                         .context_tokens = context},
                        threads};
  if (const status queued = engine.submit(std::move(asked)); !queued) {
    throw engine::error(fmt::format("the request was refused: {}", queued.error().detail));
  }
  catch_interrupts();
  if (!o.json && !o.chat) {
    print_now(prompt);
  }
  const outcome result = generate(engine, request_id{1}, !o.json);
  if (o.json) {
    print_json(result, prompt_tokens);
  } else {
    print_summary(result, prompt_tokens);
  }
  return result.finish == finish_reason::cancelled ? exit_interrupted : exit_ok;
}

}  // namespace oriel::cli
