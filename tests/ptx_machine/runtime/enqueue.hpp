// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How the drop-in libcublasLt puts a product into a stream of the drop-in libcudart.
#pragma once

#include <cstddef>

namespace oriel::ptx_machine {

/// What the work reads or writes; must be memory of the device's when it runs. No bytes: nothing.
struct touched_bytes {
  const char* name;
  const void* at;
  std::size_t bytes;
};

struct enqueued_work {
  const char* name;
  void (*run)(void* arguments);
  void* arguments;
  void (*drop)(void* arguments);  ///< called once, when nobody will run it any more
  touched_bytes touched[8];
};

}  // namespace oriel::ptx_machine

/// @returns a cudaError_t. `work` is copied; its arguments are the stream's now.
extern "C" int oriel_ptx_machine_enqueue(void* stream,
                                         const oriel::ptx_machine::enqueued_work* work);
