# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Writes and reads the nano model under the released family's tensor names and configuration keys."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import NanoModel, Shape

MAIN_FILE, MTP_FILE, INDEX_FILE = "model.safetensors", "model_mtp.safetensors", "model.safetensors.index.json"
END_OF_TEXT_ID, TURN_END_ID = 4091, 4093


def released_config(shape: Shape) -> dict:
    layers = range(shape.layers)
    return {
        "architectures": ["MiMoV2FlashForCausalLM"],
        "model_type": "mimo_v2_flash",
        "add_full_attention_sink_bias": False,
        "add_swa_attention_sink_bias": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_value_scale": shape.value_scale,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": END_OF_TEXT_ID,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "hybrid_layer_pattern": [0 if shape.is_full(i) else 1 for i in layers],
        "initializer_range": 0.02,
        "intermediate_size": shape.dense_inner,
        "layernorm_epsilon": shape.norm_eps,
        "max_position_embeddings": shape.max_positions,
        "moe_intermediate_size": shape.expert_inner,
        "moe_layer_freq": [0 if i == 0 else 1 for i in layers],
        "n_group": 1,
        "n_routed_experts": shape.experts,
        "n_shared_experts": None,
        "norm_topk_prob": True,
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": shape.experts_per_token,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads_full,
        "pad_token_id": END_OF_TEXT_ID,
        "partial_rotary_factor": 0.334,
        "rope_theta": shape.theta_full,
        "routed_scaling_factor": None,
        "scoring_func": "sigmoid",
        "sliding_window": shape.window,
        "swa_head_dim": shape.head_dim,
        "swa_num_attention_heads": shape.heads,
        "swa_num_key_value_heads": shape.kv_heads_window,
        "swa_rope_theta": shape.theta_window,
        "swa_v_head_dim": shape.value_dim,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "use_cache": True,
        "v_head_dim": shape.value_dim,
        "vocab_size": shape.vocabulary,
    }


def released_tensors(state: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Training names to released ones; everything bf16 but the router."""
    tensors = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            base, inner = name.removesuffix("gate_up_proj"), shape.expert_inner
            for e, expert in enumerate(value):
                tensors[f"{base}{e}.gate_proj.weight"] = expert[:inner]
                tensors[f"{base}{e}.up_proj.weight"] = expert[inner:]
        elif name.endswith("experts.down_proj"):
            for e, expert in enumerate(value):
                tensors[f"{name.removesuffix('down_proj')}{e}.down_proj.weight"] = expert
        else:
            tensors[name] = value
    return {
        name: value.to(torch.float32 if ".mlp.gate." in name else torch.bfloat16).contiguous().clone()
        for name, value in tensors.items()
    }


def training_state(tensors: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The inverse of released_tensors, in f32."""
    state = {n: t.float() for n, t in tensors.items() if ".mlp.experts." not in n}
    for layer in range(1, shape.layers):
        base = f"model.layers.{layer}.mlp.experts."
        part = lambda e, kind: tensors[f"{base}{e}.{kind}_proj.weight"].float()
        experts = range(shape.experts)
        state[base + "gate_up_proj"] = torch.stack([torch.cat([part(e, "gate"), part(e, "up")]) for e in experts])
        state[base + "down_proj"] = torch.stack([part(e, "down") for e in experts])
    return state


def save(state: dict[str, Tensor], shape: Shape, folder: Path) -> None:
    """Writes config.json, generation_config.json, the two weight files and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = released_tensors(state, shape)
    files = {
        MAIN_FILE: {n: t for n, t in tensors.items() if not n.startswith("model.mtp.")},
        MTP_FILE: {n: t for n, t in tensors.items() if n.startswith("model.mtp.")},
    }
    for file, content in files.items():
        save_file(content, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
    texts = {
        "config.json": released_config(shape),
        "generation_config.json": {"eos_token_id": [END_OF_TEXT_ID, TURN_END_ID], "pad_token_id": END_OF_TEXT_ID},
        INDEX_FILE: {
            "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
            "weight_map": {name: file for file, content in files.items() for name in sorted(content)},
        },
    }
    for file, content in texts.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")


def load(folder: Path, shape: Shape = Shape()) -> NanoModel:
    """The released files as a model in f32 (bf16 values widened)."""
    tensors = load_file(folder / MAIN_FILE) | load_file(folder / MTP_FILE)
    model = NanoModel(shape)
    model.load_state_dict(training_state(tensors, shape), strict=True)
    return model.eval()
