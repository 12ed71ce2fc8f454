// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// How many of the nano model's MTP drafts are accepted on texts that are given as files: greedily,
// cold, after a hit of the prefix cache, after one that comes from a disk tier, and where MTP
// blocks did not see the prompt, over the first window of output tokens, its parts, and over all;
// and with a temperature, by both ways to judge drafts. acceptance.py gives it the held-out text.
//
//     bench.spec.acceptance FILE...
#include <oriel/core/thread_pool.hpp>
#include <oriel/spec/draft_length.hpp>

#include <engine/checkpoint.hpp>
#include <engine/engine.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/file_bytes.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace oriel;

constexpr std::uint32_t prompt_tokens = 250, stride_tokens = 1'000, context = 512, drafts = 3;
constexpr std::uint32_t part_tokens = 8, parts = 4;  // of the first window

/// One line of the table.
struct counts {
  std::uint64_t steps = 0, tokens = 0;
  std::array<std::uint64_t, draft_tokens_max> drafted = {}, accepted = {};
  std::array<std::uint64_t, parts> part_steps = {}, part_given = {};  // by where a step began

  /// What one request has after another step of it.
  void add(const engine::draft_counts& d, const engine::draft_counts& before) {
    steps += d.decode_steps - before.decode_steps;
    tokens += d.decode_tokens - before.decode_tokens;
    for (std::size_t i = 0; i < draft_tokens_max; ++i) {
      drafted[i] += d.drafted[i] - before.drafted[i];
      accepted[i] += d.accepted[i] - before.accepted[i];
    }
    if (const std::uint32_t part = before.decode_tokens / part_tokens; part < parts) {
      part_steps[part] += d.decode_steps - before.decode_steps;
      part_given[part] += d.decode_tokens - before.decode_tokens;
    }
  }
  void add(const counts& other) {
    steps += other.steps;
    tokens += other.tokens;
    for (std::size_t i = 0; i < draft_tokens_max; ++i) {
      drafted[i] += other.drafted[i];
      accepted[i] += other.accepted[i];
    }
    for (std::size_t part = 0; part < parts; ++part) {
      part_steps[part] += other.part_steps[part];
      part_given[part] += other.part_given[part];
    }
  }
  [[nodiscard]] double share(std::size_t place) const {
    return static_cast<double>(accepted[place]) /
           static_cast<double>(std::max<std::uint64_t>(1, drafted[place]));
  }
  void print(const char* what, std::uint32_t new_tokens) const {
    std::printf("| %s | %u | %.3f | %.3f | %.3f | %.3f |",
                what,
                new_tokens,
                static_cast<double>(tokens) / static_cast<double>(steps),
                share(0),
                share(1),
                share(2));
    for (std::uint32_t part = 0; part < parts; ++part) {
      std::printf(" %.3f |",
                  static_cast<double>(part_given[part]) / static_cast<double>(part_steps[part]));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
};

struct nano {
  std::filesystem::path folder =
      std::filesystem::path{ORIEL_SOURCE_DIR} / "examples" / "models" / "nano";
  engine::checkpoint opened = engine::open_checkpoint(folder);
  engine::model_weights weights = engine::load_weights(opened);
  engine::tokenizer tokens = engine::tokenizer::load((folder / "tokenizer.json").string());
};

struct ways {
  bool in_prefill = true;
  bool after_hit = false;        ///< the prompt was served before
  bool heals = false;            ///< and its windows are gone, the blocks' too
  bool from_disk = false;        ///< another engine served it, and left its pages in a folder
  std::uint32_t cut_tokens = 0;  ///< of each prompt's end
  float temperature = 0.0f;
  engine::accept_kind accept = engine::accept_kind::match;
  engine::mtp_chain chain = engine::mtp_chain::main_hidden;
};

engine::engine_options options_of(const ways& how, const nano& model) {
  engine::engine_options options{.chunk_tokens = 128, .context_tokens = context};
  options.prefix_cache = how.after_hit;
  options.model_digest = engine::checkpoint_digest(model.opened);
  options.speculation = {.drafter = engine::drafter_kind::mtp,
                         .drafts_max = drafts,
                         .accept = how.accept,
                         .chain = how.chain,
                         .mtp_in_prefill = how.in_prefill};
  options.tier_moves.fetch_us_min = options.tier_moves.fetch_us_max = 10'000'000;  // All arrive.
  return options;
}

/// An engine that serves one request after another.
class server {
 public:
  /// @param folder  of a disk tier; empty: none
  server(const nano& model, const ways& how, const std::filesystem::path& folder)
      : how_(how),
        engine_(model.opened.config.geometry,
                model.weights,
                model.tokens,
                options_of(how, model),
                executor_,
                tiers_of(model, how, folder)) {}

  counts run(std::uint64_t id, const std::vector<token_id>& prompt, std::uint32_t new_tokens) {
    request r;
    r.id = request_id{id};
    r.prompt = prompt;
    r.prompt.resize(prompt.size() - how_.cut_tokens);
    r.max_new_tokens = new_tokens;
    r.sampling.temperature = how_.temperature;
    r.sampling.seed = (id + 1) / 2;  // The same whether a prompt was served before.
    if (!engine_.submit(std::move(r))) {
      throw std::runtime_error("a request was refused");
    }
    counts all;
    engine::draft_counts last;
    while (!engine_.idle()) {
      for (const engine::event& happened : engine_.step()) {
        all.add(happened.drafts, last);
        last = happened.drafts;
        fetched_ += happened.finish == finish_reason::none
                        ? 0
                        : happened.usage.fetched_tokens[static_cast<std::size_t>(tier_role::disk)];
      }
    }
    return all;
  }
  void lose_windows() {
    auto& tree = engine_.cache()->tree();
    for (std::uint32_t kind = 0; kind < tree.options().windows.size(); ++kind) {
      tree.evict_window(kind, tree.evictable_window_pages(kind));
    }
  }
  void finish_copies() {
    if (!engine_.cache()->tiers()->finish(engine::steady_now_us() + 60'000'000)) {
      throw std::runtime_error("pages did not reach the folder");
    }
  }
  [[nodiscard]] std::uint64_t fetched_tokens() const noexcept { return fetched_; }

 private:
  static std::vector<tier> tiers_of(const nano& model,
                                    const ways& how,
                                    const std::filesystem::path& folder) {
    if (folder.empty()) {
      return {};
    }
    return engine::make_tiers(
        {.disk_folder = folder.string(), .disk_bytes = std::uint64_t{1} << 30},
        engine::kv_page_shape(
            model.opened.config.geometry, options_of(how, model), model.weights.compute));
  }

  ways how_;
  serial_executor executor_;
  engine::engine engine_;
  std::uint64_t fetched_ = 0;
};

counts measure(const nano& model,
               const std::vector<std::vector<token_id>>& prompts,
               std::uint32_t new_tokens,
               ways how) {
  std::filesystem::path folder;
  if (how.from_disk) {
    std::string name = (std::filesystem::temp_directory_path() / "oriel-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      throw std::runtime_error("no temporary folder");
    }
    folder = name;
    server before(model, how, folder);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      (void)before.run(2 * i + 1, prompts[i], new_tokens);
    }
    before.finish_copies();
  }
  counts all;
  {
    server served(model, how, folder);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (how.after_hit && !how.from_disk) {
        (void)served.run(2 * i + 1, prompts[i], new_tokens);
      }
      if (how.heals) {
        served.lose_windows();
      }
      all.add(served.run(2 * i + 2, prompts[i], new_tokens));
    }
    if (how.from_disk && served.fetched_tokens() < prompts.size() * prompt_tokens / 2) {
      throw std::runtime_error("prompts did not come from the folder");
    }
  }
  if (how.from_disk) {
    std::filesystem::remove_all(folder);
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const nano model;
  std::vector<std::vector<token_id>> prompts;
  for (int i = 1; i < argc; ++i) {
    std::ostringstream text;
    text << std::ifstream(argv[i]).rdbuf();
    const std::vector<token_id> tokens = model.tokens.encode(text.str());
    for (std::size_t at = 0; at + prompt_tokens <= tokens.size(); at += stride_tokens) {
      prompts.emplace_back(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                           tokens.begin() + static_cast<std::ptrdiff_t>(at + prompt_tokens));
    }
  }
  if (prompts.empty()) {
    std::fprintf(stderr, "usage: bench.spec.acceptance FILE... (texts of some thousand tokens)\n");
    return 2;
  }
  const std::uint32_t window = model.opened.config.geometry.mtp_layers[0].attention.window_tokens;
  std::printf("%zu prompts of %u tokens, W = %u\n\n", prompts.size(), prompt_tokens, window);
  std::printf(
      "| | output tokens | tokens a step | draft 1 | 2 | 3 | tokens a step at 0-8 | 8-16 | 16-24 | "
      "24-32 |\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (const std::uint32_t new_tokens : {window, 4 * window}) {
    measure(model, prompts, new_tokens, {}).print("cold", new_tokens);
    measure(model, prompts, new_tokens, {.after_hit = true}).print("after a hit", new_tokens);
    measure(model, prompts, new_tokens, {.after_hit = true, .from_disk = true})
        .print("after a hit from disk", new_tokens);
    measure(model, prompts, new_tokens, {.after_hit = true, .heals = true})
        .print("after a heal", new_tokens);
    measure(model, prompts, new_tokens, {.cut_tokens = 9}).print("cold, 241 tokens", new_tokens);
    measure(model, prompts, new_tokens, {.after_hit = true, .heals = true, .cut_tokens = 9})
        .print("after a heal, 241 tokens", new_tokens);
    measure(model, prompts, new_tokens, {.in_prefill = false}).print("not in prefill", new_tokens);
    measure(model, prompts, new_tokens, {.chain = engine::mtp_chain::previous_hidden})
        .print("previous block's hidden", new_tokens);
    for (const float temperature : {0.5f, 1.0f}) {
      const std::string at = " at temperature " + std::to_string(temperature).substr(0, 3);
      measure(model, prompts, new_tokens, {.temperature = temperature})
          .print(("matched" + at).c_str(), new_tokens);
      measure(model,
              prompts,
              new_tokens,
              {.temperature = temperature, .accept = engine::accept_kind::rejection})
          .print(("rejection" + at).c_str(), new_tokens);
    }
  }
  return 0;
}
