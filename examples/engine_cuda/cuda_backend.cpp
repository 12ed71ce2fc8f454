// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <engine_cuda/cuda_backend.hpp>
#include <engine_cuda/cuda_check.hpp>
#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace oriel::engine {
namespace {

owned_stream make_stream() {
  cudaStream_t stream = nullptr;
  expect(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  return owned_stream(stream);
}

}  // namespace

cuda_backend::cuda_backend(std::shared_ptr<const cuda_weights> weights,
                           const host_pools& pools,
                           const cuda_device& device,
                           std::span<const kv_layer_shape> moved)
    : weights_(std::move(weights)),
      multiprocessors_(device.multiprocessors),
      arithmetic_(fmt::format("cuda {}, cuBLASLt {}, {}",
                              device.name,
                              cuda::gemm_library::version(),
                              has_scaled(weights_->products()) ? "e4m3, " : "")),
      stream_(make_stream()) {
  products_.emplace(checked(cuda::gemm_library::create(), "products on the device"));
  for (std::uint32_t i = 0; i < pools.plan().pools(); ++i) {
    const page_layout& layout = pools.pool(pool_id{i}).layout();
    page_bytes_.push_back(layout.page_bytes());
    kv_.push_back(checked(
        cuda::growing_memory::reserve(layout.page_bytes() * pools.pool(pool_id{i}).capacity()),
        "KV on the device"));
  }
  for (std::uint32_t l = 0; l < pools.plan().layers(); ++l) {
    const layer_home home = pools.plan().home(l);
    const std::uint32_t pool = to_index(home.pool);
    layers_kv_.push_back(pools.pool(home.pool).layout().layer(home.slot, kv_[pool].base()));
  }
  if (!moved.empty()) {
    make_mover(pools, moved);
  }
}

/// A page that comes may be the first with its id: its bytes are mapped before it does.
void cuda_backend::make_mover(const host_pools& pools, std::span<const kv_layer_shape> shapes) {
  up_ = make_stream();
  down_ = make_stream();
  std::vector<moved_pool> sides;
  for (std::uint32_t i = 0; i < pools.plan().pools(); ++i) {
    sides.push_back({pools.pool(pool_id{i}).memory().base(), kv_[i].base()});
  }
  const auto commit = [this](std::uint32_t pool, std::uint32_t pages) noexcept {
    return kv_[pool].commit(pages * page_bytes_[pool]);
  };
  using mover = stream_mover<cuda::device_streams, cuda::pinned_memory, decltype(commit)>;
  mover_ = checked(
      mover::make(
          pools.plan(), shapes, sides, {.compute = stream_, .up = up_, .down = down_}, commit),
      "copies between the device and its tiers");
}

cuda_backend::~cuda_backend() {
  cudaStreamSynchronize(stream_);  // After an error in `run` its work may still use the memory.
}

void cuda_backend::take_memory(const backend_needs& needs) {
  const std::size_t table_bytes = needs.table_entries * sizeof(std::uint32_t);
  const memory_piece device[] = {{"a step's memory", needs.memory_bytes},
                                 {"page tables", table_bytes}};
  const memory_piece pinned[] = {
      {"inputs", needs.input_bytes}, {"outputs", needs.output_bytes}, {"page tables", table_bytes}};
  device_.emplace(checked(preallocation<cuda::device_memory>::make(device), "memory of a step"));
  pinned_.emplace(checked(preallocation<cuda::pinned_memory>::make(pinned), "memory of a step"));
  expect(cudaMemsetAsync(device_->bytes(device_tables).data(), 0, table_bytes, stream_),
         "page tables");
}

std::span<std::byte> cuda_backend::inputs() noexcept {
  return pinned_->bytes(step_inputs);
}

std::span<const std::byte> cuda_backend::outputs() const noexcept {
  return pinned_->bytes(step_outputs);
}

const std::uint32_t* cuda_backend::tables() const noexcept {
  return reinterpret_cast<const std::uint32_t*>(device_->bytes(device_tables).data());
}

void cuda_backend::send_tables(std::span<const std::uint32_t> entries,
                               std::span<const table_range> changes) {
  std::byte* const host = pinned_->bytes(host_tables).data();
  std::byte* const device = device_->bytes(device_tables).data();
  for (const table_range& range : changes) {
    const std::size_t at = range.first * sizeof(std::uint32_t);
    const std::size_t bytes = range.count * sizeof(std::uint32_t);
    std::memcpy(host + at, entries.data() + range.first, bytes);
    expect(cudaMemcpyAsync(device + at, host + at, bytes, cudaMemcpyHostToDevice, stream_),
           "page tables");
  }
}

void cuda_backend::need_pages(std::uint32_t pool, std::uint32_t pages) {
  expect(kv_[pool].commit(pages * page_bytes_[pool]));
}

void cuda_backend::send_inputs(const step_program& program) {
  expect(cudaMemcpyAsync(device_->bytes(step_memory).data(),
                         inputs().data(),
                         program.input_bytes,
                         cudaMemcpyHostToDevice,
                         stream_),
         "inputs of a step");
}

void cuda_backend::settle() {
  expect(cudaStreamSynchronize(stream_), "a step on the device");
}

/// Captured when the program is met for the second time: by then kernels are loaded and cuBLASLt
/// has chosen, which a capture may not allow. Whatever it reads that changes lies in device memory.
cudaGraphExec_t cuda_backend::graph_of(const step_program& program) {
  owned_graph& known = graphs_[&program];
  if (known != nullptr) {
    return known;
  }
  const auto end_capture = [&] {
    cudaGraph_t recorded = nullptr;
    const cudaError_t outcome = cudaStreamEndCapture(stream_, &recorded);
    if (outcome != cudaSuccess) {
      cudaGetLastError();  // Else the next launch is blamed for it.
    }
    return std::pair(outcome, cuda_owned<cudaGraph_t, cudaGraphDestroy>(recorded));
  };
  expect(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing a graph");
  try {
    enqueue(program);
  } catch (...) {
    end_capture();
    throw;
  }
  const auto [outcome, recorded] = end_capture();
  expect(outcome, "capturing a graph");
  cudaGraphExec_t graph = nullptr;
  expect(cudaGraphInstantiate(&graph, recorded, 0), "a graph");
  known = owned_graph(graph);
  return graph;
}

void cuda_backend::run(const step_program& program,
                       bool repeats,
                       std::span<const fetched_part> parts,
                       layer_gate_ref gate) {
  ORIEL_EXPECTS(!repeats || !gate);  // A graph asks nobody.
  std::byte* const device = device_->bytes(step_memory).data();
  send_inputs(program);
  if (repeats && graphs_.contains(&program)) {
    expect(cudaGraphLaunch(graph_of(program), stream_), "launching a graph");
  } else {
    enqueue(program, gate);
    if (repeats) {
      graphs_.try_emplace(&program);  // Met once.
    }
  }
  std::byte* const fetched = pinned_->bytes(step_outputs).data();
  for (const fetched_part& part : parts) {
    const std::size_t at = program[part.buffer].offset_bytes + part.first_byte;
    expect(cudaMemcpyAsync(fetched + (at - program.input_bytes),
                           device + at,
                           part.size_bytes,
                           cudaMemcpyDeviceToHost,
                           stream_),
           "outputs of a step");
  }
  if (mover_) {
    expect(mover_->mark());
  }
  settle();
}

}  // namespace oriel::engine
