// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/mutation.hpp>
#include <oriel/prefix/cache_namespace.hpp>

#include <span>

namespace oriel {
namespace {

void append_framed(std::string& bytes, std::string_view field) {
  for (int shift = 0; shift < 64 && !ORIEL_MUTANT(fields_without_length); shift += 8) {
    bytes.push_back(static_cast<char>((std::uint64_t{field.size()} >> shift) & 0xFF));
  }
  bytes.append(field);
}

}  // namespace

cache_namespace::cache_namespace(const namespace_fields& fields) {
  for (const std::string_view field :
       {fields.tenant_salt, fields.model, fields.adapter, fields.rope, fields.arithmetic}) {
    append_framed(bytes_, ORIEL_MUTANT(namespace_is_ignored) ? std::string_view() : field);
  }
  digest_ = hash128(std::as_bytes(std::span(bytes_)));
  tenant_ = hash64(std::as_bytes(std::span(fields.tenant_salt)));
}

}  // namespace oriel
