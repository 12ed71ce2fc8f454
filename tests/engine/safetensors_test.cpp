// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <engine/error.hpp>
#include <engine/safetensors.hpp>
#include <support/safetensors_writer.hpp>
#include <support/temporary_directory.hpp>

#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

namespace safetensors_test {

using namespace oriel;
using namespace oriel::engine;

namespace {

test_tensors two_tensors() {
  return {{"a", {{2, 3}, dtype::f32, {1, 2, 3, 4, 5, 6}, {}}},
          {"b", {{4}, dtype::bf16, {1, 2, 3, 4}, {}}}};
}

std::string complaint(const temporary_directory& folder) {
  try {
    (void)safetensors_store::open(folder.path());
  } catch (const error& e) {
    return e.what();
  }
  return "";
}

/// The complaint about one file with this header and `payload_bytes` zeros.
std::string complaint(const std::string& header, std::size_t payload_bytes) {
  const temporary_directory folder;
  write_file(folder.path() / "model.safetensors",
             safetensors_bytes(header, std::string(payload_bytes, '\0')));
  return complaint(folder);
}

std::string index_of(const char* entries) {
  std::string index = R"({"weight_map":{)";
  return index.append(entries).append("}}");
}

/// One header entry's value.
std::string tensor(const char* type, const char* shape, const char* offsets) {
  std::string text = R"({"dtype":")";
  return text.append(type)
      .append(R"(","shape":)")
      .append(shape)
      .append(R"(,"data_offsets":)")
      .append(offsets)
      .append("}");
}

std::string header(std::initializer_list<std::pair<const char*, std::string>> entries) {
  std::string text;
  for (const auto& [name, value] : entries) {
    text.append(text.empty() ? "{\"" : ",\"").append(name).append("\":").append(value);
  }
  return text.append("}");
}

}  // namespace

TEST_CASE("tensors of one file are found by name, with their bytes") {
  const temporary_directory folder;
  write_file(folder.path() / "model.safetensors", safetensors_bytes(two_tensors()));
  const safetensors_store store = safetensors_store::open(folder.path());
  REQUIRE(store.entries().size() == 2);
  CHECK(store.size_bytes() == 24 + 8);
  CHECK(store.find("c") == nullptr);
  const tensor_entry* const a = store.find("a");
  REQUIRE(a != nullptr);
  CHECK(a->type == dtype::f32);
  CHECK(a->shape == std::vector<std::uint64_t>{2, 3});
  float values[6];
  for (int pass = 0; pass < 2; ++pass) {  // Dropped pages come back when they are read again.
    std::memcpy(values, store.bytes(*a).data(), sizeof values);
    CHECK(values[5] == 6.0f);
    store.drop(*a);
  }
}

TEST_CASE("shards, their index and MTP tensors beside them make one store") {
  const temporary_directory folder;
  const test_tensors all = two_tensors();
  write_file(folder.path() / "one.safetensors", safetensors_bytes({*all.begin()}));
  write_file(folder.path() / "two.safetensors", safetensors_bytes({*all.rbegin()}));
  write_file(folder.path() / "model_mtp.safetensors",
             safetensors_bytes({{"m", {{1}, dtype::f32, {9}, {}}}}));
  const auto index = folder.path() / "model.safetensors.index.json";
  write_file(index, index_of(R"("a": "one.safetensors", "b": "two.safetensors")"));
  const safetensors_store store = safetensors_store::open(folder.path());
  CHECK(store.entries().size() == 3);
  REQUIRE(store.find("m") != nullptr);
  CHECK(store.file_of(*store.find("b")).filename() == "two.safetensors");

  const std::pair<const char*, const char*> flaws[] = {
      {R"("a": "one.safetensors")", ""},  // Still complete: two.safetensors is not opened.
      {R"("a": "one.safetensors", "b": "one.safetensors")", "'b' is not in 'one.safetensors'"},
      {R"("a": "one.safetensors", "x": "two.safetensors")", "'b' of"},
      {R"("a": "two.safetensors", "b": "one.safetensors")", "is not listed there"},
      {R"("a": "one.safetensors", "b": "gone.safetensors")", "cannot open"},
      {R"("a": "../one.safetensors")", "plain file name"},
      {R"("a": "/etc/passwd")", "plain file name"},
      {R"("a": 7)", "plain file name"},
      {R"("a": "one.safetensors", "a": "one.safetensors")", "appears twice"},
      {R"("a": "model_mtp.safetensors")", "'m' of"},
  };
  for (const auto& [entries, words] : flaws) {
    write_file(index, index_of(entries));
    INFO(entries << " -> " << complaint(folder));
    CHECK(complaint(folder).find(words) != std::string::npos);
    CHECK(complaint(folder).empty() == (*words == '\0'));
  }
  write_file(index, "{}");
  CHECK(complaint(folder).find("no weight_map") != std::string::npos);
}

