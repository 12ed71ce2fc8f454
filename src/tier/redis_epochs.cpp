// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_epochs.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

namespace oriel::detail {
namespace {

constexpr std::size_t known_max = 1 << 16;

}  // namespace

std::string redis_epoch_name::key(std::string_view prefix) const {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out(prefix);
  out += "{e}";
  out += kind;
  out += ':';
  const std::size_t bytes = kind == 's' ? 32 : kind == 't' ? 8 : 16;
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto b = static_cast<unsigned char>(whose.bytes[i]);
    out += digits[b >> 4];
    out += digits[b & 15];
  }
  return out;
}

std::array<redis_epoch_name, 3> redis_epoch_names(const page_digest& name_space, page_owner owner) {
  std::array<redis_epoch_name, 3> names;
  names[0] = {.kind = 's', .whose = name_space};
  names[1].kind = 't';
  std::memcpy(names[1].whose.bytes.data(), &owner.tenant, 8);
  names[2].kind = 'o';
  std::memcpy(names[2].whose.bytes.data(), &owner.tenant, 8);
  std::memcpy(names[2].whose.bytes.data() + 8, &owner.session, 8);
  return names;
}

std::string redis_stamp_key(std::string_view prefix) {
  return std::string(prefix) + "{e}drops";
}

std::uint64_t redis_nonce() {
  std::uint64_t nonce = 0;
  while (nonce == 0) {
    const int done = RAND_bytes(reinterpret_cast<unsigned char*>(&nonce), sizeof(nonce));
    ORIEL_EXPECTS(done == 1);  // A nonce that others could draw too would bring dropped pages back.
  }
  return nonce;
}

void redis_epochs::want(const redis_epoch_name& name, bool is_made) {
  const bool is_making = making_.contains(name);
  if (is_made && !is_making) {
    made_.insert(name);
  }
  const bool is_fetching = std::ranges::find(fetching_, name) != fetching_.end();
  if (!is_fetching ||
      (is_made && !is_making && !ORIEL_MUTANT(redis_fetched_epoch_counts_as_made))) {
    wanted_.insert(name);
  }
}

redis_epochs::answer redis_epochs::compare(const redis_epoch_name& name,
                                           std::uint64_t epoch,
                                           std::uint64_t check) {
  if (ORIEL_MUTANT(redis_epochs_are_not_compared)) {
    return answer::same;
  }
  const auto found = known_.find(name);
  if (found != known_.end()) {
    if (found->second.epoch == epoch && epoch != 0) {
      return answer::same;
    }
    // A server that ran out of memory may have lost the epoch, and others made a new one: that
    // changes no stamp, so a difference counts only if it is news.
    if (found->second.check >= check) {
      return answer::other;
    }
  }
  want(name, false);
  return answer::unknown;
}

std::uint64_t redis_epochs::for_put(const redis_epoch_name& name) {
  const auto found = known_.find(name);
  if (found != known_.end() && found->second.epoch != 0) {
    return found->second.epoch;
  }
  want(name, true);
  return 0;
}

void redis_epochs::hear_stamp(std::uint64_t stamp) {
  if (stamp != stamp_ || stamp == 0) {
    forget();
  }
  stamp_ = stamp;
}

void redis_epochs::forget() {
  if (ORIEL_MUTANT(redis_drops_of_others_are_not_heard)) {
    return;
  }
  known_.clear();
  stamp_ = 0;
  is_stale_fetch_ = !fetching_.empty();
}

const std::vector<redis_epoch_name>& redis_epochs::begin_fetch(std::size_t most) {
  while (!wanted_.empty() && fetching_.size() < most) {
    fetching_.push_back(*wanted_.begin());
    wanted_.erase(wanted_.begin());
    if (made_.erase(fetching_.back()) > 0) {
      making_.insert(fetching_.back());
    }
  }
  is_stale_fetch_ = false;
  return fetching_;
}

bool redis_epochs::is_to_be_made(const redis_epoch_name& name) const {
  return making_.contains(name);
}

std::vector<redis_epoch_name> redis_epochs::hear(const std::vector<std::uint64_t>& values,
                                                 std::uint64_t check) {
  if (known_.size() + values.size() > known_max) {
    known_.clear();
  }
  std::vector<redis_epoch_name> unmade;
  for (std::size_t i = 0; i < fetching_.size() && !is_stale_fetch_; ++i) {
    known_[fetching_[i]] = {.epoch = values[i], .check = check};
    const bool was_made =
        making_.contains(fetching_[i]) ||
        (ORIEL_MUTANT(redis_fetched_epoch_counts_as_made) && made_.erase(fetching_[i]) > 0);
    if (was_made && values[i] == 0) {
      unmade.push_back(fetching_[i]);
    }
  }
  fetching_.clear();
  making_.clear();
  return unmade;
}

void redis_epochs::give_up() {
  fetching_.clear();
  making_.clear();
}

}  // namespace oriel::detail
