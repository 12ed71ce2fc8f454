// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `--device`: where a model is computed.
#pragma once

#include <oriel/model/geometry.hpp>

#include <engine/device_needs.hpp>
#include <engine/engine_options.hpp>
#include <engine/scaled_products.hpp>
#include <engine/weights.hpp>

#include <functional>
#include <memory>
#include <string>

namespace oriel::cli {

/// Makes the runners of engines; empty for the host.
using runner_maker =
    std::function<std::unique_ptr<engine::step_runner>(const engine::runner_setup&)>;

/// "cpu" or "cuda".
class compute_device {
 public:
  /// Asked before weights are read.
  /// @throws engine::error: this build has no CUDA, or the machine no device that it can use
  explicit compute_device(const std::string& name);

  [[nodiscard]] bool is_host() const noexcept { return is_host_; }
  /// How weights should be loaded.
  [[nodiscard]] engine::weight_form form() const noexcept {
    return is_host_ ? engine::weight_form::packed : engine::weight_form::plain;
  }
  /// Asked before weights are read, too; the host can do it all.
  /// @throws engine::error: the device has no kernel for some part of the model, or less free
  /// memory than this takes, or the host less than what is between the device and its tiers
  void expect(const model_geometry& model,
              const engine::engine_options& options,
              dtype compute,
              const engine::kept_matrices& kept,
              bool has_tiers) const;
  void expect(const engine::device_question& asked) const;
  /// Brings the weights to the device and lets go of the host's.
  /// @throws engine::error
  [[nodiscard]] runner_maker take(const model_geometry& model,
                                  engine::model_weights& weights) const;

 private:
  bool is_host_;
};

}  // namespace oriel::cli
