// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Encoding and decoding speed, one thread. The text is this project's own sources, or the file in
// ORIEL_BENCH_TEXT; the tokenizer is the nano model's, or the file in ORIEL_BENCH_TOKENIZER.
// bench/peers/tokenizer_peer.py runs this beside Hugging Face's tokenizers on the same text.
#include <benchmark/benchmark.h>
#include <engine/tokenizer/tokenizer.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

using oriel::token_id;
using oriel::engine::tokenizer;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string own_sources() {
  std::vector<std::filesystem::path> files;
  for (const char* folder : {"include", "src", "examples/engine", "tests/golden/tokenizer"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             std::filesystem::path(ORIEL_SOURCE_DIR) / folder)) {
      const auto extension = entry.path().extension();
      if (extension == ".hpp" || extension == ".cpp" || extension == ".py") {
        files.push_back(entry.path());
      }
    }
  }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const auto& file : files) {
    text.append(read_file(file));
  }
  return text;
}

const std::string& text() {
  static const char* path = std::getenv("ORIEL_BENCH_TEXT");
  static const std::string content = path != nullptr ? read_file(path) : own_sources();
  return content;
}

std::string tokenizer_path() {
  const char* path = std::getenv("ORIEL_BENCH_TOKENIZER");
  return path != nullptr ? path : ORIEL_SOURCE_DIR "/examples/models/nano/tokenizer.json";
}

const tokenizer& model() {
  static const tokenizer loaded = tokenizer::load(tokenizer_path());
  return loaded;
}

// Cut into documents of about 4 KiB at line ends, as prompts come.
std::vector<std::string_view> documents() {
  std::vector<std::string_view> parts;
  std::string_view rest = text();
  while (!rest.empty()) {
    const std::size_t line_end = rest.find('\n', std::min<std::size_t>(4096, rest.size()));
    const std::size_t count = line_end == rest.npos ? rest.size() : line_end + 1;
    parts.push_back(rest.substr(0, count));
    rest.remove_prefix(count);
  }
  return parts;
}

void set_rate(benchmark::State& state, std::size_t bytes, std::size_t tokens) {
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void encode_documents(benchmark::State& state) {
  const std::vector<std::string_view> parts = documents();
  std::size_t tokens = 0;
  for (auto _ : state) {
    tokens = 0;
    for (const std::string_view part : parts) {
      tokens += model().encode(part).size();
    }
  }
  set_rate(state, text().size(), tokens);
}

void encode_whole(benchmark::State& state) {
  std::size_t tokens = 0;
  for (auto _ : state) {
    tokens = model().encode(text()).size();
  }
  set_rate(state, text().size(), tokens);
}

// One word as long as the text: what an attacker would send.
void encode_one_word(benchmark::State& state) {
  const std::string word(static_cast<std::size_t>(state.range(0)), 'a');
  for (auto _ : state) {
    benchmark::DoNotOptimize(model().encode(word));
  }
  set_rate(state, word.size(), word.size());
}

void decode(benchmark::State& state) {
  const std::vector<token_id> ids = model().encode(text());
  for (auto _ : state) {
    benchmark::DoNotOptimize(model().decode(ids));
  }
  set_rate(state, text().size(), ids.size());
}

void load(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(tokenizer::load(tokenizer_path()).vocab_size());
  }
}

BENCHMARK(encode_documents)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_whole)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_one_word)->Arg(1 << 14)->Arg(1 << 17)->Arg(1 << 20)->Unit(benchmark::kMillisecond);
BENCHMARK(decode)->Unit(benchmark::kMillisecond);
BENCHMARK(load)->Unit(benchmark::kMillisecond);
}  // namespace
