// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Is this the program whose hashes have 4 bits (tests/weak_hash)? There events, whose names are
/// hashes, mean nothing; everything else must hold.
#pragma once

#ifdef ORIEL_WEAK_HASH
inline constexpr bool hashes_differ = false;
#else
inline constexpr bool hashes_differ = true;
#endif
