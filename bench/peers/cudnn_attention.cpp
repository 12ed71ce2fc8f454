// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// cuDNN's attention through its C graph API on problems of bench/cuda: 64 query heads, 4 of KV,
// 192/128, bf16. Decode over pages, with its own operation (cuDNN 9.15 and newer); causal prefill,
// contiguous, with and without a sink per head, as the graph of a flash attention that cuDNN
// recognises: product, scale, mask, softmax, product. JSON lines for bench/cuda/table.py.
#include "measure.hpp"

#include <oriel/core/random.hpp>

#include <cmath>
#include <limits>
#include <numeric>

#include <cudnn.h>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

constexpr std::int64_t q_heads = 64, kv_heads = 4, dk = 192, dv = 128, page_tokens = 64;
const float scale = 1.0f / std::sqrt(static_cast<float>(dk));

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) {
    char detail[400] = "";
    cudnnGetLastErrorString(detail, sizeof detail);
    throw std::runtime_error(std::string(what) + ": " + cudnnGetErrorString(status) + " " + detail);
  }
}

/// One descriptor of the backend's; finished once all attributes are set.
class descriptor {
 public:
  explicit descriptor(cudnnBackendDescriptorType_t type) {
    check(cudnnBackendCreateDescriptor(type, &raw_), "cudnnBackendCreateDescriptor");
  }
  descriptor(descriptor&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  ~descriptor() {
    if (raw_ != nullptr) {
      cudnnBackendDestroyDescriptor(raw_);
    }
  }
  template <class T>
  descriptor& set(cudnnBackendAttributeName_t name,
                  cudnnBackendAttributeType_t type,
                  const std::vector<T>& values) {
    check(cudnnBackendSetAttribute(
              raw_, name, type, static_cast<std::int64_t>(values.size()), values.data()),
          "cudnnBackendSetAttribute");
    return *this;
  }
  descriptor& set(cudnnBackendAttributeName_t name, const descriptor& other) {
    return set(
        name, CUDNN_TYPE_BACKEND_DESCRIPTOR, std::vector<cudnnBackendDescriptor_t>{other.raw_});
  }
  descriptor& set(cudnnBackendAttributeName_t name, bool x) {
    check(cudnnBackendSetAttribute(raw_, name, CUDNN_TYPE_BOOLEAN, 1, &x), "SetAttribute");
    return *this;
  }
  descriptor& set(cudnnBackendAttributeName_t name, cudnnDataType_t x) {
    return set(name, CUDNN_TYPE_DATA_TYPE, std::vector{x});
  }
  descriptor& set(cudnnBackendAttributeName_t name, std::int64_t x) {
    return set(name, CUDNN_TYPE_INT64, std::vector{x});
  }
  descriptor& finish() {
    check(cudnnBackendFinalize(raw_), "cudnnBackendFinalize");
    return *this;
  }
  [[nodiscard]] std::int64_t get_int64(cudnnBackendAttributeName_t name) const {
    std::int64_t x = 0, count = 0;
    check(cudnnBackendGetAttribute(raw_, name, CUDNN_TYPE_INT64, 1, &count, &x), "GetAttribute");
    return x;
  }
  [[nodiscard]] cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  cudnnBackendDescriptor_t raw_ = nullptr;
};

using dims = std::vector<std::int64_t>;

/// A tensor of a graph, with what it is bound to if it is not virtual.
struct tensor {
  descriptor d;
  std::int64_t id;
  dims of;
};

/// Operations over tensors, and the plan that runs them.
class graph {
 public:
  /// Bound to memory, device's or (by value) the host's.
  tensor& bound(dims of, dims strides, cudnnDataType_t type, void* at, bool is_by_value = false) {
    tensor& t = add(std::move(of), std::move(strides), type, false, is_by_value);
    ids_.push_back(t.id);
    pointers_.push_back(at);
    return t;
  }
  /// Between operations. Rows lie dense.
  tensor& between(dims of, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    dims strides(of.size(), 1);
    for (std::size_t i = of.size() - 1; i > 0; --i) {
      strides[i - 1] = strides[i] * of[i];
    }
    return add(std::move(of), std::move(strides), type, true, false);
  }

