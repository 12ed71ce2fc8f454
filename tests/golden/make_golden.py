# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden fixtures: tests/golden/<name>/{config.json, *.safetensors, golden.safetensors}.

    python make_golden.py [NAME ...]

Requires torch 2.15, transformers 5.23 (its own `mimo_v2_flash`) and safetensors 0.6 or newer.
Everything is seeded: on the same versions and the same kind of CPU a second run writes the same
bytes. No network.

Native fixtures are written and run by transformers. Where its model cannot express the checkpoint,
oracle.py runs it, after it has been held to transformers' logits (1e-5) on every native fixture.
Each fixture is asserted to notice mistakes: see golden_tools.mistakes. README.md has the table of
fixtures and the tensors of golden.safetensors.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file

from golden_tools import (
    check_oracle, finish_native, finish_oracle, native_config, qkv_mistakes, save_json, save_native,
    size_bytes,
)  # fmt: skip
from oracle import oracle
from released_writer import (
    fuse_qkv, quantization_config, quantize, random_weights, released_config, write_checkpoint,
)  # fmt: skip

ROOT = pathlib.Path(__file__).resolve().parent
TOTAL_BYTES_MAX = 3_000_000


# Checkpoints that transformers writes and runs ----------------------------------------------------


def native_w4(directory):
    config = native_config(
        attention="FSSF", ffn="DMMD", sliding_window=4, hidden_size=32, vocab_size=64,
        intermediate_size=36, num_attention_heads=8, num_key_value_heads=2, head_dim=12,
        v_head_dim=8, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)}, n_routed_experts=6,
        num_experts_per_tok=2, moe_intermediate_size=12,
    )  # fmt: skip
    save_native(directory, 4, config, torch.float32)
    return finish_native(directory, 4, 24, torch.float32)


def native_w7_odd_rotary(directory):
    """Odd rotary dims, different per kind (7 and 3); weights not renormalised; groups 16 and 8."""
    config = native_config(
        attention="FSS", ffn="DMM", sliding_window=7, hidden_size=24, vocab_size=64,
        intermediate_size=40, num_attention_heads=16, num_key_value_heads=1, head_dim=10,
        v_head_dim=6, attention_value_scale=0.5,
        rope={"full": (1e5, 0.75), "sliding": (100.0, 0.31)}, norm_topk_prob=False,
        routed_scaling_factor=1.7, n_routed_experts=6, num_experts_per_tok=3,
        moe_intermediate_size=16, rms_norm_eps=1e-6,
    )  # fmt: skip
    save_native(directory, 7, config, torch.float32)
    return finish_native(directory, 7, 40, torch.float32)


def native_w16_groups(directory):
    """Grouped routing, no value scale, fused experts and `sinks`: the names in memory."""
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=16, hidden_size=32, vocab_size=64,
        intermediate_size=32, num_attention_heads=16, num_key_value_heads=2, head_dim=8,
        v_head_dim=12, attention_value_scale=None, rope={"full": (5e4, 0.5), "sliding": (1e3, 0.5)},
        n_group=4, topk_group=2, routed_scaling_factor=2.5, n_routed_experts=12,
        num_experts_per_tok=4, moe_intermediate_size=8,
    )  # fmt: skip
    save_native(directory, 16, config, torch.float32, save_original_format=False)
    return finish_native(directory, 16, 64, torch.float32)


def native_w64_dense(directory):
    """All layers dense, sharded with an index, odd sizes, rotary over the whole head."""
    config = native_config(
        attention="SFS", ffn="DDD", sliding_window=64, hidden_size=36, vocab_size=68,
        intermediate_size=36, num_attention_heads=8, num_key_value_heads=1, head_dim=14,
        v_head_dim=10, attention_value_scale=0.612,
        rope={"full": (1e7, 1.0), "sliding": (1e4, 1.0)},
    )  # fmt: skip
    save_native(directory, 64, config, torch.float32, max_shard_size="40KB")
    return finish_native(directory, 64, 200, torch.float32)


