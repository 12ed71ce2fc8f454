// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <cuda/captured.hpp>
#include <cuda/pinned_array.hpp>
#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace oriel::test;  // NOLINT: a test

namespace {

/// Notes letters in the order in which the device gets to them.
struct diary {
  std::string text;
  struct line {
    diary* in;
    char letter;
  };
  std::vector<std::unique_ptr<line>> lines;

  void note(cudaStream_t s, char letter) {
    lines.push_back(std::make_unique<line>(line{this, letter}));
    ORIEL_REQUIRE_CUDA(cudaLaunchHostFunc(
        s,
        [](void* l) { static_cast<line*>(l)->in->text += static_cast<line*>(l)->letter; },
        lines.back().get()));
  }
  [[nodiscard]] std::size_t at(char letter) const { return text.find(letter); }
};

struct timed_event {
  timed_event() { ORIEL_REQUIRE_CUDA(cudaEventCreate(&event)); }
  ~timed_event() { cudaEventDestroy(event); }
  timed_event(const timed_event&) = delete;
  timed_event& operator=(const timed_event&) = delete;
  cudaEvent_t event = nullptr;
};

struct blocking_stream {
  blocking_stream() { ORIEL_REQUIRE_CUDA(cudaStreamCreate(&stream)); }
  ~blocking_stream() { cudaStreamDestroy(stream); }
  blocking_stream(const blocking_stream&) = delete;
  blocking_stream& operator=(const blocking_stream&) = delete;
  cudaStream_t stream = nullptr;
};

/// Ends what a call left in the capture, so that the next test finds none.
void end_capture(cudaStream_t s, cudaError_t expected) {
  cudaGraph_t g = nullptr;
  CHECK(cudaStreamEndCapture(s, &g) == expected);
  if (g != nullptr) {
    cudaGraphDestroy(g);
  }
  cudaGetLastError();
}

}  // namespace

TEST_CASE("ptx cudart: a stream keeps its order; what it waits for comes first") {
  const own_stream a, b;
  timed_event e;
  for (int again = 0; again < 50; ++again) {
    diary d;
    d.note(a.stream, 'a');
    d.note(a.stream, 'b');
    ORIEL_REQUIRE_CUDA(cudaEventRecord(e.event, a.stream));
    ORIEL_REQUIRE_CUDA(cudaStreamWaitEvent(b.stream, e.event, 0));
    d.note(a.stream, 'c');
    d.note(b.stream, 'x');
    b.finish();
    CHECK(d.at('a') < d.at('b'));
    CHECK(d.at('b') < d.at('x'));
    a.finish();
    CHECK(d.at('b') < d.at('c'));
    CHECK(d.text.size() == 4);
  }
}

TEST_CASE("ptx cudart: streams without events run in either order") {
  const own_stream a, b;
  bool a_first = false, b_first = false;
  for (int again = 0; again < 50; ++again) {
    diary d;
    d.note(a.stream, 'a');
    d.note(b.stream, 'b');
    ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
    (d.text == "ab" ? a_first : b_first) = true;
  }
  CHECK(a_first);
  CHECK(b_first);
}

TEST_CASE(
    "ptx cudart: the legacy stream waits for blocking streams, and they for it; others do not") {
  const blocking_stream a;
  const own_stream apart;
  bool legacy_first = false;
  for (int again = 0; again < 50; ++again) {
    diary d;
    d.note(a.stream, 'a');
    d.note(apart.stream, 'x');
    d.note(nullptr, 'l');
    d.note(a.stream, 'b');
    ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
    CHECK(d.at('a') < d.at('l'));
    CHECK(d.at('l') < d.at('b'));
    legacy_first |= d.at('l') < d.at('x');
  }
  CHECK(legacy_first);
}

TEST_CASE(
    "ptx cudart: an event that was never recorded is done, and one of the past is its last "
    "record") {
  const own_stream a;
  timed_event e, later;
  CHECK(cudaEventQuery(e.event) == cudaSuccess);
  float ms = 0;
  CHECK(cudaEventElapsedTime(&ms, e.event, later.event) == cudaErrorInvalidResourceHandle);
  ORIEL_REQUIRE_CUDA(cudaEventRecord(e.event, a.stream));
  ORIEL_REQUIRE_CUDA(cudaEventRecord(later.event, a.stream));
  ORIEL_REQUIRE_CUDA(cudaEventSynchronize(later.event));
  ORIEL_REQUIRE_CUDA(cudaEventElapsedTime(&ms, e.event, later.event));
  CHECK(ms > 0.0f);
  cudaGetLastError();
}

TEST_CASE("ptx cudart: who asks an event again and again gets there") {
  const own_stream a;
  timed_event e;
  diary d;
  for (int i = 0; i < 20; ++i) {
    d.note(a.stream, 'a');
  }
  ORIEL_REQUIRE_CUDA(cudaEventRecord(e.event, a.stream));
  int asked = 0;
  while (cudaEventQuery(e.event) == cudaErrorNotReady) {
    REQUIRE(++asked < 1000);
  }
  CHECK(cudaGetLastError() == (asked == 0 ? cudaSuccess : cudaErrorNotReady));
  CHECK(d.text.size() == 20);
}

