// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "measure.hpp"

#include <chrono>
#include <cstdlib>
#include <limits>
#include <set>
#include <string_view>

#ifdef ORIEL_BENCH_CUBLASLT
#include <cublasLt.h>
#endif

namespace oriel::bench {

// fill.cu
void fill_random(void* to, std::size_t bytes, dtype type, std::uint64_t seed);
void enqueue_wait(std::uint32_t ns, cudaStream_t stream);

namespace {

std::set<std::pair<std::string, std::string>> reported;  // ids and peers

}  // namespace

void require(bool ok, const char* what) {
  if (!ok) {
    throw std::runtime_error(std::string(what) + " failed (" +
                             cudaGetErrorString(cudaGetLastError()) + ")");
  }
}

device_bytes::device_bytes(std::size_t bytes, dtype type) : size_(bytes) {
  static std::uint64_t seed = 0;
  ORIEL_CUDA_CALL(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(bytes, 256)));
  fill_random(data_, bytes, type, ++seed);
  ORIEL_CUDA_CALL(cudaGetLastError());
}

stopwatch::stopwatch() {
  ORIEL_CUDA_CALL(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  ORIEL_CUDA_CALL(cudaEventCreate(&begin_));
  ORIEL_CUDA_CALL(cudaEventCreate(&end_));
}

stopwatch::~stopwatch() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
  cudaStreamDestroy(stream_);
}

// While the device waits the host enqueues: what launches cost it is not measured.
void stopwatch::start() {
  ORIEL_CUDA_CALL(cudaDeviceSynchronize());
  enqueue_wait(3'000'000, stream_);  // 3 ms: graphs of a thousand nodes, too
  ORIEL_CUDA_CALL(cudaEventRecord(begin_, stream_));
}

double stopwatch::stop() {
  ORIEL_CUDA_CALL(cudaEventRecord(end_, stream_));
  ORIEL_CUDA_CALL(cudaEventSynchronize(end_));
  float ms = 0;
  ORIEL_CUDA_CALL(cudaEventElapsedTime(&ms, begin_, end_));
  return static_cast<double>(ms);
}

