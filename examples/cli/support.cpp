// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

#include <oriel/core/thread_pool.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/spec/draft_length.hpp>

#include <engine/error.hpp>
#include <engine/machine_memory.hpp>
#include <engine/weight_loader.hpp>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <memory>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace oriel::cli {
namespace fs = std::filesystem;
namespace {

std::string system_message(int number) {
  return std::generic_category().message(number);
}

[[noreturn]] void throw_output_error() {
  if (errno == EPIPE) {  // As if it had not been ignored: who reads no more ends us without a word.
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
  }
  throw engine::error(fmt::format("cannot write to standard output: {}", system_message(errno)));
}

[[noreturn]] void throw_read_error(const std::string& path) {
  throw engine::error(fmt::format(
      "cannot read {}: {}", path == "-" ? "standard input" : path, system_message(errno)));
}

[[noreturn]] void throw_too_long(const std::string& path, std::uint64_t bytes_max) {
  throw engine::error(
      fmt::format("{} has more than {}, the most a prompt for this context may have: shorten it, "
                  "or raise -c",
                  path == "-" ? "standard input" : path,
                  bytes_text(bytes_max)));
}

bool stores_e4m3(const engine::checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tensors.entries(),
                             [](const engine::tensor_entry& t) { return t.type == dtype::e4m3; });
}

}  // namespace

void hold_standard_streams() noexcept {
  std::signal(SIGPIPE, SIG_IGN);  // A closed stderr loses messages, no answers.
  // Opened the wrong way round, so that reading stdin and writing the others fail with EBADF.
  for (const auto& [stream, mode] :
       {std::pair{STDIN_FILENO, O_WRONLY}, {STDOUT_FILENO, O_RDONLY}, {STDERR_FILENO, O_RDONLY}}) {
    if (fcntl(stream, F_GETFD) == -1 && errno == EBADF) {
      (void)open("/dev/null", mode);  // Takes the lowest free number: this one.
    }
  }
}

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    throw_output_error();
  }
}

void finish_output() {
  if (std::fflush(stdout) != 0) {
    throw_output_error();
  }
}

fs::path model_folder(const std::string& asked) {
  if (!asked.empty()) {
    return asked;
  }
  std::error_code no_link;
  const fs::path program = fs::read_symlink("/proc/self/exe", no_link);
  const fs::path installed = program.parent_path() / ".." / "share" / "oriel" / "models" / "nano";
  for (const fs::path& folder : {installed, fs::path{ORIEL_NANO_DIR}}) {
    if (fs::exists(folder / "config.json")) {
      return folder;
    }
  }
  throw engine::error(
      fmt::format("the nano model is neither in {} nor in {}: name a checkpoint folder with -m",
                  installed.lexically_normal().string(),
                  ORIEL_NANO_DIR));
}

engine::checkpoint open_model(const fs::path& folder, std::optional<std::uint32_t> qkv_shards) {
  engine::checkpoint checkpoint = engine::open_checkpoint(folder, {.qkv_shards = qkv_shards});
  for (const std::string& warning : checkpoint.warnings) {
    note("oriel: warning: {}\n", warning);
  }
  if (qkv_shards && !checkpoint.config.fused_qkv) {
    throw engine::error(fmt::format("--qkv-shards {}: {} has no fused QKV; leave the option out",
                                    *qkv_shards,
                                    folder.string()));
  }
  return checkpoint;
}

void expect_memory_for_weights(std::uint64_t bytes, const std::string& model) {
  const std::uint64_t memory = engine::machine_memory_bytes();
  if (bytes > memory) {
    throw engine::error(
        fmt::format("the weights of {} take {}, this machine has {}: take a smaller model",
                    model,
                    bytes_text(bytes),
                    bytes_text(memory)));
  }
}

