// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/byte_alphabet.hpp>
#include <engine/tokenizer/tokenizer_file.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <unordered_set>
#include <utility>

#include <simdjson.h>

namespace oriel::engine {
namespace {

using json_array = simdjson::dom::array;
using json_element = simdjson::dom::element;
using json_object = simdjson::dom::object;

// A place in the file, for messages only: "tokenizer.json: model.merges[12]".
class place {
 public:
  explicit place(std::string_view file) : text_(fmt::format("{}:", file)), is_root_(true) {}

  [[nodiscard]] place key(std::string_view name) const {
    return place(fmt::format("{}{}{}", text_, is_root_ ? " " : ".", name));
  }
  [[nodiscard]] place at(std::size_t index) const {
    return place(fmt::format("{}[{}]", text_, index));
  }
  [[nodiscard]] const std::string& text() const { return text_; }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) const {
    throw tokenizer_error(
        fmt::format("{} {}", text_, fmt::format(message, std::forward<Args>(args)...)));
  }

 private:
  explicit place(std::string&& text) : text_(std::move(text)), is_root_(false) {}

  std::string text_;
  bool is_root_;
};

constexpr const char* export_again = "the file is damaged or was edited; export it again";

const char* kind_of(json_element value) {
  switch (value.type()) {
    case simdjson::dom::element_type::ARRAY:
      return "a list";
    case simdjson::dom::element_type::OBJECT:
      return "an object";
    case simdjson::dom::element_type::STRING:
      return "a string";
    case simdjson::dom::element_type::BOOL:
      return "true or false";
    case simdjson::dom::element_type::NULL_VALUE:
      return "null";
    default:
      return "a number";
  }
}

json_object as_object(json_element value, const place& where) {
  json_object object;
  if (value.get(object) != simdjson::SUCCESS) {
    where.fail("is {}, expected an object; {}", kind_of(value), export_again);
  }
  return object;
}

json_array as_array(json_element value, const place& where) {
  json_array array;
  if (value.get(array) != simdjson::SUCCESS) {
    where.fail("is {}, expected a list; {}", kind_of(value), export_again);
  }
  return array;
}

std::string_view as_string(json_element value, const place& where) {
  std::string_view string;
  if (value.get(string) != simdjson::SUCCESS) {
    where.fail("is {}, expected a string; {}", kind_of(value), export_again);
  }
  return string;
}

bool as_bool(json_element value, const place& where) {
  bool b = false;
  if (value.get(b) != simdjson::SUCCESS) {
    where.fail("is {}, expected true or false; {}", kind_of(value), export_again);
  }
  return b;
}

bool is_null(json_element value) {
  return value.is_null();
}

// An object whose keys are all expected ones, each there once.
class fields {
 public:
  fields(json_element value, place where, std::initializer_list<std::string_view> expected)
      : object_(as_object(value, where)), where_(std::move(where)) {
    std::vector<std::string_view> seen;
    for (const auto field : object_) {
      if (std::find(expected.begin(), expected.end(), field.key) == expected.end()) {
        where_.key(field.key).fail(
            "is not a key this tokenizer knows; remove it if it has no effect");
      }
      if (std::find(seen.begin(), seen.end(), field.key) != seen.end()) {
        where_.key(field.key).fail("is there twice; {}", export_again);
      }
      seen.push_back(field.key);
    }
  }

  [[nodiscard]] const place& where() const { return where_; }
  [[nodiscard]] place where(std::string_view key) const { return where_.key(key); }

  // The value, or nothing if the key is absent or null.
  [[nodiscard]] std::optional<json_element> find(std::string_view key) const {
    json_element value;
    if (object_.at_key(key).get(value) != simdjson::SUCCESS || is_null(value)) {
      return std::nullopt;
    }
    return value;
  }
  [[nodiscard]] json_element need(std::string_view key) const {
    const auto value = find(key);
    if (!value) {
      where(key).fail("is missing; {}", export_again);
    }
    return *value;
  }
  [[nodiscard]] bool flag(std::string_view key, bool otherwise) const {
    const auto value = find(key);
    return value ? as_bool(*value, where(key)) : otherwise;
  }
  [[nodiscard]] std::string_view string(std::string_view key) const {
    return as_string(need(key), where(key));
  }
  void refuse_unless(bool fine, std::string_view key, std::string_view only) const {
    if (!fine) {
      where(key).fail("is not supported: only {} is", only);
    }
  }

