// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A checkpoint of tests/golden with the logits it must give, and a way to run it under a schedule.
#pragma once

#include <oriel/core/thread_pool.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <engine/checkpoint.hpp>
#include <engine/model_runner.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

/// The folders that hold a checkpoint with golden tensors, sorted: those of tests/golden, or of the
/// folder that ORIEL_GOLDEN names (for checkpoints made by random_checkpoint.py).
inline std::vector<std::filesystem::path> golden_folders() {
  const char* const other = std::getenv("ORIEL_GOLDEN");
  const std::filesystem::path root =
      other != nullptr ? other : std::filesystem::path{ORIEL_TEST_DIR} / "golden";
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator{root}) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      folders.push_back(entry.path());
    }
  }
  std::ranges::sort(folders);
  return folders;
}

/// How rows are cut. Logits must not depend on any of it.
struct golden_schedule {
  std::uint32_t chunk_tokens = 512;
  std::uint32_t page_tokens = 16;
  std::uint32_t threads = 1;
};

class golden_model {
 public:
  explicit golden_model(const std::filesystem::path& folder)
      : checkpoint_(oriel::engine::open_checkpoint(folder)),
        weights_(oriel::engine::load_weights(checkpoint_)),
        golden_(oriel::engine::safetensors_store::open_file(folder / "golden.safetensors")) {
    const auto bytes = golden_.bytes(*golden_.find("ids"));
    std::vector<std::int32_t> ids(bytes.size() / sizeof(std::int32_t));
    std::memcpy(ids.data(), bytes.data(), bytes.size());
    for (const std::int32_t id : ids) {
      ids_.push_back(oriel::token_id{static_cast<std::uint32_t>(id)});
    }
  }

  [[nodiscard]] bool has(std::string_view name) const { return golden_.find(name) != nullptr; }
  [[nodiscard]] std::size_t vocabulary() const { return checkpoint_.config.geometry.vocabulary; }

  /// An f32 tensor of golden.safetensors, flat.
  [[nodiscard]] std::vector<float> tensor(std::string_view name) const {
    const auto bytes = golden_.bytes(*golden_.find(name));
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  /// Logits of every position of the prompt: [ids, vocabulary].
  [[nodiscard]] std::vector<float> logits(const golden_schedule& schedule) const {
    return run(schedule, 0);
  }

  /// Draft logits [heads, ids - heads, vocabulary] of the MTP blocks, as the oracle defines them.
  [[nodiscard]] std::vector<float> mtp_logits(const golden_schedule& schedule) const {
    return run(schedule, static_cast<std::uint32_t>(weights_.mtp.size()));
  }

 private:
  /// The main model's logits, or with heads > 0 the drafts of so many MTP blocks.
  std::vector<float> run(const golden_schedule& schedule, std::uint32_t heads) const {
    using namespace oriel;
    const model_geometry& model = checkpoint_.config.geometry;
    const auto rows = static_cast<std::uint32_t>(ids_.size()) - heads;
    const std::uint32_t chunk = std::min(schedule.chunk_tokens, rows);
    std::vector<layer_geometry> layers = model.layers;
    layers.insert(layers.end(), model.mtp_layers.begin(), model.mtp_layers.begin() + heads);
    const auto plan = pool_plan::make(kv_shapes_of(layers, weights_.compute),
                                      {.page_size = schedule.page_tokens, .step_tokens = chunk});
    pool_sizes sizes;
    for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
      sizes.pages.push_back(std::max(1u, plan->pages_for(pool_id{pool}, rows)));
    }
    auto pools = *dual_pool<>::make(*plan, sizes);
    auto sequence = *pools.try_admit({.tokens_now = 0, .tokens_max = rows});
    std::vector<pool_layer> homes;
    for (std::uint32_t l = 0; l < layers.size(); ++l) {
      homes.push_back(pools.layer(l));
    }
    thread_pool threads{schedule.threads};
    engine::model_runner runner{
        model,
        weights_,
        homes,
        schedule.page_tokens,
        weights_.compute,
        {.rows_max = chunk, .logit_rows_max = chunk, .sequences_max = 1, .context_tokens = rows},
        threads};

    const std::size_t row_size = model.vocabulary;
    std::vector<float> out(std::max(1u, heads) * rows * row_size);
    for (std::uint32_t first = 0; first < rows; first += chunk) {
      const std::uint32_t count = std::min(chunk, rows - first);
      if (!sequence.reserve(count)) {
        throw std::runtime_error("the golden test's pools are too small");
      }
      std::vector<block_table_view> tables;
      for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
        tables.push_back(sequence.table(pool_id{pool}));
      }
      const auto step = [&](std::uint32_t shift) {
        return engine::step_rows{.tokens = std::span(ids_).subspan(first + shift, count),
                                 .first_position = first,
                                 .tables = tables,
                                 .logit_rows = count};
      };
      const engine::step_rows main = step(0);
      std::span<const float> logits = runner.forward({&main, 1});
      const engine::hidden_rows hidden = runner.hidden_of(0);
      for (std::uint32_t head = 0; head < heads; ++head) {
        engine::step_rows shifted = step(head + 1);
        shifted.hidden = hidden.values.data();
        logits = runner.forward_mtp(head, {&shifted, 1});
        std::ranges::copy(
            logits, out.begin() + static_cast<std::ptrdiff_t>((head * rows + first) * row_size));
      }
      if (heads == 0) {
        std::ranges::copy(logits, out.begin() + static_cast<std::ptrdiff_t>(first * row_size));
      }
      sequence.commit(count);
    }
    return out;
  }

  oriel::engine::checkpoint checkpoint_;
  oriel::engine::model_weights weights_;
  oriel::engine::safetensors_store golden_;
  std::vector<oriel::token_id> ids_;
};