  void product(const tensor& a, const tensor& b, const tensor& out) {
    descriptor how(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finish();
    operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.d)
        .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.d)
        .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, out.d)
        .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how)
        .finish();
    keep_.push_back(std::move(how));
  }
  /// out = mode(x), mode(x, b), or with `which` what it selects.
  tensor& pointwise(cudnnPointwiseMode_t mode,
                    const tensor& x,
                    const tensor* b,
                    tensor& out,
                    cudnnDataType_t precision = CUDNN_DATA_FLOAT,
                    const tensor* which = nullptr,
                    std::int64_t axis = -1) {
    descriptor how(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, std::vector{mode})
        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, precision);
    if (axis >= 0) {
      how.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
    }
    how.finish();
    descriptor& o = operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    o.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how)
        .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x.d)
        .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out.d);
    if (b != nullptr) {
      o.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->d);
    }
    if (which != nullptr) {
      o.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, which->d);
    }
    o.finish();
    keep_.push_back(std::move(how));
    return out;
  }
  tensor& reduction(cudnnReduceTensorOp_t what, const tensor& x, tensor& out) {
    descriptor how(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    how.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, std::vector{what})
        .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
        .finish();
    operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.d)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out.d)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how)
        .finish();
    keep_.push_back(std::move(how));
    return out;
  }
  /// An operation that the caller fills, and finishes.
  descriptor& operation(cudnnBackendDescriptorType_t type) {
    operations_.push_back(std::make_unique<descriptor>(type));
    return *operations_.back();
  }

  /// The first engine of the heuristics that takes the graph.
  void make_plan(cudnnHandle_t handle) {
    std::vector<cudnnBackendDescriptor_t> raw;
    for (const auto& o : operations_) {
      raw.push_back(o->raw());
    }
    descriptor whole(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    whole.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, std::vector{handle})
        .set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, raw)
        .finish();
    descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, whole)
        .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, std::vector{CUDNN_HEUR_MODE_A})
        .finish();
    std::vector<descriptor> offers;
    std::vector<cudnnBackendDescriptor_t> raw_offers;
    for (int i = 0; i < 8; ++i) {
      offers.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
      raw_offers.push_back(offers.back().raw());
    }
    std::int64_t count = 0;
    check(cudnnBackendGetAttribute(heuristics.raw(),
                                   CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                   8,
                                   &count,
                                   raw_offers.data()),
          "the heuristics' engines");
    for (std::int64_t i = 0; i < count; ++i) {
      auto plan = std::make_unique<descriptor>(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, std::vector{handle})
          .set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, offers[static_cast<std::size_t>(i)]);
      if (cudnnBackendFinalize(plan->raw()) == CUDNN_STATUS_SUCCESS) {
        plan_ = std::move(plan);
        break;
      }
    }
    require(plan_ != nullptr, "an engine of cuDNN that takes the graph");
    const std::int64_t bytes = plan_->get_int64(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
    workspace_ = device_bytes(static_cast<std::size_t>(bytes), dtype::f32);
    pack_.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids_)
        .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers_)
        .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
             CUDNN_TYPE_VOID_PTR,
             std::vector<void*>{workspace_.data()})
        .finish();
  }
  void run(cudnnHandle_t handle) const {
    check(cudnnBackendExecute(handle, plan_->raw(), pack_.raw()), "cudnnBackendExecute");
  }

 private:
  tensor& add(dims of, dims strides, cudnnDataType_t type, bool is_virtual, bool is_by_value) {
    descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const auto id = static_cast<std::int64_t>(tensors_.size()) + 1;
    d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id)
        .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
        .set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, of)
        .set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, strides)
        .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16})
        .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual)
        .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, is_by_value)
        .finish();
    tensors_.push_back(std::make_unique<tensor>(tensor{std::move(d), id, std::move(of)}));
    return *tensors_.back();
  }

  std::vector<std::unique_ptr<tensor>> tensors_;
  std::vector<std::unique_ptr<descriptor>> operations_;
  std::vector<descriptor> keep_;
  std::vector<std::int64_t> ids_;
  std::vector<void*> pointers_;
  std::unique_ptr<descriptor> plan_;
  descriptor pack_{CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR};
  device_bytes workspace_;
};

device_bytes bf16_array(std::int64_t elements) {
  return {static_cast<std::size_t>(elements) * 2, dtype::bf16};
}

