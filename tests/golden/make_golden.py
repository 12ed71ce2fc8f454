# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden fixtures: tests/golden/<name>/{config.json, *.safetensors, golden.safetensors}.

    python make_golden.py [NAME ...]

Requires torch 2.15, transformers 5.23 (its own `mimo_v2_flash`) and safetensors 0.6 or newer. Everything is seeded:
on the same versions and the same kind of CPU a second run writes the same bytes. No network.

Native fixtures are written and run by transformers. Where its model cannot express the checkpoint, oracle.py runs it,
after it has been held to transformers' logits (1e-5) on every native fixture. Each fixture is asserted to notice
mistakes: see golden_tools.mistakes. README.md has the table of fixtures and the tensors of golden.safetensors.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file

from golden_tools import check_oracle, finish_native, native_config, save_json, save_native, size_bytes
from oracle import oracle

ROOT = pathlib.Path(__file__).resolve().parent
TOTAL_BYTES_MAX = 3 << 20


# Checkpoints that transformers writes and runs ---------------------------------------------------------------------------


def native_w4(directory):
    config = native_config(
        attention="FSSF", ffn="DMMD", sliding_window=4, hidden_size=32, vocab_size=64, intermediate_size=48,
        num_attention_heads=8, num_key_value_heads=2, head_dim=12, v_head_dim=8, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)},
        n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=12,
    )
    save_native(directory, 4, config, torch.float32)
    return finish_native(directory, 4, 24, torch.float32)


def native_w7_odd_rotary(directory):
    """Odd rotary dims, different per kind (7 and 3); weights not renormalised; groups 16 and 8."""
    config = native_config(
        attention="FSS", ffn="DMM", sliding_window=7, hidden_size=32, vocab_size=64, intermediate_size=40,
        num_attention_heads=16, num_key_value_heads=1, head_dim=10, v_head_dim=6, attention_value_scale=0.5,
        rope={"full": (1e5, 0.75), "sliding": (100.0, 0.31)}, norm_topk_prob=False, routed_scaling_factor=1.7,
        n_routed_experts=6, num_experts_per_tok=3, moe_intermediate_size=16, rms_norm_eps=1e-6,
    )
    save_native(directory, 7, config, torch.float32)
    return finish_native(directory, 7, 40, torch.float32)


def native_w16_groups(directory):
    """Grouped routing, no value scale, fused experts and `sinks` as transformers names them in memory."""
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=16, hidden_size=32, vocab_size=64, intermediate_size=48,
        num_attention_heads=16, num_key_value_heads=2, head_dim=8, v_head_dim=12, attention_value_scale=None,
        rope={"full": (5e4, 0.5), "sliding": (1e3, 0.5)}, n_group=4, topk_group=2, routed_scaling_factor=2.5,
        n_routed_experts=12, num_experts_per_tok=4, moe_intermediate_size=8,
    )
    save_native(directory, 16, config, torch.float32, save_original_format=False)
    return finish_native(directory, 16, 64, torch.float32)


def native_w64_dense(directory):
    """All layers dense, sharded with an index, sizes that are no multiple of 16, rotary over the whole head."""
    config = native_config(
        attention="SFS", ffn="DDD", sliding_window=64, hidden_size=40, vocab_size=72, intermediate_size=36,
        num_attention_heads=8, num_key_value_heads=1, head_dim=14, v_head_dim=10, attention_value_scale=0.612,
        rope={"full": (1e7, 1.0), "sliding": (1e4, 1.0)},
    )
    save_native(directory, 64, config, torch.float32, max_shard_size="40KB")
    return finish_native(directory, 64, 200, torch.float32)


def native_w128(directory):
    """The window of the released models and a prompt longer than three of them."""
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=128, hidden_size=32, vocab_size=64, intermediate_size=48,
        num_attention_heads=8, num_key_value_heads=1, head_dim=24, v_head_dim=16, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)},
        n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=8,
    )
    save_native(directory, 128, config, torch.float32)
    return finish_native(directory, 128, 400, torch.float32)


