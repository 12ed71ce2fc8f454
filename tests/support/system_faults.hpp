// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Real faults of the system, in a child process that takes them with it when it ends: small and
/// read-only file systems, forbidden and failing system calls.
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

/// Collects what went wrong in a child, for the parent to report.
class child_checks {
 public:
  explicit child_checks(int out) : out_(out) {}
  /// @returns ok
  bool operator()(bool ok, const std::string& what) const {
    if (!ok) {
      const std::string line = what + "\n";
      if (::write(out_, line.data(), line.size()) < 0) {
        ::_exit(3);
      }
    }
    return ok;
  }

 private:
  int out_;
};

/// Exit status of a child that could not have what it wanted from the system.
inline constexpr int not_permitted = 77;

/// Runs f(check) in a forked child. @returns what it complained about: empty, if all is well; or
/// nothing, if it left with `not_permitted`.
template <class F>
std::optional<std::string> in_child(F&& f) {
  int ends[2];
  if (::pipe(ends) != 0) {
    return "no pipe";
  }
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    ::alarm(120);  // A hang is a failure too.
    f(child_checks(ends[1]));
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string complaints;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    complaints.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == not_permitted) {
    return std::nullopt;
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    complaints += "the child ended with status " + std::to_string(status);
  }
  return complaints;
}

/// In a child: mounts of our own from here on, as root or as a user who may have namespaces.
inline bool own_mounts() {
  const auto write_line = [](const char* file, const std::string& line) {
    const int fd = ::open(file, O_WRONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && ::write(fd, line.data(), line.size()) > 0;
    ::close(fd);
    return ok;
  };
  if (::geteuid() != 0) {
    const std::string uid = std::to_string(::geteuid()), gid = std::to_string(::getegid());
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 ||
        !write_line("/proc/self/setgroups", "deny") ||
        !write_line("/proc/self/uid_map", "0 " + uid + " 1") ||
        !write_line("/proc/self/gid_map", "0 " + gid + " 1")) {
      return false;
    }
  } else if (::unshare(CLONE_NEWNS) != 0) {
    return false;
  }
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

/// In a child: lets the system call `number` of threads started from now on (and of this one) be
/// answered by `action`: SECCOMP_RET_ERRNO | errno, or SECCOMP_RET_USER_NOTIF.
/// @returns a descriptor to listen on for SECCOMP_RET_USER_NOTIF, 0 otherwise; -1: not permitted
inline int intercept(long number, std::uint32_t action) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {.len = 4, .filter = program};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return -1;
  }
  const bool listens = action == SECCOMP_RET_USER_NOTIF;
  const unsigned flags = listens ? static_cast<unsigned>(SECCOMP_FILTER_FLAG_NEW_LISTENER) : 0u;
  return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter));
}

/// In a child: the answers to one system call, in order; then the system answers again.
class scripted_call {
 public:
  /// What a call gets: a negative errno, a result, or `truth`.
  static constexpr std::int64_t truth = INT64_MIN;

  /// Answers from a thread that the filter does not know: start it before anything else.
  /// @param answer  answer(call index, arguments of the call)
  template <class Answer>
  scripted_call(long number, Answer answer) {
#ifdef __SANITIZE_THREAD__
    return;  // It does not see that the kernel stands between the caller and the answer.
#endif
    int ends[2];
    if (::pipe(ends) != 0) {
      return;
    }
    thread_ = std::thread([in = ends[0], answer]() mutable {
      int listener = -1;
      if (::read(in, &listener, sizeof listener) != sizeof listener || listener < 0) {
        return;
      }
      for (std::size_t index = 0;; ++index) {
        seccomp_notif call = {};
        if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) {
          if (errno == EINTR || errno == ENOENT) {
            continue;
          }
          return;
        }
        const std::int64_t value = answer(index, call.data.args);
        seccomp_notif_resp reply = {.id = call.id, .val = 0, .error = 0, .flags = 0};
        if (value == truth) {
          reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        } else {
          reply.error = value < 0 ? static_cast<std::int32_t>(value) : 0;
          reply.val = value < 0 ? 0 : value;
        }
        static_cast<void>(::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply));
      }
    });
    thread_.detach();  // It ends with the child.
    const int listener = intercept(number, SECCOMP_RET_USER_NOTIF);
    works_ = listener >= 0 && ::write(ends[1], &listener, sizeof listener) == sizeof listener;
  }
  [[nodiscard]] bool works() const {
    return works_;
  }

 private:
  std::thread thread_;
  bool works_ = false;
};
