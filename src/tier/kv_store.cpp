// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/kv_store.hpp>

namespace oriel {

const char* name_of(store_op op) noexcept {
  switch (op) {
    case store_op::exists:
      return "exists";
    case store_op::get:
      return "get";
    case store_op::put:
      return "put";
    case store_op::touch:
      return "touch";
    case store_op::erase:
      return "erase";
    case store_op::drop_space:
      return "drop_space";
    case store_op::drop_tenant:
      return "drop_tenant";
    case store_op::drop_session:
      return "drop_session";
    case store_op::sync:
      return "sync";
  }
  return "unknown";
}

const char* name_of(store_outcome outcome) noexcept {
  switch (outcome) {
    case store_outcome::done:
      return "done";
    case store_outcome::miss:
      return "miss";
    case store_outcome::corrupt:
      return "corrupt";
    case store_outcome::late:
      return "late";
    case store_outcome::refused:
      return "refused";
    case store_outcome::failed:
      return "failed";
  }
  return "unknown";
}

const char* name_of(store_health health) noexcept {
  switch (health) {
    case store_health::healthy:
      return "healthy";
    case store_health::write_paused:
      return "write_paused";
    case store_health::degraded:
      return "degraded";
  }
  return "unknown";
}

}  // namespace oriel
