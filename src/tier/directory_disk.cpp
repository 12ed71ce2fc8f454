// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "tier/disk_engine.hpp"

#include <oriel/tier/directory_disk.hpp>

#include <utility>

namespace oriel {

result<directory_disk> directory_disk::open(const disk_options& options) {
  if (options.queue_depth < 1 || options.queue_depth > queue_depth_max) {
    return failure{errc::invalid_argument, 0, "queue_depth must be in [1, 4096]"};
  }
  if (options.threads < 1 || options.threads > threads_max) {
    return failure{errc::invalid_argument, 0, "threads must be in [1, 256]"};
  }
  result<detail::disk_folder> folder = detail::disk_folder::open(options);
  if (!folder) {
    return folder.error();
  }
  // Either takes the folder only if it can run.
  result<detail::disk_engine*> engine = failure{errc::io_failure};
  if (options.backend != disk_backend::threads) {
    engine = detail::open_uring_engine(std::move(*folder), options);
  }
  if (!engine && options.backend != disk_backend::io_uring) {
    engine = detail::open_thread_engine(std::move(*folder), options);
  }
  if (!engine) {
    return engine.error();
  }
  return directory_disk(*engine);
}

directory_disk::directory_disk(directory_disk&& other) noexcept
    : engine_(std::exchange(other.engine_, nullptr)) {}

directory_disk& directory_disk::operator=(directory_disk&& other) noexcept {
  std::swap(engine_, other.engine_);
  return *this;
}

directory_disk::~directory_disk() {
  delete engine_;
}

disk_backend directory_disk::backend() const noexcept {
  return engine_->backend();
}
bool directory_disk::direct() const noexcept {
  return engine_->folder().direct();
}
std::size_t directory_disk::in_flight() const noexcept {
  return engine_->in_flight();
}
std::uint64_t directory_disk::now_us() const noexcept {
  return detail::monotonic_us();
}

std::string directory_disk::where(std::uint32_t file) const {
  return engine_->folder().where(file);
}

void directory_disk::limit_rate(std::uint64_t bytes_per_s_max) {
  engine_->limit_rate(bytes_per_s_max);
}

result<std::vector<disk_file>> directory_disk::list() {
  return engine_->folder().list();
}

status directory_disk::create(std::uint32_t file, std::uint64_t bytes) {
  return engine_->folder().create(file, bytes);
}

status directory_disk::remove(std::uint32_t file) {
  return engine_->folder().remove(file);
}

status directory_disk::sync_names() {
  return engine_->folder().sync_names();
}

std::size_t directory_disk::submit(std::span<const disk_request> requests) {
  return engine_->submit(requests);
}

std::size_t directory_disk::poll(std::span<disk_completion> done) {
  return engine_->poll(done);
}

bool directory_disk::wait(std::uint64_t until_us) {
  return engine_->wait(until_us);
}

result<std::vector<std::byte>> directory_disk::read_small(const char* name) {
  return engine_->folder().read_small(name);
}

status directory_disk::write_small(const char* name, std::span<const std::byte> bytes) {
  return engine_->folder().write_small(name, bytes);
}

status directory_disk::remove_small(const char* name) {
  return engine_->folder().remove_small(name);
}

const char* name_of(disk_backend backend) noexcept {
  switch (backend) {
    case disk_backend::any:
      return "any";
    case disk_backend::io_uring:
      return "io_uring";
    case disk_backend::threads:
      return "threads";
  }
  return "unknown";
}

}  // namespace oriel
