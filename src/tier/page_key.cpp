// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/tier/page_key.hpp>

#include <openssl/evp.h>

#include <cstring>
#include <memory>
#include <new>
#include <string_view>

namespace oriel {
namespace {

static_assert(sizeof(token_id) == 4, "token ids are hashed as they lie in memory");

/// SHA-256 over length-prefixed fields, so that no two lists of fields meet.
class framed_sha256 {
 public:
  framed_sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    if (context_ == nullptr || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
      throw std::bad_alloc();
    }
  }
  void add(std::span<const std::byte> field) {
    const std::uint64_t bytes = field.size();
    update(&bytes, sizeof(bytes));
    update(field.data(), field.size());
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  void add(std::uint64_t number) { update(&number, sizeof(number)); }
  [[nodiscard]] page_digest digest() {
    page_digest d;
    const int done = EVP_DigestFinal_ex(
        context_.get(), reinterpret_cast<unsigned char*>(d.bytes.data()), nullptr);
    ORIEL_EXPECTS(done == 1);
    return d;
  }
  /// As new, with the same memory.
  void restart() {
    const int done = EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
    ORIEL_EXPECTS(done == 1);
  }

 private:
  void update(const void* bytes, std::size_t count) {
    const int done = EVP_DigestUpdate(context_.get(), bytes, count);
    ORIEL_EXPECTS(done == 1);
  }
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace

std::uint64_t page_digest::prefix64() const noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data(), sizeof(word));
  return word;
}

page_shape page_shape_of(const pool_plan& plan) {
  page_shape shape{.page_size = plan.options().page_size};
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    const page_layout& layout = plan.layout(pool_id{pool});
    std::vector<std::uint64_t>& slices = shape.slice_bytes.emplace_back();
    for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
      slices.push_back(layout.slice_bytes(slot));
    }
    if (pool != 0) {
      shape.window_tokens.push_back(plan.ring(pool - 1).window_tokens);
    }
  }
  return shape;
}

page_digest chain_start(const cache_namespace& space, const page_shape& shape) {
  framed_sha256 hash;
  hash.add("oriel namespace");
  hash.add(space.bytes());
  hash.add(shape.page_size);
  hash.add(shape.slice_bytes.size());
  for (const std::vector<std::uint64_t>& pool : shape.slice_bytes) {
    hash.add(std::as_bytes(std::span(pool)));
  }
  hash.add(std::as_bytes(std::span(shape.window_tokens)));
  hash.add(shape.rank);
  hash.add(shape.ranks);
  return hash.digest();
}

void extend_chain(const page_digest& start,
                  std::span<const token_id> tokens,
                  std::uint32_t page_size,
                  std::vector<page_digest>& links) {
  ORIEL_EXPECTS(page_size > 0 && links.size() <= tokens.size() / page_size);
  const std::size_t pages = tokens.size() / page_size;
  links.reserve(pages);
  framed_sha256 hash;
  while (links.size() < pages) {
    hash.restart();
    hash.add("oriel page");
    hash.add(links.empty() ? start.bytes : links.back().bytes);
    hash.add(std::as_bytes(tokens.subspan(links.size() * page_size, page_size)));
    links.push_back(hash.digest());
  }
}

}  // namespace oriel
