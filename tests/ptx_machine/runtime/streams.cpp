// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "streams.hpp"

#include <utility>

namespace oriel::ptx_machine {
namespace {

cudaError_t invalidate(capture& c, cudaError_t why) {
  c.is_invalid = true;
  return why;
}

}  // namespace

stream* streams::make_stream(bool is_blocking) {
  const std::lock_guard lock(mutex_);
  auto* const s = new stream;
  s->is_blocking = is_blocking;
  streams_.insert(s);
  return s;
}

event* streams::make_event(bool has_timing) {
  const std::lock_guard lock(mutex_);
  auto* const e = new event;
  e->has_timing = has_timing;
  events_.insert(e);
  return e;
}

cudaError_t streams::drop(stream* s) {
  const std::lock_guard lock(mutex_);
  if (streams_.erase(s) == 0) {
    return cudaErrorInvalidResourceHandle;
  }
  if (is_open(s->in)) {
    s->in->is_invalid = true;
    if (s->in->origin == s) {
      leave(s);
    }
  }
  if (s->is_blocking && s->last != nullptr && !s->last->is_done) {
    left_behind_.push_back(s->last);
  }
  delete s;
  return cudaSuccess;
}

cudaError_t streams::drop(event* e) {
  const std::lock_guard lock(mutex_);
  if (events_.erase(e) == 0) {
    return cudaErrorInvalidResourceHandle;
  }
  delete e;
  return cudaSuccess;
}

cudaError_t streams::find(cudaStream_t s, stream*& out) {
  out = reinterpret_cast<stream*>(s);
  if (s == nullptr || s == cudaStreamLegacy) {
    out = &legacy_;
    return legacy_may_be_used();
  }
  return streams_.contains(out) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t streams::legacy_may_be_used() {
  cudaError_t out = cudaSuccess;
  for (const stream* s : streams_) {
    if (s->is_blocking && is_open(s->in)) {  // It would wait for the recording.
      out = invalidate(*s->in, cudaErrorStreamCaptureImplicit);
    }
  }
  return out;
}

std::vector<work_ptr> streams::before_next(const stream* s) const {
  std::vector<work_ptr> before{s->last};
  if (s == &legacy_) {
    before.insert(before.end(), left_behind_.begin(), left_behind_.end());
    for (const stream* other : streams_) {
      if (other->is_blocking) {
        before.push_back(other->last);
      }
    }
  } else if (s->is_blocking) {
    before.push_back(legacy_.last);
  }
  return before;
}

void streams::set_last(stream* s, work_ptr last) {
  s->last = std::move(last);
  if (s == &legacy_) {
    left_behind_.clear();
  }
}

cudaError_t streams::add(cudaStream_t handle,
                         std::function<void()> run,
                         std::function<cudaError_t()> is_launchable) {
  stream* s = nullptr;
  if (const cudaError_t e = find(handle, s); e != cudaSuccess) {
    return e;
  }
  if (!is_open(s->in)) {
    set_last(s, queue_.add(std::move(run), before_next(s)));
    return cudaSuccess;
  }
  if (s->in->is_invalid) {
    return cudaErrorStreamCaptureInvalidated;
  }
  auto& nodes = s->in->recorded->nodes;
  nodes.push_back({std::move(run), std::move(is_launchable), s->leaves});
  s->leaves = {static_cast<std::uint32_t>(nodes.size() - 1)};
  return cudaSuccess;
}

cudaError_t streams::enqueue(cudaStream_t s,
                             std::function<void()> run,
                             std::function<cudaError_t()> is_launchable) {
  {
    const std::lock_guard lock(mutex_);
    if (const cudaError_t e = add(s, std::move(run), std::move(is_launchable)); e != cudaSuccess) {
      return e;
    }
  }
  queue_.may_get_on();
  return cudaSuccess;
}

cudaError_t streams::enqueue_unordered(cudaStream_t handle,
                                       std::vector<std::function<void()>> all) {
  {
    const std::lock_guard lock(mutex_);
    stream* s = nullptr;
    if (const cudaError_t e = find(handle, s); e != cudaSuccess) {
      return e;
    }
    if (is_open(s->in)) {
      return cudaErrorStreamCaptureUnsupported;  // Devices refuse it, and the capture goes on.
    }
    std::vector<work_ptr> parts;
    for (auto& run : all) {
      parts.push_back(queue_.add(std::move(run), before_next(s)));
    }
    set_last(s, queue_.add(nullptr, std::move(parts)));
  }
  queue_.may_get_on();
  return cudaSuccess;
}

cudaError_t streams::finish(cudaStream_t handle) {
  work_ptr wanted;
  {
    const std::lock_guard lock(mutex_);
    stream* s = nullptr;
    if (const cudaError_t e = find(handle, s); e != cudaSuccess) {
      return e;
    }
    if (is_open(s->in)) {
      return invalidate(*s->in, cudaErrorStreamCaptureUnsupported);
    }
    if (const cudaError_t e = unsafe_locked(); e != cudaSuccess) {
      return e;
    }
    if (s == &legacy_) {
      set_last(s, queue_.add(nullptr, before_next(s)));
    }
    wanted = s->last;
  }
  queue_.finish(wanted);
  return cudaSuccess;
}

cudaError_t streams::query(cudaStream_t handle) {
  work_ptr wanted;
  {
    const std::lock_guard lock(mutex_);
    stream* s = nullptr;
    if (const cudaError_t e = find(handle, s); e != cudaSuccess) {
      return e;
    }
    if (is_open(s->in)) {
      return invalidate(*s->in, cudaErrorStreamCaptureUnsupported);
    }
    wanted = s->last;
  }
  if (wanted == nullptr || wanted->is_done) {
    return cudaSuccess;
  }
  queue_.get_on();
  return wanted->is_done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t streams::finish_all() {
  {
    const std::lock_guard lock(mutex_);
    cudaError_t out = cudaSuccess;
    for (const auto& c : captures_) {
      out = invalidate(*c, cudaErrorStreamCaptureUnsupported);
    }
    if (out != cudaSuccess) {
      return out;
    }
  }
  queue_.finish_all();
  return cudaSuccess;
}

cudaError_t streams::record(event* e, cudaStream_t handle) {
  {
    const std::lock_guard lock(mutex_);
    stream* s = nullptr;
    if (!events_.contains(e)) {
      return cudaErrorInvalidResourceHandle;
    }
    if (const cudaError_t found = find(handle, s); found != cudaSuccess) {
      return found;
    }
    if (is_open(s->in)) {
      e->in = s->in;
      e->leaves = s->leaves;
      return s->in->is_invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    }
    e->in = nullptr;
    e->at_ms = std::make_shared<double>();
    set_last(s, queue_.add([this, at = e->at_ms] { *at = now_ms_ += 0.01; }, before_next(s)));
    e->recorded = s->last;
  }
  queue_.may_get_on();
  return cudaSuccess;
}

cudaError_t streams::wait(cudaStream_t handle, event* e) {
  const std::lock_guard lock(mutex_);
  stream* s = nullptr;
  if (!events_.contains(e)) {
    return cudaErrorInvalidResourceHandle;
  }
  if (const cudaError_t found = find(handle, s); found != cudaSuccess) {
    return found;
  }
  if (e->in == nullptr) {
    if (is_open(s->in)) {
      return invalidate(*s->in, cudaErrorStreamCaptureIsolation);
    }
    if (e->recorded != nullptr) {
      auto before = before_next(s);
      before.push_back(e->recorded);
      set_last(s, queue_.add(nullptr, std::move(before)));
    }
    return cudaSuccess;
  }
  if (e->in->is_over) {
    return cudaErrorInvalidValue;
  }
  if (s == &legacy_) {
    return invalidate(*e->in, cudaErrorStreamCaptureImplicit);
  }
  if (is_open(s->in) && s->in != e->in) {
    invalidate(*s->in, cudaErrorStreamCaptureMerge);
    return invalidate(*e->in, cudaErrorStreamCaptureMerge);
  }
  if (e->in->is_invalid) {
    return cudaErrorStreamCaptureInvalidated;
  }
  if (!is_open(s->in)) {
    s->in = e->in;
    s->leaves.clear();
  }
  s->leaves.insert(e->leaves.begin(), e->leaves.end());
  return cudaSuccess;
}

cudaError_t streams::recorded_of(event* e, work_ptr& work) {
  const std::lock_guard lock(mutex_);
  if (!events_.contains(e)) {
    return cudaErrorInvalidResourceHandle;
  }
  if (is_open(e->in)) {
    return invalidate(*e->in, cudaErrorCapturedEvent);
  }
  if (const cudaError_t unsafe = unsafe_locked(); unsafe != cudaSuccess) {
    return unsafe;
  }
  work = e->recorded;
  return cudaSuccess;
}

cudaError_t streams::query(event* e) {
  work_ptr wanted;
  if (const cudaError_t refused = recorded_of(e, wanted); refused != cudaSuccess) {
    return refused;
  }
  if (wanted == nullptr || wanted->is_done) {
    return cudaSuccess;
  }
  queue_.get_on();
  return wanted->is_done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t streams::finish(event* e) {
  work_ptr wanted;
  if (const cudaError_t refused = recorded_of(e, wanted); refused != cudaSuccess) {
    return refused;
  }
  queue_.finish(wanted);
  return cudaSuccess;
}

cudaError_t streams::elapsed_ms(float& ms, event* from, event* to) {
  const std::lock_guard lock(mutex_);
  for (const event* e : {from, to}) {
    if (!events_.contains(const_cast<event*>(e)) || !e->has_timing || e->recorded == nullptr) {
      return cudaErrorInvalidResourceHandle;
    }
  }
  if (is_open(from->in) || is_open(to->in)) {
    return cudaErrorCapturedEvent;
  }
  if (!from->recorded->is_done || !to->recorded->is_done) {
    return cudaErrorNotReady;
  }
  ms = static_cast<float>(*to->at_ms - *from->at_ms);
  return cudaSuccess;
}

}  // namespace oriel::ptx_machine
