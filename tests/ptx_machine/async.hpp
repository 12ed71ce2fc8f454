// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What of a block goes on behind its threads' backs: mbarriers, copies, products of warpgroups, the division of
/// registers. As the PTX ISA (9.0) says it, not as our kernels use it.
#pragma once
