// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

#include <oriel/model/cost.hpp>

#include <engine/error.hpp>
#include <engine/weight_loader.hpp>
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string_view>
#include <system_error>

#include <sched.h>
#include <unistd.h>

namespace oriel::cli {
namespace fs = std::filesystem;

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
    fmt::print(stderr, "oriel: warning: {}\n", warning);
  }
  return checkpoint;
}

void expect_memory_for_weights(std::uint64_t bytes, const std::string& model) {
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGE_SIZE);
  const std::uint64_t memory =
      pages > 0 && page_bytes > 0
          ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes)
          : ~std::uint64_t{0};
  if (bytes > memory) {
    throw engine::error(
        fmt::format("the weights of {} take {}, this machine has {}: take a smaller model",
                    model,
                    bytes_text(bytes),
                    bytes_text(memory)));
  }
}

engine::model_weights load_with_progress(const engine::checkpoint& checkpoint) {
  const model_geometry& model = checkpoint.config.geometry;
  const dtype compute = engine::compute_type_of(checkpoint);
  expect_memory_for_weights(count_parameters(model).total * size_bytes(compute), model.name);
  if (isatty(STDERR_FILENO) == 0) {
    return engine::load_weights(checkpoint);
  }
  int shown = -1;
  engine::load_options options;
  options.progress = [&](const engine::load_progress& p) {
    const int percent =
        p.total_bytes == 0 ? 100 : static_cast<int>(100 * p.done_bytes / p.total_bytes);
    if (percent != shown) {
      shown = percent;
      fmt::print(stderr, "\rloading {:>3} % of {}", percent, bytes_text(p.total_bytes));
    }
  };
  engine::model_weights weights = engine::load_weights(checkpoint, options);
  fmt::print(stderr, "\r\x1b[K");
  return weights;
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
  return static_cast<std::uint32_t>(CPU_COUNT(&allowed));
}

std::string read_text(const std::string& path) {
  const bool is_stdin = path == "-";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{
      is_stdin ? stdin : std::fopen(path.c_str(), "rb"),
      is_stdin ? [](std::FILE*) { return 0; } : &std::fclose};
  if (!file) {
    throw engine::error(
        fmt::format("cannot read {}: {}", path, std::generic_category().message(errno)));
  }
  std::string text;
  std::array<char, 65'536> part{};
  while (const std::size_t got = std::fread(part.data(), 1, part.size(), file.get())) {
    text.append(part.data(), got);
  }
  if (std::ferror(file.get()) != 0) {
    throw engine::error(fmt::format("cannot read {}: is it a folder?", path));
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
