// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The functions of libcudart about kernels: what a unit registers at the start, and launches.
#include "fat_binary.hpp"
#include "nvcc_calls.hpp"
#include "runtime.hpp"

#include <ptx_machine/executor/machine.hpp>
#include <ptx_machine/program/mutant.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

using namespace oriel::ptx_machine;  // NOLINT: functions of C

namespace {

constexpr std::uint32_t shared_bytes_anyway = 48 << 10, shared_bytes_max = 227 << 10;
constexpr std::uint64_t cluster_blocks_max = 8;

/// The one that ORIEL_PTX_MUTANT tells, and says so: what changes nothing is no test.
void plant_bug(module& all) {
  const char* const text = std::getenv("ORIEL_PTX_MUTANT");
  if (text == nullptr || *text == '\0') {
    return;
  }
  if (const std::size_t edits = plant(mutant_of(text), all); edits != 0) {
    std::fprintf(stderr, "ptx machine: %zu instructions are mutants\n", edits);
  }
}

/// A translation unit's kernels; its text is read when the first of them is wanted.
class unit {
 public:
  explicit unit(const void* wrapper) : wrapper_(wrapper) {}

  /// Null, and said once, where there is no such kernel or no text. Under the registry's lock.
  const kernel* find(const std::string& name, std::optional<ready_kernel>& ready) {
    try {
      if (!is_read_) {
        is_read_ = true;
        module all = parse(ptx_of(wrapper_), unit_name_of(wrapper_));
        plant_bug(all);
        parsed_ = std::move(all);
      }
      const kernel* const found = parsed_ ? parsed_->find(name) : nullptr;
      if (found != nullptr) {
        ready.emplace(*parsed_, *found);
      }
      return found;
    } catch (const machine_error& e) {
      std::fprintf(stderr, "ptx machine: %s\n", e.what());
      return nullptr;
    }
  }

 private:
  const void* wrapper_;
  bool is_read_ = false;
  std::optional<module> parsed_;
};

struct function {
  function(unit* owner, std::string mangled) : of(owner), name(std::move(mangled)) {}

  unit* of;
  std::string name;
  std::atomic<std::uint32_t> allowed_bytes =
      shared_bytes_anyway;  ///< of shared memory, static and dynamic
  const kernel* code = nullptr;
  std::optional<ready_kernel> ready;
};

struct registry {
  std::mutex mutex;
  std::unordered_map<const void*, std::unique_ptr<function>> functions;  ///< by the host's function
  std::unordered_map<const void*, function*> handles;

