# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Random checkpoints in the released form: config keys, names, fused QKV, FP8, MTP layers."""

import math
import zlib

import torch
from safetensors.torch import save_file

from golden_tools import publish, random_tensor, save_json
from oracle import SCALE_BLOCK, read_geometry, shard_rows

E4M3_MAX = 448.0
QUANTISED = ("qkv_proj", "gate_proj", "up_proj", "down_proj")  # o_proj stays bf16


def released_config(attention, ffn, **keys):
    """Released keys. `attention` is F or S per layer, `ffn` D or M; SWA sizes default to GA's."""
    config = {
        "architectures": ["MiMoV2FlashForCausalLM"],
        "model_type": "mimo_v2_flash",
        "attention_bias": False,
        "attention_chunk_size": keys["sliding_window"],
        "add_full_attention_sink_bias": False,
        "add_swa_attention_sink_bias": True,
        "hidden_act": "silu",
        "hybrid_layer_pattern": [int(letter == "S") for letter in attention],
        "layernorm_epsilon": 1e-5,
        "max_position_embeddings": 1024,
        "moe_layer_freq": [int(letter == "M") for letter in ffn],
        "n_group": 1,
        "n_shared_experts": None,
        "norm_topk_prob": True,
        "num_hidden_layers": len(attention),
        "routed_scaling_factor": None,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        **keys,
    }
    for key in ("head_dim", "v_head_dim", "num_attention_heads", "num_key_value_heads"):
        config.setdefault("swa_" + key, config[key])
    return config


def quantization_config(layers):
    """What released FP8 checkpoints say about themselves."""
    ignored = [f"model.layers.{index}.self_attn.o_proj" for index in range(layers)]
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "ignored_layers": [*ignored, "model.decoder.self_attn.o_proj"],
        "quant_method": "fp8",
        "weight_block_size": [SCALE_BLOCK, SCALE_BLOCK],
    }


def tensor_shapes(config, mtp_layers):
    """Name -> shape of every tensor, with split projections."""
    geometry = read_geometry(config)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes = {name: (vocab, hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    shapes["model.norm.weight"] = (hidden,)

    def ffn(stem, inner):
        shapes[stem + "gate_proj.weight"] = shapes[stem + "up_proj.weight"] = (inner, hidden)
        shapes[stem + "down_proj.weight"] = (hidden, inner)

    def attention(stem, layer):
        rows = shard_rows(layer, 1)
        for letter, count in zip("qkv", rows):
            shapes[f"{stem}{letter}_proj.weight"] = (count, hidden)
        shapes[stem + "o_proj.weight"] = (hidden, layer.q_heads * layer.v_dim)
        if layer.has_sink:
            shapes[stem + "attention_sink_bias"] = (layer.q_heads,)

    for index, layer in enumerate(geometry.layers):
        stem = f"model.layers.{index}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{stem}{norm}.weight"] = (hidden,)
        attention(stem + "self_attn.", layer)
        if layer.is_moe:
            shapes[stem + "mlp.gate.weight"] = (geometry.experts, hidden)
            shapes[stem + "mlp.gate.e_score_correction_bias"] = (geometry.experts,)
            for expert in range(geometry.experts):
                ffn(f"{stem}mlp.experts.{expert}.", config["moe_intermediate_size"])
        else:
            ffn(stem + "mlp.", config["intermediate_size"])
    for index in range(mtp_layers):
        stem = f"model.mtp.layers.{index}."
        for norm in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
            shapes[f"{stem}{norm}.weight"] = (hidden,)
        shapes[stem + "eh_proj.weight"] = (hidden, 2 * hidden)
        attention(stem + "self_attn.", geometry.mtp_layer)
        ffn(stem + "mlp.", config["intermediate_size"])
    return shapes


def random_weights(config, seed, mtp_layers, dtype):
    """Split weights; the router stays float32, as in every checkpoint of the family."""
    weights = {}
    for name, shape in tensor_shapes(config, mtp_layers).items():
        value = random_tensor(seed, name, shape, config["sliding_window"])
        weights[name] = value if ".mlp.gate." in name else value.to(dtype)
    return weights


def fuse_qkv(weights, config):
    """q, k and v to one tensor of [Q_0|K_0|V_0|Q_1|...], a shard per KV head of full attention."""
    geometry = read_geometry(config)
    fused = dict(weights)
    for name in weights:
        stem = name.rpartition("q_proj.weight")[0]
        if not stem:
            continue
        layer = geometry.mtp_layer if ".mtp." in name else geometry.layers[int(name.split(".")[2])]
        rows = shard_rows(layer, geometry.qkv_shards)
        parts = [
            fused.pop(f"{stem}{letter}_proj.weight").split(count)
            for letter, count in zip("qkv", rows)
        ]
        fused[stem + "qkv_proj.weight"] = torch.cat([torch.cat(shard) for shard in zip(*parts)])
    return fused


def quantize(weights, config, seed):
    """FP8 with 128 x 128 block scales; the shards of a fused projection have a grid each.

    Random weights would give nearly equal scales everywhere, and a reader that mixes them up would
    pass. So the scales are multiplied by 1/2, 1 or 2 afterwards: the weights are what the file
    says, not what they were drawn as.
    """
    shards = read_geometry(config).qkv_shards
    out = {}
    for name, weight in weights.items():
        kind = name.split(".")[-2]
        if kind not in QUANTISED:
            out[name] = weight.to(torch.bfloat16) if weight.dtype != torch.float32 else weight
            continue
        pieces = weight.float().chunk(shards if kind == "qkv_proj" else 1)
        values, scales = zip(*(_quantize_grid(piece) for piece in pieces))
        scale = torch.cat(scales)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/scale/{name}".encode()))
        scale *= 2.0 ** torch.randint(-1, 2, scale.shape, generator=generator)
        out[name], out[name + "_scale_inv"] = torch.cat(values), scale
    return out


def _quantize_grid(weight):
    rows, cols = weight.shape
    values = torch.empty(rows, cols, dtype=torch.float8_e4m3fn)
    scales = torch.empty(math.ceil(rows / SCALE_BLOCK), math.ceil(cols / SCALE_BLOCK))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (
                slice(i * SCALE_BLOCK, (i + 1) * SCALE_BLOCK),
                slice(j * SCALE_BLOCK, (j + 1) * SCALE_BLOCK),
            )
            scales[i, j] = weight[block].abs().max() / E4M3_MAX
            values[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
    return values, scales


def write_checkpoint(directory, config, weights, split_files=False):
    """config.json and one file, or (as released) MTP layers in their own file and an index."""
    save_json(directory / "config.json", config)
    files = {"model.safetensors": weights}
    if split_files:
        mtp = {name: tensor for name, tensor in weights.items() if name.startswith("model.mtp.")}
        main = {name: tensor for name, tensor in weights.items() if name not in mtp}
        files = {"model_0.safetensors": main, "model_mtp.safetensors": mtp}
        total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        where = {name: file for file, tensors in files.items() for name in tensors}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        save_json(directory / "model.safetensors.index.json", index)
    for file, tensors in files.items():
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, directory / file, metadata={"format": "pt"})
    publish(directory)
