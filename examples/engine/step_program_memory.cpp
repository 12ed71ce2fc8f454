// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/step_program_builder.hpp>

#include <algorithm>
#include <functional>

namespace oriel::engine {
namespace {

constexpr std::size_t alignment_bytes = 256;

std::size_t aligned(std::size_t bytes) {
  return (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
}

void note_uses(step_program& p) {
  for (program_buffer& b : p.buffers) {
    b.first_use = p.operations.size();
    b.last_use = 0;
  }
  for (std::size_t i = 0; i < p.operations.size(); ++i) {
    visit_buffers(p.operations[i], [&](buffer_id id) {
      program_buffer& b = p.buffers[static_cast<std::size_t>(id)];
      b.first_use = std::min(b.first_use, i);
      b.last_use = std::max(b.last_use, i);
    });
  }
}

}  // namespace

void place_buffers(step_program& p) {
  note_uses(p);
  std::vector<program_buffer*> scratch, placed;
  std::size_t end = 0;
  const auto append = [&](buffer_role role) {
    for (program_buffer& b : p.buffers) {
      if (b.role == role) {
        b.offset_bytes = end;
        b.first_use = 0;
        b.last_use = p.operations.size();
        end += aligned(b.size_bytes);
      }
    }
  };
  append(buffer_role::input);
  p.input_bytes = end;
  append(buffer_role::output);
  p.output_bytes = end - p.input_bytes;
  p.memory_bytes = end;
  for (program_buffer& b : p.buffers) {
    if (b.role == buffer_role::scratch) {
      scratch.push_back(&b);
    }
  }
  std::ranges::stable_sort(scratch, std::ranges::greater(), &program_buffer::size_bytes);
  for (program_buffer* const b : scratch) {
    std::vector<const program_buffer*> met;
    for (const program_buffer* const other : placed) {
      if (other->first_use <= b->last_use && b->first_use <= other->last_use) {
        met.push_back(other);
      }
    }
    std::ranges::sort(met, {}, &program_buffer::offset_bytes);
    std::size_t at = end;
    for (const program_buffer* const other : met) {
      if (at + aligned(b->size_bytes) <= other->offset_bytes) {
        break;
      }
      at = std::max(at, other->offset_bytes + aligned(other->size_bytes));
    }
    b->offset_bytes = at;
    placed.push_back(b);
    p.memory_bytes = std::max(p.memory_bytes, at + aligned(b->size_bytes));
  }
}

}  // namespace oriel::engine