def bf16_w8(directory):
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=8, hidden_size=40, vocab_size=64, intermediate_size=64,
        num_attention_heads=16, num_key_value_heads=4, head_dim=12, v_head_dim=8, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)},
        n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
    )
    save_native(directory, 8, config, torch.bfloat16)
    return finish_native(directory, 8, 48, torch.bfloat16)


def bf16_w32(directory):
    config = native_config(
        attention="SFS", ffn="DMM", sliding_window=32, hidden_size=48, vocab_size=64, intermediate_size=80,
        num_attention_heads=16, num_key_value_heads=1, head_dim=16, v_head_dim=8, attention_value_scale=0.612,
        rope={"full": (1e7, 0.5), "sliding": (1e4, 0.5)}, routed_scaling_factor=1.5,
        n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=16,
    )
    save_native(directory, 32, config, torch.bfloat16)
    return finish_native(directory, 32, 100, torch.bfloat16)


def released_w5(directory):
    """As native, then config keys rewritten to those of the released checkpoints (tensor names are theirs already)."""
    config = native_config(
        attention="FSF", ffn="DMM", sliding_window=5, hidden_size=32, vocab_size=64, intermediate_size=48,
        num_attention_heads=8, num_key_value_heads=1, head_dim=18, v_head_dim=12, attention_value_scale=0.707,
        rope={"full": (5e6, 0.334), "sliding": (1e4, 0.334)},
        n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=12,
    )
    save_native(directory, 5, config, torch.float32)
    note = finish_native(directory, 5, 32, torch.float32)
    save_json(directory / "config.json", released_config(json.loads((directory / "config.json").read_text())))
    golden = load_file(directory / "golden.safetensors")
    check_oracle(directory.name, oracle(directory), golden["ids"].long(), golden["logits"])
    return note


def released_config(native):
    """The released family's keys for a config that transformers wrote."""
    full, window = (native["rope_parameters"][kind + "_attention"] for kind in ("full", "sliding"))
    assert full["partial_rotary_factor"] == window["partial_rotary_factor"]
    same = (
        "attention_bias", "attention_value_scale", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
        "max_position_embeddings", "model_type", "moe_intermediate_size", "n_group", "n_routed_experts",
        "norm_topk_prob", "num_attention_heads", "num_experts_per_tok", "num_hidden_layers", "num_key_value_heads",
        "sliding_window", "tie_word_embeddings", "topk_group", "v_head_dim", "vocab_size",
    )  # fmt: skip
    scale = native["routed_scaling_factor"]
    return {
        "architectures": ["MiMoV2FlashForCausalLM"],
        **{key: native[key] for key in same},
        "attention_chunk_size": native["sliding_window"],
        "add_full_attention_sink_bias": False,
        "add_swa_attention_sink_bias": True,
        "hybrid_layer_pattern": [int(kind == "sliding_attention") for kind in native["layer_types"]],
        "layernorm_epsilon": native["rms_norm_eps"],
        "moe_layer_freq": [int(kind == "sparse") for kind in native["mlp_layer_types"]],
        "n_shared_experts": None,
        "partial_rotary_factor": full["partial_rotary_factor"],
        "rope_theta": full["rope_theta"],
        "routed_scaling_factor": None if scale == 1.0 else scale,
        "scoring_func": "sigmoid",
        "swa_head_dim": native["head_dim"],
        "swa_num_attention_heads": native["num_attention_heads"],
        "swa_num_key_value_heads": 2 * native["num_key_value_heads"],
        "swa_rope_theta": window["rope_theta"],
        "swa_v_head_dim": native["v_head_dim"],
        "topk_method": "noaux_tc",
        "torch_dtype": native["dtype"],
    }


FIXTURES = (
    native_w4, native_w7_odd_rotary, native_w16_groups, native_w64_dense, native_w128, released_w5, bf16_w8, bf16_w32,
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
