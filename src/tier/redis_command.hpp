// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One command on its way: what is sent, what may come back, what came back.
#pragma once

#include "redis_record.hpp"
#include "redis_resp.hpp"

#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

struct iovec;

namespace oriel::detail {

class redis_link;

enum class redis_purpose : std::uint8_t {
  page,        ///< GET: the reply goes to the slices
  page_front,  ///< GETRANGE of the head, before slices out of the middle
  page_range,  ///< GETRANGE of those slices
  head,        ///< GETRANGE of the fixed part: exists, touch
  put,
  erase,
  drop,
  fence,       ///< ECHO: are replies still in step with commands?
  stamp,       ///< GET of the stamp that every drop changes
  make_epoch,  ///< SET NX of an epoch
  epochs,      ///< MGET of epochs
  slots,       ///< CLUSTER SLOTS
  asking,      ///< ASKING
  discard,     ///< UNLINK of a record that nobody can use
  log,         ///< what redis_state_store asks: the reply may be long
};

struct redis_command {
  static constexpr std::uint32_t no_entry = ~std::uint32_t{0};

  redis_purpose purpose = redis_purpose::page;
  std::uint32_t entry = no_entry;  ///< of the store's items, or none
  std::uint32_t redirects = 0;
  bool is_write = false;            ///< changes the server
  bool is_abandoned = false;        ///< nobody wants the reply any more
  std::uint64_t number = 0;         ///< for its purpose: a check, a fence
  std::uint16_t slot = 0;           ///< of its key, for a cluster
  redis_link* link = nullptr;       ///< that has it
  std::uint64_t charged_bytes = 0;  ///< what it counts against in_flight_bytes_max

  // To be sent: head, payload, tail.
  std::string head, tail;
  std::span<const std::span<std::byte>> payload = {};
  std::uint64_t payload_bytes = 0;
  std::uint64_t reply_bytes = 0;  ///< expected

  // page, page_range: where the reply goes, and what it must be.
  store_item item;
  std::vector<redis_table_row> rows;  ///< page_range: of the slices asked for

  // What came back.
  int lost = 0;                                 ///< errno: there is no reply
  bool is_refused = false;                      ///< never sent: the server is left alone for now
  redis_verdict verdict = redis_verdict::none;  ///< page, page_range; if there was a value
  bool has_reply = false;                       ///< `reply` holds it
  redis_record_fixed fixed;                     ///< page, if it is
  resp_value reply;

  [[nodiscard]] std::uint64_t sent_bytes() const noexcept {
    return head.size() + payload_bytes + tail.size();
  }
  /// As new, with its memory.
  void restart();
};

/// Takes the value of one page apart while it arrives, straight into the slices of its command.
class redis_page_reader {
 public:
  /// A value of `bytes` begins.
  void begin(redis_command& command, std::uint64_t bytes);
  /// A value that nobody wants.
  void begin_nothing(std::uint64_t bytes);

  /// Takes bytes that were read elsewhere. @returns how many; fewer than there are once the value
  /// is whole, or while the head of a record is incomplete (it must be passed again, as a whole)
  std::size_t feed(std::span<const std::byte> in);
  /// Where the next bytes of the value belong. @returns how many of `out`; 0: pass them to feed
  std::size_t targets(iovec* out, std::size_t most, std::size_t& bytes) const;
  /// So many bytes lie where targets() said.
  void advance(std::size_t bytes);
  /// The slices are not ours any more: the rest goes nowhere.
  void abandon();

  [[nodiscard]] std::uint64_t left() const noexcept { return left_; }
  /// Of the head, as far as is known: the room feed() needs.
  [[nodiscard]] std::size_t head_wanted() const noexcept {
    return stage_ == stage::head ? head_wanted_ : 0;
  }

 private:
  enum class stage : std::uint8_t { head, slices, nothing };
  void judge(redis_verdict verdict);
  std::size_t feed_head(std::span<const std::byte> in);
  void start_slice();
  void take(std::span<const std::byte> bytes);

  redis_command* command_ = nullptr;
  std::uint64_t left_ = 0;  ///< bytes of the value still to come
  stage stage_ = stage::nothing;
  std::size_t head_wanted_ = 0;
  std::uint64_t skip_ = 0;  ///< bytes of slices before those asked for
  std::size_t slice_ = 0, offset_ = 0;
  std::uint32_t crc_ = 0;
};

}  // namespace oriel::detail
