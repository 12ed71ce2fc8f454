// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The functions of libcudart that allocate, copy and fill.
#include "runtime.hpp"

#include <ptx_machine/block/memory_map.hpp>
#include <ptx_machine/program/program.hpp>

#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

using namespace oriel::ptx_machine;  // NOLINT: functions of C

namespace {

std::string hex(const void* at) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", at);
  return text;
}

/// One copy, or fill, as it is done later. What lies where is looked at when it is asked for; that
/// it still does, then.
struct copy {
  std::byte* to;
  const std::byte* from;
  std::size_t bytes;
  place to_place, from_place;

  void check(const void* at, place where) const {
    if (where != place::pageable &&
        !memory_map::of_process().contains(reinterpret_cast<std::uint64_t>(at), bytes)) {
      throw machine_error("a copy of " + std::to_string(bytes) + " bytes: address " + hex(at) +
                          " is free when the stream gets there");
    }
  }
  void operator()() const {
    check(to, to_place);
    check(from, from_place);
    if (to < from + bytes && from < to + bytes && bytes != 0) {
      throw machine_error("a copy of " + std::to_string(bytes) + " bytes from " + hex(from) +
                          " to " + hex(to) + ": they overlap");
    }
    std::memcpy(to, from, bytes);
  }
  /// The source as it is now.
  [[nodiscard]] std::function<void()> staged() const {
    auto bytes_now = std::make_shared<std::vector<std::byte>>(from, from + bytes);
    return [c = *this, bytes_now]() mutable {
      c.from = bytes_now->data();
      c.from_place = place::pageable;
      c();
    };
  }
  [[nodiscard]] bool touches_pageable() const {
    return to_place == place::pageable || from_place == place::pageable;
  }
  [[nodiscard]] bool is_within_host() const {
    return to_place != place::device && from_place != place::device;
  }
};

/// Does what lies there fit what the caller says?
bool fits(place where, bool must_be_device) {
  return where != place::outside && (!must_be_device || where != place::pageable);
}

cudaError_t make_copy(
    runtime& r, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, copy& out) {
  out = {static_cast<std::byte*>(to),
         static_cast<const std::byte*>(from),
         bytes,
         r.memory.where(to, bytes),
         r.memory.where(from, bytes)};
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) {
    return cudaErrorInvalidMemcpyDirection;
  }
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return fits(out.to_place, to_device) && fits(out.from_place, from_device) ? cudaSuccess
                                                                            : cudaErrorInvalidValue;
}

cudaError_t copy_async(runtime& r, const copy& c, cudaStream_t s) {
  bool is_capturing = false;
  if (const cudaError_t e = r.all_streams.is_capturing(s, is_capturing); e != cudaSuccess) {
    return e;
  }
  if (is_capturing && c.touches_pageable()) {
    return r.all_streams.refuse_in_capture(s);
  }
  if (c.from_place == place::pageable && c.to_place == place::device) {
    return r.all_streams.enqueue(s, c.staged());
  }
  const cudaError_t e = r.all_streams.enqueue(s, c);
  // Pageable memory of the host: the call is over when the copy is.
  return e == cudaSuccess && c.touches_pageable() ? r.all_streams.finish(s) : e;
}

cudaError_t copy_sync(runtime& r, const copy& c) {
  streams& all = r.all_streams;
  if (const cudaError_t e = all.potentially_unsafe(); e != cudaSuccess) {
    return e;
  }
  if (c.from_place == place::pageable && c.to_place == place::device) {
    // The bytes are taken once the stream is idle; that they have arrived is not said.
    const cudaError_t e = all.finish(cudaStreamLegacy);
    return e == cudaSuccess ? all.enqueue(nullptr, c.staged()) : e;
  }
  const cudaError_t e = all.enqueue(nullptr, c);
  const bool is_waited_for = c.to_place != place::device || c.from_place != place::device;
  return e == cudaSuccess && is_waited_for ? all.finish(cudaStreamLegacy) : e;
}

cudaError_t fill(runtime& r, void* at, int value, std::size_t bytes, cudaStream_t s) {
  const place where = r.memory.where(at, bytes);
  if (!fits(where, true)) {
    return cudaErrorInvalidValue;
  }
  const copy target{static_cast<std::byte*>(at), nullptr, bytes, where, place::pageable};
  return r.all_streams.enqueue(s, [target, value] {
    target.check(target.to, target.to_place);
    std::memset(target.to, value, target.bytes);
  });
}

