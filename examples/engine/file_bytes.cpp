// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/error.hpp>
#include <engine/file_bytes.hpp>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace oriel::engine {
namespace {

[[noreturn]] void fail(const std::filesystem::path& file, const char* what) {
  throw error(fmt::format("{}: {}: {}", file.string(), what, std::strerror(errno)));
}

/// An open descriptor of a regular file and its size.
class opened_file {
 public:
  explicit opened_file(const std::filesystem::path& file)
      : descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_ < 0) {
      fail(file, "cannot open");
    }
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(descriptor_);
      throw error(fmt::format("{}: not a regular file", file.string()));
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
  }
  opened_file(const opened_file&) = delete;
  opened_file& operator=(const opened_file&) = delete;
  ~opened_file() { ::close(descriptor_); }

  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

 private:
  int descriptor_;
  std::uint64_t size_ = 0;
};

}  // namespace

std::string read_file(const std::filesystem::path& file, std::uint64_t bytes_max) {
  const opened_file opened(file);
  if (opened.size() > bytes_max) {
    throw error(fmt::format(
        "{}: {} bytes; at most {} are accepted here", file.string(), opened.size(), bytes_max));
  }
  std::string text(opened.size(), '\0');
  std::size_t read = 0;
  while (read < text.size()) {
    const ssize_t n = ::read(opened.descriptor(), text.data() + read, text.size() - read);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      fail(file, "cannot read");
    }
    if (n == 0) {
      break;
    }
    read += static_cast<std::size_t>(n);
  }
  text.resize(read);
  return text;
}

mapped_file::mapped_file(const std::filesystem::path& file) {
  const opened_file opened(file);
  if (opened.size() == 0) {
    return;
  }
  void* const raw = ::mmap(nullptr, opened.size(), PROT_READ, MAP_PRIVATE, opened.descriptor(), 0);
  if (raw == MAP_FAILED) {
    fail(file, "cannot map");
  }
  first_ = static_cast<const std::byte*>(raw);
  size_ = opened.size();
}

mapped_file::mapped_file(mapped_file&& other) noexcept
    : first_(std::exchange(other.first_, nullptr)), size_(std::exchange(other.size_, 0)) {}

mapped_file& mapped_file::operator=(mapped_file&& other) noexcept {
  std::swap(first_, other.first_);
  std::swap(size_, other.size_);
  return *this;
}

mapped_file::~mapped_file() {
  if (size_ != 0) {
    ::munmap(const_cast<std::byte*>(first_), size_);
  }
}

void mapped_file::drop() const noexcept {
  if (size_ != 0) {
    ::madvise(const_cast<std::byte*>(first_), size_, MADV_DONTNEED);
  }
}

}  // namespace oriel::engine
