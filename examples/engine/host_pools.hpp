// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_pools`: where an engine has its KV.
#pragma once

#include <oriel/kv/dual_pool.hpp>
#include <oriel/kv/memory.hpp>

namespace oriel::engine {

/// KV in huge pages of host memory. Not for the kernels' sake alone: a disk that reads straight
/// into a page fills a few large pieces more than twice as fast as many small ones
/// (docs/performance.md).
using host_pools = dual_pool<huge_page_memory>;

}  // namespace oriel::engine