def native_w128(directory):
    """The window of the released models and a prompt longer than three of them."""
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=128, hidden_size=32, vocab_size=52,
        intermediate_size=32, num_attention_heads=8, num_key_value_heads=1, head_dim=18,
        v_head_dim=12, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)}, n_routed_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=8,
    )  # fmt: skip
    save_native(directory, 128, config, torch.float32)
    return finish_native(directory, 128, 400, torch.float32)


def bf16_w8(directory):
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=8, hidden_size=32, vocab_size=64,
        intermediate_size=64, num_attention_heads=16, num_key_value_heads=4, head_dim=12,
        v_head_dim=8, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)}, n_routed_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=16,
    )  # fmt: skip
    save_native(directory, 8, config, torch.bfloat16)
    return finish_native(directory, 8, 48, torch.bfloat16)


def bf16_w32(directory):
    config = native_config(
        attention="SFS", ffn="DMM", sliding_window=32, hidden_size=40, vocab_size=48,
        intermediate_size=80, num_attention_heads=16, num_key_value_heads=1, head_dim=16,
        v_head_dim=8, attention_value_scale=0.612, rope={"full": (1e7, 0.5), "sliding": (1e4, 0.5)},
        routed_scaling_factor=1.5, n_routed_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=16,
    )  # fmt: skip
    save_native(directory, 32, config, torch.bfloat16)
    return finish_native(directory, 32, 100, torch.bfloat16)


def released_w5(directory):
    """As native, then config keys rewritten to the released ones (tensor names already are)."""
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=5, hidden_size=32, vocab_size=64,
        intermediate_size=32, num_attention_heads=8, num_key_value_heads=1, head_dim=18,
        v_head_dim=12, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)}, n_routed_experts=6,
        num_experts_per_tok=2, moe_intermediate_size=12,
    )  # fmt: skip
    save_native(directory, 5, config, torch.float32)
    note = finish_native(directory, 5, 32, torch.float32)
    save_json(
        directory / "config.json", to_released(json.loads((directory / "config.json").read_text()))
    )
    golden = load_file(directory / "golden.safetensors")
    check_oracle(directory.name, oracle(directory), golden["ids"].long(), golden["logits"])
    return note


def to_released(native):
    """The released family's keys for a config that transformers wrote."""
    full, window = (native["rope_parameters"][kind + "_attention"] for kind in ("full", "sliding"))
    assert full["partial_rotary_factor"] == window["partial_rotary_factor"]
    same = (
        "attention_value_scale", "head_dim", "hidden_size", "intermediate_size",
        "moe_intermediate_size", "n_routed_experts", "num_attention_heads", "num_experts_per_tok",
        "num_key_value_heads", "sliding_window", "v_head_dim", "vocab_size",
    )  # fmt: skip
    return released_config(
        attention=["S" if kind == "sliding_attention" else "F" for kind in native["layer_types"]],
        ffn=["M" if kind == "sparse" else "D" for kind in native["mlp_layer_types"]],
        layernorm_epsilon=native["rms_norm_eps"],
        partial_rotary_factor=full["partial_rotary_factor"],
        rope_theta=full["rope_theta"],
        swa_num_key_value_heads=2 * native["num_key_value_heads"],
        swa_rope_theta=window["rope_theta"],
        torch_dtype=native["dtype"],
        **{key: native[key] for key in same},
    )


# Checkpoints beyond transformers' model, run by the oracle ----------------------------------------

V25 = {"architectures": ["MiMoV2ForCausalLM"], "model_type": "mimo_v2"}
FUSED = {"attention_projection_layout": "fused_qkv"}
ROPE = {"partial_rotary_factor": 0.334, "rope_theta": 1e7, "swa_rope_theta": 1e4}


def pro_mtp(directory):
    """The shape of V2.5-Pro: equal KV heads in both kinds, three MTP layers in their own file."""
    config = released_config(
        "FSF", "DMM", **V25, **ROPE, sliding_window=6, hidden_size=20, vocab_size=64,
        intermediate_size=28, num_attention_heads=8, num_key_value_heads=2, head_dim=12,
        v_head_dim=8, attention_value_scale=0.612, n_routed_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=12, torch_dtype="float32",
    )  # fmt: skip
    weights = random_weights(config, 60, 3, torch.float32)
    write_checkpoint(directory, config, weights, split_files=True)
    return finish_oracle(directory, 60, 32, torch.float32)


