// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `ORIEL_HOST_DEVICE`: marks a function that runs on the host and on a CUDA device. A plain C++
/// compiler sees nothing, so that what a kernel's thread does is tested without a device.
/// `ORIEL_HOST_DEVICE_INLINE`: the same, and on a device always inlined: a function that is given
/// arrays which have to live in registers.
/// `ORIEL_UNROLL`: before a loop over an array that has to live in a device's registers.
/// `ORIEL_UNROLL_BY(n)`: before a loop whose loads should be under way `n` at a time.
#pragma once

#ifdef __CUDACC__
#define ORIEL_HOST_DEVICE __host__ __device__
#define ORIEL_HOST_DEVICE_INLINE __host__ __device__ __forceinline__
#define ORIEL_UNROLL _Pragma("unroll")
#define ORIEL_PRAGMA(text) _Pragma(#text)
#define ORIEL_UNROLL_BY(n) ORIEL_PRAGMA(unroll n)
#else
#define ORIEL_HOST_DEVICE
#define ORIEL_HOST_DEVICE_INLINE inline
#define ORIEL_UNROLL
#define ORIEL_UNROLL_BY(n)
#endif
