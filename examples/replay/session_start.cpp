// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <openssl/evp.h>
#include <replay/session_start.hpp>

#include <array>
#include <cstdint>
#include <stdexcept>

namespace oriel::replay {

double session_start_s(std::string_view id, double hours) {
  std::array<unsigned char, 32> digest{};
  if (EVP_Digest(id.data(), id.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("libcrypto has no SHA-256");
  }
  std::uint32_t u = 0;
  for (int i = 0; i < 4; ++i) {
    u = u << 8 | digest[static_cast<std::size_t>(i)];
  }
  return u * 0x1p-32 * hours * 3600.0;
}

}  // namespace oriel::replay
