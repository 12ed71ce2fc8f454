// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/tokenizer/unicode.hpp>
#include <engine/tokenizer/word_regex.hpp>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include <pcre2.h>

namespace oriel::engine {
namespace {

// Steps one match may take: far beyond what a sane pattern needs for the longest text, and still
// an answer within seconds on a bad one.
constexpr std::uint32_t match_limit = 50'000'000;
constexpr std::uint32_t heap_limit_kib = 256u << 10;
constexpr std::size_t jit_stack_bytes = std::size_t{64} << 10;
constexpr std::size_t jit_stack_bytes_max = std::size_t{8} << 20;

struct code_deleter {
  void operator()(pcre2_code* p) const noexcept { pcre2_code_free(p); }
};
struct compile_context_deleter {
  void operator()(pcre2_compile_context* p) const noexcept { pcre2_compile_context_free(p); }
};
struct match_context_deleter {
  void operator()(pcre2_match_context* p) const noexcept { pcre2_match_context_free(p); }
};
struct match_data_deleter {
  void operator()(pcre2_match_data* p) const noexcept { pcre2_match_data_free(p); }
};
struct jit_stack_deleter {
  void operator()(pcre2_jit_stack* p) const noexcept { pcre2_jit_stack_free(p); }
};

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// Walks over a pattern and writes it in PCRE2's syntax.
class translator {
 public:
  translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_member(c);
      } else {
        outside(c);
      }
    }
    return std::move(out_);
  }

 private:
  [[nodiscard]] bool next_is(std::string_view s) const { return in_.substr(at_).starts_with(s); }

  [[noreturn]] void refuse(std::string_view construct) const {
    throw tokenizer_error(
        fmt::format("{}: the pattern has {} at byte {}, which is not supported; rewrite it without",
                    where_,
                    construct,
                    at_));
  }

  void copy(std::size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += std::min(count, in_.size() - at_);
  }

  // `members` stands for a set of characters, inside a class or alone.
  void put_set(std::string_view members, std::size_t consumed) {
    at_ += consumed;
    if (in_class_) {
      out_.append(members);
    } else {
      out_.append("[").append(members).append("]");
    }
  }

  void escape() {
    if (at_ + 1 >= in_.size()) {
      refuse("a lone backslash");
    }
    switch (in_[at_ + 1]) {
      case 's':
        return put_set(R"(\p{White_Space})", 2);
      case 'S':
        return put_set(R"(\P{White_Space})", 2);
      case 'w':
        return put_set(word(), 2);
      case 'W':
        if (in_class_) {
          refuse("\\W within [...]");
        }
        return put_set(std::string("^").append(word()), 2);
      case 'p':
        return property();
      case 'b':
      case 'B':
      case 'h':
      case 'H':
      case 'R':
      case 'X':
        return refuse(in_.substr(at_, 2));
      default:
        return copy(next_is_braced() ? in_.find('}', at_) - at_ + 1 : 2);
    }
  }

  // \w as Oniguruma has it: superscripts and fractions of Latin-1 belong to it.
  static std::string word() {
    return R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\p{Alphabetic}\xB2\xB3\xB9\xBC-\xBE)" +
           newer_characters(class_letter) + newer_characters(class_word);
  }

  // \p{L} and \p{N} gain the characters that PCRE2's Unicode does not have yet.
  void property() {
    if (next_is(R"(\p{L})")) {
      put_set(R"(\p{L})" + newer_characters(class_letter), 5);
    } else if (next_is(R"(\p{N})")) {
      put_set(R"(\p{N})" + newer_characters(class_number), 5);
    } else {
      copy(next_is_braced() ? in_.find('}', at_) - at_ + 1 : 2);
    }
  }

  // \p{...}, \P{...}, \x{...}: the braces belong to the escape.
  [[nodiscard]] bool next_is_braced() const {
    return at_ + 2 < in_.size() && in_[at_ + 2] == '{' &&
           in_.find('}', at_) != std::string_view::npos;
  }

  void class_member(char c) {
    if (c == '[') {
      refuse("'[' within [...]");
    }
    if (next_is("&&")) {
      refuse("'&&' within [...]");
    }
    const bool first = at_ == class_begin_;
    if (c == ']') {
      if (first) {
        refuse("an empty class");
      }
      in_class_ = false;
    }
    copy(1);
  }

  void outside(char c) {
    if (c == '[') {
      in_class_ = true;
      copy(1);
      if (next_is("^")) {
        copy(1);
      }
      class_begin_ = at_;
      return;
    }
    if (next_is("{,")) {
      refuse("'{,'");
    }
    if (next_is("}+")) {
      refuse("'}+'");
    }
    if (next_is("(?")) {
      return group();
    }
    copy(1);
  }

  // (?m) means another thing in Ruby; all other options and groups mean the same.
  void group() {
    for (std::size_t i = at_ + 2; i < in_.size(); ++i) {
      const char c = in_[i];
      if (c == 'm') {
        refuse("the option 'm'");
      }
      if (c != 'i' && c != 'x' && c != '-') {
        break;
      }
    }
    copy(2);
  }

  std::string_view in_;
  const std::string& where_;
  std::string out_;
  std::size_t at_ = 0;
  std::size_t class_begin_ = 0;
  bool in_class_ = false;
};
}  // namespace

