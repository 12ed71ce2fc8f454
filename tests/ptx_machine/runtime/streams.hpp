// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Streams, events, and the capture of graphs: what CUDA documents about which work waits for
/// which.
#pragma once

#include "work_queue.hpp"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_set>
#include <vector>

namespace oriel::ptx_machine {

/// One node of a graph: done whole, when those it waits for are.
struct graph_node {
  std::function<void()> run;  ///< none: a mark
  std::function<cudaError_t()>
      is_launchable;               ///< asked when the graph is instantiated; none: it is
  std::set<std::uint32_t> before;  ///< nodes with smaller numbers
};

struct graph {
  std::vector<graph_node> nodes;
};

/// What is recorded meanwhile, and by whom.
struct capture {
  std::shared_ptr<graph> recorded = std::make_shared<graph>();
  cudaStreamCaptureMode mode{};
  std::thread::id by;
  struct stream* origin = nullptr;
  bool is_invalid = false;
  bool is_over = false;
};

[[nodiscard]] inline bool is_open(const std::shared_ptr<capture>& c) {
  return c != nullptr && !c->is_over;
}

struct stream {
  bool is_blocking = true;
  work_ptr last;
  std::shared_ptr<capture> in;     ///< null: work goes to the device
  std::set<std::uint32_t> leaves;  ///< of the capture: what the next node waits for
};

struct event {
  bool has_timing = true;
  work_ptr recorded;  ///< null: never, which counts as done
  std::shared_ptr<double> at_ms;
  std::shared_ptr<capture> in;  ///< recorded in this capture
  std::set<std::uint32_t> leaves;
};

struct graph_exec {
  graph nodes;
  work_ptr last;  ///< its launches come one after another
};

/// All of a process. Thread-safe: each call takes the lock, and nothing runs under it.
class streams {
 public:
  explicit streams(std::uint64_t seed) : queue_(seed) {}

  [[nodiscard]] work_queue& queue() { return queue_; }

  [[nodiscard]] stream* make_stream(bool is_blocking);
  cudaError_t drop(stream* s);
  [[nodiscard]] event* make_event(bool has_timing);
  cudaError_t drop(event* e);

  /// Into a stream, or the graph that it captures.
  /// @param is_launchable  see graph_node
  cudaError_t enqueue(cudaStream_t s,
                      std::function<void()> run,
                      std::function<cudaError_t()> is_launchable = nullptr);
  /// Several at once, in no order among themselves.
  /// Refused while the stream captures.
  cudaError_t enqueue_unordered(cudaStream_t s, std::vector<std::function<void()>> all);
  /// Waits for all that is in the stream. An error if it captures.
  cudaError_t finish(cudaStream_t s);
  cudaError_t query(cudaStream_t s);
  cudaError_t finish_all();

  cudaError_t record(event* e, cudaStream_t s);
  cudaError_t wait(cudaStream_t s, event* e);
  cudaError_t query(event* e);
  cudaError_t finish(event* e);
  cudaError_t elapsed_ms(float& ms, event* from, event* to);

  cudaError_t begin_capture(cudaStream_t s, cudaStreamCaptureMode mode);
  cudaError_t end_capture(cudaStream_t s, graph*& out);
  [[nodiscard]] cudaError_t is_capturing(cudaStream_t s, bool& is);
  /// A call that a capture forbids, for what it may do to work that is under way.
  cudaError_t potentially_unsafe();
  /// What cannot be in a graph was put into a stream: an error if that captures, and the end of the
  /// capture.
  cudaError_t refuse_in_capture(cudaStream_t s);

  cudaError_t instantiate(graph_exec*& out, graph* g);
  cudaError_t launch(graph_exec* e, cudaStream_t s);
  cudaError_t check(graph_exec* e);
  cudaError_t drop(graph_exec* e);
  cudaError_t drop(graph* g);

 private:
  /// What an event was last recorded behind, for one who waits; or why nobody may.
  cudaError_t recorded_of(event* e, work_ptr& work);

  // All of these under the lock.
  cudaError_t find(cudaStream_t s, stream*& out);
  cudaError_t legacy_may_be_used();
  std::vector<work_ptr> before_next(const stream* s) const;
  void set_last(stream* s, work_ptr last);
  cudaError_t add(cudaStream_t s,
                  std::function<void()> run,
                  std::function<cudaError_t()> is_launchable);
  cudaError_t unsafe_locked();
  void leave(stream* s);
  void add_nodes(stream* s, const graph& g);
  void launch_nodes(stream* s, graph_exec& e);

  std::mutex mutex_;
  work_queue queue_;
  stream legacy_;
  std::unordered_set<stream*> streams_;
  std::unordered_set<event*> events_;
  std::unordered_set<graph*> graphs_;
  std::unordered_set<graph_exec*> execs_;
  std::vector<std::shared_ptr<capture>> captures_;
  std::vector<work_ptr> left_behind_;  ///< last work of blocking streams that are gone
  double now_ms_ = 0;                  ///< of who runs: one at a time
};

}  // namespace oriel::ptx_machine
