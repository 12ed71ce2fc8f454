// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <cuda/pinned_array.hpp>

#include <catch2/catch.hpp>
#include <ptx_machine/runtime/nvcc_calls.hpp>

#include <array>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

using namespace oriel::test;  // NOLINT: a test

namespace {

/// A kernel in which each block writes its rank in its cluster, as a unit of nvcc's registers it.
class registered_kernel {
 public:
  explicit registered_kernel(const std::string& directives) {
    const std::string text =
        ".version 9.0\n.target sm_90a\n.address_size 64\n"
        ".visible .entry ranks(.param .u64 out)\n" +
        directives + R"(
{
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %ctaid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd1, %rd1, %rd2;
  mov.u32 %r2, %cluster_ctarank;
  st.global.u32 [%rd1], %r2;
  ret;
}
)";
    const entry_header entry{.kind = 1,
                             .header_bytes = sizeof(entry_header),
                             .payload_bytes = text.size(),
                             .major = 9,
                             .architecture = 90};
    const binary_header binary{0xBA55ED50, 1, sizeof(binary_header), sizeof entry + text.size()};
    // As long as the process, as a program's own are.
    auto* const bytes = new std::vector<std::byte>(sizeof binary + sizeof entry + text.size());
    std::memcpy(bytes->data(), &binary, sizeof binary);
    std::memcpy(bytes->data() + sizeof binary, &entry, sizeof entry);
    std::memcpy(bytes->data() + sizeof binary + sizeof entry, text.data(), text.size());
    auto* const unit = new wrapper{0x466243B1, 1, bytes->data(), nullptr};
    __cudaRegisterFunction(__cudaRegisterFatBinary(unit),
                           host(),
                           nullptr,
                           "ranks",
                           -1,
                           nullptr,
                           nullptr,
                           nullptr,
                           nullptr,
                           nullptr);
  }

  [[nodiscard]] const char* host() const { return host_; }

 private:
  struct wrapper {
    std::uint32_t magic, version;
    const std::byte* binary;
    const void* more;
  };
  struct binary_header {
    std::uint32_t magic;
    std::uint16_t version, header_bytes;
    std::uint64_t entries_bytes;
  };
  struct entry_header {
    std::uint16_t kind = 0, version = 0;
    std::uint32_t header_bytes = 0;
    std::uint64_t payload_bytes = 0;
    std::uint32_t compressed_bytes = 0, options_offset = 0;
    std::uint16_t minor = 0, major = 0;
    std::uint32_t architecture = 0, name_offset = 0, name_bytes = 0;
  };

  const char* host_ = new char;  ///< what stands for the function on the host
};

cudaLaunchConfig_t of_eight_blocks() {
  cudaLaunchConfig_t c{};
  c.gridDim = dim3(8);
  c.blockDim = dim3(32);
  return c;
}

cudaLaunchAttribute clusters_of(unsigned blocks) {
  cudaLaunchAttribute a{};
  a.id = cudaLaunchAttributeClusterDimension;
  a.val.clusterDim = {blocks, 1, 1};
  return a;
}

int multiprocessors() {
  int n = 0;
  ORIEL_REQUIRE_CUDA(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0));
  return n;
}

}  // namespace

TEST_CASE("ptx cudart: a kernel's own clusters are launched, and counted") {
  const registered_kernel k(".explicitcluster .reqnctapercluster 4, 1, 1");
  pinned_array<int> ranks(8);
  int* at = ranks.data();
  void* arguments[]{&at};
  ORIEL_REQUIRE_CUDA(cudaLaunchKernel(k.host(), dim3(8), dim3(1), arguments, 0, nullptr));
  ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
  for (int i = 0; i < 8; ++i) {
    CHECK(ranks.data()[i] == i % 4);
  }
  CHECK(cudaLaunchKernel(k.host(), dim3(6), dim3(1), arguments, 0, nullptr) ==
        cudaErrorInvalidConfiguration);

  cudaLaunchConfig_t c = of_eight_blocks();
  int count = 0;
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaSuccess);
  CHECK(count == std::max(1, multiprocessors() / 4));
  cudaLaunchAttribute a = clusters_of(4);
  c.attrs = &a;
  c.numAttrs = 1;
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaSuccess);
  a = clusters_of(2);
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaErrorInvalidClusterSize);
  c.numAttrs = 0;
  c.gridDim = dim3(6);
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaErrorInvalidConfiguration);
  c = of_eight_blocks();
  c.dynamicSmemBytes = 64 << 10;  // More than the kernel was allowed.
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
}

TEST_CASE("ptx cudart: the clusters of a kernel that has none of its own are those asked for") {
  const registered_kernel k("");
  cudaLaunchConfig_t c = of_eight_blocks();
  int count = 0;
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaErrorInvalidClusterSize);
  cudaLaunchAttribute a = clusters_of(2);
  c.attrs = &a;
  c.numAttrs = 1;
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaSuccess);
  CHECK(count == std::max(1, multiprocessors() / 2));
  a = clusters_of(16);
  c.gridDim = dim3(16);
  CHECK(cudaOccupancyMaxActiveClusters(&count, k.host(), &c) == cudaErrorInvalidClusterSize);
  CHECK(cudaGetLastError() == cudaErrorInvalidClusterSize);
}
