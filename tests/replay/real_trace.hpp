// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The real traces. They are no part of the project: they are looked for in the folder that
/// ORIEL_TRACES names, or in shared/traces beside the project.
#pragma once

#include <catch2/catch.hpp>
#include <replay/read_trace.hpp>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace oriel {

/// Nothing, and a message, if the file is not there or this program cannot unpack it.
inline std::optional<replay::trace> real_trace(const std::string& name) {
  const char* const folder = std::getenv("ORIEL_TRACES");
  const std::filesystem::path root =
      folder != nullptr ? std::filesystem::path{folder}
                        : std::filesystem::path{ORIEL_TEST_DIR} / ".." / ".." / "shared" / "traces";
  const std::filesystem::path file = root / name;
#ifndef ORIEL_HAS_ZSTD
  WARN("skipped: built without libzstd, which " << name << " needs");
  return std::nullopt;
#endif
  if (!std::filesystem::exists(file)) {
    WARN("skipped: there is no " << file.lexically_normal().string()
                                 << "; ORIEL_TRACES names the folder");
    return std::nullopt;
  }
  return replay::read_trace(file);
}

}  // namespace oriel
