// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Kernels of a few lines, for tests of the executor.
#pragma once

#include "machine.hpp"

#include <ptx_machine/block/memory_map.hpp>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace oriel::ptx_machine {

using words = std::vector<std::uint64_t>;

/// Bytes that kernels may touch while it lives.
class device_words {
 public:
  explicit device_words(words values) : values_(std::move(values)) {
    memory_map::of_process().add(address(), values_.size() * 8);
  }
  ~device_words() { memory_map::of_process().remove(address()); }
  device_words(const device_words&) = delete;
  device_words& operator=(const device_words&) = delete;

  [[nodiscard]] std::uint64_t address() const {
    return reinterpret_cast<std::uint64_t>(values_.data());
  }
  [[nodiscard]] const words& values() const { return values_; }

 private:
  words values_;
};

/// %rd4, %r4, %rs4, %f4, %fd4 are the first word of `in` in their widths, and so 5 and 6; %r1 is the thread; the
/// thread's word of `out` gets %rd9.
inline std::string kernel_text(const std::string& body, const std::string& directives) {
  std::string text = R"(.version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry test(.param .u64 in, .param .u64 out)
)" + directives + R"(
{
  .reg .pred %p<16>; .reg .b16 %rs<16>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %rd<32>;
  .reg .f64 %fd<16>;
  .local .align 16 .b8 own[32];
  ld.param.u64 %rd1, [in];
  ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x;
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mad.lo.s32 %r3, %r2, %r3, %r1;
  mul.wide.u32 %rd3, %r3, 8;
  add.s64 %rd2, %rd2, %rd3;
  mov.u64 %rd9, 0;
)";
  for (const std::string n : {"4", "5", "6"}) {
    text += "ld.global.u64 %rd" + n + ", [%rd1+" + std::to_string(8 * (n[0] - '4')) + "];\n";
    text += "cvt.u32.u64 %r" + n + ", %rd" + n + ";\ncvt.u16.u64 %rs" + n + ", %rd" + n + ";\n";
    text += "mov.b32 %f" + n + ", %r" + n + ";\nmov.b64 %fd" + n + ", %rd" + n + ";\n";
  }
  return text + body + "\nst.global.u64 [%rd2], %rd9;\nret;\n}\n";
}

struct shape {
  std::uint32_t threads = 32;
  std::uint32_t blocks = 1;
  std::uint32_t shared_bytes = 0;
  std::uint64_t seed = 1;
  std::string directives = "";
  std::uint32_t multiprocessors = 4;
};

inline words results(const std::string& body, words in = {}, const shape& s = {}) {
  const module m = parse(kernel_text(body, s.directives), "test");
  in.resize(std::max<std::size_t>(in.size(), 64));
  const device_words input(std::move(in));
  const device_words output(words(std::size_t{s.threads} * s.blocks));
  const std::uint64_t parameters[]{input.address(), output.address()};
  run(m,
      m.kernels.at(0),
      {.grid = {s.blocks},
       .block = {s.threads},
       .dynamic_shared_bytes = s.shared_bytes,
       .seed = s.seed,
       .multiprocessors = s.multiprocessors},
      std::as_bytes(std::span(parameters)));
  return output.values();
}

inline std::string message_of(const std::string& body, const shape& s = {}, const words& in = {}) {
  try {
    (void)results(body, in, s);
  } catch (const machine_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace oriel::ptx_machine
