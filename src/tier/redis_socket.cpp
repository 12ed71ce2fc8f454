// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_socket.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <stdexcept>

#include <netdb.h>
#include <poll.h>
#include <unistd.h>

namespace oriel::detail {
namespace {

// OpenSSL's own socket BIO writes with write(2), which raises SIGPIPE where the peer has gone; a
// library has no business with signals.
int bio_write(BIO* bio, const char* bytes, int count) {
  const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio)));
  BIO_clear_retry_flags(bio);
  const ssize_t sent = ::send(fd, bytes, static_cast<std::size_t>(count), MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
    BIO_set_retry_write(bio);
  }
  return static_cast<int>(sent);
}

int bio_read(BIO* bio, char* bytes, int count) {
  const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio)));
  BIO_clear_retry_flags(bio);
  const ssize_t got = ::recv(fd, bytes, static_cast<std::size_t>(count), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    BIO_set_retry_read(bio);
  }
  return static_cast<int>(got);
}

long bio_ctrl(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

bool is_numeric(const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> ignored = {};
  return ::inet_pton(AF_INET, host.c_str(), ignored.data()) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), ignored.data()) == 1;
}

}  // namespace

redis_tls::redis_tls(const std::string& ca_file, bool verifies_certificate)
    : verifies_(verifies_certificate) {
  context_ = SSL_CTX_new(TLS_client_method());
  method_ = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "oriel socket");
  bool is_fine = context_ != nullptr && method_ != nullptr;
  if (is_fine) {
    BIO_meth_set_write(method_, &bio_write);
    BIO_meth_set_read(method_, &bio_read);
    BIO_meth_set_ctrl(method_, &bio_ctrl);
    SSL_CTX_set_min_proto_version(context_, TLS1_2_VERSION);
    SSL_CTX_set_mode(context_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(context_, verifies_ ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
    is_fine = ca_file.empty()
                  ? SSL_CTX_set_default_verify_paths(context_) == 1
                  : SSL_CTX_load_verify_locations(context_, ca_file.c_str(), nullptr) == 1;
  }
  ERR_clear_error();
  if (!is_fine) {
    SSL_CTX_free(context_);
    BIO_meth_free(method_);
    throw std::runtime_error("redis_store: cannot read the CA file '" + ca_file + "'");
  }
}

redis_tls::~redis_tls() {
  SSL_CTX_free(context_);
  BIO_meth_free(method_);
}

int redis_socket::open(const std::string& host, std::uint16_t port, redis_tls* tls) {
  close();
  host_ = host;
  tls_ = tls;
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (is_numeric(host) ? AI_NUMERICHOST : 0);
  addrinfo* list = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list) != 0) {
    return EHOSTUNREACH;
  }
  addresses_.clear();
  next_address_ = 0;
  for (const addrinfo* a = list; a != nullptr && addresses_.size() < 8; a = a->ai_next) {
    address& next = addresses_.emplace_back();
    std::memcpy(&next.bytes, a->ai_addr, std::min<std::size_t>(a->ai_addrlen, sizeof(next.bytes)));
    next.size = a->ai_addrlen;
  }
  ::freeaddrinfo(list);
  return try_next_address();
}

int redis_socket::try_next_address() {
  int error = EHOSTUNREACH;
  while (next_address_ < addresses_.size()) {
    close();
    const address& a = addresses_[next_address_++];
    fd_ = ::socket(a.bytes.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd_ < 0) {
      error = errno;
      continue;
    }
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&a.bytes), a.size) == 0 ||
        errno == EINPROGRESS) {
      return 0;
    }
    error = errno;
  }
  close();
  return error;
}

int redis_socket::advance() {
  if (!is_connected_) {
    pollfd waiting = {.fd = fd_, .events = POLLOUT, .revents = 0};
    if (::poll(&waiting, 1, 0) <= 0) {
      return EAGAIN;
    }
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      const int next = next_address_ < addresses_.size() ? try_next_address() : error;
      return next == 0 ? EAGAIN : next;
    }
    is_connected_ = true;
    if (tls_ != nullptr) {
      if (const int tls = begin_tls(); tls != 0) {
        return tls;
      }
    }
  }
  if (session_ != nullptr && !is_ready_) {
    const int returned = SSL_do_handshake(session_);
    if (returned != 1) {
      return tls_error(returned);
    }
  }
  is_ready_ = true;
  return 0;
}