/// Causal attention over one prompt of `rows` tokens.
class prefill_graph {
 public:
  prefill_graph(std::int64_t rows, bool has_sinks)
      : q_(bf16_array(q_heads * rows * dk)),
        k_(bf16_array(kv_heads * rows * dk)),
        v_(bf16_array(kv_heads * rows * dv)),
        out_(bf16_array(q_heads * rows * dv)),
        sinks_(q_heads * sizeof(float), dtype::f32) {
    graph& g = graph_;
    constexpr auto bf16_type = CUDNN_DATA_BFLOAT16;
    const dims one{1, 1, 1, 1}, all{1, q_heads, rows, rows}, by_row{1, q_heads, rows, 1};
    // Rows of a token lie side by side, as an engine has them: [rows, heads, dims].
    tensor& q = g.bound(
        {1, q_heads, rows, dk}, {rows * q_heads * dk, dk, q_heads * dk, 1}, bf16_type, q_.data());
    tensor& k = g.bound({1, kv_heads, dk, rows},
                        {rows * kv_heads * dk, dk, 1, kv_heads * dk},
                        bf16_type,
                        k_.data());
    tensor& v = g.bound({1, kv_heads, rows, dv},
                        {rows * kv_heads * dv, dv, kv_heads * dv, 1},
                        bf16_type,
                        v_.data());
    tensor& out = g.bound(
        {1, q_heads, rows, dv}, {rows * q_heads * dv, dv, q_heads * dv, 1}, bf16_type, out_.data());
    tensor& factor = g.bound(one, one, CUDNN_DATA_FLOAT, &factor_, true);
    tensor& least = g.bound(one, one, CUDNN_DATA_FLOAT, &least_, true);

    tensor& scores = g.between(all);
    g.product(q, k, scores);
    tensor& scaled = g.pointwise(CUDNN_POINTWISE_MUL, scores, &factor, g.between(all));
    const auto index = [&](std::int64_t axis) -> tensor& {
      return g.pointwise(CUDNN_POINTWISE_GEN_INDEX,
                         scaled,
                         nullptr,
                         g.between(all, CUDNN_DATA_INT32),
                         CUDNN_DATA_FLOAT,
                         nullptr,
                         axis);
    };
    tensor &row = index(2), &column = index(3);
    tensor& is_seen = g.pointwise(CUDNN_POINTWISE_CMP_GE,
                                  row,
                                  &column,
                                  g.between(all, CUDNN_DATA_BOOLEAN),
                                  CUDNN_DATA_BOOLEAN);
    tensor& masked = g.pointwise(
        CUDNN_POINTWISE_BINARY_SELECT, scaled, &least, g.between(all), CUDNN_DATA_FLOAT, &is_seen);
    tensor* sink = nullptr;
    tensor* largest = &g.reduction(CUDNN_REDUCE_TENSOR_MAX, masked, g.between(by_row));
    if (has_sinks) {
      sink = &g.bound({1, q_heads, 1, 1}, {q_heads, 1, 1, 1}, CUDNN_DATA_FLOAT, sinks_.data());
      largest = &g.pointwise(CUDNN_POINTWISE_MAX, *largest, sink, g.between(by_row));
    }
    tensor& below = g.pointwise(CUDNN_POINTWISE_SUB, masked, largest, g.between(all));
    tensor& weights = g.pointwise(CUDNN_POINTWISE_EXP, below, nullptr, g.between(all));
    tensor* sum = &g.reduction(CUDNN_REDUCE_TENSOR_ADD, weights, g.between(by_row));
    if (has_sinks) {
      tensor& sink_below = g.pointwise(CUDNN_POINTWISE_SUB, *sink, largest, g.between(by_row));
      tensor& sink_weight =
          g.pointwise(CUDNN_POINTWISE_EXP, sink_below, nullptr, g.between(by_row));
      sum = &g.pointwise(CUDNN_POINTWISE_ADD, *sum, &sink_weight, g.between(by_row));
    }
    tensor& shares = g.pointwise(CUDNN_POINTWISE_DIV, weights, sum, g.between(all, bf16_type));
    g.product(shares, v, out);
  }
  [[nodiscard]] graph& get() { return graph_; }

 private:
  float factor_ = scale, least_ = std::numeric_limits<float>::lowest();
  device_bytes q_, k_, v_, out_, sinks_;
  graph graph_;
};