TEST_CASE("a name in two files is refused") {
  const temporary_directory folder;
  write_file(folder.path() / "model.safetensors", safetensors_bytes(two_tensors()));
  write_file(folder.path() / "model_mtp.safetensors", safetensors_bytes(two_tensors()));
  CHECK(complaint(folder).find("'a' appears twice") != std::string::npos);
}

TEST_CASE("a header that lies is refused, and the tensor named") {
  struct flaw {
    std::string header;
    const char* words;
  };
  const std::string good = tensor("F32", "[2]", "[0,8]");
  const flaw flaws[] = {
      {header({{"a", tensor("F32", "[2]", "[0,4]")}}), "needs 8 bytes, but data_offsets span 4"},
      {header({{"a", tensor("BF16", "[2]", "[0,8]")}}), "needs 4 bytes"},
      {header({{"a", tensor("F32", "[3]", "[0,12]")}}), "truncated"},
      {header({{"a", tensor("F32", "[2]", "[8,0]")}}), "data_offsets"},
      {header({{"a", tensor("F32", "[2]", "[0,8,8]")}}), "data_offsets"},
      {header({{"a", tensor("F32", "[2]", "[0.5,8]")}}), "non-negative integers"},
      {header({{"a", tensor("F32", "[-2]", "[0,8]")}}), "non-negative integers"},
      {header({{"a", tensor("F32", "[4294967296,4294967296,4]", "[0,8]")}}), "absurd"},
      {header({{"a", tensor("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]")}}), "at most 8"},
      {header({{"a", tensor("Q4", "[2]", "[0,8]")}}), "unknown dtype 'Q4'"},
      {header({{"a", R"({"dtype":"F32","shape":[2]})"}}), "expected dtype, shape and"},
      {header({{"a", "7"}}), "expected dtype, shape and data_offsets"},
      {header({{"a", good}, {"a", good}}), "overlaps"},
      {header({{"a", good}, {"b", tensor("F32", "[1]", "[4,8]")}}), "overlaps"},
      {header({{"b", tensor("F32", "[1]", "[4,8]")}}), "unnamed bytes"},
      {header({{"b", tensor("F32", "[1]", "[0,4]")}}), "4 bytes at the end"},
      {"{}", "8 bytes at the end"},
      {"[]", "bad header"},
      {"{\"a\"", "bad header"},
      {"", "bad header"},
      {header({{"a", good}, {"z", tensor("F32", "[0]", "[8,8]")}}), ""},
  };
  for (const flaw& f : flaws) {
    const std::string words = complaint(f.header, 8);
    INFO(f.header << " -> " << words);
    CHECK(words.find(f.words) != std::string::npos);
    CHECK(words.empty() == (*f.words == '\0'));
  }
  // The same name twice over no bytes passes every other check.
  const std::string empty = tensor("F32", "[0]", "[0,0]");
  CHECK(complaint(header({{"a", empty}, {"a", empty}}), 0).find("appears twice") !=
        std::string::npos);
}

TEST_CASE("an absurd header length is refused before memory is taken") {
  const temporary_directory folder;
  CHECK(complaint(folder).find("neither model.safetensors nor") != std::string::npos);
  for (const std::uint64_t length : {std::uint64_t{9}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    std::string file(16, ' ');
    std::memcpy(file.data(), &length, sizeof length);
    write_file(folder.path() / "model.safetensors", file);
    CHECK(complaint(folder).find("header of") != std::string::npos);
  }
  write_file(folder.path() / "model.safetensors", "1234567");
  CHECK(complaint(folder).find("shorter") != std::string::npos);
  write_file(folder.path() / "model.safetensors", "");
  CHECK(complaint(folder).find("shorter") != std::string::npos);
}

}  // namespace safetensors_test