engine::speculation_options speculation_of(const draft_options& asked,
                                           const model_geometry& model) {
  engine::speculation_options s;
  if (!asked.any()) {
    return s;
  }
  const bool draws = asked.accept == "rejection";
  const auto most =
      asked.uses_mtp() ? static_cast<std::uint32_t>(model.mtp_layers.size()) : draft_tokens_max - 1;
  if (most == 0) {
    throw engine::error(
        fmt::format("--spec mtp: {} has no MTP blocks; --spec lookup needs none", model.name));
  }
  s.drafter = asked.uses_mtp() ? engine::drafter_kind::mtp : engine::drafter_kind::lookup;
  s.accept = draws ? engine::accept_kind::rejection : engine::accept_kind::match;
  s.is_adaptive = asked.length == "auto" || (asked.length.empty() && !draws);
  s.drafts_max = s.is_adaptive || asked.length.empty()
                     ? most
                     : static_cast<std::uint32_t>(std::stoul(asked.length));
  if (s.drafts_max > most) {
    throw engine::error(fmt::format("--draft-len {}: {} has {} MTP block(s), one for each draft",
                                    asked.length,
                                    model.name,
                                    most));
  }
  return s;
}

engine::tokenizer no_tokenizer() {
  return engine::tokenizer::parse(R"({
    "model": {"type": "BPE", "vocab": {"!": 0}, "merges": []},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    "decoder": {"type": "ByteLevel"}})");
}

engine::model_weights load_with_progress(const engine::checkpoint& checkpoint,
                                         bool with_mtp,
                                         engine::weight_form form) {
  const model_geometry& model = checkpoint.config.geometry;
  engine::load_options options;
  options.with_mtp = with_mtp;
  options.form = form;
  options.keeps_e4m3 = form == engine::weight_form::plain && stores_e4m3(checkpoint);
  const dtype compute = engine::compute_type_of(checkpoint);
  expect_memory_for_weights(options.keeps_e4m3
                                ? checkpoint.tensors.size_bytes()
                                : count_parameters(model).total * size_bytes(compute),
                            model.name);
  if (!shows_progress()) {
    return engine::load_weights(checkpoint, options);
  }
  int shown = -1;
  options.progress = [&](const engine::load_progress& p) {
    const int percent =
        p.total_bytes == 0 ? 100 : static_cast<int>(100 * p.done_bytes / p.total_bytes);
    if (percent != shown) {
      shown = percent;
      note("\rloading {:>3} % of {}", percent, bytes_text(p.total_bytes));
    }
  };
  engine::model_weights weights = engine::load_weights(checkpoint, options);
  note("\r\x1b[K");
  return weights;
}

bool shows_progress() noexcept {
  return isatty(STDERR_FILENO) != 0;
}

std::uint32_t thread_count(std::uint32_t asked) {
  if (asked != 0) {
    return asked;
  }
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return 1;
  }
  return std::min(static_cast<std::uint32_t>(CPU_COUNT(&allowed)), thread_pool::threads_max);
}

std::string read_text(const std::string& path, std::uint64_t bytes_max) {
  const bool is_stdin = path == "-";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{
      is_stdin ? stdin : std::fopen(path.c_str(), "rb"),
      is_stdin ? [](std::FILE*) { return 0; } : &std::fclose};
  if (!file) {
    throw_read_error(path);
  }
  struct stat about {};
  if (fstat(fileno(file.get()), &about) == 0 && S_ISREG(about.st_mode) &&
      static_cast<std::uint64_t>(about.st_size) > bytes_max) {
    throw_too_long(path, bytes_max);
  }
  std::string text;
  std::array<char, 65'536> part{};
  while (const std::size_t got = std::fread(part.data(), 1, part.size(), file.get())) {
    text.append(part.data(), got);
    if (text.size() > bytes_max) {
      throw_too_long(path, bytes_max);
    }
  }
  if (std::ferror(file.get()) != 0) {
    throw_read_error(path);
  }
  return text;
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    unit += 1;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, units[unit]);
}

}  // namespace oriel::cli
