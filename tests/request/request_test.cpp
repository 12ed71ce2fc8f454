// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/request/request.hpp>

#include <catch2/catch.hpp>

#include <cstring>
#include <limits>
#include <string>

namespace request_test {

using oriel::errc;
using oriel::request;
using oriel::request_limits;
using oriel::sampling_options;
using oriel::token_id;

namespace {

constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

bool names(const oriel::status& s, const char* word) {
  return !s && s.error().code == errc::invalid_argument &&
         std::strstr(s.error().detail, word) != nullptr;
}

request good_request() {
  request r;
  r.prompt = {token_id{1}, token_id{2}};
  r.max_new_tokens = 10;
  r.stop = {.tokens = {token_id{0}}, .strings = {"\n\n"}};
  return r;
}

constexpr request_limits limits{.vocabulary = 100, .max_context_tokens = 12};

}  // namespace

TEST_CASE("sampling options are checked by name") {
  CHECK(oriel::check(sampling_options{}));
  CHECK(oriel::check({.temperature = 0.0f, .top_k = 1u << 31, .top_p = 1e-30f, .min_p = 1.0f}));
  for (const float bad : {-0.1f, infinity, -infinity, quiet_nan}) {
    CHECK(names(oriel::check({.temperature = bad}), "temperature"));
  }
  for (const float bad : {0.0f, -1.0f, 1.01f, quiet_nan}) {
    CHECK(names(oriel::check({.top_p = bad}), "top_p"));
  }
  for (const float bad : {-0.1f, 1.01f, quiet_nan}) {
    CHECK(names(oriel::check({.min_p = bad}), "min_p"));
  }
}

TEST_CASE("penalties, biases and log-probabilities are checked by name") {
  CHECK(oriel::check({.repetition_penalty = 10.0f,
                      .frequency_penalty = -2.0f,
                      .presence_penalty = 2.0f,
                      .logit_bias = {{token_id{1}, -100.0f}, {token_id{2}, -infinity}},
                      .logprobs = 20}));
  for (const float bad : {0.0f, -1.0f, 10.1f, infinity, quiet_nan}) {
    CHECK(names(oriel::check({.repetition_penalty = bad}), "repetition_penalty"));
  }
  for (const float bad : {-2.1f, 2.1f, infinity, quiet_nan}) {
    CHECK(names(oriel::check({.frequency_penalty = bad}), "frequency_penalty"));
    CHECK(names(oriel::check({.presence_penalty = bad}), "presence_penalty"));
  }
  for (const float bad : {-100.1f, 101.0f, infinity, quiet_nan}) {
    CHECK(names(oriel::check({.logit_bias = {{token_id{1}, bad}}}), "logit_bias"));
  }
  sampling_options many;
  many.logit_bias.assign(oriel::logit_biases_max, {token_id{1}, 0.0f});
  CHECK(oriel::check(many));
  many.logit_bias.push_back({token_id{1}, 0.0f});
  CHECK(names(oriel::check(many), "logit_bias"));
  CHECK(names(oriel::check({.logprobs = 21}), "logprobs"));
}

TEST_CASE("only what looks at used tokens is a penalty") {
  CHECK_FALSE(has_penalties(sampling_options{.logit_bias = {{token_id{1}, 1.0f}}, .logprobs = 1}));
  CHECK(has_penalties(sampling_options{.repetition_penalty = 1.1f}));
  CHECK(has_penalties(sampling_options{.frequency_penalty = 0.1f}));
  CHECK(has_penalties(sampling_options{.presence_penalty = -0.1f}));
}

TEST_CASE("the kernel sees the options as they are") {
  const oriel::sample_filters f =
      oriel::filters_of({.temperature = 0.5f, .top_k = 3, .top_p = 0.9f, .min_p = 0.1f, .seed = 7});
  CHECK(f.temperature == 0.5f);
  CHECK(f.top_k == 3);
  CHECK(f.top_p == 0.9f);
  CHECK(f.min_p == 0.1f);
}

TEST_CASE("a request within its limits passes, at the edge too") {
  CHECK(oriel::check(good_request(), limits));
}

TEST_CASE("a request beyond the context is too large, without overflow") {
  request r = good_request();
  r.max_new_tokens = 11;
  CHECK(oriel::check(r, limits).error().code == errc::request_too_large);
  r.max_new_tokens = UINT32_MAX;
  CHECK(oriel::check(r, limits).error().code == errc::request_too_large);
}

TEST_CASE("what is wrong with a request is named") {
  const auto wrong = [](auto change) {
    request r = good_request();
    change(r);
    return oriel::check(r, limits);
  };
  CHECK(names(wrong([](request& r) { r.prompt.clear(); }), "empty"));
  CHECK(names(wrong([](request& r) { r.max_new_tokens = 0; }), "max_new_tokens"));
  CHECK(names(wrong([](request& r) { r.prompt[1] = token_id{100}; }), "vocabulary"));
  CHECK(names(wrong([](request& r) { r.stop.strings.push_back(""); }), "stop string"));
  CHECK(names(wrong([](request& r) { r.stop.strings[0].assign(2'000, 'x'); }), "too long"));
  CHECK(names(wrong([](request& r) { r.stop.strings.assign(17, "x"); }), "too many"));
  CHECK(names(wrong([](request& r) { r.stop.tokens.assign(65, token_id{1}); }), "too many"));
  CHECK(names(wrong([](request& r) { r.sampling.top_p = 2.0f; }), "top_p"));
  CHECK(names(wrong([](request& r) {
                r.sampling.logit_bias = {{token_id{100}, 1.0f}};
              }),
              "vocabulary"));
}

TEST_CASE("a tenant's name has a limit") {
  request r = good_request();
  r.tenant = std::string(limits.max_tenant_bytes, 't');
  CHECK(oriel::check(r, limits));
  r.tenant += 't';
  CHECK(names(oriel::check(r, limits), "tenant"));
}

TEST_CASE("finish reasons have names") {
  CHECK(std::strcmp(name_of(oriel::finish_reason::stop), "stop") == 0);
  CHECK(std::strcmp(name_of(oriel::finish_reason::length), "length") == 0);
  CHECK(std::strcmp(name_of(oriel::finish_reason::cancelled), "cancelled") == 0);
  CHECK(std::strcmp(name_of(oriel::finish_reason::failed), "failed") == 0);
  CHECK(std::strcmp(name_of(oriel::finish_reason::none), "none") == 0);
}

}  // namespace request_test
