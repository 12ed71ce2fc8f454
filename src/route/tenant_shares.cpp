// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/tenant_shares.hpp>

#include <algorithm>
#include <iterator>

namespace oriel {
namespace {

constexpr double endless = std::numeric_limits<double>::infinity();

void fill(double& level, double& filled_s, double rate, double burst, double now_s) {
  if (rate != endless && now_s > filled_s) {
    level = std::min(burst, level + rate * (now_s - filled_s));
  }
  filled_s = std::max(filled_s, now_s);
}

// Until a filled bucket has enough. Whoever comes back at that time finds it so, roundings or not.
double shortage_s(double level, double rate, double burst, double amount) {
  const double needed = std::min(amount, burst);
  return rate == endless || level >= needed - 1e-9 * burst ? 0.0 : (needed - level) / rate;
}

void check(const tenant_options& o) {
  ORIEL_EXPECTS(o.weight > 0.0 && o.seconds_per_s > 0.0 && o.burst_s > 0.0);
  ORIEL_EXPECTS(o.tokens_per_s > 0.0 && o.burst_tokens > 0.0);
}

}  // namespace

tenant_shares::tenant_shares(const tenant_options& others) : others_(others) {
  check(others);
}

void tenant_shares::set(tenant_id tenant, const tenant_options& options, double now_s) {
  check(options);
  entry& t = at(tenant, now_s);
  t.options = options;
  t.is_own = true;
  t.seconds = {options.burst_s, now_s};
  t.tokens = {options.burst_tokens, now_s};
}

tenant_shares::entry& tenant_shares::at(tenant_id tenant, double now_s) {
  now_s_ = std::max(now_s_, now_s);
  const auto found = tenants_.find(to_index(tenant));
  if (found != tenants_.end()) {
    return found->second;
  }
  if (tenants_.size() >= forget_above_) {
    forget_idle(now_s);
  }
  return tenants_
      .emplace(to_index(tenant),
               entry{.options = others_,
                     .seconds = {others_.burst_s, now_s},
                     .tokens = {others_.burst_tokens, now_s}})
      .first->second;
}

// Whoever would be as new if it came again.
void tenant_shares::forget_idle(double now_s) {
  for (auto at = tenants_.begin(); at != tenants_.end();) {
    entry& t = at->second;
    fill(t.seconds.level, t.seconds.filled_s, t.options.seconds_per_s, t.options.burst_s, now_s);
    fill(t.tokens.level, t.tokens.filled_s, t.options.tokens_per_s, t.options.burst_tokens, now_s);
    const bool is_full =
        (t.options.seconds_per_s == endless || t.seconds.level >= t.options.burst_s) &&
        (t.options.tokens_per_s == endless || t.tokens.level >= t.options.burst_tokens);
    const bool is_idle = !t.is_own && t.waiting == 0 && is_full && t.end <= virtual_s_;
    at = is_idle ? tenants_.erase(at) : std::next(at);
  }
  forget_above_ = std::max<std::size_t>(1024, 2 * tenants_.size());
}

double tenant_shares::take(tenant_id tenant, double seconds, std::uint32_t tokens, double now_s) {
  entry& t = at(tenant, now_s);
  const tenant_options& o = t.options;
  fill(t.seconds.level, t.seconds.filled_s, o.seconds_per_s, o.burst_s, now_s);
  fill(t.tokens.level, t.tokens.filled_s, o.tokens_per_s, o.burst_tokens, now_s);
  const double wait_s =
      std::max(shortage_s(t.seconds.level, o.seconds_per_s, o.burst_s, seconds),
               shortage_s(t.tokens.level, o.tokens_per_s, o.burst_tokens, tokens));
  if (wait_s > 0.0 && !ORIEL_MUTANT(tenant_limits_are_ignored)) {
    return wait_s;
  }
  t.seconds.level -= o.seconds_per_s == endless ? 0.0 : seconds;
  t.tokens.level -= o.tokens_per_s == endless ? 0.0 : tokens;
  return 0.0;
}

void tenant_shares::correct(tenant_id tenant, double seconds) noexcept {
  const auto found = tenants_.find(to_index(tenant));
  if (found != tenants_.end() && found->second.options.seconds_per_s != endless) {
    entry& t = found->second;
    t.seconds.level = std::min(t.options.burst_s, t.seconds.level - seconds);
  }
}

double tenant_shares::start_tag(tenant_id tenant, double seconds) {
  entry& t = at(tenant, now_s_);
  const double start = std::max(virtual_s_, t.end);
  t.end = start + seconds / (ORIEL_MUTANT(tenants_have_equal_weights) ? 1.0 : t.options.weight);
  return start;
}

bool tenant_shares::add_waiting(tenant_id tenant) {
  entry& t = at(tenant, now_s_);
  if (t.waiting >= t.options.waiting_max) {
    return false;
  }
  ++t.waiting;
  return true;
}

void tenant_shares::end_waiting(tenant_id tenant) noexcept {
  --tenants_.find(to_index(tenant))->second.waiting;
}

}  // namespace oriel