int redis_socket::begin_tls() {
  session_ = SSL_new(tls_->context_);
  BIO* bio = session_ == nullptr ? nullptr : BIO_new(tls_->method_);
  if (bio == nullptr) {
    return ENOMEM;
  }
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd_)));
  BIO_set_init(bio, 1);
  SSL_set_bio(session_, bio, bio);
  SSL_set_connect_state(session_);
  if (is_numeric(host_)) {
    if (tls_->verifies_) {
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session_), host_.c_str());
    }
    return 0;
  }
  SSL_set_tlsext_host_name(session_, host_.c_str());
  return !tls_->verifies_ || SSL_set1_host(session_, host_.c_str()) == 1 ? 0 : EINVAL;
}

int redis_socket::tls_error(int returned) {
  const int system = errno;
  const int why = SSL_get_error(session_, returned);
  ERR_clear_error();
  tls_wants_write_ = why == SSL_ERROR_WANT_WRITE;
  switch (why) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
      return ECONNRESET;
    case SSL_ERROR_SYSCALL:
      return system != 0 && system != EAGAIN ? system : ECONNRESET;
    default:
      return is_ready_ ? ECONNRESET : EPROTO;  // The handshake: a certificate, mostly.
  }
}

redis_io redis_socket::read(const iovec* parts, std::size_t count) {
  if (session_ == nullptr) {
    const ssize_t got =
        ::readv(fd_, parts, static_cast<int>(std::min<std::size_t>(count, IOV_MAX)));
    if (got > 0) {
      return {.bytes = static_cast<std::size_t>(got)};
    }
    return {.error = got == 0 ? ECONNRESET : errno == EINTR ? EAGAIN : errno};
  }
  redis_io io;
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t at = 0; at < parts[i].iov_len;) {
      const std::size_t most = std::min<std::size_t>(parts[i].iov_len - at, INT_MAX);
      const int got =
          SSL_read(session_, static_cast<char*>(parts[i].iov_base) + at, static_cast<int>(most));
      if (got <= 0) {
        const int error = tls_error(got);
        return io.bytes > 0 ? io : redis_io{.error = error};
      }
      at += static_cast<std::size_t>(got);
      io.bytes += static_cast<std::size_t>(got);
    }
  }
  return io;
}

redis_io redis_socket::write(const iovec* parts, std::size_t count) {
  if (session_ == nullptr) {
    msghdr message = {};
    message.msg_iov = const_cast<iovec*>(parts);
    message.msg_iovlen = std::min<std::size_t>(count, IOV_MAX);
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (sent >= 0) {
      return {.bytes = static_cast<std::size_t>(sent)};
    }
    return {.error = errno == EINTR ? EAGAIN : errno};
  }
  redis_io io;
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t at = 0; at < parts[i].iov_len;) {
      const std::size_t most = std::min<std::size_t>(parts[i].iov_len - at, INT_MAX);
      const int sent = SSL_write(
          session_, static_cast<const char*>(parts[i].iov_base) + at, static_cast<int>(most));
      if (sent <= 0) {
        const int error = tls_error(sent);
        return io.bytes > 0 ? io : redis_io{.error = error};
      }
      at += static_cast<std::size_t>(sent);
      io.bytes += static_cast<std::size_t>(sent);
    }
  }
  return io;
}

short redis_socket::events(bool wants_write) const noexcept {
  const bool is_waiting = !is_connected_ || tls_wants_write_ || (wants_write && is_ready_);
  return static_cast<short>((is_connected_ ? POLLIN : 0) | (is_waiting ? POLLOUT : 0));
}

void redis_socket::close() noexcept {
  SSL_free(session_);
  session_ = nullptr;
  if (fd_ >= 0) {
    ::close(fd_);
  }
  fd_ = -1;
  is_connected_ = is_ready_ = tls_wants_write_ = false;
}

}  // namespace oriel::detail
