// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/tier.hpp>

namespace oriel {

const char* name_of(tier_role role) noexcept {
  switch (role) {
    case tier_role::host:
      return "host";
    case tier_role::disk:
      return "disk";
    case tier_role::remote:
      return "remote";
  }
  return "unknown";
}

const char* name_of(placement writes) noexcept {
  switch (writes) {
    case placement::write_through:
      return "write_through";
    case placement::selective:
      return "selective";
    case placement::write_back:
      return "write_back";
    case placement::read_only:
      return "read_only";
  }
  return "unknown";
}

}  // namespace oriel