 private:
  json_object object_;
  place where_;
};

// Without checking the other keys: which "type" an object claims to be.
std::string_view type_of(json_element value, const place& where) {
  json_element type;
  if (as_object(value, where).at_key("type").get(type) != simdjson::SUCCESS) {
    where.key("type").fail("is missing; {}", export_again);
  }
  return as_string(type, where.key("type"));
}

class reader {
 public:
  reader(std::string_view name, const tokenizer_limits& limits) : root_(name), limits_(limits) {}

  tokenizer_file read(std::string_view json) {
    if (json.size() > limits_.file_bytes) {
      root_.fail("has {} bytes, more than the limit of {}", json.size(), limits_.file_bytes);
    }
    simdjson::dom::parser parser;
    json_element document;
    const auto error = parser.parse(simdjson::padded_string(json)).get(document);
    if (error != simdjson::SUCCESS) {
      root_.fail("is not valid JSON: {}; {}", simdjson::error_message(error), export_again);
    }
    const fields top(document,
                     root_,
                     {"version",
                      "truncation",
                      "padding",
                      "added_tokens",
                      "normalizer",
                      "pre_tokenizer",
                      "post_processor",
                      "decoder",
                      "model"});
    for (const std::string_view key : {"truncation", "padding"}) {
      top.refuse_unless(!top.find(key), key, "null");
    }
    read_model(top);
    read_added_tokens(top);
    if (const auto normalizer = top.find("normalizer")) {
      read_normalizer(*normalizer, top.where("normalizer"));
    }
    read_pre_tokenizer(top.need("pre_tokenizer"), top.where("pre_tokenizer"));
    read_decoder(top.need("decoder"), top.where("decoder"));
    if (const auto post = top.find("post_processor")) {
      read_post_processor(*post, top.where("post_processor"));
    }
    return std::move(file_);
  }

 private:
  void read_model(const fields& top);
  void read_vocabulary(json_element value, const place& where);
  void read_merges(json_element value, const place& where);
  bpe_merge read_merge(json_element value, const place& list, std::size_t rank);
  void read_unknown(const fields& model);
  void read_added_tokens(const fields& top);
  added_token read_added_token(json_element value, const place& where);
  void read_normalizer(json_element value, const place& where);
  void read_pre_tokenizer(json_element value, const place& where);
  void read_split(json_element value, const place& where);
  void read_byte_level(json_element value, const place& where);
  void read_decoder(json_element value, const place& where);
  void read_post_processor(json_element value, const place& where);
  void read_template(json_element value, const place& where);

  [[nodiscard]] std::optional<std::uint32_t> find(std::string_view spelling) const {
    return file_.spelling_index.find(file_.spellings, spelling);
  }

  place root_;
  const tokenizer_limits& limits_;
  tokenizer_file file_;
  std::size_t vocab_count_ = 0;
  bool has_byte_level_ = false;
};

void reader::read_model(const fields& top) {
  json_element value = top.need("model");
  const fields model(value,
                     top.where("model"),
                     {"type",
                      "dropout",
                      "unk_token",
                      "continuing_subword_prefix",
                      "end_of_word_suffix",
                      "fuse_unk",
                      "byte_fallback",
                      "ignore_merges",
                      "vocab",
                      "merges"});
  if (const auto type = model.find("type")) {  // Early files have none.
    model.refuse_unless(as_string(*type, model.where("type")) == "BPE", "type", "\"BPE\"");
  }
  const auto dropout = model.find("dropout");
  double p = 0.0;
  model.refuse_unless(
      !dropout || (dropout->get(p) == simdjson::SUCCESS && p == 0.0), "dropout", "null");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.find(key);
    model.refuse_unless(!affix || as_string(*affix, model.where(key)).empty(), key, "null or \"\"");
  }
  model.refuse_unless(!model.flag("byte_fallback", false), "byte_fallback", "false");
  file_.vocabulary.fuse_unknown = model.flag("fuse_unk", false);
  file_.vocabulary.ignore_merges = model.flag("ignore_merges", false);
  read_vocabulary(model.need("vocab"), model.where("vocab"));
  read_merges(model.need("merges"), model.where("merges"));
  read_unknown(model);
}

