// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/embedded_state_store.hpp>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <string>

namespace oriel {

struct embedded_log::state {
  struct lease {
    std::uint64_t holder = 0;
    double until_s = 0.0;
  };
  std::mutex lock;
  std::size_t records_max = 0;
  std::deque<state_record> records;
  std::uint64_t first = 0;  // number of records.front()
  std::uint64_t participants = 0;
  std::map<std::string, lease, std::less<>> leases;
};

embedded_log::embedded_log(std::size_t records_max) : state_(std::make_unique<state>()) {
  ORIEL_EXPECTS(records_max > 0);
  state_->records_max = records_max;
}
embedded_log::~embedded_log() = default;

embedded_state_store::embedded_state_store(embedded_log& log) : log_(*log.state_) {
  const std::lock_guard guard(log_.lock);
  self_ = ++log_.participants;
}

bool embedded_state_store::append(std::span<const std::byte> bytes, double now_s) {
  if (bytes.size() > state_record_bytes_max) {
    ++status_.dropped;
    return false;
  }
  state_record record{now_s, {bytes.begin(), bytes.end()}};
  const std::lock_guard guard(log_.lock);
  log_.records.push_back(std::move(record));
  if (log_.records.size() > log_.records_max) {
    log_.records.pop_front();
    ++log_.first;
  }
  ++status_.appended;
  return true;
}

void embedded_state_store::poll(std::vector<state_record>& records, double) {
  const std::lock_guard guard(log_.lock);
  if (next_ < log_.first) {
    next_ = log_.first;
  }
  const std::uint64_t end = log_.first + log_.records.size();
  status_.received += end - next_;
  for (; next_ < end; ++next_) {
    records.push_back(log_.records[next_ - log_.first]);
  }
}

bool embedded_state_store::hold(std::string_view name, double ttl_s, double now_s) {
  const std::lock_guard guard(log_.lock);
  auto found = log_.leases.find(name);
  if (found == log_.leases.end()) {
    found = log_.leases.emplace(std::string(name), embedded_log::state::lease{}).first;
  }
  embedded_log::state::lease& lease = found->second;
  const bool is_free = lease.holder == 0 || lease.until_s <= now_s;
  if (lease.holder != self_ && !is_free && !ORIEL_MUTANT(leases_are_taken_away)) {
    return false;
  }
  lease = {self_, now_s + ttl_s};
  return true;
}

void embedded_state_store::release(std::string_view name, double) {
  const std::lock_guard guard(log_.lock);
  const auto found = log_.leases.find(name);
  if (found != log_.leases.end() && found->second.holder == self_) {
    log_.leases.erase(found);
  }
}

}  // namespace oriel