  static registry& of_process() {
    static auto* const only = new registry;
    return *only;
  }
  /// By a host's function, or by the handle of one.
  function* find(const void* f) {
    const std::lock_guard lock(mutex);
    if (const auto found = functions.find(f); found != functions.end()) {
      return found->second.get();
    }
    const auto found = handles.find(f);
    return found == handles.end() ? nullptr : found->second;
  }
};

/// With its code.
cudaError_t load(const void* which, function*& out) {
  registry& r = registry::of_process();
  out = r.find(which);
  if (out == nullptr) {
    return cudaErrorInvalidDeviceFunction;
  }
  const std::lock_guard lock(r.mutex);
  if (out->code == nullptr) {
    out->code = out->of->find(out->name, out->ready);
  }
  return out->code == nullptr ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

struct launch {
  const function* of;
  launch_config config;
  std::vector<std::byte> parameters;
};

cudaError_t check(const function& f, const launch_config& c) {
  const dimensions g = c.grid, b = c.block;
  const std::uint64_t threads = std::uint64_t{b.x} * b.y * b.z;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7FFFFFFF || g.y > 65'535 || g.z > 65'535 ||
      threads == 0 || threads > 1024 || b.x > 1024 || b.y > 1024 || b.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  const kernel& k = *f.code;
  if (threads > k.max_threads) {
    return cudaErrorLaunchOutOfResources;
  }
  if (g.x % k.cluster[0] != 0 || g.y % k.cluster[1] != 0 || g.z % k.cluster[2] != 0) {
    return cudaErrorInvalidConfiguration;
  }
  const std::uint64_t bytes = std::uint64_t{k.static_shared_bytes} + c.dynamic_shared_bytes;
  return bytes > f.allowed_bytes ? cudaErrorInvalidValue : cudaSuccess;
}

std::uint64_t count(const dimensions& d) {
  return std::uint64_t{d.x} * d.y * d.z;
}

/// The kernel's own size, or the one that is asked for where it has none; no blocks: an error.
dimensions cluster_of(const kernel& k, const cudaLaunchConfig_t& c) {
  const dimensions own{k.cluster[0], k.cluster[1], k.cluster[2]};
  const bool has_own = count(own) != 1;
  dimensions size = has_own ? own : dimensions{0, 0, 0};
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    if (c.attrs[i].id == cudaLaunchAttributeClusterDimension) {
      const auto& asked = c.attrs[i].val.clusterDim;
      size = {asked.x, asked.y, asked.z};
    }
  }
  const bool is_own = size.x == own.x && size.y == own.y && size.z == own.z;
  return count(size) > cluster_blocks_max || (has_own && !is_own) ? dimensions{0, 0, 0} : size;
}

std::vector<std::byte> laid_out(const kernel& k, void** arguments) {
  std::vector<std::byte> bytes(k.parameter_bytes);
  for (std::size_t i = 0; i < k.parameters.size(); ++i) {
    const parameter_info& p = k.parameters[i];
    std::memcpy(bytes.data() + p.offset_bytes, arguments[i], p.size_bytes);
  }
  return bytes;
}

cudaError_t enqueue(const void* which,
                    dim3 grid,
                    dim3 block,
                    void** arguments,
                    std::size_t shared,
                    cudaStream_t s) {
  return call([&](runtime& r) {
    function* f = nullptr;
    if (const cudaError_t e = load(which, f); e != cudaSuccess) {
      return e;
    }
    if (shared > shared_bytes_max) {
      return cudaErrorInvalidValue;
    }
    launch_config config{{grid.x, grid.y, grid.z},
                         {block.x, block.y, block.z},
                         static_cast<std::uint32_t>(shared),
                         0,
                         r.multiprocessors};
    if (const cudaError_t e = check(*f, config); e != cudaSuccess) {
      return e;
    }
    const auto what =
        std::make_shared<const launch>(launch{f, config, laid_out(*f->code, arguments)});
    return r.all_streams.enqueue(
        s,
        [what, &r] {
          launch_config now = what->config;
          now.seed = r.all_streams.queue().next_random();
          what->of->ready->run(now, what->parameters);
        },
        [what] { return check(*what->of, what->config); });
  });
}

struct pushed_configuration {
  dim3 grid, block;
  std::size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<pushed_configuration> pushed;

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(new unit(wrapper));  // As long as the process.
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(
    void** of, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  registry& r = registry::of_process();
  const std::lock_guard lock(r.mutex);
  auto f = std::make_unique<function>(reinterpret_cast<unit*>(of), name);
  r.handles[f.get()] = f.get();
  r.functions[host] = std::move(f);
}

/// parse() refuses units that use them; one that only has them is none of our business.
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, CUstream_st* s) {
  pushed.push_back({grid, block, shared, s});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* s) {
  if (pushed.empty()) {
    return told(cudaErrorMissingConfiguration);
  }
  const pushed_configuration c = pushed.back();
  pushed.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  std::memcpy(s, &c.stream, sizeof c.stream);
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* out, const void* f) {
  function* const found = registry::of_process().find(f);
  *out = reinterpret_cast<cudaKernel_t>(found);
  return found == nullptr ? told(cudaErrorInvalidDeviceFunction) : cudaSuccess;
}

cudaError_t __cudaLaunchKernel(
    cudaKernel_t k, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t s) {
  return enqueue(k, grid, block, arguments, shared, s);
}

cudaError_t cudaLaunchKernel(
    const void* f, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t s) {
  return enqueue(f, grid, block, arguments, shared, s);
}

cudaError_t cudaFuncSetAttribute(const void* which, cudaFuncAttribute attribute, int value) {
  return call([&](runtime&) {
    function* f = nullptr;
    if (const cudaError_t e = load(which, f); e != cudaSuccess) {
      return e;
    }
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) {
      return value < -1 || value > 100 ? cudaErrorInvalidValue : cudaSuccess;
    }
    const std::uint64_t bytes =
        std::uint64_t{f->code->static_shared_bytes} + static_cast<std::uint32_t>(value);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        bytes > shared_bytes_max) {
      return cudaErrorInvalidValue;
    }
    f->allowed_bytes = static_cast<std::uint32_t>(bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void* which) {
  return call([&](runtime&) {
    function* f = nullptr;
    if (const cudaError_t e = load(which, f); e != cudaSuccess) {
      return e;
    }
    *out = {};
    out->sharedSizeBytes = f->code->static_shared_bytes;
    out->localSizeBytes = f->code->local_bytes;
    out->maxThreadsPerBlock = static_cast<int>(f->code->max_threads);
    out->maxDynamicSharedSizeBytes =
        static_cast<int>(f->allowed_bytes - f->code->static_shared_bytes);
    out->ptxVersion = out->binaryVersion = 90;
    return cudaSuccess;
  });
}

/// By threads, blocks and shared memory: registers are what ptxas makes of the text, and nobody
/// asks it here.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* out, const void* which, int threads, std::size_t dynamic_bytes, unsigned) {
  return call([&](runtime&) {
    function* f = nullptr;
    if (const cudaError_t e = load(which, f); e != cudaSuccess) {
      return e;
    }
    if (threads <= 0) {
      return cudaErrorInvalidValue;
    }
    const std::size_t bytes = f->code->static_shared_bytes + dynamic_bytes + 1024;
    const std::size_t by_bytes = (std::size_t{228} << 10) / bytes;
    const std::size_t by_threads = 2048 / ((static_cast<std::size_t>(threads) + 31) / 32 * 32);
    *out = static_cast<int>(std::min({by_bytes, by_threads, std::size_t{32}}));
    return cudaSuccess;
  });
}

/// As many as the machine has at a time.
cudaError_t cudaOccupancyMaxActiveClusters(int* out,
                                           const void* which,
                                           const cudaLaunchConfig_t* config) {
  return call([&](runtime& r) {
    function* f = nullptr;
    if (const cudaError_t e = load(which, f); e != cudaSuccess) {
      return e;
    }
    const dimensions cluster = cluster_of(*f->code, *config);
    if (count(cluster) == 0) {
      return cudaErrorInvalidClusterSize;
    }
    const dim3 grid = config->gridDim;
    if (grid.x % cluster.x != 0 || grid.y % cluster.y != 0 || grid.z % cluster.z != 0) {
      return cudaErrorInvalidConfiguration;
    }
    if (config->dynamicSmemBytes > shared_bytes_max) {
      return cudaErrorInvalidValue;
    }
    const dim3 block = config->blockDim;
    if (const cudaError_t e = check(*f,
                                    {{grid.x, grid.y, grid.z},
                                     {block.x, block.y, block.z},
                                     static_cast<std::uint32_t>(config->dynamicSmemBytes),
                                     0,
                                     r.multiprocessors});
        e != cudaSuccess) {
      return e;
    }
    *out = static_cast<int>(resident_clusters(r.multiprocessors, count(cluster)));
    return cudaSuccess;
  });
}

}  // extern "C"