void reader::read_unknown(const fields& model) {
  const auto unknown = model.find("unk_token");
  if (!unknown) {
    return;
  }
  const std::string_view spelling = as_string(*unknown, model.where("unk_token"));
  const auto id = find(spelling);
  if (!id) {
    model.where("unk_token")
        .fail("is \"{}\", which is not in model.vocab; {}", spelling, export_again);
  }
  file_.vocabulary.unknown = *id;
}

void reader::read_vocabulary(json_element value, const place& where) {
  const json_object vocab = as_object(value, where);
  std::vector<std::string_view> by_id;
  for (const auto field : vocab) {
    std::uint64_t id = 0;
    if (field.value.get(id) != simdjson::SUCCESS || id >= limits_.vocab_tokens) {
      where.key(field.key).fail("is not an id below {}; {}", limits_.vocab_tokens, export_again);
    }
    if (field.key.empty() || field.key.size() > limits_.token_bytes) {
      where.key(field.key.substr(0, 40))
          .fail("has {} bytes, expected 1 to {}; {}",
                field.key.size(),
                limits_.token_bytes,
                export_again);
    }
    if (id >= by_id.size()) {
      by_id.resize(static_cast<std::size_t>(id) + 1);
    }
    if (!by_id[id].empty()) {
      where.key(field.key).fail("has id {}, as \"{}\" has; {}", id, by_id[id], export_again);
    }
    by_id[id] = field.key;
    ++vocab_count_;
  }
  if (by_id.empty()) {
    where.fail("is empty; {}", export_again);
  }
  file_.spelling_index = token_index(by_id.size() + limits_.added_tokens / 16);
  for (std::uint32_t id = 0; id < by_id.size(); ++id) {
    file_.spellings.push_back(by_id[id]);
    if (!by_id[id].empty() && !file_.spelling_index.insert(file_.spellings, id)) {
      where.key(by_id[id]).fail("is there twice; {}", export_again);
    }
    const auto bytes = bytes_of_spelling(by_id[id]);
    file_.vocabulary.tokens.push_back(bytes ? std::string_view(*bytes) : by_id[id]);
    file_.vocabulary.in_alphabet.push_back(bytes.has_value());
  }
}

void reader::read_merges(json_element value, const place& where) {
  const json_array merges = as_array(value, where);
  std::size_t rank = 0;
  for (const json_element merge : merges) {
    if (rank == limits_.merges) {
      where.fail("has more than {} entries, the limit", limits_.merges);
    }
    file_.vocabulary.merges.push_back(read_merge(merge, where, rank));
    ++rank;
  }
}

bpe_merge reader::read_merge(json_element value, const place& list, std::size_t rank) {
  std::string_view left, right;
  if (std::string_view text; value.get(text) == simdjson::SUCCESS) {
    const std::size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      list.at(rank).fail(
          "is \"{}\", expected two tokens with a space between; {}", text, export_again);
    }
    left = text.substr(0, space);
    right = text.substr(space + 1);
  } else {
    const place where = list.at(rank);
    const json_array pair = as_array(value, where);
    if (pair.size() != 2) {
      where.fail("has {} parts, expected two tokens; {}", pair.size(), export_again);
    }
    left = as_string(pair.at(0), where);
    right = as_string(pair.at(1), where);
  }
  const auto need = [&](std::string_view token) {
    const auto id = find(token);
    if (!id) {
      list.at(rank).fail("names \"{}\", which is not in model.vocab; {}", token, export_again);
    }
    return *id;
  };
  return {need(left), need(right), need(std::string(left).append(right))};
}

