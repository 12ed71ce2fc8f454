// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The functions of libcudart about streams, events and graphs, and the one that libcublasLt
// enqueues by.
#include "enqueue.hpp"
#include "runtime.hpp"

#include <ptx_machine/block/memory_map.hpp>
#include <ptx_machine/program/program.hpp>

#include <memory>
#include <string>

using namespace oriel::ptx_machine;  // NOLINT: functions of C

namespace {

event* of(cudaEvent_t e) {
  return reinterpret_cast<event*>(e);
}
graph* of(cudaGraph_t g) {
  return reinterpret_cast<graph*>(g);
}
graph_exec* of(cudaGraphExec_t e) {
  return reinterpret_cast<graph_exec*>(e);
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* out) {
  return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return call([&](runtime& r) {
    if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking) {
      return cudaErrorInvalidValue;
    }
    *out = reinterpret_cast<cudaStream_t>(r.all_streams.make_stream(flags == cudaStreamDefault));
    return cudaSuccess;
  });
}

/// Its work goes on.
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  return call([&](runtime& r) { return r.all_streams.drop(reinterpret_cast<stream*>(s)); });
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  return waiting_call([&](runtime& r) { return r.all_streams.finish(s); });
}

cudaError_t cudaStreamQuery(cudaStream_t s) {
  return waiting_call([&](runtime& r) { return r.all_streams.query(s); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
  return call([&](runtime& r) {
    return flags != cudaEventWaitDefault ? cudaErrorInvalidValue : r.all_streams.wait(s, of(e));
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* data) {
  return call([&](runtime& r) {
    return f == nullptr ? cudaErrorInvalidValue : r.all_streams.enqueue(s, [f, data] { f(data); });
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* out) {
  return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  return call([&](runtime& r) {
    if ((flags & ~static_cast<unsigned>(cudaEventBlockingSync | cudaEventDisableTiming)) != 0) {
      return cudaErrorInvalidValue;
    }
    *out = reinterpret_cast<cudaEvent_t>(
        r.all_streams.make_event((flags & cudaEventDisableTiming) == 0));
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
  return call([&](runtime& r) { return r.all_streams.drop(of(e)); });
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  return call([&](runtime& r) { return r.all_streams.record(of(e), s); });
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
  return waiting_call([&](runtime& r) { return r.all_streams.query(of(e)); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  return waiting_call([&](runtime& r) { return r.all_streams.finish(of(e)); });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  return call([&](runtime& r) { return r.all_streams.elapsed_ms(*ms, of(from), of(to)); });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  return call([&](runtime& r) { return r.all_streams.begin_capture(s, mode); });
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* out) {
  return call([&](runtime& r) {
    graph* made = nullptr;
    const cudaError_t e = r.all_streams.end_capture(s, made);
    *out = reinterpret_cast<cudaGraph_t>(made);
    return e;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* out) {
  return call([&](runtime& r) {
    bool is = false;
    const cudaError_t e = r.all_streams.is_capturing(s, is);
    *out = is ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return e;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t g, unsigned long long flags) {
  return call([&](runtime& r) {
    graph_exec* made = nullptr;
    const cudaError_t e =
        flags != 0 ? cudaErrorInvalidValue : r.all_streams.instantiate(made, of(g));
    *out = reinterpret_cast<cudaGraphExec_t>(made);
    return e;
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t e, cudaStream_t s) {
  return call([&](runtime& r) {
    const cudaError_t found = r.all_streams.check(of(e));
    return found == cudaSuccess ? r.all_streams.enqueue(s, nullptr) : found;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
  return call([&](runtime& r) { return r.all_streams.launch(of(e), s); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  return call([&](runtime& r) { return r.all_streams.drop(of(g)); });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
  return call([&](runtime& r) { return r.all_streams.drop(of(e)); });
}

int oriel_ptx_machine_enqueue(void* s, const enqueued_work* work) {
  const std::shared_ptr<void> arguments(work->arguments, work->drop);
  return call([&](runtime& r) {
    return r.all_streams.enqueue(static_cast<cudaStream_t>(s), [w = *work, arguments] {
      for (const touched_bytes& t : w.touched) {
        if (t.bytes != 0 &&
            !memory_map::of_process().contains(reinterpret_cast<std::uint64_t>(t.at), t.bytes)) {
          throw machine_error(std::string(w.name) + ": " + t.name +
                              ": the device has no such address, or not all of " +
                              std::to_string(t.bytes) + " bytes");
        }
      }
      w.run(arguments.get());
    });
  });
}

}  // extern "C"
