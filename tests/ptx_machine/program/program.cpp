// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"
#include "tokens.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

namespace oriel::ptx_machine {
namespace {

constexpr std::uint32_t aligned_to(std::uint32_t value, std::uint32_t align) {
  return (value + align - 1) / align * align;
}

/// Bytes of ".b8", ".u64", ...; 0 of what is no type.
std::uint32_t type_bytes(std::string_view type) {
  constexpr std::array<std::pair<std::string_view, std::uint32_t>, 4> widths{
      {{"8", 1}, {"16", 2}, {"32", 4}, {"64", 8}}};
  if (type.size() < 3 || type[0] != '.' ||
      std::string_view("bsuf").find(type[1]) == std::string_view::npos) {
    return 0;
  }
  for (const auto& [digits, bytes] : widths) {
    if (type.substr(2) == digits) {
      return bytes;
    }
  }
  return 0;
}

std::optional<special_register> find_special(std::string_view name) {
  using enum special_register;
  static const std::map<std::string_view, special_register> specials{
      {"%tid.x", tid_x},
      {"%tid.y", tid_y},
      {"%tid.z", tid_z},
      {"%ntid.x", ntid_x},
      {"%ntid.y", ntid_y},
      {"%ntid.z", ntid_z},
      {"%ctaid.x", ctaid_x},
      {"%ctaid.y", ctaid_y},
      {"%ctaid.z", ctaid_z},
      {"%nctaid.x", nctaid_x},
      {"%nctaid.y", nctaid_y},
      {"%nctaid.z", nctaid_z},
      {"%laneid", laneid},
      {"%warpid", warpid},
      {"%clusterid.x", clusterid_x},
      {"%nclusterid.x", nclusterid_x},
      {"%cluster_ctaid.x", cluster_ctaid_x},
      {"%cluster_nctaid.x", cluster_nctaid_x},
      {"%cluster_ctarank", cluster_ctarank},
      {"%cluster_nctarank", cluster_nctarank}};
  const auto found = specials.find(name);
  return found == specials.end() ? std::nullopt : std::optional(found->second);
}

/// What the names of memory in a kernel stand for. Dynamic shared memory begins behind all static variables, so its
/// offset is known only at the kernel's end.
struct symbol {
  address_base base = address_base::absolute;
  std::uint32_t offset = 0;
  bool is_dynamic = false;
};

class parser {
 public:
  parser(std::string_view text, std::string_view name)
      : name_(name), tokens_(split_into_tokens(text)) {
    module_.files.emplace_back();
  }

  module all() {
    while (!at_end()) {
      top_level();
    }
    return std::move(module_);
  }

 private:
  // ---- tokens ------------------------------------------------------------------------------------------------------

