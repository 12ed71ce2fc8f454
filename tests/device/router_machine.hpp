// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The programs of the router's product on the host, block by block.
#pragma once

#include <cuda/detail/router_logits_agent.cuh>

#include <support/arrays.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace oriel::test {

/// Copies into stages, as early or as late as cp.async allows. One that comes late leaves poison in
/// its place until it is waited for.
class stage_copies_model {
 public:
  struct state {
    std::byte* stages;
    bool is_late;
    std::vector<std::vector<std::vector<std::byte>>> under_way = {};  // [groups][copies]
    std::vector<std::vector<std::byte*>> places = {};
    std::size_t open = 0;  ///< groups that are complete
  };
  explicit stage_copies_model(state& s) : s_(&s) { begin(); }

  void copy(std::uint32_t to, const void* from, std::uint32_t units, std::uint32_t bytes) {
    std::vector<std::byte> chunk(16);
    if (bytes != 0) {
      std::memcpy(
          chunk.data(), static_cast<const std::byte*>(from) + std::size_t{units} * 16, bytes);
    }
    std::byte* const place = s_->stages + to;
    if (s_->is_late) {
      std::memset(place, 0xFF, 16);
      s_->under_way.back().push_back(std::move(chunk));
      s_->places.back().push_back(place);
    } else {
      std::memcpy(place, chunk.data(), 16);
    }
  }
  void commit() { begin(); }
  template <std::uint32_t Pending>
  void wait() {
    const std::size_t committed = s_->under_way.size() - 1;
    for (; s_->open + Pending < committed; ++s_->open) {
      for (std::size_t i = 0; i < s_->places[s_->open].size(); ++i) {
        std::memcpy(s_->places[s_->open][i], s_->under_way[s_->open][i].data(), 16);
      }
    }
  }

 private:
  void begin() {
    s_->under_way.emplace_back();
    s_->places.emplace_back();
  }
  state* s_;
};

/// Whose program: a tile of the plan, or the one for what is not aligned.
enum class router_program : std::uint8_t { few, some, many, unaligned };

template <class Agent>
void run_router_slices(const Agent& agent, const std::uint32_t* token_count, bool backwards) {
  const auto shared = std::make_unique<typename Agent::shared_state>();
  for (std::uint32_t tile = 0; tile * Agent::tokens < agent.args.tokens; ++tile) {
    for (std::uint32_t e = 0; e * Agent::experts < agent.shape.experts; ++e) {
      std::memset(shared.get(), 0xFF, sizeof *shared);
      agent(detail::host_group<detail::router_threads>(backwards), tile, e, token_count, *shared);
    }
  }
}

inline void run_router_tiles(const detail::router_tile_agent& agent,
                             const std::uint32_t* token_count,
                             bool backwards,
                             bool is_late) {
  const std::uint32_t tokens = detail::router_tokens(agent.args, token_count);
  for (std::uint32_t tile = 0; tile * agent.tokens < tokens; ++tile) {
    for (std::uint32_t e = 0; e * agent.experts < agent.shape.experts; ++e) {
      workspace_bytes stages(agent.shared_bytes);
      stage_copies_model::state copies{stages.span().data(), is_late};
      agent(detail::host_group<detail::router_threads>(backwards),
            stage_copies_model(copies),
            tile,
            e,
            tokens,
            stages.span().data());
    }
  }
}

inline void run_router(router_program program,
                       const router_logits_shape& shape,
                       const router_logits_args& args,
                       const std::uint32_t* token_count,
                       bool backwards) {
  switch (program) {
    case router_program::few:
      run_router_slices(detail::router_few{shape, args}, token_count, backwards);
      break;
    case router_program::some:
      run_router_slices(detail::router_some{shape, args}, token_count, backwards);
      break;
    case router_program::many:
      run_router_tiles({shape, args}, token_count, backwards, backwards);
      break;
    case router_program::unaligned:
      run_router_slices(detail::router_unaligned{shape, args}, token_count, backwards);
      break;
  }
}

}  // namespace oriel::test