recorded::recorded(cudaStream_t stream,
                   std::uint32_t nodes,
                   const std::function<void(cudaStream_t, std::uint32_t)>& enqueue) {
  ORIEL_CUDA_CALL(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (std::uint32_t i = 0; i < nodes; ++i) {
    enqueue(stream, i);
  }
  cudaGraph_t graph = nullptr;
  ORIEL_CUDA_CALL(cudaStreamEndCapture(stream, &graph));
  const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  require(made == cudaSuccess, "cudaGraphInstantiate");
  ORIEL_CUDA_CALL(cudaGraphUpload(graph_, stream));  // Else the first launch does it.
}

#ifdef ORIEL_BENCH_CUBLASLT
struct dense_gemm::state {
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w_layout = nullptr, x_layout = nullptr, out_layout = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  device_bytes w, x, out, workspace;

  ~state() {
    for (const cublasLtMatrixLayout_t layout : {w_layout, x_layout, out_layout}) {
      cublasLtMatrixLayoutDestroy(layout);
    }
    cublasLtMatmulDescDestroy(product);
    cublasLtDestroy(handle);
  }
  [[nodiscard]] cublasStatus_t enqueue(const cublasLtMatmulAlgo_t& a, cudaStream_t stream) const {
    const float one = 1.0f, zero = 0.0f;
    return cublasLtMatmul(handle,
                          product,
                          &one,
                          w.data(),
                          w_layout,
                          x.data(),
                          x_layout,
                          &zero,
                          out.data(),
                          out_layout,
                          out.data(),
                          out_layout,
                          &a,
                          workspace.data(),
                          workspace.size(),
                          stream);
  }
};

// Column-major for cuBLASLt: out^T [n, m] = w [k, n]^T x [k, m].
dense_gemm::dense_gemm(std::uint32_t m, std::uint32_t n, std::uint32_t k, stopwatch& watch)
    : state_(std::make_unique<state>()), flops_(2.0 * m * n * k) {
  const auto take = [](cublasStatus_t s, const char* what) {
    require(s == CUBLAS_STATUS_SUCCESS, what);
  };
  state& s = *state_;
  take(cublasLtCreate(&s.handle), "cublasLtCreate");
  take(cublasLtMatmulDescCreate(&s.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "MatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  take(cublasLtMatmulDescSetAttribute(
           s.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
       "MatmulDescSetAttribute");
  take(cublasLtMatrixLayoutCreate(&s.w_layout, CUDA_R_16BF, k, n, k), "MatrixLayoutCreate");
  take(cublasLtMatrixLayoutCreate(&s.x_layout, CUDA_R_16BF, k, m, k), "MatrixLayoutCreate");
  take(cublasLtMatrixLayoutCreate(&s.out_layout, CUDA_R_16BF, n, m, n), "MatrixLayoutCreate");
  s.w = device_bytes(std::size_t{2} * n * k, dtype::bf16);
  s.x = device_bytes(std::size_t{2} * m * k, dtype::bf16);
  s.out = device_bytes(std::size_t{2} * m * n, dtype::bf16);
  s.workspace = device_bytes(std::size_t{64} << 20, dtype::bf16);
  cublasLtMatmulPreference_t preference = nullptr;
  take(cublasLtMatmulPreferenceCreate(&preference), "MatmulPreferenceCreate");
  const std::size_t most = s.workspace.size();
  take(cublasLtMatmulPreferenceSetAttribute(
           preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most),
       "MatmulPreferenceSetAttribute");
  cublasLtMatmulHeuristicResult_t offers[8] = {};
  int count = 0;
  const cublasStatus_t asked = cublasLtMatmulAlgoGetHeuristic(s.handle,
                                                              s.product,
                                                              s.w_layout,
                                                              s.x_layout,
                                                              s.out_layout,
                                                              s.out_layout,
                                                              preference,
                                                              8,
                                                              offers,
                                                              &count);
  cublasLtMatmulPreferenceDestroy(preference);
  take(asked, "MatmulAlgoGetHeuristic");
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& offer = offers[i];
    // What is offered may be refused all the same.
    if (offer.state != CUBLAS_STATUS_SUCCESS ||
        s.enqueue(offer.algo, watch.stream()) != CUBLAS_STATUS_SUCCESS) {
      cudaGetLastError();
      continue;
    }
    const auto run = [&](cudaStream_t stream) {
      take(s.enqueue(offer.algo, stream), "cublasLtMatmul");
    };
    double took = watch.ms(run);
    for (int again = 0; again < 2; ++again) {
      took = std::min(took, watch.ms(run));
    }
    if (took < best) {
      best = took;
      s.algorithm = offer.algo;
    }
  }
  require(best < std::numeric_limits<double>::infinity(), "an algorithm of cuBLASLt");
}

void dense_gemm::operator()(cudaStream_t stream) const {
  require(state_->enqueue(state_->algorithm, stream) == CUBLAS_STATUS_SUCCESS, "cublasLtMatmul");
}
#else
struct dense_gemm::state {};
dense_gemm::dense_gemm(std::uint32_t, std::uint32_t, std::uint32_t, stopwatch&) : flops_(0) {
  throw std::runtime_error("built without cuBLASLt");
}
void dense_gemm::operator()(cudaStream_t) const {}
#endif
dense_gemm::~dense_gemm() = default;

device_facts facts() {
  int multiprocessors = 0, cache_bytes = 0;
  ORIEL_CUDA_CALL(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  ORIEL_CUDA_CALL(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, 0));
  return {static_cast<std::uint32_t>(multiprocessors), static_cast<std::size_t>(cache_bytes)};
}

void report(const figure& f) {
  reported.insert({f.id, f.peer});
  std::printf("%s\n", line_of(f).c_str());
  std::fflush(stdout);
}

void beside_copy(const std::string& id,
                 double bytes,
                 std::uint32_t rounds,
                 const std::function<void(cudaStream_t)>& run,
                 double runs) {
  stopwatch watch;
  const copy_yardstick copy;
  race r;
  const auto ours = r.add([&] { return watch.ms(run) / runs; });
  const auto limit = r.add([&] { return watch.ms(copy); });
  r.run(rounds);
  report({id,
          "",
          bytes / r.took(ours) / 1e6,
          "GB/s",
          "COPY",
          copy_yardstick::moved / r.took(limit) / 1e6,
          r.ratio(limit, ours) * bytes / copy_yardstick::moved});
}

namespace {

/// Empty, or that the device answers no more since this task. After an illegal access all calls of
/// a process fail.
std::string loss_by(const task& t) {
  cudaGetLastError();  // What a task was refused is over with it.
  const cudaError_t e = cudaDeviceSynchronize();
  return e == cudaSuccess ? std::string()
                          : "device lost by " + t.ids.front() + " (" + cudaGetErrorString(e) + ")";
}

}  // namespace

int run_tasks(int count, char** arguments, const std::vector<task>& tasks) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "%s: skipped, no CUDA device\n", arguments[0]);
    return 77;
  }
  const auto begin = std::chrono::steady_clock::now();
  const double seconds = count > 1 ? std::atof(arguments[1]) : 0;
  int missing = 0;
  std::string lost;  // Why nothing can be measured any more.
  for (const task& t : tasks) {
    const bool is_wanted =
        count < 3 || std::any_of(arguments + 2, arguments + count, [&](std::string_view wanted) {
          return std::ranges::find(t.ids, wanted) != t.ids.end();
        });
    if (!is_wanted) {
      continue;
    }
    std::string why = "not reported";
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    if (!lost.empty()) {
      why = lost;
    } else if (seconds > 0 && passed.count() > seconds) {
      why = "no time left";
    } else {
      // Who asks again for what a task kept from its turn has to know which it was (bench/gpu.sh).
      std::printf("begins:");
      for (const std::string& id : t.ids) {
        std::printf(" %s", id.c_str());
      }
      std::printf("\n");
      std::fflush(stdout);
      try {
        t.run();
      } catch (const std::exception& e) {
        why = e.what();
      }
      lost = loss_by(t);
    }
    for (const std::string& id : t.ids) {
      if (!reported.contains({id, t.peer})) {
        ++missing;
        std::printf("%s\n", line_of_missing(id, t.peer, why).c_str());
        std::fflush(stdout);
      }
    }
  }
  return missing == 0 ? 0 : 1;
}

}  // namespace oriel::bench