  [[nodiscard]] bool at_end() const { return tokens_[at_].text.empty(); }
  [[nodiscard]] std::string_view peek() const { return tokens_[at_].text; }
  std::string_view take() {
    if (at_end()) {
      fail("the text ends too early");
    }
    return tokens_[at_++].text;
  }
  bool take_if(std::string_view text) {
    if (peek() != text) {
      return false;
    }
    ++at_;
    return true;
  }
  void expect(std::string_view text) {
    if (!take_if(text)) {
      fail("expected '" + std::string(text) + "', not '" + std::string(peek()) + "'");
    }
  }
  void take_line() {
    const std::uint32_t line = tokens_[at_].line;
    while (!at_end() && tokens_[at_].line == line) {
      ++at_;
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw machine_error(name_ + ":" + std::to_string(tokens_[at_].line) + ": " + what);
  }

  std::uint64_t number() {
    const std::string_view text = take();
    std::string_view digits = text;
    const bool negative = digits.starts_with('-');
    digits.remove_prefix(negative ? 1 : 0);
    int base = 10;
    if (digits.size() > 2 && digits[0] == '0' &&
        std::string_view("xXfFdDbB").find(digits[1]) != std::string_view::npos) {
      base = digits[1] == 'b' || digits[1] == 'B' ? 2 : 16;
      digits.remove_prefix(2);
    }
    if (digits.ends_with('U')) {
      digits.remove_suffix(1);
    }
    std::uint64_t value = 0;
    const auto [end, code] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (code != std::errc() || end != digits.data() + digits.size() || digits.empty()) {
      --at_;
      fail("'" + std::string(text) + "' is no number");
    }
    return negative ? ~value + 1 : value;
  }
  std::uint32_t number_32() { return static_cast<std::uint32_t>(number()); }

  // ---- the module --------------------------------------------------------------------------------------------------

  void top_level() {
    const std::string_view word = take();
    if (word == ".version" || word == ".address_size") {
      take();
    } else if (word == ".target") {
      module_.target = take();
      while (take_if(",")) {
        take();
      }
    } else if (word == ".file") {
      --at_;
      file();
    } else if (word == ".section") {
      take();
      expect("{");
      while (!take_if("}")) {
        take();
      }
    } else if (word == ".visible" || word == ".weak") {
      // The next says of what.
    } else if (word == ".entry") {
      entry();
    } else if (word == ".extern") {
      expect(".shared");
      variable(address_base::shared, shared_of_module_, true);
    } else {
      --at_;
      fail("'" + std::string(word) + "' is not known here");
    }
  }

  void file() {
    const std::uint32_t line = tokens_[at_].line;
    take();
    const std::uint32_t index = number_32();
    std::string_view path = take();
    path = path.substr(1, path.size() - 2);
    module_.files.resize(std::max<std::size_t>(module_.files.size(), index + 1));
    module_.files[index] = path;
    if (tokens_[at_].line == line) {
      take_line();  // Its date and size.
    }
  }

  /// ".align 16 .b8 name[8192];", its kind taken. Sizes are added to those of the kernel under way.
  void variable(address_base base, std::map<std::string_view, symbol>& symbols, bool is_extern) {
    std::uint32_t align = 0;
    if (take_if(".align")) {
      align = number_32();
    }
    const std::uint32_t element = type_bytes(take());
    if (element == 0) {
      fail("a variable without a type");
    }
    align = std::max(align, element);
    const std::string_view name = take();
    std::uint32_t bytes = element;
    if (take_if("[")) {
      bytes = peek() == "]" ? 0 : element * number_32();
      expect("]");
    }
    expect(";");
    if (is_extern) {
      dynamic_align_ = std::max(dynamic_align_, align);
      symbols[name] = {base, 0, true};
      return;
    }
    std::uint32_t& end =
        base == address_base::shared ? kernel_.static_shared_bytes : kernel_.local_bytes;
    end = aligned_to(end, align);
    symbols[name] = {base, end, false};
    end += bytes;
  }

  // ---- a kernel ----------------------------------------------------------------------------------------------------

  void entry() {
    kernel_ = {};
    kernel_.name = take();
    symbols_ = shared_of_module_;
    labels_.clear();
    jumps_.clear();
    dynamic_operands_.clear();
    here_ = {};
    if (take_if("(")) {
      while (!take_if(")")) {
        parameter();
        take_if(",");
      }
    }
    while (peek() != "{") {
      kernel_directive();
    }
    scopes_.clear();
    block();
    finish_kernel();
  }

  void parameter() {
    expect(".param");
    std::uint32_t align = 0, element = 0;
    while (peek().starts_with('.')) {
      if (take_if(".align")) {
        align = number_32();
      } else {
        element =
            std::max(element, type_bytes(take()));  // And ".ptr", ".global": what it points to.
      }
    }
    if (element == 0) {
      fail("a parameter without a type");
    }
    const std::string_view name = take();
    parameter_info made{.name = std::string(name), .size_bytes = element};
    if (take_if("[")) {
      made.size_bytes = element * number_32();
      expect("]");
    }
    made.offset_bytes = aligned_to(kernel_.parameter_bytes, std::max(align, element));
    kernel_.parameter_bytes = made.offset_bytes + made.size_bytes;
    symbols_[name] = {address_base::parameter, made.offset_bytes, false};
    kernel_.parameters.push_back(std::move(made));
  }

  void kernel_directive() {
    const std::string_view word = take();
    if (word == ".maxntid") {
      const auto [x, y, z] = triple();
      kernel_.max_threads = x * y * z;
    } else if (word == ".minnctapersm") {
      kernel_.blocks_per_multiprocessor_min = number_32();
    } else if (word == ".reqnctapercluster") {
      const auto sizes = triple();
      std::copy(sizes.begin(), sizes.end(), kernel_.cluster);
    } else if (word != ".explicitcluster") {
      --at_;
      fail("the directive '" + std::string(word) + "' is not known");
    }
  }
  std::array<std::uint32_t, 3> triple() {
    std::array<std::uint32_t, 3> sizes{number_32(), 1, 1};
    for (std::size_t i = 1; i < 3 && take_if(","); ++i) {
      sizes[i] = number_32();
    }
    return sizes;
  }

  void block() {
    expect("{");
    scopes_.emplace_back();
    ++scopes_seen_;
    while (!take_if("}")) {
      if (peek() == "{") {
        block();
      } else {
        statement();
      }
    }
    scopes_.pop_back();
  }

  void statement() {
    const std::string_view word = peek();
    if (word == ".reg") {
      take();
      declare_registers();
    } else if (word == ".loc") {
      location();
    } else if (word == ".file") {
      file();
    } else if (word == ".pragma") {
      while (take() != ";") {
      }
    } else if (word == ".shared" || word == ".local") {
      take();
      variable(word == ".shared" ? address_base::shared : address_base::local, symbols_, false);
    } else if (tokens_[at_ + 1].text == ":") {
      labels_[take()] = static_cast<std::uint32_t>(kernel_.code.size());
      take();
    } else {
      one_instruction();
    }
  }

  void location() {
    const std::uint32_t line = tokens_[at_].line;
    take();
    here_.file = number_32();
    here_.line = number_32();
    if (tokens_[at_].line == line) {
      take_line();
    }
  }

  void declare_registers() {
    const std::string_view type = take();
    const std::uint32_t bytes = type_bytes(type);
    if (type != ".pred" && bytes == 0) {
      fail("registers of type '" + std::string(type) + "'");
    }
    const register_class width = type == ".pred" ? register_class::predicate
                                 : bytes <= 2    ? register_class::b16
                                 : bytes == 4    ? register_class::b32
                                                 : register_class::b64;
    do {
      const std::string name(take());
      if (take_if("<")) {
        const std::uint32_t count = number_32();
        expect(">");
        for (std::uint32_t i = 0; i < count; ++i) {
          declare(name + std::to_string(i), width);
        }
      } else {
        declare(name, width);
      }
    } while (take_if(","));
    expect(";");
  }
  void declare(const std::string& name, register_class width) {
    scopes_.back()[name] = static_cast<std::uint32_t>(kernel_.registers.size());
    kernel_.registers.push_back(
        {scopes_.size() > 1 ? name + "#" + std::to_string(scopes_seen_) : name, width});
  }
  [[nodiscard]] std::optional<std::uint32_t> find_register(std::string_view name) const {
    const std::string wanted(name);
    for (std::size_t s = scopes_.size(); s-- > 0;) {
      if (const auto found = scopes_[s].find(wanted); found != scopes_[s].end()) {
        return found->second;
      }
    }
    return std::nullopt;
  }
  std::uint32_t take_register() {
    const auto found = find_register(peek());
    if (!found) {
      fail("'" + std::string(peek()) + "' is no register");
    }
    take();
    return *found;
  }

  // ---- instructions ------------------------------------------------------------------------------------------------

  void one_instruction() {
    instruction made;
    made.at = here_;
    made.at.ptx_line = tokens_[at_].line;
    if (take_if("@")) {
      made.guard_negated = take_if("!");
      made.guard = take_register();
    }
    made.opcode = opcode(take());
    made.first_operand = static_cast<std::uint32_t>(kernel_.operands.size());
    while (!take_if(";")) {
      take_operand();
      take_if(",");
    }
    made.operand_count = static_cast<std::uint32_t>(kernel_.operands.size()) - made.first_operand;
    kernel_.code.push_back(made);
  }

  std::uint32_t opcode(std::string_view spelling) {
    const auto [found, is_new] = opcodes_.try_emplace(
        std::string(spelling), static_cast<std::uint32_t>(module_.opcodes.size()));
    if (is_new) {
      module_.opcodes.emplace_back(spelling);
    }
    return found->second;
  }

  void take_operand() {
    if (peek() == "{") {
      take_vector();
    } else if (peek() == "[") {
      take_memory();
    } else if (take_if("_")) {
      kernel_.operands.emplace_back();
    } else {
      take_plain();
    }
  }

  void take_vector() {
    expect("{");
    const std::size_t head = kernel_.operands.size();
    kernel_.operands.push_back({.kind = operand_kind::vector});
    while (!take_if("}")) {
      take_operand();
      take_if(",");
    }
    kernel_.operands[head].index = static_cast<std::uint32_t>(kernel_.operands.size() - head - 1);
  }

  void take_memory() {
    expect("[");
    operand made{.kind = operand_kind::memory};
    bool is_dynamic = false;
    if (const auto base = find_register(peek())) {
      made.index = *base;
      take();
    } else if (const auto found = symbols_.find(peek()); found != symbols_.end()) {
      made.base = found->second.base;
      made.value = found->second.offset;
      is_dynamic = found->second.is_dynamic;
      take();
    } else {
      made.base = address_base::absolute;
      made.value = number();
    }
    if (take_if("+")) {
      made.value += number();
    }
    expect("]");
    push_address(made, is_dynamic);
  }

  void take_plain() {
    operand made;
    made.negated = take_if("!");
    if (const auto name = find_register(peek())) {
      made.kind = operand_kind::reg;
      made.index = *name;
      take();
    } else if (const auto special = find_special(peek())) {
      made.kind = operand_kind::special;
      made.special = *special;
      take();
    } else if (const auto found = symbols_.find(peek()); found != symbols_.end()) {
      take();
      made.kind = found->second.base == address_base::parameter ? operand_kind::parameter_address
                  : found->second.base == address_base::shared  ? operand_kind::shared_address
                                                                : operand_kind::local_address;
      made.value = found->second.offset;
      if (take_if("+")) {
        made.value += number();
      }
      push_address(made, found->second.is_dynamic);
      return;
    } else if (peek().starts_with('$')) {
      made.kind = operand_kind::label;
      jumps_.emplace_back(kernel_.operands.size(), take());
    } else {
      made.kind = operand_kind::immediate;
      made.value = number();
    }
    if (take_if("|")) {
      made.has_second = true;
      kernel_.operands.push_back(made);
      take_operand();
      return;
    }
    kernel_.operands.push_back(made);
  }

  void push_address(const operand& made, bool is_dynamic) {
    if (is_dynamic) {
      kernel_.has_dynamic_shared = true;
      dynamic_operands_.push_back(kernel_.operands.size());
    }
    kernel_.operands.push_back(made);
  }

  void finish_kernel() {
    kernel_.dynamic_align = dynamic_align_;
    const std::uint32_t dynamic_begin = aligned_to(kernel_.static_shared_bytes, dynamic_align_);
    for (const std::size_t i : dynamic_operands_) {
      kernel_.operands[i].value += dynamic_begin;
    }
    for (const auto& [i, label] : jumps_) {
      const auto found = labels_.find(label);
      if (found == labels_.end()) {
        fail("nothing has the label '" + std::string(label) + "' in " + kernel_.name);
      }
      kernel_.operands[i].index = found->second;
    }
    module_.kernels.push_back(std::move(kernel_));
  }

  std::string name_;
  std::vector<token> tokens_;
  std::size_t at_ = 0;

  module module_;
  std::unordered_map<std::string, std::uint32_t> opcodes_;
  std::map<std::string_view, symbol> shared_of_module_;
  std::uint32_t dynamic_align_ = 1;

  // Of the kernel under way.
  kernel kernel_;
  std::map<std::string_view, symbol> symbols_;
  std::vector<std::unordered_map<std::string, std::uint32_t>> scopes_;
  std::uint32_t scopes_seen_ = 0;
  std::unordered_map<std::string_view, std::uint32_t> labels_;
  std::vector<std::pair<std::size_t, std::string_view>> jumps_;  ///< operand and label
  std::vector<std::size_t> dynamic_operands_;
  source_line here_;
};

}  // namespace

const kernel* module::find(std::string_view name) const {
  const auto found = std::ranges::find(kernels, name, &kernel::name);
  return found == kernels.end() ? nullptr : &*found;
}

module parse(std::string_view text, std::string_view name) {
  return parser(text, name).all();
}

}  // namespace oriel::ptx_machine
