// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `layer_gate`: what the compute of a step asks before a layer reads KV that others bring.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace oriel {

/// Semantics:
///
///  - The compute calls `wait(layer)` once for each layer, in their order, before its first read of
///    KV that it did not compute in this step. A layer that nothing is brought for is open.
///  - `true`: whatever the compute starts after this call finds the layer's KV in place. A host
///    gate blocks until it is there; a device gate makes the stream wait for the layer's event, and
///    returns at once.
///  - `false`: it is not there and does not come. Those bytes must not be read: the caller drops
///    what the step made of that sequence, and computes it without the pages that were to come.
///
/// Models: `layer_loader`, `layer_loader_thread`, `stream_layers::gate`, `layer_gate_ref`.
// clang-format off
template <class G>
concept layer_gate = requires(G& gate, std::uint32_t layer) {
  { gate.wait(layer) } -> std::same_as<bool>;
};
// clang-format on

/// A reference to any gate, so that a compiled forward pass needs no template. Two pointers; copy
/// it. The default is a gate that is always open.
class layer_gate_ref {
 public:
  layer_gate_ref() noexcept = default;
  template <layer_gate G>
  requires(!std::same_as<std::remove_cv_t<G>, layer_gate_ref>) layer_gate_ref(G& gate)
  noexcept  // NOLINT: implicit by design
      : object_(&gate), wait_([](void* object, std::uint32_t layer) {
          return static_cast<G*>(object)->wait(layer);
        }) {}

  /// There is a gate behind it.
  [[nodiscard]] explicit operator bool() const noexcept { return object_ != nullptr; }

  [[nodiscard]] bool wait(std::uint32_t layer) {
    return object_ == nullptr || wait_(object_, layer);
  }

 private:
  void* object_ = nullptr;
  bool (*wait_)(void*, std::uint32_t) = nullptr;
};

static_assert(layer_gate<layer_gate_ref>);

}  // namespace oriel
