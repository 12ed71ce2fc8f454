// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/machine_memory.hpp>

#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

#include <unistd.h>

namespace oriel::engine {

std::uint64_t machine_memory_bytes() noexcept {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page_bytes = ::sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page_bytes > 0
             ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes)
             : ~std::uint64_t{0};
}

std::optional<std::uint64_t> available_bytes_in(std::string_view meminfo) noexcept {
  constexpr std::string_view name = "MemAvailable:", unit = " kB";
  const std::size_t at = meminfo.find(name);
  if (at == meminfo.npos || (at != 0 && meminfo[at - 1] != '\n')) {
    return std::nullopt;
  }
  const std::string_view line = meminfo.substr(at, meminfo.find('\n', at) - at);
  const std::size_t first = line.find_first_not_of(' ', name.size());
  std::uint64_t kib = 0;
  if (first == line.npos) {
    return std::nullopt;
  }
  const auto [end, wrong] = std::from_chars(line.data() + first, line.data() + line.size(), kib);
  const std::string_view rest(end, static_cast<std::size_t>(line.data() + line.size() - end));
  if (wrong != std::errc() || rest != unit || kib > ~std::uint64_t{0} / 1024) {
    return std::nullopt;
  }
  return kib * 1024;
}

std::uint64_t available_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  return available_bytes_in(text).value_or(machine_memory_bytes());
}

}  // namespace oriel::engine