TEST_CASE(
    "ptx cudart: pageable memory is read at the call, pinned memory when the stream gets there") {
  const own_stream s;
  const device_array<int> to(2);
  const pinned_array<int> pinned(1);
  std::vector<int> pageable{5};
  pinned.data()[0] = 5;
  ORIEL_REQUIRE_CUDA(
      cudaMemcpyAsync(to.data(), pageable.data(), 4, cudaMemcpyHostToDevice, s.stream));
  ORIEL_REQUIRE_CUDA(
      cudaMemcpyAsync(to.data() + 1, pinned.data(), 4, cudaMemcpyHostToDevice, s.stream));
  pageable[0] = pinned.data()[0] = 6;
  s.finish();
  const auto found = to.to_host();
  CHECK(found[0] == 5);
  CHECK(found[1] == (std::getenv("ORIEL_PTX_SEED") == nullptr ? 6 : found[1]));  // Seed 0 is lazy.
}

TEST_CASE("ptx cudart: memory of the device begins as 0xFF, and a copy beyond it is refused") {
  const device_array<std::byte> a(100);  // And one byte more.
  std::byte b{};
  CHECK(cudaMemcpy(&b, a.data() + 101, 1, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(&b, a.data() + 100, 1, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(b == std::byte{0xFF});
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE(
    "ptx cudart: a graph runs what streams recorded, each time, in an order that they allow") {
  const own_stream a, b;
  timed_event fork, join;
  diary d;
  captured graph([&](cudaStream_t s) {
    d.note(s, 'a');
    ORIEL_REQUIRE_CUDA(cudaEventRecord(fork.event, s));
    ORIEL_REQUIRE_CUDA(cudaStreamWaitEvent(b.stream, fork.event, 0));
    d.note(b.stream, 'x');
    d.note(s, 'b');
    ORIEL_REQUIRE_CUDA(cudaEventRecord(join.event, b.stream));
    ORIEL_REQUIRE_CUDA(cudaStreamWaitEvent(s, join.event, 0));
    d.note(s, 'c');
  });
  CHECK(d.text.empty());
  bool x_first = false, b_first = false;
  for (int again = 0; again < 50; ++again) {
    d.text.clear();
    graph.launch();
    REQUIRE((d.text == "axbc" || d.text == "abxc"));
    (d.text == "axbc" ? x_first : b_first) = true;
  }
  CHECK(x_first);
  CHECK(b_first);
}

TEST_CASE("ptx cudart: what a capture forbids fails and ends it") {
  const own_stream a, b;
  timed_event before;
  ORIEL_REQUIRE_CUDA(cudaEventRecord(before.event, b.stream));
  ORIEL_REQUIRE_CUDA(cudaStreamBeginCapture(a.stream, cudaStreamCaptureModeGlobal));
  SECTION("nothing") {
    end_capture(a.stream, cudaSuccess);
    return;
  }
  SECTION("to allocate") {
    void* p = nullptr;
    CHECK(cudaMalloc(&p, 1) == cudaErrorStreamCaptureUnsupported);
  }
  SECTION("to allocate in another thread") {
    std::thread([] {
      void* p = nullptr;
      CHECK(cudaMalloc(&p, 1) == cudaErrorStreamCaptureUnsupported);
    }).join();
  }
  SECTION("to wait for the stream") {
    CHECK(cudaStreamSynchronize(a.stream) == cudaErrorStreamCaptureUnsupported);
  }
  SECTION("to wait for the device") {
    CHECK(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported);
  }
  SECTION("to wait for an event from outside") {
    CHECK(cudaStreamWaitEvent(a.stream, before.event, 0) == cudaErrorStreamCaptureIsolation);
  }
  end_capture(a.stream, cudaErrorStreamCaptureInvalidated);
}

TEST_CASE(
    "ptx cudart: a capture that another thread may not disturb, and the legacy stream that may not "
    "either") {
  const blocking_stream a;
  ORIEL_REQUIRE_CUDA(cudaStreamBeginCapture(a.stream, cudaStreamCaptureModeThreadLocal));
  SECTION("another thread allocates") {
    std::thread([] {
      void* p = nullptr;
      CHECK(cudaMalloc(&p, 1) == cudaSuccess);
    }).join();
    end_capture(a.stream, cudaSuccess);
  }
  SECTION("the legacy stream is used") {
    CHECK(cudaLaunchHostFunc(
              nullptr, [](void*) {}, nullptr) == cudaErrorStreamCaptureImplicit);
    end_capture(a.stream, cudaErrorStreamCaptureInvalidated);
  }
}

TEST_CASE("ptx cudart: a stream that a capture took along has to come back") {
  const own_stream a, b;
  timed_event fork;
  diary d;
  ORIEL_REQUIRE_CUDA(cudaStreamBeginCapture(a.stream, cudaStreamCaptureModeThreadLocal));
  ORIEL_REQUIRE_CUDA(cudaEventRecord(fork.event, a.stream));
  ORIEL_REQUIRE_CUDA(cudaStreamWaitEvent(b.stream, fork.event, 0));
  d.note(b.stream, 'x');
  CHECK(cudaEventQuery(fork.event) == cudaErrorCapturedEvent);
  end_capture(a.stream, cudaErrorStreamCaptureInvalidated);

  ORIEL_REQUIRE_CUDA(cudaStreamBeginCapture(a.stream, cudaStreamCaptureModeThreadLocal));
  ORIEL_REQUIRE_CUDA(cudaEventRecord(fork.event, a.stream));
  ORIEL_REQUIRE_CUDA(cudaStreamWaitEvent(b.stream, fork.event, 0));
  d.note(b.stream, 'x');
  end_capture(a.stream, cudaErrorStreamCaptureUnjoined);
}