void reader::read_added_tokens(const fields& top) {
  const auto list = top.find("added_tokens");
  if (!list) {
    return;
  }
  const place where = top.where("added_tokens");
  std::unordered_set<std::string_view> seen;
  std::size_t next_id = vocab_count_;  // Where `tokenizers` goes on counting.
  const json_array entries = as_array(*list, where);
  if (entries.size() > limits_.added_tokens) {
    where.fail("has {} entries, more than the limit of {}", entries.size(), limits_.added_tokens);
  }
  file_.added.reserve(entries.size());
  for (const json_element entry : entries) {
    const place here = where.at(file_.added.size());
    added_token token = read_added_token(entry, here);
    const auto in_vocab = find(token.content);
    const std::size_t expected = in_vocab ? *in_vocab : next_id;
    if (token.id != expected) {
      here.key("id").fail(
          "is {}, but \"{}\" must have id {}; {}", token.id, token.content, expected, export_again);
    }
    next_id = std::max(next_id, expected + 1);
    file_.added.push_back(std::move(token));
    if (!seen.insert(file_.added.back().content).second) {
      here.key("content").fail(
          "is \"{}\", as another one is; {}", file_.added.back().content, export_again);
    }
  }
}

added_token reader::read_added_token(json_element value, const place& where) {
  const fields entry(
      value, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  added_token token;
  token.content = entry.string("content");
  if (token.content.empty() || token.content.size() > limits_.token_bytes) {
    entry.where("content").fail(
        "has {} bytes, expected 1 to {}", token.content.size(), limits_.token_bytes);
  }
  std::uint64_t id = 0;
  if (entry.need("id").get(id) != simdjson::SUCCESS || id >= limits_.vocab_tokens) {
    entry.where("id").fail("is not an id below {}; {}", limits_.vocab_tokens, export_again);
  }
  token.id = static_cast<std::uint32_t>(id);
  token.single_word = entry.flag("single_word", false);
  token.lstrip = entry.flag("lstrip", false);
  token.rstrip = entry.flag("rstrip", false);
  token.normalized = entry.flag("normalized", true);
  token.special = entry.flag("special", false);
  return token;
}

void reader::read_normalizer(json_element value, const place& where) {
  const std::string_view type = type_of(value, where);
  if (type == "NFC") {
    const fields nfc(value, where, {"type"});
    file_.nfc = true;
  } else if (type == "Sequence") {
    const fields sequence(value, where, {"type", "normalizers"});
    const place list = sequence.where("normalizers");
    std::size_t index = 0;
    for (const json_element step : as_array(sequence.need("normalizers"), list)) {
      const place here = list.at(index++);
      if (type_of(step, here) != "NFC") {  // No sequences within sequences: depth stays bounded.
        here.key("type").fail("is \"{}\", which is not supported: only \"NFC\" is",
                              type_of(step, here));
      }
      read_normalizer(step, here);
    }
  } else {
    where.key("type").fail("is \"{}\", which is not supported: only \"NFC\" and \"Sequence\" are",
                           type);
  }
}

void reader::read_pre_tokenizer(json_element value, const place& where) {
  const std::string_view type = type_of(value, where);
  if (type == "ByteLevel") {
    read_byte_level(value, where);
  } else if (type == "Sequence") {
    const fields sequence(value, where, {"type", "pretokenizers"});
    const place list = sequence.where("pretokenizers");
    const json_array steps = as_array(sequence.need("pretokenizers"), list);
    if (steps.size() > limits_.pre_tokenizer_steps) {
      list.fail(
          "has {} steps, more than the limit of {}", steps.size(), limits_.pre_tokenizer_steps);
    }
    std::size_t index = 0;
    for (const json_element step : steps) {
      const place here = list.at(index++);
      const std::string_view kind = type_of(step, here);
      if (has_byte_level_) {
        here.fail("follows \"ByteLevel\", which must be the last step");
      }
      if (kind == "Split") {
        read_split(step, here);
      } else if (kind == "ByteLevel") {
        read_byte_level(step, here);
      } else {
        here.key("type").fail(
            "is \"{}\", which is not supported: only \"Split\" and \"ByteLevel\" are", kind);
      }
    }
  } else {
    where.key("type").fail(
        "is \"{}\", which is not supported: only \"ByteLevel\" and \"Sequence\" are", type);
  }
  if (!has_byte_level_) {
    where.fail("has no \"ByteLevel\" step; only byte-level tokenizers are supported");
  }
}

void reader::read_split(json_element value, const place& where) {
  const fields split(value, where, {"type", "pattern", "behavior", "invert"});
  const fields pattern(split.need("pattern"), split.where("pattern"), {"Regex", "String"});
  pattern.refuse_unless(!pattern.find("String"), "String", "\"Regex\"");
  split.refuse_unless(split.string("behavior") == "Isolated", "behavior", "\"Isolated\"");
  split.refuse_unless(!split.flag("invert", false), "invert", "false");
  const std::string_view regex = pattern.string("Regex");
  if (regex.empty() || regex.size() > limits_.token_bytes) {
    pattern.where("Regex").fail(
        "has {} bytes, expected 1 to {}", regex.size(), limits_.token_bytes);
  }
  file_.splits.push_back({std::string(regex), pattern.where("Regex").text()});
}

void reader::read_byte_level(json_element value, const place& where) {
  const fields level(value, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  file_.add_prefix_space = level.flag("add_prefix_space", true);
  file_.byte_level_regex = level.flag("use_regex", true);
  has_byte_level_ = true;
}

void reader::read_decoder(json_element value, const place& where) {
  const std::string_view type = type_of(value, where);
  if (type != "ByteLevel") {
    where.key("type").fail("is \"{}\", which is not supported: only \"ByteLevel\" is", type);
  }
}

void reader::read_post_processor(json_element value, const place& where) {
  const std::string_view type = type_of(value, where);
  if (type == "ByteLevel") {
    return;  // It moves offsets, which are not reported, and no ids.
  }
  if (type == "TemplateProcessing") {
    read_template(value, where);
    return;
  }
  if (type != "Sequence") {
    where.key("type").fail(
        "is \"{}\", which is not supported: only \"ByteLevel\", \"TemplateProcessing\" and a "
        "\"Sequence\" of them are",
        type);
  }
  const fields sequence(value, where, {"type", "processors"});
  const place list = sequence.where("processors");
  std::size_t index = 0, templates = 0;
  for (const json_element step : as_array(sequence.need("processors"), list)) {
    const place here = list.at(index++);
    const std::string_view kind = type_of(step, here);
    if (kind == "TemplateProcessing" && ++templates == 1) {
      read_template(step, here);
    } else if (kind != "ByteLevel") {
      here.key("type").fail(
          "is \"{}\", which is not supported here: only \"ByteLevel\" and one "
          "\"TemplateProcessing\" are",
          kind);
    }
  }
}

// "single" is the list of what a text becomes: special tokens, the text ("A"), special tokens.
void reader::read_template(json_element value, const place& where) {
  const fields processor(value, where, {"type", "single", "pair", "special_tokens"});
  const place specials_at = processor.where("special_tokens");
  const json_object specials = as_object(processor.need("special_tokens"), specials_at);
  const auto append_ids = [&](std::string_view name, std::vector<std::uint32_t>& out) {
    const place here = specials_at.key(name);
    json_element special;
    if (specials.at_key(name).get(special) != simdjson::SUCCESS) {
      here.fail("is missing; {}", export_again);
    }
    const fields entry(special, here, {"id", "ids", "tokens"});
    for (const json_element id : as_array(entry.need("ids"), entry.where("ids"))) {
      std::uint64_t number = 0;
      if (id.get(number) != simdjson::SUCCESS || number >= limits_.vocab_tokens) {
        entry.where("ids").fail(
            "holds something else than ids below {}; {}", limits_.vocab_tokens, export_again);
      }
      out.push_back(static_cast<std::uint32_t>(number));
    }
  };
  const place list = processor.where("single");
  std::size_t index = 0, texts = 0;
  for (const json_element piece : as_array(processor.need("single"), list)) {
    const place here = list.at(index++);
    const fields either(piece, here, {"SpecialToken", "Sequence"});
    if (const auto special = either.find("SpecialToken")) {
      const fields token(*special, here.key("SpecialToken"), {"id", "type_id"});
      append_ids(token.string("id"), texts == 0 ? file_.before : file_.after);
    } else {
      const fields text(either.need("Sequence"), here.key("Sequence"), {"id", "type_id"});
      text.refuse_unless(text.string("id") == "A", "id", "\"A\"");
      ++texts;
    }
  }
  if (texts != 1) {
    list.fail("holds the text {} times, expected once", texts);
  }
}
}  // namespace

tokenizer_file read_tokenizer_file(std::string_view json,
                                   std::string_view name,
                                   const tokenizer_limits& limits) {
  return reader(name, limits).read(json);
}

}  // namespace oriel::engine