cudaError_t allocate(void** at, std::size_t bytes, place where) {
  return call([&](runtime& r) {
    *at = nullptr;
    if (const cudaError_t e = r.all_streams.potentially_unsafe(); e != cudaSuccess) {
      return e;
    }
    if (bytes == 0) {
      return cudaSuccess;
    }
    *at = r.memory.allocate(bytes, where);
    return *at == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

/// Order of a copy of a batch: when is its source read?
std::function<void()> in_order(runtime& r, const copy& c, cudaMemcpySrcAccessOrder order) {
  const bool early =
      order == cudaMemcpySrcAccessOrderDuringApiCall ||
      (order == cudaMemcpySrcAccessOrderAny && r.all_streams.queue().next_random() % 2 == 0);
  if (early || c.from_place == place::pageable) {
    return c.staged();
  }
  return c;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** at, std::size_t bytes) {
  return allocate(at, bytes, place::device);
}

cudaError_t cudaMallocHost(void** at, std::size_t bytes) {
  return allocate(at, bytes, place::pinned);
}

cudaError_t cudaHostAlloc(void** at, std::size_t bytes, unsigned flags) {
  constexpr unsigned known =
      cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
  return (flags & ~known) != 0 ? told(cudaErrorInvalidValue) : allocate(at, bytes, place::pinned);
}

cudaError_t cudaFree(void* at) {
  return waiting_call([&](runtime& r) {
    if (at == nullptr) {
      return cudaSuccess;
    }
    if (const cudaError_t e = r.all_streams.potentially_unsafe(); e != cudaSuccess) {
      return e;
    }
    if (const cudaError_t e = r.all_streams.finish_all(); e != cudaSuccess) {
      return e;
    }
    return r.memory.release(at, place::device) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

/// Waits for nobody: nothing says that it does.
cudaError_t cudaFreeHost(void* at) {
  return call([&](runtime& r) {
    if (at == nullptr) {
      return cudaSuccess;
    }
    if (const cudaError_t e = r.all_streams.potentially_unsafe(); e != cudaSuccess) {
      return e;
    }
    return r.memory.release(at, place::pinned) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  return call([&](runtime& r) {
    *free_bytes = r.memory.free_bytes();
    *total = r.memory.capacity_bytes();
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return waiting_call([&](runtime& r) {
    copy c;
    const cudaError_t e = make_copy(r, to, from, bytes, kind, c);
    return e == cudaSuccess ? copy_sync(r, c) : e;
  });
}

cudaError_t cudaMemcpyAsync(
    void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  return waiting_call([&](runtime& r) {
    copy c;
    const cudaError_t e = make_copy(r, to, from, bytes, kind, c);
    return e == cudaSuccess ? copy_async(r, c, s) : e;
  });
}

cudaError_t cudaMemcpyBatchAsync(void* const* to,
                                 const void* const* from,
                                 const std::size_t* bytes,
                                 std::size_t count,
                                 cudaMemcpyAttributes* attributes,
                                 std::size_t* first,
                                 std::size_t attribute_count,
                                 cudaStream_t s) {
  return waiting_call([&](runtime& r) {
    if (count == 0 || attribute_count == 0 || attribute_count > count || first[0] != 0 ||
        s == nullptr || s == cudaStreamLegacy) {
      return cudaErrorInvalidValue;
    }
    std::vector<std::function<void()>> all;
    bool must_wait = false;
    for (std::size_t i = 0, a = 0; i < count; ++i) {
      a += a + 1 < attribute_count && first[a + 1] == i;
      copy c;
      if (const cudaError_t e = make_copy(r, to[i], from[i], bytes[i], cudaMemcpyDefault, c);
          e != cudaSuccess) {
        return e;
      }
      if (attributes[a].srcAccessOrder < cudaMemcpySrcAccessOrderStream ||
          attributes[a].srcAccessOrder > cudaMemcpySrcAccessOrderAny) {
        return cudaErrorInvalidValue;
      }
      must_wait |= c.to_place == place::pageable;
      all.push_back(in_order(r, c, attributes[a].srcAccessOrder));
    }
    const cudaError_t e = r.all_streams.enqueue_unordered(s, std::move(all));
    return e == cudaSuccess && must_wait ? r.all_streams.finish(s) : e;
  });
}

cudaError_t cudaMemset(void* at, int value, std::size_t bytes) {
  return waiting_call([&](runtime& r) {
    if (const cudaError_t e = r.all_streams.potentially_unsafe(); e != cudaSuccess) {
      return e;
    }
    const cudaError_t e = fill(r, at, value, bytes, nullptr);
    const bool is_waited_for = r.memory.where(at, bytes) == place::pinned;
    return e == cudaSuccess && is_waited_for ? r.all_streams.finish(cudaStreamLegacy) : e;
  });
}

cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t s) {
  return call([&](runtime& r) { return fill(r, at, value, bytes, s); });
}

}  // extern "C"
