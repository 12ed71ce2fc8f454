// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What nvcc's code calls; declared by no header for other compilers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

extern "C" {
void** __cudaRegisterFatBinary(void* wrapper);
void __cudaRegisterFatBinaryEnd(void** of);
void __cudaUnregisterFatBinary(void** of);
void __cudaRegisterFunction(void** of,
                            const char* host,
                            char* device,
                            const char* name,
                            int thread_limit,
                            uint3* tid,
                            uint3* bid,
                            dim3* block,
                            dim3* grid,
                            int* warp_size);
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, CUstream_st* s);
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* s);
cudaError_t __cudaGetKernel(cudaKernel_t* out, const void* f);
cudaError_t __cudaLaunchKernel(
    cudaKernel_t k, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t s);
}
