// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A non-blocking TCP connection, plain or inside TLS.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct bio_method_st;
struct ssl_ctx_st;
struct ssl_st;

namespace oriel::detail {

/// What all TLS connections of one store share.
class redis_tls {
 public:
  /// @throws std::runtime_error
  redis_tls(const std::string& ca_file, bool verifies_certificate);
  ~redis_tls();
  redis_tls(const redis_tls&) = delete;
  redis_tls& operator=(const redis_tls&) = delete;

 private:
  friend class redis_socket;
  ssl_ctx_st* context_ = nullptr;
  bio_method_st* method_ = nullptr;
  bool verifies_ = true;
};

/// Bytes moved, or why not.
struct redis_io {
  std::size_t bytes = 0;
  int error = 0;  ///< errno; EAGAIN: nothing to move now; ECONNRESET: the peer is gone
};

class redis_socket {
 public:
  redis_socket() = default;
  ~redis_socket() { close(); }
  redis_socket(const redis_socket&) = delete;
  redis_socket& operator=(const redis_socket&) = delete;

  /// Begins to connect. Blocks for a look-up if `host` is a name. @returns errno, or 0
  int open(const std::string& host, std::uint16_t port, redis_tls* tls);
  /// Goes on connecting. @returns 0: ready; EAGAIN: not yet; else why not
  int advance();
  redis_io read(const iovec* parts, std::size_t count);
  redis_io write(const iovec* parts, std::size_t count);
  void close() noexcept;

  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int fd() const noexcept { return fd_; }
  /// Of poll(2), for whoever wants to read, and maybe to write.
  [[nodiscard]] short events(bool wants_write) const noexcept;

 private:
  int try_next_address();
  int begin_tls();
  int tls_error(int returned);

  struct address {
    sockaddr_storage bytes = {};
    socklen_t size = 0;
  };
  std::vector<address> addresses_;
  std::size_t next_address_ = 0;
  std::string host_;
  redis_tls* tls_ = nullptr;
  ssl_st* session_ = nullptr;
  int fd_ = -1;
  bool is_connected_ = false, is_ready_ = false;
  bool tls_wants_write_ = false;
};

}  // namespace oriel::detail
