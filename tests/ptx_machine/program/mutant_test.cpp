// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What the text of a planted bug makes of a module.
#include "mutant.hpp"

#include <catch2/catch.hpp>

#include <string>

using namespace oriel::ptx_machine;  // NOLINT: a test

namespace {

constexpr std::string_view text = R"(
.visible .entry first()
{
	.reg .pred 	%p<2>;
	.reg .b32 	%r<3>;
	.reg .b64 	%rd<2>;
	bra 	$L_behind;
	bar.sync 	0;
$L_wait:
	mbarrier.try_wait.parity.shared::cta.b64 	%p1, [%r1], %r2;
	@!%p1 bra 	$L_wait;
$L_behind:
	bar.sync 	1, 128;
	ret;
}
.visible .entry second()
{
	bar.sync 	0;
	ret;
}
)";

struct edited {
  explicit edited(std::string_view bug)
      : all(parse(text, "text.ptx")), edits(plant(mutant_of(bug), all)) {}

  [[nodiscard]] std::string opcodes(const char* of = "first") const {
    std::string joined;
    for (const instruction& i : all.find(of)->code) {
      joined += all.opcodes[i.opcode] + " ";
    }
    return joined;
  }
  [[nodiscard]] const operand& operand_of(std::size_t i, std::uint32_t n) const {
    const kernel& k = *all.find("first");
    return k.operands.at(k.code.at(i).first_operand + n);
  }

  module all;
  std::size_t edits;
};

}  // namespace

TEST_CASE("ptx mutant: an instruction is dropped, and labels behind it move") {
  const edited both("drop bar.sync in first");
  CHECK(both.edits == 2);
  CHECK(both.opcodes() == "bra mbarrier.try_wait.parity.shared::cta.b64 bra ret ");
  CHECK(both.operand_of(0, 0).index == 3);
  CHECK(both.operand_of(2, 0).index == 1);
  CHECK(both.opcodes("second") == "bar.sync ret ");
  const edited one("drop bar.sync nth 2");
  CHECK(one.edits == 1);
  CHECK(one.operand_of(0, 0).index == 4);
  CHECK(edited("drop bar.arrive").edits == 0);
}

TEST_CASE("ptx mutant: a wait that does not wait") {
  const edited m("true mbarrier.try_wait");
  CHECK(m.opcodes() == "bra bar.sync setp.eq.u32 bra bar.sync ret ");
  CHECK(m.operand_of(2, 0).index == m.all.find("first")->code[3].guard);
  CHECK(m.operand_of(2, 1).value == m.operand_of(2, 2).value);
}

TEST_CASE("ptx mutant: another opcode keeps the types behind it") {
  CHECK(edited("replace mbarrier.try_wait by mbarrier.test_wait nth 1").opcodes() ==
        "bra bar.sync mbarrier.test_wait.parity.shared::cta.b64 bra bar.sync ret ");
}

TEST_CASE("ptx mutant: bits of numbers and of registers turn over") {
  const edited number("flip bar.sync 1 192 nth 2 in first");
  CHECK(number.edits == 1);
  CHECK(number.operand_of(4, 1).value == (128 ^ 192));
  const edited in_register("flip mbarrier.try_wait 2 1");
  CHECK(in_register.opcodes() ==
        "bra bar.sync xor.b32 mbarrier.try_wait.parity.shared::cta.b64 bra bar.sync ret ");
  CHECK(in_register.operand_of(2, 0).index == in_register.operand_of(3, 2).index);
  CHECK(in_register.operand_of(2, 2).value == 1);
  CHECK(in_register.operand_of(0, 0).index == 5);  // Behind.
  CHECK(in_register.operand_of(4, 0).index == 2);  // With what is put before its instruction.
}

TEST_CASE("ptx mutant: what is no mutant is told") {
  for (const char* wrong :
       {"", "drop", "lose bar.sync", "flip bar.sync", "replace a with b", "drop a nth b"}) {
    CHECK_THROWS_AS(mutant_of(wrong), machine_error);
  }
  CHECK_THROWS_AS(edited("flip bar.sync 5 1"), machine_error);
}
