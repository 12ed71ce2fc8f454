// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Writes safetensors files for tests. Names must need no JSON escapes.
#pragma once

#include <oriel/core/dtype.hpp>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

/// A tensor's values in f32 and the type it is written as. For e4m3 `codes` are written instead.
struct test_tensor {
  std::vector<std::uint64_t> shape;
  oriel::dtype type = oriel::dtype::f32;
  std::vector<float> values;
  std::vector<std::uint8_t> codes;
};

using test_tensors = std::map<std::string, test_tensor>;

inline std::string stored_bytes(const test_tensor& t) {
  std::string bytes;
  if (t.type == oriel::dtype::e4m3) {
    bytes.assign(t.codes.begin(), t.codes.end());
    return bytes;
  }
  for (const float x : t.values) {
    char raw[4];
    const oriel::bf16 rounded = oriel::to_bf16(x);
    const std::size_t size = oriel::size_bytes(t.type);
    std::memcpy(raw, t.type == oriel::dtype::f32 ? static_cast<const void*>(&x) : &rounded, size);
    bytes.append(raw, size);
  }
  return bytes;
}

/// A safetensors file: length of the header, header, bytes.
inline std::string safetensors_bytes(const std::string& header, const std::string& payload) {
  std::uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + header + payload;
}

inline std::string safetensors_bytes(const test_tensors& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})", payload;
  for (const auto& [name, t] : tensors) {
    const char* const type = t.type == oriel::dtype::f32    ? "F32"
                             : t.type == oriel::dtype::bf16 ? "BF16"
                                                            : "F8_E4M3";
    std::string shape;
    for (const std::uint64_t extent : t.shape) {
      shape.append(shape.empty() ? "" : ",").append(std::to_string(extent));
    }
    const std::string bytes = stored_bytes(t);
    header += ",\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":[" + shape +
              "],\"data_offsets\":[" + std::to_string(payload.size()) + "," +
              std::to_string(payload.size() + bytes.size()) + "]}";
    payload += bytes;
  }
  return safetensors_bytes(header + "}", payload);
}
