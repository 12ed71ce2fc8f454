// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Is this the program whose hashes have 4 bits (tests/weak_hash)? There events, whose names are
/// hashes, mean nothing; everything else must hold.
#pragma once

#include <oriel/core/hash.hpp>

inline const bool hashes_differ = oriel::hash64({}, 0xFFFF'FFFF) > 0xF;
