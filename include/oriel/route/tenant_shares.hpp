// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `tenant_shares`: what a tenant may ask for, and whose turn it is.
///
/// Limits are token buckets, one of estimated seconds and one of prompt tokens: a bucket fills at a
/// rate up to its burst, and a request that finds it short is refused. One that is larger than the
/// burst passes when the bucket is full, and leaves a debt.
///
/// Turns are start-time fair queueing in estimated seconds (P. Goyal, H. Vin and H. Cheng, 1996): a
/// request starts, in virtual time, where its tenant's last one ended, but not in the past; it ends
/// its seconds over the tenant's weight later; the least start goes first. So tenants that all have
/// requests waiting get seconds as their weights, and who was away has no credit.
#pragma once

#include <oriel/route/router.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <unordered_map>

namespace oriel {

struct tenant_options {
  double weight = 1.0;                                             ///< > 0
  double seconds_per_s = std::numeric_limits<double>::infinity();  ///< > 0
  double burst_s = 60.0;                                           ///< > 0
  double tokens_per_s = std::numeric_limits<double>::infinity();   ///< > 0
  double burst_tokens = 4e6;                                       ///< > 0
  std::uint32_t waiting_max = 1024;  ///< its requests in the router's queue
};

/// *Thread safety* none. *Memory* about 100 bytes for each tenant with something unusual: options
/// of its own, a request in flight, or a bucket that is not full.
class tenant_shares {
 public:
  /// @pre options as documented
  explicit tenant_shares(const tenant_options& others);
  void set(tenant_id tenant, const tenant_options& options, double now_s);

  /// Takes a request's share out of both buckets. @returns 0, or the seconds until it may be tried
  /// again; then nothing was taken. O(1) amortised.
  double take(tenant_id tenant, double seconds, std::uint32_t tokens, double now_s);
  /// A request took so many seconds more (or less) than was taken for it.
  void correct(tenant_id tenant, double seconds) noexcept;

  /// Where a new request starts in virtual time; moves its tenant's end. O(1).
  double start_tag(tenant_id tenant, double seconds);
  /// A request with this start is served. O(1).
  void serve(double tag) noexcept { virtual_s_ = tag > virtual_s_ ? tag : virtual_s_; }

  /// One more of its requests waits, or one less. @returns may it? O(1).
  bool add_waiting(tenant_id tenant);
  void end_waiting(tenant_id tenant) noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return tenants_.size(); }

 private:
  struct bucket {
    double level = 0.0, filled_s = 0.0;
  };
  struct entry {
    tenant_options options;
    bool is_own = false;  // options of its own
    bucket seconds, tokens;
    double end = 0.0;  // in virtual time, of its last request
    std::uint32_t waiting = 0;
  };
  entry& at(tenant_id tenant, double now_s);
  void forget_idle(double now_s);

  tenant_options others_;
  std::unordered_map<std::uint32_t, entry> tenants_;
  std::size_t forget_above_ = 1024;
  double virtual_s_ = 0.0, now_s_ = 0.0;
};

}  // namespace oriel