std::string translate_pattern(std::string_view pattern, const std::string& where) {
  return translator(pattern, where).run();
}

struct word_regex::compiled {
  std::unique_ptr<pcre2_code, code_deleter> code;
  std::string where;
};

word_regex::word_regex(std::string_view pattern, std::string where) {
  const std::string translated = translate_pattern(pattern, where);
  const std::unique_ptr<pcre2_compile_context, compile_context_deleter> context(
      pcre2_compile_context_create(nullptr));
  if (context == nullptr) {
    throw std::bad_alloc();
  }
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  std::unique_ptr<pcre2_code, code_deleter> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                    translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                    &error,
                    &offset,
                    context.get()));
  if (code == nullptr) {
    throw tokenizer_error(fmt::format(
        "{}: the pattern \"{}\" does not compile: {}", where, pattern, message_of(error)));
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // Where there is no JIT, it is interpreted.
  compiled_ = std::make_shared<const compiled>(compiled{std::move(code), std::move(where)});
}

namespace {

// One run over one text: PCRE2's per-call state, and how matches follow each other.
class match_run {
 public:
  match_run(const pcre2_code* code, const std::string& where, std::string_view text)
      : code_(code),
        where_(where),
        text_(text),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    if (data_ == nullptr || context_ == nullptr) {
      throw std::bad_alloc();
    }
    pcre2_set_match_limit(context_.get(), match_limit);
    pcre2_set_heap_limit(context_.get(), heap_limit_kib);
  }

  // Finds the first match at or behind `from`; false if there is none.
  bool find(std::size_t from) {
    int found = match(from, PCRE2_NO_UTF_CHECK);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {  // 32 KiB were not enough.
      stack_.reset(pcre2_jit_stack_create(jit_stack_bytes, jit_stack_bytes_max, nullptr));
      if (stack_ != nullptr) {
        pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
        found = match(from, PCRE2_NO_UTF_CHECK);
      }
    }
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // The interpreter works on the heap.
      found = match(from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    }
    if (found == PCRE2_ERROR_NOMATCH) {
      return false;
    }
    if (found < 0) {
      throw tokenizer_error(fmt::format("{}: the pattern gave up on a text of {} bytes: {}",
                                        where_,
                                        text_.size(),
                                        message_of(found)));
    }
    return true;
  }

  [[nodiscard]] std::size_t begin() const { return pcre2_get_ovector_pointer(data_.get())[0]; }
  [[nodiscard]] std::size_t end() const { return pcre2_get_ovector_pointer(data_.get())[1]; }

 private:
  int match(std::size_t from, std::uint32_t options) {
    return pcre2_match(code_,
                       reinterpret_cast<PCRE2_SPTR>(text_.data()),
                       text_.size(),
                       from,
                       options,
                       data_.get(),
                       context_.get());
  }

  const pcre2_code* code_;
  const std::string& where_;
  std::string_view text_;
  std::unique_ptr<pcre2_match_data, match_data_deleter> data_;
  std::unique_ptr<pcre2_match_context, match_context_deleter> context_;
  std::unique_ptr<pcre2_jit_stack, jit_stack_deleter> stack_;
};
}  // namespace

void word_regex::split(std::string_view text,
                       std::size_t base,
                       std::vector<std::size_t>& ends) const {
  match_run run(compiled_->code.get(), compiled_->where, text);
  std::size_t done = 0;         // the text before is cut
  std::size_t from = 0;         // where to look next
  bool matched_before = false;  // a match ended at `done`
  const auto cut = [&](std::size_t end) {
    if (end > done) {
      ends.push_back(base + end);
      done = end;
    }
  };
  while (from <= text.size() && run.find(from)) {
    const std::size_t begin = run.begin();
    const std::size_t end = run.end();
    if (begin == end && matched_before && begin == done) {
      // An empty match right behind a match does not count: look from the next character on.
      from += from < text.size() ? decode_at(text, from).length_bytes : 1;
      matched_before = false;
      continue;
    }
    cut(begin);
    cut(end);
    from = end;
    matched_before = true;
  }
  cut(text.size());
}

}  // namespace oriel::engine
