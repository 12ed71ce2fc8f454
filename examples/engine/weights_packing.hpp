// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Packs matrices that arrive in runs of plain rows. Shared by the loader and by random weights,
/// which differ in where rows come from alone.
///
/// A source is a callable `source(sink)` that calls `sink(rows, first_row, row_count)` for runs of
/// plain row-major rows until the matrix is complete.
#pragma once

#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/moe_gemm.hpp>
#include <oriel/model/geometry.hpp>

#include <engine/error.hpp>
#include <engine/weights.hpp>
#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace oriel::engine {

struct weights_packing {
  dtype compute;
  isa path;
  host::gemm_backend backend;
  weight_form form = weight_form::packed;

  /// A matrix [n, k] of `compute`, or of `type`.
  template <class Source>
  [[nodiscard]] packed_matrix matrix(std::uint32_t n, std::uint32_t k, Source&& source) const {
    return matrix(n, k, compute, std::forward<Source>(source));
  }
  template <class Source>
  [[nodiscard]] packed_matrix matrix(std::uint32_t n,
                                     std::uint32_t k,
                                     dtype type,
                                     Source&& source) const {
    const gemm_shape shape{.n = n, .k = k, .weights = type};
    if (form == weight_form::plain) {
      packed_matrix plain{shape, aligned_bytes(std::size_t{n} * k * size_bytes(type))};
      source(copy_rows{plain.bytes.data(), k * size_bytes(type)});
      return plain;
    }
    const auto plan = host::plan_gemm(shape, 1, 1, path, backend);
    if (!plan) {
      throw_unplanned(shape);
    }
    packed_matrix packed{shape, aligned_bytes(plan->packed_bytes)};
    source([&](const void* rows, std::uint32_t first, std::uint32_t count) {
      host::pack_gemm_weights(*plan, rows, first, count, packed.bytes.data());
    });
    return packed;
  }

  /// All experts of a layer, of `compute`, or where form is plain of e4m3. `gate_up(e)` and
  /// `down(e)` are the sources of expert e.
  template <class GateUp, class Down>
  void experts(std::uint32_t hidden,
               const ffn_geometry& ffn,
               dtype type,
               moe_weights& out,
               GateUp&& gate_up,
               Down&& down) const {
    out.gate_up_shape = {.n = 2 * ffn.intermediate, .k = hidden, .weights = type};
    out.down_shape = {.n = hidden, .k = ffn.intermediate, .weights = type};
    if (form == weight_form::plain) {
      const std::size_t row_bytes = hidden * size_bytes(type);
      out.gate_up_stride_bytes = stride_of(2 * std::size_t{ffn.intermediate} * row_bytes);
      out.down_stride_bytes = stride_of(std::size_t{ffn.intermediate} * row_bytes);
      out.gate_up = aligned_bytes(out.gate_up_stride_bytes * ffn.experts);
      out.down = aligned_bytes(out.down_stride_bytes * ffn.experts);
      for (std::uint32_t e = 0; e < ffn.experts; ++e) {
        gate_up(e)(copy_rows{out.gate_up.data() + e * out.gate_up_stride_bytes, row_bytes});
        down(e)(copy_rows{out.down.data() + e * out.down_stride_bytes,
                          ffn.intermediate * size_bytes(type)});
      }
      return;
    }
    const moe_gemm_shape shape{.hidden = hidden,
                               .inter = ffn.intermediate,
                               .experts = ffn.experts,
                               .top_k = ffn.top_k,
                               .weights = type,
                               .activation = type};
    const auto plan = host::plan_moe_gemm(shape, 1, 1, path, backend);
    if (!plan) {
      throw_unplanned(out.gate_up_shape);
    }
    out.gate_up_stride_bytes = stride_of(plan->gate_up_bytes);
    out.down_stride_bytes = stride_of(plan->down_bytes);
    out.gate_up = aligned_bytes(out.gate_up_stride_bytes * ffn.experts);
    out.down = aligned_bytes(out.down_stride_bytes * ffn.experts);
    for (std::uint32_t e = 0; e < ffn.experts; ++e) {
      std::byte* const gate_up_at = out.gate_up.data() + e * out.gate_up_stride_bytes;
      std::byte* const down_at = out.down.data() + e * out.down_stride_bytes;
      gate_up(e)([&](const void* rows, std::uint32_t first, std::uint32_t count) {
        host::pack_moe_gate_up(*plan, rows, first, count, gate_up_at);
      });
      down(e)([&](const void* rows, std::uint32_t first, std::uint32_t count) {
        host::pack_moe_down(*plan, rows, first, count, down_at);
      });
    }
  }

 private:
  /// A sink that puts rows where they belong.
  struct copy_rows {
    std::byte* to;
    std::size_t row_bytes;
    void operator()(const void* rows, std::uint32_t first, std::uint32_t count) const {
      std::memcpy(to + first * row_bytes, rows, count * row_bytes);
    }
  };
  [[nodiscard]] static std::size_t stride_of(std::size_t size_bytes) noexcept {
    return (size_bytes + aligned_bytes::alignment - 1) / aligned_bytes::alignment *
           aligned_bytes::alignment;
  }

  [[noreturn]] void throw_unplanned(const gemm_shape& shape) const {
    throw error(fmt::format("no {} kernel multiplies a {} matrix [{}, {}]",
                            name_of(path),
                            name_of(shape.weights),
                            shape.n,
                            shape.k));
  }
};

}  // namespace oriel::engine
