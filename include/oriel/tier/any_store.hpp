// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `any_store`: owns any `kv_store`, for those whose list of tiers is known at run time.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/tier/kv_store.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace oriel {

/// A `kv_store` itself; one indirect call for each call. Move-only.
class any_store {
 public:
  /// @pre store != nullptr
  template <kv_store Store>
  explicit any_store(std::unique_ptr<Store> store)
      : store_(std::make_unique<model<Store>>(std::move(store))) {}

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    return store_->submit(items, deadline_us);
  }
  std::size_t poll(std::span<store_completion> done) { return store_->poll(done); }
  bool wait(std::uint64_t until_us) { return store_->wait(until_us); }
  [[nodiscard]] std::size_t pending() const { return store_->pending(); }
  [[nodiscard]] store_stats stats() const { return store_->stats(); }
  [[nodiscard]] store_fault last_fault() const { return store_->last_fault(); }

 private:
  struct interface {
    virtual ~interface() = default;
    virtual std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) = 0;
    virtual std::size_t poll(std::span<store_completion> done) = 0;
    virtual bool wait(std::uint64_t until_us) = 0;
    virtual std::size_t pending() const = 0;
    virtual store_stats stats() const = 0;
    virtual store_fault last_fault() const = 0;
  };
  template <class Store>
  struct model final : interface {
    explicit model(std::unique_ptr<Store> owned) : store(std::move(owned)) {
      ORIEL_EXPECTS(store != nullptr);
    }
    std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) override {
      return store->submit(items, deadline_us);
    }
    std::size_t poll(std::span<store_completion> done) override { return store->poll(done); }
    bool wait(std::uint64_t until_us) override { return store->wait(until_us); }
    std::size_t pending() const override { return store->pending(); }
    store_stats stats() const override { return store->stats(); }
    store_fault last_fault() const override { return store->last_fault(); }
    std::unique_ptr<Store> store;
  };

  std::unique_ptr<interface> store_;
};

static_assert(kv_store<any_store>);

}  // namespace oriel
