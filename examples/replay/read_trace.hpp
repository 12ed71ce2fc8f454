// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `read_trace`: a trace from a file of one JSON object per line, plain or zstd-compressed.
///
/// Two formats, told apart by the first line's keys:
///
///  - sessions (`requests`): each line is a session of an agent, on its own clock, with `id`,
///    `block_size`, `hash_id_scope` ("local") and rows of `t` (seconds since the session began),
///    `in`, `out` (tokens), `hash_ids` (one per `block_size` tokens) and, optionally, `stop`,
///    `api_time` and `think_time` (seconds). A row with its own `requests` is a sub-agent: their
///    `t` counts from that row's `t`, their hash ids are the session's.
///  - requests (`timestamp`): each line is a request of `timestamp` (milliseconds), `input_length`,
///    `output_length` and `hash_ids` (one per 512 tokens, the same everywhere in the file).
///
/// Sessions are laid over a window of H hours: one starts at u / 2^32 * H hours, where u is the
/// number that the first 8 hex digits of SHA-256(id) spell. Requests are ordered by arrival; those
/// of one instant keep the file's order.
///
/// How a request ended is its own `stop`: "tool_use" is a tool call, "end_turn" and "stop_sequence"
/// are ends of a turn; empty, missing or anything else is unknown. `api_time` is its duration.
///
/// A session's row waits for the row before it of its agent, and for sub-agents between the two,
/// which it joins; a sub-agent's first row for the row before the sub-agent. Its gap is
/// `think_time`, or else the time since the end (arrival and `api_time`) of the row before; less
/// where a sub-agent ended later.
#pragma once

#include <replay/trace.hpp>

#include <cstdint>
#include <filesystem>
#include <stdexcept>

namespace oriel::replay {

/// What reading throws. The message says what was wrong, in which line and key, and what to do.
class trace_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// More than this is refused as damage or a trap.
struct trace_limits {
  std::uint64_t file_bytes = std::uint64_t{64} << 30;  ///< after decompression
  std::uint64_t line_bytes = std::uint64_t{256} << 20;
  std::uint64_t requests = std::uint64_t{1} << 24;
  std::uint64_t pages = std::uint64_t{1} << 29;  ///< of all requests together, 4 bytes each
  std::uint32_t input_tokens = std::uint32_t{1} << 26;
};

struct trace_options {
  double hours = 8;  ///< H above, > 0
  trace_limits limits = {};
};

/// Reads the whole file. Memory: 4 bytes per page of each request, 80 per request, one line.
/// @throws trace_error
[[nodiscard]] trace read_trace(const std::filesystem::path& file,
                               const trace_options& options = {});

}  // namespace oriel::replay