def fused_bf16(directory):
    """Fused QKV in two shards; the kinds differ in Q and KV heads; one MTP layer."""
    config = released_config(
        "FSF", "DMM", **V25, **FUSED, **ROPE, sliding_window=9, hidden_size=32, vocab_size=64,
        intermediate_size=48, num_attention_heads=8, num_key_value_heads=2, head_dim=12,
        v_head_dim=8, attention_value_scale=0.707, swa_num_attention_heads=16,
        swa_num_key_value_heads=4, n_routed_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=12, torch_dtype="bfloat16",
    )  # fmt: skip
    weights = fuse_qkv(random_weights(config, 90, 1, torch.bfloat16), config)
    write_checkpoint(directory, config, weights)
    return finish_oracle(directory, 90, 40, torch.bfloat16)


def fp8_fused(directory):
    """Two shards of 140 (GA) or 192 (SWA) rows: two scale rows each; a plain grid has three.

    Scale blocks straddle Q, K and V; the hidden size leaves a ragged second column of blocks.
    """
    config = released_config(
        "FS", "DM", **V25, **FUSED, **ROPE, sliding_window=12, hidden_size=136, vocab_size=36,
        intermediate_size=136, num_attention_heads=4, num_key_value_heads=2, head_dim=44,
        v_head_dim=8, attention_value_scale=0.707, swa_num_key_value_heads=4, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, torch_dtype="bfloat16",
        quantization_config=quantization_config(2),
    )  # fmt: skip
    weights = fuse_qkv(random_weights(config, 120, 0, torch.bfloat16), config)
    write_checkpoint(directory, config, quantize(weights, config, 120))
    assert "read as one shard" not in qkv_mistakes(directory, oracle(directory))
    return finish_oracle(directory, 120, 40, torch.bfloat16)


def fp8_split_twin(directory):
    """The weights of fp8_fused dequantised and split, in bf16: equal logits, bit for bit here."""
    fused = oracle(ROOT / "fp8_fused")
    config = {
        key: fused.config[key] for key in fused.config if key not in (*FUSED, "quantization_config")
    }
    write_checkpoint(directory, config, fused.weights)
    note = finish_oracle(directory, 120, 40, torch.bfloat16)
    ours, theirs = (
        load_file(where / "golden.safetensors") for where in (directory, ROOT / "fp8_fused")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    return note


def fp8_ambiguous(directory):
    """Shards of 128 rows: one shard and two have the same shapes. Full attention has sinks too."""
    config = released_config(
        "FS", "DD", **V25, **FUSED, **ROPE, sliding_window=5, hidden_size=32, vocab_size=64,
        intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        v_head_dim=32, attention_value_scale=0.612, add_full_attention_sink_bias=True,
        torch_dtype="bfloat16", quantization_config=quantization_config(2),
    )  # fmt: skip
    weights = fuse_qkv(random_weights(config, 50, 0, torch.bfloat16), config)
    write_checkpoint(directory, config, quantize(weights, config, 50))
    assert "read as one shard" in qkv_mistakes(directory, oracle(directory))
    return finish_oracle(directory, 50, 20, torch.bfloat16)


FIXTURES = (
    native_w4, native_w7_odd_rotary, native_w16_groups, native_w64_dense, native_w128,
    released_w5, bf16_w8, bf16_w32,
    pro_mtp, fused_bf16, fp8_fused, fp8_split_twin, fp8_ambiguous,
)  # fmt: skip


def main(names):
    for make in FIXTURES:
        if names and make.__name__ not in names:
            continue
        directory = ROOT / make.__name__
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        print(f"{directory.name}: {make(directory)}", flush=True)
    sizes = {make.__name__: size_bytes(ROOT / make.__name__) for make in FIXTURES}
    for name, size in sizes.items():
        print(f"{name:22} {size / 1024:7.1f} KiB")
    print(f"{'total':22} {sum(sizes.values()) / 1024:7.1f} KiB of {TOTAL_BYTES_MAX / 1024:.0f}")
    assert sum(sizes.values()) <= TOTAL_BYTES_MAX


if __name__ == "__main__":
    main(sys.argv[1:])
