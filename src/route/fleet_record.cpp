// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
//
// frame:  u32 bytes after this word | u8 version | u8 kind | u32 worker | u64 sender | body
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/fleet_record.hpp>

#include <bit>
#include <cmath>
#include <cstring>

namespace oriel {
namespace {

constexpr std::uint8_t version = 1;
constexpr std::uint32_t links_max = 4096;

class writer {
 public:
  explicit writer(std::vector<std::byte>& out) : out_(out), begin_(out.size()) { put<4>(0); }
  template <std::size_t Bytes>
  void put(std::uint64_t value) {
    for (std::size_t i = 0; i < Bytes; ++i) {
      out_.push_back(static_cast<std::byte>(value >> (8 * i)));
    }
  }
  void number(double value) { put<8>(std::bit_cast<std::uint64_t>(value)); }
  void end() {
    const std::uint64_t bytes = out_.size() - begin_ - 4;
    for (std::size_t i = 0; i < 4; ++i) {
      out_[begin_ + i] = static_cast<std::byte>(bytes >> (8 * i));
    }
  }

 private:
  std::vector<std::byte>& out_;
  std::size_t begin_;
};

class reader {
 public:
  explicit reader(std::span<const std::byte> in) : in_(in) {}
  template <std::size_t Bytes>
  std::uint64_t take() {
    if (in_.size() < Bytes) {
      is_well_ = false;
      return 0;
    }
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < Bytes; ++i) {
      value |= std::to_integer<std::uint64_t>(in_[i]) << (8 * i);
    }
    in_ = in_.subspan(Bytes);
    return value;
  }
  std::uint32_t word() { return static_cast<std::uint32_t>(take<4>()); }
  /// Seconds: finite, not negative, no more than some years.
  double seconds() {
    const double value = std::bit_cast<double>(take<8>());
    check(value >= 0.0 && value < 1e9);
    return is_well_ ? value : 0.0;
  }
  double number() {
    const double value = std::bit_cast<double>(take<8>());
    check(std::isfinite(value));
    return value;
  }
  void check(bool is_fine) { is_well_ = is_well_ && is_fine; }
  [[nodiscard]] bool is_well() const { return is_well_; }
  [[nodiscard]] std::size_t left() const { return in_.size(); }

 private:
  std::span<const std::byte> in_;
  bool is_well_ = true;
};

void put_event(writer& w, const worker_event& e) {
  ORIEL_EXPECTS(e.links.size() <= links_max);
  w.put<1>(static_cast<std::uint8_t>(e.kind));
  w.put<1>(e.tier);
  w.put<1>(e.is_replay ? 1 : 0);
  w.put<4>(e.pool);
  w.put<4>(e.first_page);
  w.put<8>(e.epoch);
  w.put<8>(e.sequence);
  w.put<8>(e.replay_events);
  w.put<8>(e.parent.low);
  w.put<8>(e.parent.high);
  w.put<4>(e.links.size());
  for (const chain_hash& link : e.links) {
    w.put<8>(link.low);
    w.put<8>(link.high);
  }
}

void take_event(reader& r, worker_event& e, std::vector<chain_hash>& links) {
  const std::uint64_t kind = r.take<1>();
  r.check(kind <= static_cast<std::uint8_t>(worker_event_kind::replay_end));
  e.kind = static_cast<worker_event_kind>(kind);
  e.tier = static_cast<std::uint8_t>(r.take<1>());
  r.check(e.tier < page_tiers);
  const std::uint64_t is_replay = r.take<1>();
  r.check(is_replay <= 1);
  e.is_replay = is_replay == 1;
  e.pool = r.word();
  e.first_page = r.word();
  e.epoch = r.take<8>();
  e.sequence = r.take<8>();
  e.replay_events = r.take<8>();
  e.parent = {r.take<8>(), r.take<8>()};
  const std::uint32_t count = r.word();
  r.check(count <= links_max &&
          (r.left() == std::size_t{16} * count || ORIEL_MUTANT(record_lengths_are_believed)));
  links.clear();
  for (std::uint32_t i = 0; r.is_well() && i < count; ++i) {
    const std::uint64_t low = r.take<8>();
    links.push_back({low, r.take<8>()});
  }
  e.links = links;
}

void put_load(writer& w, const fleet_record& record) {
  const load_report& l = record.load;
  w.put<8>(l.sequence);
  w.number(record.age_s);
  w.number(l.queued_s);
  w.put<4>(l.queued);
  w.put<4>(l.decoding);
  w.put<8>(l.decode_tokens);
  w.number(l.evict_token_s);
  w.put<8>(record.profile.has);
  w.put<1>((record.profile.can_prefill ? 1u : 0u) | (record.profile.can_decode ? 2u : 0u) |
           (record.is_draining ? 4u : 0u));
}

void take_load(reader& r, fleet_record& record, double stored_s) {
  load_report& l = record.load;
  l.worker = record.worker;
  l.sequence = r.take<8>();
  record.age_s = r.seconds();
  l.at_s = stored_s - record.age_s;
  l.queued_s = r.seconds();
  l.queued = r.word();
  l.decoding = r.word();
  l.decode_tokens = r.take<8>();
  l.evict_token_s = r.seconds();
  record.profile.has = r.take<8>();
  const std::uint64_t bits = r.take<1>();
  r.check(bits < 8);
  record.profile.can_prefill = (bits & 1) != 0;
  record.profile.can_decode = (bits & 2) != 0;
  record.is_draining = (bits & 4) != 0;
}

}  // namespace

void encode(const fleet_record& record, std::vector<std::byte>& out) {
  writer w(out);
  w.put<1>(version);
  w.put<1>(static_cast<std::uint8_t>(record.kind));
  w.put<4>(to_index(record.worker));
  w.put<8>(record.sender);
  switch (record.kind) {
    case fleet_record_kind::event:
      put_event(w, record.event);
      break;
    case fleet_record_kind::load:
      put_load(w, record);
      break;
    case fleet_record_kind::placed:
      w.number(record.seconds);
      break;
    case fleet_record_kind::beat:
      w.number(record.sent_s);
      break;
    case fleet_record_kind::left:
    case fleet_record_kind::wants_replay:
      break;
  }
  w.end();
}

std::optional<fleet_record> decode(std::span<const std::byte>& in,
                                   double stored_s,
                                   std::vector<chain_hash>& links) {
  reader front(in);
  const std::uint32_t bytes = front.word();
  if (!front.is_well() || bytes > front.left()) {
    return std::nullopt;
  }
  reader r(in.subspan(4, bytes));
  in = in.subspan(std::size_t{4} + bytes);
  r.check(r.take<1>() == version);
  const std::uint64_t kind = r.take<1>();
  r.check(kind <= static_cast<std::uint8_t>(fleet_record_kind::beat));
  fleet_record record{.kind = static_cast<fleet_record_kind>(kind), .worker = worker_id{r.word()}};
  record.sender = r.take<8>();
  if (!r.is_well()) {
    return std::nullopt;
  }
  switch (record.kind) {
    case fleet_record_kind::event:
      take_event(r, record.event, links);
      record.event.worker = record.worker;
      break;
    case fleet_record_kind::load:
      take_load(r, record, stored_s);
      break;
    case fleet_record_kind::placed:
      record.seconds = r.seconds();
      break;
    case fleet_record_kind::beat:
      record.sent_s = r.number();
      break;
    case fleet_record_kind::left:
    case fleet_record_kind::wants_replay:
      break;
  }
  r.check(r.left() == 0);
  return r.is_well() ? std::optional(record) : std::nullopt;
}

}  // namespace oriel
