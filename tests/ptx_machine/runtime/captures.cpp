// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The part of `streams` that records graphs and launches them.
#include "streams.hpp"

#include <utility>

namespace oriel::ptx_machine {
namespace {

/// Do these nodes wait for all others?
bool reach_all(const graph& g, const std::set<std::uint32_t>& leaves) {
  std::vector<bool> is_reached(g.nodes.size());
  for (const std::uint32_t l : leaves) {
    is_reached[l] = true;
  }
  for (std::size_t i = g.nodes.size(); i-- > 0;) {
    if (!is_reached[i]) {
      return false;
    }
    for (const std::uint32_t b : g.nodes[i].before) {
      is_reached[b] = true;
    }
  }
  return true;
}

}  // namespace

cudaError_t streams::begin_capture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(mutex_);
  if (handle == nullptr || handle == cudaStreamLegacy) {
    return cudaErrorStreamCaptureUnsupported;
  }
  stream* s = nullptr;
  if (const cudaError_t e = find(handle, s); e != cudaSuccess) {
    return e;
  }
  if (is_open(s->in)) {
    return cudaErrorIllegalState;
  }
  s->in = std::make_shared<capture>();
  s->in->mode = mode;
  s->in->by = std::this_thread::get_id();
  s->in->origin = s;
  s->leaves.clear();
  captures_.push_back(s->in);
  return cudaSuccess;
}

/// The capture of this stream is over, for all of its streams.
void streams::leave(stream* s) {
  const std::shared_ptr<capture> c = s->in;
  c->is_over = true;
  std::erase(captures_, c);
  for (stream* other : streams_) {
    if (other->in == c) {
      other->in = nullptr;
      other->leaves.clear();
    }
  }
  s->in = nullptr;
  s->leaves.clear();
}

cudaError_t streams::end_capture(cudaStream_t handle, graph*& out) {
  const std::lock_guard lock(mutex_);
  out = nullptr;
  auto* const s = reinterpret_cast<stream*>(handle);
  if (!streams_.contains(s) || !is_open(s->in)) {
    return cudaErrorIllegalState;
  }
  const std::shared_ptr<capture> c = s->in;
  if (c->origin != s) {
    return cudaErrorStreamCaptureUnmatched;
  }
  if (c->mode != cudaStreamCaptureModeRelaxed && c->by != std::this_thread::get_id()) {
    return cudaErrorStreamCaptureWrongThread;
  }
  const bool is_joined = reach_all(*c->recorded, s->leaves);
  leave(s);
  if (c->is_invalid) {
    return cudaErrorStreamCaptureInvalidated;
  }
  if (!is_joined) {
    return cudaErrorStreamCaptureUnjoined;
  }
  out = new graph(*c->recorded);
  graphs_.insert(out);
  return cudaSuccess;
}

cudaError_t streams::is_capturing(cudaStream_t handle, bool& is) {
  const std::lock_guard lock(mutex_);
  stream* s = nullptr;
  const cudaError_t e = find(handle, s);
  is = e == cudaSuccess && is_open(s->in);
  return e;
}

cudaError_t streams::unsafe_locked() {
  cudaError_t out = cudaSuccess;
  for (const auto& c : captures_) {
    const bool is_mine = c->by == std::this_thread::get_id();
    if (is_mine ? c->mode != cudaStreamCaptureModeRelaxed
                : c->mode == cudaStreamCaptureModeGlobal) {
      c->is_invalid = true;
      out = cudaErrorStreamCaptureUnsupported;
    }
  }
  return out;
}

cudaError_t streams::potentially_unsafe() {
  const std::lock_guard lock(mutex_);
  return unsafe_locked();
}

cudaError_t streams::refuse_in_capture(cudaStream_t handle) {
  const std::lock_guard lock(mutex_);
  stream* s = nullptr;
  if (const cudaError_t e = find(handle, s); e != cudaSuccess) {
    return e;
  }
  if (is_open(s->in)) {
    s->in->is_invalid = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  return cudaSuccess;
}

cudaError_t streams::instantiate(graph_exec*& out, graph* g) {
  const std::lock_guard lock(mutex_);
  if (!graphs_.contains(g)) {
    return cudaErrorInvalidValue;
  }
  for (const graph_node& n : g->nodes) {
    if (n.is_launchable) {
      if (const cudaError_t e = n.is_launchable(); e != cudaSuccess) {
        return e;
      }
    }
  }
  out = new graph_exec{*g, nullptr};
  execs_.insert(out);
  return cudaSuccess;
}

cudaError_t streams::check(graph_exec* e) {
  const std::lock_guard lock(mutex_);
  return execs_.contains(e) ? cudaSuccess : cudaErrorInvalidValue;
}

void streams::add_nodes(stream* s, const graph& g) {
  auto& nodes = s->in->recorded->nodes;
  const auto first = static_cast<std::uint32_t>(nodes.size());
  std::set<std::uint32_t> ends = s->leaves;
  for (std::uint32_t i = 0; i < g.nodes.size(); ++i) {
    graph_node n = g.nodes[i];
    n.before = s->leaves;
    for (const std::uint32_t b : g.nodes[i].before) {
      n.before.insert(first + b);
      ends.erase(first + b);
    }
    nodes.push_back(std::move(n));
    ends.insert(first + i);
  }
  s->leaves = std::move(ends);
}

void streams::launch_nodes(stream* s, graph_exec& e) {
  auto first = before_next(s);
  first.push_back(e.last);
  std::vector<work_ptr> made;
  std::set<std::uint32_t> ends;
  for (std::uint32_t i = 0; i < e.nodes.nodes.size(); ++i) {
    const graph_node& n = e.nodes.nodes[i];
    std::vector<work_ptr> before;
    for (const std::uint32_t b : n.before) {
      before.push_back(made[b]);
      ends.erase(b);
    }
    made.push_back(queue_.add(n.run, n.before.empty() ? first : std::move(before)));
    ends.insert(i);
  }
  std::vector<work_ptr> last;
  for (const std::uint32_t i : ends) {
    last.push_back(made[i]);
  }
  e.last = queue_.add(nullptr, ends.empty() ? std::move(first) : std::move(last));
  set_last(s, e.last);
}

cudaError_t streams::launch(graph_exec* e, cudaStream_t handle) {
  {
    const std::lock_guard lock(mutex_);
    stream* s = nullptr;
    if (!execs_.contains(e)) {
      return cudaErrorInvalidValue;
    }
    if (const cudaError_t found = find(handle, s); found != cudaSuccess) {
      return found;
    }
    if (is_open(s->in)) {
      if (s->in->is_invalid) {
        return cudaErrorStreamCaptureInvalidated;
      }
      add_nodes(s, e->nodes);
      return cudaSuccess;
    }
    launch_nodes(s, *e);
  }
  queue_.may_get_on();
  return cudaSuccess;
}

cudaError_t streams::drop(graph_exec* e) {
  const std::lock_guard lock(mutex_);
  if (execs_.erase(e) == 0) {
    return cudaErrorInvalidValue;
  }
  delete e;
  return cudaSuccess;
}

cudaError_t streams::drop(graph* g) {
  const std::lock_guard lock(mutex_);
  if (graphs_.erase(g) == 0) {
    return cudaErrorInvalidValue;
  }
  delete g;
  return cudaSuccess;
}

}  // namespace oriel::ptx_machine
