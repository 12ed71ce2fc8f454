// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What the text of a module becomes.
#include "program.hpp"

#include <catch2/catch.hpp>

#include <string>

using namespace oriel::ptx_machine;  // NOLINT: a test

namespace {

constexpr std::string_view text = R"(
.version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 128 .b8 dynamic[];
/* of two
   lines */
.visible .entry scaled(
	.param .align 8 .b8 scaled_param_0[20],
	.param .u64 .ptr .global .align 1 scaled_param_1
)
.maxntid 32, 4, 1
.minnctapersm 2
.explicitcluster
.reqnctapercluster 8, 1, 1
{
	.reg .pred 	%p<3>;
	.reg .f32 	%f<2>;
	.reg .b64 	%rd<2>;
	.shared .align 4 .b8 some[12];
	.loc	1 7 3, function_name $L__info_string0, inlined_at 1 61 3
	ld.param.f32 	%f1, [scaled_param_0+16];  // ends here
	.pragma "nounroll";
$L__BB0_1:
	mov.u64 	%rd1, dynamic;
	{
	.reg .pred %p1;
	setp.lt.f32 	%p1|_, %f1, 0f3F800000;
	@!%p1 bra 	$L__BB0_1;
	}
	.loc	2 9 1
	st.shared.v2.f32 	[some+-4], {%f1, %f0};
	@%p1 ret;
	mov.u32 	%f0, %ctaid.y;
	add.s32 %f0, %f0, -2;
}
	.file	1 "/a/b.cuh"
	.file	2 "/a/c.cu", 1764, 20
	.section	.debug_str
	{
$L__info_string0:
.b8 95,90,0
	}
)";

std::string refusal_of(std::string_view wrong) {
  try {
    static_cast<void>(parse(wrong, "wrong.ptx"));
  } catch (const machine_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ptx program: a kernel's sizes, bounds and parameters") {
  const module m = parse(text, "text.ptx");
  CHECK(m.target == "sm_90a");
  REQUIRE(m.kernels.size() == 1);
  CHECK(m.find("another") == nullptr);
  const kernel& k = *m.find("scaled");
  CHECK(k.max_threads == 128);
  CHECK(k.blocks_per_multiprocessor_min == 2);
  CHECK(k.cluster[0] == 8);
  REQUIRE(k.parameters.size() == 2);
  CHECK(k.parameters[0].size_bytes == 20);
  CHECK(k.parameters[1].offset_bytes == 24);
  CHECK(k.parameter_bytes == 32);
  CHECK(k.static_shared_bytes == 12);
  CHECK(k.has_dynamic_shared);
  CHECK(k.dynamic_align == 128);
}

TEST_CASE("ptx program: operands, scopes of registers, labels and lines") {
  const module m = parse(text, "text.ptx");
  const kernel& k = m.kernels.front();
  REQUIRE(k.code.size() == 8);
  const auto operand_of = [&](std::size_t i, std::uint32_t n) {
    return k.operands.at(k.code[i].first_operand + n);
  };
  CHECK(m.opcodes[k.code[0].opcode] == "ld.param.f32");
  CHECK(operand_of(0, 1).base == address_base::parameter);
  CHECK(operand_of(0, 1).value == 16);
  CHECK(m.files[k.code[0].at.file] == "/a/b.cuh");
  CHECK(k.code[0].at.line == 7);
  CHECK(operand_of(1, 1).kind == operand_kind::shared_address);
  CHECK(operand_of(1, 1).value == 128);  // Behind 12 bytes, and aligned.
  const operand comparison = operand_of(2, 0);
  CHECK(comparison.has_second);
  CHECK(operand_of(2, 1).kind == operand_kind::none);
  CHECK(operand_of(2, 3).value == 0x3F800000);
  CHECK(k.code[3].guard == comparison.index);  // The scope's own %p1.
  CHECK(k.code[3].guard_negated);
  CHECK(operand_of(3, 0).kind == operand_kind::label);
  CHECK(operand_of(3, 0).index == 1);
  CHECK(m.files[k.code[4].at.file] == "/a/c.cu");
  CHECK(operand_of(4, 0).value == static_cast<std::uint64_t>(-4));
  CHECK(operand_of(4, 1).kind == operand_kind::vector);
  CHECK(operand_of(4, 1).index == 2);
  CHECK(k.code[4].operand_count == 4);
  CHECK(k.code[5].guard != comparison.index);  // The kernel's again.
  CHECK(k.registers[k.code[5].guard].name == "%p1");
  CHECK(operand_of(6, 1).special == special_register::ctaid_y);
  CHECK(operand_of(7, 2).value == static_cast<std::uint64_t>(-2));
}

TEST_CASE("ptx program: what is not known is told with its line") {
  CHECK(refusal_of(".version 9.0\n.global .b8 x[4];") ==
        "wrong.ptx:2: '.global' is not known here");
  CHECK(refusal_of(".entry k()\n.noreturn\n{}") ==
        "wrong.ptx:2: the directive '.noreturn' is not known");
  CHECK(refusal_of(".entry k() {\n bra $L_1; }").find("'$L_1'") != std::string::npos);
  CHECK(refusal_of(".entry k() {\n add.s32 %r1, 1; }") == "wrong.ptx:2: '%r1' is no number");
  CHECK(refusal_of(".entry k() {").find("ends too early") != std::string::npos);
}
