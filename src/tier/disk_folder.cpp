// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "tier/disk_folder.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/directory_disk.hpp>

#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace oriel::detail {

namespace {

constexpr const char* lock_name = "lock";
constexpr std::string_view segment_prefix = "segment-";
constexpr std::size_t segment_digits = 8;
constexpr const char* read_only_text = "the directory was opened to be read alone";
constexpr int always = O_NOFOLLOW | O_CLOEXEC;

status failed(const char* what, int error = errno) {
  return failure{errc::io_failure, error, what};
}

std::array<char, 24> name_of_segment(std::uint32_t file) {
  std::array<char, 24> name;
  std::snprintf(name.data(), name.size(), "segment-%08x", file);
  return name;
}

std::optional<std::uint32_t> number_of_segment(std::string_view name) {
  if (name.size() != segment_prefix.size() + segment_digits || !name.starts_with(segment_prefix)) {
    return std::nullopt;
  }
  std::uint32_t number = 0;
  for (const char digit : name.substr(segment_prefix.size())) {
    if (digit >= '0' && digit <= '9') {
      number = number * 16 + static_cast<std::uint32_t>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      number = number * 16 + static_cast<std::uint32_t>(digit - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return number;
}

template <class Call>
auto without_interruption(Call call) {
  auto answer = call();
  while (answer < 0 && errno == EINTR) {
    answer = call();
  }
  return answer;
}

owned_fd open_at(int folder, const char* name, int flags, mode_t mode = 0) {
  return owned_fd(
      without_interruption([&] { return ::openat(folder, name, flags | always, mode); }));
}

// Where the last bytes that were ever written end. Blocks that were only allocated are holes to the
// system, which is as sure of it as of the size. Where it does not know, all has been written.
std::uint64_t written_bytes_of(int fd, std::uint64_t size) {
  constexpr int gaps_max = 10'000;
  off_t end = 0;
  for (int gap = 0; gap < gaps_max; ++gap) {
    const off_t data = ::lseek(fd, end, SEEK_DATA);
    if (data < 0) {
      return errno == ENXIO ? static_cast<std::uint64_t>(end) : size;
    }
    end = ::lseek(fd, data, SEEK_HOLE);
    if (end < 0) {
      return size;
    }
  }
  return size;
}

status make_directory(const std::string& directory) {
  if (::mkdir(directory.c_str(), 0700) == 0) {
    const std::size_t slash = directory.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : directory.substr(0, slash + 1);
    // Best effort: we may lack the right to read the parent, and a lost directory is a cold cache.
    const owned_fd above(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (above) {
      static_cast<void>(::fsync(above.get()));
    }
  } else if (errno != EEXIST) {
    const int error = errno;
    struct stat is = {};
    // A file system that takes nothing may have the directory all the same.
    if (error != EROFS || ::lstat(directory.c_str(), &is) != 0) {
      return failure{errc::io_failure, error, "cannot make the directory"};
    }
  }
  return {};
}

// The directory, made if it is missing and may be made. Slashes at the end would make open() follow
// a link.
result<owned_fd> open_directory(std::string directory, disk_access access) {
  while (directory.size() > 1 && directory.back() == '/') {
    directory.pop_back();
  }
  if (access == disk_access::make) {
    if (status made = make_directory(directory); !made) {
      return made.error();
    }
  }
  owned_fd fd = open_at(AT_FDCWD, directory.c_str(), O_RDONLY | O_DIRECTORY);
  if (!fd) {
    return failure{errc::io_failure, errno, "cannot open the directory, or it is a link"};
  }
  struct stat is = {};
  if (::fstat(fd.get(), &is) != 0) {
    return failure{errc::io_failure, errno, "cannot look at the directory"};
  }
  if (is.st_uid != ::geteuid()) {
    return failure{errc::invalid_argument, EPERM, "the directory belongs to another user"};
  }
  if ((is.st_mode & 077) != 0) {
    return failure{errc::invalid_argument,
                   EACCES,
                   "the directory is open to group or others: chmod 700 it, or name a new one"};
  }
  return fd;
}

result<owned_fd> lock_exclusively(owned_fd fd) {
  if (without_interruption([&] { return ::flock(fd.get(), LOCK_EX | LOCK_NB); }) == 0) {
    return fd;
  }
  return errno == EWOULDBLOCK ? failure{errc::locked, errno, "another process has the directory"}
                              : failure{errc::io_failure, errno, "cannot lock the lock file"};
}

result<owned_fd> take_lock(int folder, disk_access access) {
  const int flags = access == disk_access::read_only  ? O_RDONLY
                    : access == disk_access::existing ? O_RDWR
                                                      : O_RDWR | O_CREAT;
  owned_fd fd = open_at(folder, lock_name, flags | O_NONBLOCK, 0600);
  if (!fd && errno == EROFS) {
    fd = open_at(folder, lock_name, O_RDONLY | O_NONBLOCK);
  }
  struct stat is = {};
  if (!fd || ::fstat(fd.get(), &is) != 0) {
    return failure{errc::io_failure, errno, "cannot open the lock file, or it is a link"};
  }
  if (!S_ISREG(is.st_mode)) {
    return failure{errc::io_failure, EINVAL, "the lock file is no plain file"};
  }
  return lock_exclusively(std::move(fd));
}

// For wait_for_old_writes(); a file system without such locks goes without.
void hold(const open_segment& segment) {
  static_cast<void>(::flock(segment.fd.get(), LOCK_SH | LOCK_NB));
}

// Others in the process need some, too.
std::size_t open_files_of(const disk_options& options) {
  rlimit limit = {};
  if (options.open_files_max != 0) {
    return options.open_files_max;
  }
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return 1u << 16;
  }
  return std::max<std::size_t>(limit.rlim_cur / 2, 8);
}

bool is_small_name(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), plain) &&
         name != lock_name && !name.starts_with(segment_prefix);
}

// Writes all, and makes it durable.
int write_whole(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto wrote =
        without_interruption([&] { return ::write(fd, bytes.data(), bytes.size()); });
    if (wrote <= 0) {
      return wrote < 0 ? errno : EIO;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
  return without_interruption([&] { return ::fsync(fd); }) == 0 ? 0 : errno;
}

}  // namespace

owned_fd::~owned_fd() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

result<disk_folder> disk_folder::open(const disk_options& options) {
  disk_folder folder;
  folder.directory_ = options.directory;
  folder.is_read_only_ = options.access == disk_access::read_only;
  folder.open_files_max_ = open_files_of(options);
  result<owned_fd> fd = open_directory(options.directory, options.access);
  if (!fd) {
    return fd.error();
  }
  folder.fd_ = std::move(*fd);
  result<owned_fd> lock = take_lock(folder.fd_.get(), options.access);
  if (!lock) {
    return lock.error();
  }
  folder.lock_ = std::move(*lock);
  folder.engine_fd_ = open_at(folder.fd_.get(), ".", O_RDONLY | O_DIRECTORY);
  if (!folder.engine_fd_) {
    return failure{errc::io_failure, errno, "cannot open the directory twice"};
  }
  // The directory too, where the file system can: a lock file may be removed under its owner. Not
  // through engine_fd_: io_uring holds that for a while after its process was killed.
  if (::flock(folder.fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return failure{errc::locked, errno, "another process has the directory"};
  }
  if (const status quiet = folder.wait_for_old_writes(); !quiet) {
    return quiet.error();
  }
  // A file system without O_DIRECT says so when a file is opened with it.
  folder.direct_ = options.direct &&
                   static_cast<bool>(open_at(folder.fd_.get(), lock_name, O_RDONLY | O_DIRECT));
  return folder;
}

/// io_uring carries out what it was given also after the process was killed, and the locks above
/// are gone by then. Every open segment has a shared lock, which such a write keeps: until the last
/// has landed, what a scan finds is not what will be there.
status disk_folder::wait_for_old_writes() {
  const result<std::vector<disk_file>> files = list();
  if (!files) {
    return {};  // whoever lists them will say why
  }
  int naps_left = 10'000;  // of a millisecond
  for (const disk_file& f : *files) {
    const owned_fd fd = open_at(fd_.get(), name_of_segment(f.file).data(), O_RDONLY | O_NONBLOCK);
    if (!fd && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
      return failed("cannot look whether writes of a killed process are under way");
    }
    while (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      if (naps_left-- == 0) {
        return failure{errc::locked,
                       EBUSY,
                       "writes of a process that was killed are still on their way to the disk: "
                       "try again later"};
      }
      const timespec nap = {.tv_sec = 0, .tv_nsec = 1'000'000};
      ::nanosleep(&nap, nullptr);
    }
  }
  return {};
}

std::string disk_folder::where(std::uint32_t file) const {
  return directory_ + "/" + name_of_segment(file).data();
}

result<std::vector<disk_file>> disk_folder::list() {
  owned_fd fd = open_at(fd_.get(), ".", O_RDONLY | O_DIRECTORY);
  const std::unique_ptr<DIR, int (*)(DIR*)> names(fd ? ::fdopendir(fd.get()) : nullptr,
                                                  &::closedir);
  if (!names) {
    return failure{errc::io_failure, errno, "cannot read the directory"};
  }
  fd.release();  // It is closedir's now.
  std::vector<disk_file> files;
  for (;;) {
    errno = 0;
    const dirent* const entry = ::readdir(names.get());
    if (entry == nullptr) {
      break;
    }
    const std::optional<std::uint32_t> number = number_of_segment(entry->d_name);
    if (!number) {
      continue;
    }
    struct stat is = {};
    if (::fstatat(fd_.get(), entry->d_name, &is, AT_SYMLINK_NOFOLLOW) != 0) {
      return failure{errc::io_failure, errno, "cannot look at a segment"};
    }
    if (!S_ISREG(is.st_mode)) {
      return failure{errc::io_failure, ELOOP, "a segment's name is a link, or no plain file"};
    }
    const auto size = static_cast<std::uint64_t>(is.st_size);
    const owned_fd file = open_at(fd_.get(), entry->d_name, O_RDONLY | O_NONBLOCK);
    files.push_back({.file = *number,
                     .bytes = size,
                     .written_bytes = file ? written_bytes_of(file.get(), size) : size});
  }
  if (errno != 0) {
    return failure{errc::io_failure, errno, "cannot read the directory"};
  }
  std::sort(files.begin(), files.end(), [](const disk_file& a, const disk_file& b) {
    return a.file < b.file;
  });
  return files;
}

status disk_folder::create(std::uint32_t file, std::uint64_t bytes) {
  if (is_read_only_) {
    return failed(read_only_text, EROFS);
  }
  if (segments_.contains(file)) {
    return failed("cannot create a segment that is there", EEXIST);
  }
  const auto name = name_of_segment(file);
  const int flags = O_RDWR | O_CREAT | O_EXCL | (direct_ ? O_DIRECT : 0);
  // Its number first: a sync that fails meanwhile may have covered the name.
  const std::uint64_t number = std::atomic_ref(names_made_).fetch_add(1) + 1;
  owned_fd made = open_file(name.data(), flags, 0600);
  if (!made) {
    return failed("cannot create a segment");
  }
  const int fd = made.get();
  const auto size = static_cast<off_t>(bytes);
  int error = 0;
  if (bytes > 0 && without_interruption([&] { return ::fallocate(fd, 0, 0, size); }) != 0) {
    error = errno;
    if (error == EOPNOTSUPP || error == ENOSYS) {
      error = without_interruption([&] { return ::ftruncate(fd, size); }) == 0 ? 0 : errno;
    }
  }
  if (error != 0) {
    ::unlinkat(fd_.get(), name.data(), 0);
    return failed("cannot give a segment its size", error);
  }
  std::erase(removed_, file);
  open_segment& segment = segments_[file];
  segment.writable = true;
  segment.name_number = number;
  keep_open(file, segment, std::move(made));
  return {};
}

status disk_folder::remove(std::uint32_t file) {
  if (is_read_only_) {
    return failed(read_only_text, EROFS);
  }
  if (const auto found = segments_.find(file); found != segments_.end()) {
    ORIEL_EXPECTS(found->second.in_flight == 0);
    segments_.erase(found);
    std::erase(open_files_, file);
  }
  if (::unlinkat(fd_.get(), name_of_segment(file).data(), 0) != 0) {
    return failed("cannot remove a segment");
  }
  removed_.push_back(file);
  return {};
}

// The kernel forgets what it could not write down: after a sync that failed the next one is fine,
// and says nothing of the names before. So these are removed once more. One that is there is ours
// as well: what an attempt before made and could not remove.
status disk_folder::sync_names() {
  for (const std::uint32_t file : must_redo_ ? removed_ : std::vector<std::uint32_t>()) {
    const auto name = name_of_segment(file);
    const owned_fd made = open_file(name.data(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    if ((!made && errno != EEXIST) || ::unlinkat(fd_.get(), name.data(), 0) != 0) {
      return failed("cannot remove a segment for good");
    }
  }
  if (without_interruption([&] { return ::fsync(fd_.get()); }) != 0) {
    must_redo_ = true;
    return failed("cannot sync the directory");
  }
  must_redo_ = false;
  removed_.clear();
  return {};
}

void disk_folder::names_are_lost(int error) noexcept {
  names_lost_ = std::atomic_ref(names_made_).load();
  names_error_ = error;
}

result<std::vector<std::byte>> disk_folder::read_small(const char* name) {
  ORIEL_EXPECTS(is_small_name(name));
  // O_NONBLOCK: a pipe of that name must not hold us up.
  const owned_fd fd = open_file(name, O_RDONLY | O_NONBLOCK);
  struct stat is = {};
  if (!fd || ::fstat(fd.get(), &is) != 0) {
    return failure{errc::io_failure, errno, "cannot open a small file"};
  }
  if (!S_ISREG(is.st_mode)) {
    return failure{errc::io_failure, EINVAL, "a small file's name is no plain file"};
  }
  if (static_cast<std::uint64_t>(is.st_size) > directory_disk::small_bytes_max) {
    return failure{errc::io_failure, EFBIG, "a small file is too large"};
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(is.st_size));
  std::size_t have = 0;
  while (have < bytes.size()) {
    const auto got = without_interruption(
        [&] { return ::read(fd.get(), bytes.data() + have, bytes.size() - have); });
    if (got < 0) {
      return failure{errc::io_failure, errno, "cannot read a small file"};
    }
    if (got == 0) {
      break;
    }
    have += static_cast<std::size_t>(got);
  }
  bytes.resize(have);
  return bytes;
}

status disk_folder::remove_small(const char* name) {
  ORIEL_EXPECTS(is_small_name(name));
  if (is_read_only_) {
    return failed(read_only_text, EROFS);
  }
  if (::unlinkat(fd_.get(), name, 0) != 0 && errno != ENOENT) {
    return failed("cannot remove a small file");
  }
  return {};
}

status disk_folder::write_small(const char* name, std::span<const std::byte> bytes) {
  ORIEL_EXPECTS(is_small_name(name));
  if (is_read_only_) {
    return failed(read_only_text, EROFS);
  }
  const std::string draft = std::string(name) + ".draft";
  ::unlinkat(fd_.get(), draft.c_str(), 0);  // Of a run that was killed; we are the only owner.
  int error = 0;
  {
    const owned_fd fd = open_file(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    error = fd ? write_whole(fd.get(), bytes) : errno;
  }
  if (error == 0 && ::renameat(fd_.get(), draft.c_str(), fd_.get(), name) != 0) {
    error = errno;
  }
  if (error != 0) {
    ::unlinkat(fd_.get(), draft.c_str(), 0);
    return failed("cannot write a small file", error);
  }
  return sync_names();
}

owned_fd disk_folder::open_file(const char* name, int flags, unsigned mode) {
  while (open_files_.size() >= open_files_max_ && close_idle()) {
  }
  owned_fd fd = open_at(fd_.get(), name, flags, mode);
  while (!fd && (errno == EMFILE || errno == ENFILE) && close_idle()) {
    fd = open_at(fd_.get(), name, flags, mode);
  }
  return fd;
}

/// Closes a segment that nobody uses, one that was not used lately if there is one. What the system
/// cannot write later it tells to descriptors that are open, and perhaps to none that come after:
/// so what was written is synced first, and a failure remembered like that of any sync.
bool disk_folder::close_idle() noexcept {
  for (std::size_t steps = 2 * open_files_.size(); steps > 0; --steps) {
    hand_ = hand_ < open_files_.size() ? hand_ : 0;
    open_segment& s = segments_.find(open_files_[hand_])->second;
    if (s.in_flight != 0 || std::exchange(s.was_used, false)) {
      ++hand_;
      continue;
    }
    if (s.was_written && s.sync_error == 0 && !ORIEL_MUTANT(closed_segment_is_not_synced) &&
        without_interruption([&] { return ::fdatasync(s.fd.get()); }) != 0) {
      s.sync_error = errno;
    }
    s.was_written = false;
    s.fd = owned_fd();
    open_files_[hand_] = open_files_.back();
    open_files_.pop_back();
    return true;
  }
  return false;
}

void disk_folder::keep_open(std::uint32_t file, open_segment& segment, owned_fd fd) {
  open_files_.push_back(file);
  segment.fd = std::move(fd);
  segment.was_used = true;
  hold(segment);
}

open_segment* disk_folder::segment(std::uint32_t file, int& error) {
  const auto found = segments_.find(file);
  if (found != segments_.end() && found->second.fd) {
    found->second.was_used = true;
    return &found->second;
  }
  const auto name = name_of_segment(file);
  const int flags = O_NONBLOCK | (direct_ ? O_DIRECT : 0);
  bool is_writable = !is_read_only_;
  owned_fd fd = is_writable ? open_file(name.data(), O_RDWR | flags) : owned_fd();
  if (!is_writable || (!fd && errno == EROFS)) {
    is_writable = false;
    fd = open_file(name.data(), O_RDONLY | flags);
  }
  struct stat is = {};
  if (!fd || ::fstat(fd.get(), &is) != 0) {
    error = errno;
    return nullptr;
  }
  if (!S_ISREG(is.st_mode)) {
    error = EINVAL;
    return nullptr;
  }
  if ((is.st_mode & 077) != 0 && !is_read_only_) {
    // Restored from a backup, say. The directory is private: this is for tidiness.
    static_cast<void>(::fchmod(fd.get(), 0600));
  }
  open_segment& opened = segments_[file];
  opened.writable = is_writable;
  keep_open(file, opened, std::move(fd));
  error = 0;
  return &opened;
}

}  // namespace oriel::detail