/// One new token of each sequence over pages of 64 in random order.
class decode_graph {
 public:
  explicit decode_graph(const std::vector<std::uint32_t>& keys) {
#if CUDNN_VERSION >= 91500
    require(cudnnGetVersion() >= 91500, "cuDNN 9.15, for its operation over pages");
    const auto n = static_cast<std::int64_t>(keys.size());
    const std::int64_t longest = *std::ranges::max_element(keys);
    const std::int64_t per_sequence = (longest + page_tokens - 1) / page_tokens;
    std::vector<std::int32_t> table(static_cast<std::size_t>(n * per_sequence)), lengths;
    std::int32_t pages = 0;
    for (std::size_t s = 0; s < keys.size(); ++s) {
      lengths.push_back(static_cast<std::int32_t>(keys[s]));
      for (std::uint32_t at = 0; at < keys[s]; at += page_tokens) {
        table[s * static_cast<std::size_t>(per_sequence) + at / page_tokens] = pages++;
      }
    }
    random_stream random(1);
    std::vector<std::int32_t> where(static_cast<std::size_t>(pages));
    std::iota(where.begin(), where.end(), 0);
    for (auto i = static_cast<std::uint32_t>(pages); i > 1; --i) {
      std::swap(where[i - 1], where[random.next_below(i)]);
    }
    for (std::int32_t& page : table) {
      page = where[static_cast<std::size_t>(page)];
    }
    table_ = on_device(table);
    lengths_ = on_device(lengths);
    ones_ = on_device(std::vector<std::int32_t>(keys.size(), 1));
    q_ = bf16_array(n * q_heads * dk);
    out_ = bf16_array(n * q_heads * dv);
    k_ = bf16_array(pages * kv_heads * page_tokens * dk);
    v_ = bf16_array(pages * kv_heads * page_tokens * dv);

    graph& g = graph_;
    constexpr auto bf16_type = CUDNN_DATA_BFLOAT16;
    const dims one{1, 1, 1, 1}, by_sequence{n, 1, 1, 1}, in_table{n, 1, per_sequence, 1};
    const auto container = [&](device_bytes& at, std::int64_t d) -> tensor& {
      return g.bound({pages, kv_heads, page_tokens, d},
                     {kv_heads * page_tokens * d, page_tokens * d, d, 1},
                     bf16_type,
                     at.data());
    };
    tensor& q =
        g.bound({n, q_heads, 1, dk}, {q_heads * dk, dk, q_heads * dk, 1}, bf16_type, q_.data());
    tensor& out =
        g.bound({n, q_heads, 1, dv}, {q_heads * dv, dv, q_heads * dv, 1}, bf16_type, out_.data());
    tensor &k = container(k_, dk), &v = container(v_, dv);
    const auto integers = [&](const dims& of, device_bytes& at) -> tensor& {
      return g.bound(of, {of[2], of[2], 1, 1}, CUDNN_DATA_INT32, at.data());
    };
    tensor &k_table = integers(in_table, table_), &v_table = integers(in_table, table_);
    tensor &q_lengths = integers(by_sequence, ones_), &kv_lengths = integers(by_sequence, lengths_);
    tensor& factor = g.bound(one, one, CUDNN_DATA_FLOAT, &factor_, true);
    g.operation(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, out.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, factor.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_KDESC, k_table.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_VDESC, v_table.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_SEQ_LEN_QDESC, q_lengths.d)
        .set(CUDNN_ATTR_OPERATION_SDPA_FWD_SEQ_LEN_KVDESC, kv_lengths.d)
        .finish();
#else
    static_cast<void>(keys);
    throw std::runtime_error("cuDNN's headers are older than 9.15: no operation over pages");
#endif
  }
  [[nodiscard]] graph& get() {
    return graph_;
  }

 private:
  float factor_ = scale;
  device_bytes table_, lengths_, ones_, q_, k_, v_, out_;
  graph graph_;
};

/// Milliseconds of a graph, the median.
double median_ms(graph& g) {
  struct closing {
    cudnnHandle_t handle = nullptr;
    ~closing() { cudnnDestroy(handle); }
  } c;
  check(cudnnCreate(&c.handle), "cudnnCreate");
  g.make_plan(c.handle);
  stopwatch watch;
  check(cudnnSetStream(c.handle, watch.stream()), "cudnnSetStream");
  race r;
  const auto took = r.add([&] { return watch.ms([&](cudaStream_t) { g.run(c.handle); }); });
  r.run(20);
  return r.took(took);
}

task prefill(const std::string& id, std::uint32_t rows, bool has_sinks) {
  const std::string peer = has_sinks ? "cuDNN, contiguous, sinks" : "cuDNN, contiguous";
  return {{id},
          [=] {
            prefill_graph g(rows, has_sinks);
            const double flops = causal_flops(rows, 0, q_heads, dk + dv);
            report({id, peer, flops / median_ms(g.get()) / 1e9, "TFLOP/s"});
          },
          peer};
}

task decode(const std::string& id, const std::vector<std::uint32_t>& keys) {
  const std::string peer = "cuDNN, paged";
  return {{id},
          [=] {
            decode_graph g(keys);
            const double bytes =
                2.0 * kv_heads * (dk + dv) * std::accumulate(keys.begin(), keys.end(), 0.0);
            report({id, peer, bytes / median_ms(g.get()) / 1e6, "GB/s"});
          },
          peer};
}

}  // namespace

int main(int count, char** arguments) {
  std::fprintf(stderr, "cuDNN %zu\n", cudnnGetVersion());
  return run_tasks(count,
                   arguments,
                   {decode("decode", std::vector<std::uint32_t>(64, 4096)),
                    decode("decode_skewed", skewed_lengths(64, 100, 3500)),
                    decode("decode_128k", {131'072}),
                    prefill("prefill_8k", 8192, false),
                    prefill("prefill_8k", 8192, true),
                    prefill("prefill_32k", 32'768, false)});
}
