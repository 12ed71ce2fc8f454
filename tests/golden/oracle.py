# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""A plain PyTorch forward pass of the MiMo-V2 family, written to be read.

It reads a checkpoint directory (config.json plus safetensors) in the released form or in the form
that transformers writes, and computes what transformers' `mimo_v2_flash` computes plus what that
model cannot express: equal KV heads in both layer kinds, the fused QKV shard layout, FP8 block
scales, MTP layers. It shares no code with transformers; make_golden.py holds it to transformers'
logits on the common subset before it trusts it with the rest.

Requires torch and safetensors.

Every product runs in one dtype (float32, bfloat16 or float64), as a framework would run it; norms
and routing run in at least float32, rotary angles always in float32.
"""

import dataclasses
import json
import math
import pathlib

import torch
from safetensors.torch import load_file

SCALE_BLOCK = 128  # rows and columns that share one FP8 scale


@dataclasses.dataclass(frozen=True)
class layer_geometry:
    window_tokens: int | None  # keys a query sees, itself included; None = full attention
    q_heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    rotary_dim: int  # may be odd: then ceil(d / 2) pairs with exponents 2 j / d
    rope_theta: float
    has_sink: bool
    is_moe: bool


@dataclasses.dataclass(frozen=True)
class model_geometry:
    layers: tuple[layer_geometry, ...]
    mtp_layer: layer_geometry  # what every MTP layer looks like: window attention, dense FFN
    hidden: int
    eps: float
    value_scale: float
    experts: int
    experts_per_token: int
    groups: int
    groups_per_token: int
    renormalise: bool
    routed_scale: float
    fused_qkv: bool
    qkv_shards: int


def read_geometry(config):
    """Geometry from a parsed config.json, released keys or those that transformers writes."""
    native = "layer_types" in config
    count = config["num_hidden_layers"]
    if native:
        is_window = [kind == "sliding_attention" for kind in config["layer_types"]]
        is_moe = [kind == "sparse" for kind in config["mlp_layer_types"]]
        make = _native_layer
    else:
        is_window = [flag == 1 for flag in config["hybrid_layer_pattern"]]
        is_moe = [flag == 1 for flag in config["moe_layer_freq"]]
        make = _released_layer
    assert len(is_window) == count and len(is_moe) == count

    def value(key, default):
        return default if config.get(key) is None else config[key]

    return model_geometry(
        layers=tuple(make(config, w, m) for w, m in zip(is_window, is_moe)),
        mtp_layer=make(config, True, False),
        hidden=config["hidden_size"],
        eps=config["rms_norm_eps" if native else "layernorm_epsilon"],
        value_scale=value("attention_value_scale", 1.0),
        experts=value("n_routed_experts", 0),
        experts_per_token=value("num_experts_per_tok", 0),
        groups=value("n_group", 1),
        groups_per_token=value("topk_group", 1),
        renormalise=value("norm_topk_prob", True),
        routed_scale=value("routed_scaling_factor", 1.0),
        fused_qkv=config.get("attention_projection_layout") == "fused_qkv",
        qkv_shards=config["num_key_value_heads"],
    )


def _native_layer(config, is_window, is_moe):
    rope = config["rope_parameters"].get("sliding_attention" if is_window else "full_attention")
    if rope is None:  # no layer of this kind, so transformers wrote no parameters for it
        rope = {"rope_theta": 1.0, "partial_rotary_factor": 0.0}
    return layer_geometry(
        window_tokens=config["sliding_window"] if is_window else None,
        q_heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"] * (2 if is_window else 1),
        qk_dim=config["head_dim"],
        v_dim=config["v_head_dim"],
        rotary_dim=int(config["head_dim"] * rope.get("partial_rotary_factor", 0.334)),
        rope_theta=rope["rope_theta"],
        has_sink=is_window,
        is_moe=is_moe,
    )


def _released_layer(config, is_window, is_moe):
    prefix = "swa_" if is_window else ""
    qk_dim = config[prefix + "head_dim"]
    return layer_geometry(
        window_tokens=config["sliding_window"] if is_window else None,
        q_heads=config[prefix + "num_attention_heads"],
        kv_heads=config[prefix + "num_key_value_heads"],
        qk_dim=qk_dim,
        v_dim=config[prefix + "v_head_dim"],
        rotary_dim=int(qk_dim * config["partial_rotary_factor"]),
        rope_theta=config[prefix + "rope_theta"],
        has_sink=config[
            "add_swa_attention_sink_bias" if is_window else "add_full_attention_sink_bias"
        ],
        is_moe=is_moe,
    )


# Weights ------------------------------------------------------------------------------------------


def dequantize(weight, scale):
    """e4m3 [rows, cols] times f32 [ceil(rows / 128), ceil(cols / 128)], rounded once to bf16."""
    rows, cols = weight.shape
    assert scale.shape == (math.ceil(rows / SCALE_BLOCK), math.ceil(cols / SCALE_BLOCK))
    wide = scale.repeat_interleave(SCALE_BLOCK, 0)[:rows].repeat_interleave(SCALE_BLOCK, 1)[
        :, :cols
    ]
    return (weight.float() * wide).to(torch.bfloat16)


def shard_rows(layer, shards):
    """Rows of Q, K and V in one shard of a fused projection."""
    assert layer.q_heads % shards == 0 and layer.kv_heads % shards == 0
    kv_heads = layer.kv_heads // shards
    return [layer.q_heads // shards * layer.qk_dim, kv_heads * layer.qk_dim, kv_heads * layer.v_dim]


def split_qkv(weight, scale, layer, shards):
    """[Q_0|K_0|V_0|Q_1|...] to (q, k, v); every shard has its own ceil-tiled grid of scale rows."""
    rows = shard_rows(layer, shards)
    tiles = math.ceil(sum(rows) / SCALE_BLOCK)
    assert weight.shape[0] == shards * sum(rows)
    assert scale is None or scale.shape[0] == shards * tiles
    parts = []
    for index, shard in enumerate(weight.split(sum(rows))):
        if scale is not None:
            shard = dequantize(shard, scale[index * tiles : (index + 1) * tiles])
        parts.append(shard.split(rows))
    return [torch.cat(pieces) for pieces in zip(*parts)]


def load_weights(directory, geometry, edit_scale=lambda scale: scale):
    """Every tensor under its released, split, per-expert name; FP8 becomes bf16."""
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        if path.name != "golden.safetensors":
            tensors.update(load_file(path))
    scales = {
        name: edit_scale(tensors.pop(name))
        for name in list(tensors)
        if name.endswith(".weight_scale_inv")
    }
    weights = {}
    for name, tensor in tensors.items():
        scale = scales.pop(name + "_scale_inv", None)
        stem = name.rpartition(".self_attn.qkv_proj.weight")[0]
        if stem:
            layer = (
                geometry.mtp_layer
                if ".mtp." in name
                else geometry.layers[int(stem.rpartition(".")[2])]
            )
            for letter, part in zip("qkv", split_qkv(tensor, scale, layer, geometry.qkv_shards)):
                weights[f"{stem}.self_attn.{letter}_proj.weight"] = part
        elif name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for expert, both in enumerate(tensor):
                (
                    weights[f"{stem}{expert}.gate_proj.weight"],
                    weights[f"{stem}{expert}.up_proj.weight"],
                ) = both.chunk(2)
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                weights[f"{name.removesuffix('down_proj')}{expert}.down_proj.weight"] = down
        else:
            released = name.replace("self_attn.sinks", "self_attn.attention_sink_bias")
            weights[released] = tensor if scale is None else dequantize(tensor, scale)
    assert not scales, f"scales of no weight: {sorted(scales)}"
    return weights


# Forward ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class trace:
    logits: torch.Tensor  # [T, vocab]
    hidden: torch.Tensor  # [T, hidden], the residual stream before the final norm
    margin: (
        torch.Tensor
    )  # [T], smallest gap between a routing choice and the best one left out, over layers


class oracle:
    """One checkpoint, ready to run. `geometry` and `weights` may be edited between runs."""

    def __init__(self, directory):
        self.config = json.loads((pathlib.Path(directory) / "config.json").read_text())
        self.geometry = read_geometry(self.config)
        self.weights = load_weights(directory, self.geometry)
        names = (name for name in self.weights if name.startswith("model.mtp.layers."))
        self.mtp_layers = len({name.split(".")[3] for name in names})

    def forward(self, ids, dtype=torch.float32):
        """All logits of one prompt. `ids`: int64 [T]. O(T^2 + T * parameters)."""
        x = self._weight("model.embed_tokens.weight", dtype)[ids]
        margins = [torch.full((len(ids),), math.inf)]
        for index, layer in enumerate(self.geometry.layers):
            stem = f"model.layers.{index}."
            x = x + self._attention(
                self._norm(x, stem + "input_layernorm.weight"), stem + "self_attn.", layer
            )
            y = self._norm(x, stem + "post_attention_layernorm.weight")
            if layer.is_moe:
                y, margin = self._moe(y, stem + "mlp.")
                margins.append(margin)
            else:
                y = self._swiglu(y, stem + "mlp.")
            x = x + y
        logits = self._linear(self._norm(x, "model.norm.weight"), "lm_head.weight")
        return trace(logits, x, torch.stack(margins).amin(0))

    def mtp(self, ids, hidden):
        """Draft logits [S, T - S, vocab] of S MTP layers over a whole prompt.

        Head s at row p sees the main model's hidden[p] (before the final norm) and token ids[p + 1
        + s], at position p, and predicts token p + 2 + s. It attends over its own earlier rows.
        Rows end where the last head runs out of tokens: p + S <= T - 1.
        """
        heads, rows = self.mtp_layers, len(ids) - self.mtp_layers
        drafts = []
        for head in range(heads):
            stem = f"model.mtp.layers.{head}."
            token = self._weight("model.embed_tokens.weight", hidden.dtype)[
                ids[1 + head : 1 + head + rows]
            ]
            both = [
                self._norm(token, stem + "enorm.weight"),
                self._norm(hidden[:rows], stem + "hnorm.weight"),
            ]
            x = self._linear(torch.cat(both, -1), stem + "eh_proj.weight")
            y = self._norm(x, stem + "input_layernorm.weight")
            x = x + self._attention(y, stem + "self_attn.", self.geometry.mtp_layer)
            x = x + self._swiglu(self._norm(x, stem + "pre_mlp_layernorm.weight"), stem + "mlp.")
            drafts.append(
                self._linear(self._norm(x, stem + "final_layernorm.weight"), "lm_head.weight")
            )
        return torch.stack(drafts)

    def _weight(self, name, dtype):
        return self.weights[name].to(dtype)

    def _linear(self, x, name):
        return x @ self._weight(name, x.dtype).T

    def _norm(self, x, name):
        wide = x.to(_wide(x.dtype))
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.geometry.eps)
        return self._weight(name, x.dtype) * unit.to(x.dtype)

    def _swiglu(self, x, stem):
        gate = torch.nn.functional.silu(self._linear(x, stem + "gate_proj.weight"))
        return self._linear(
            gate * self._linear(x, stem + "up_proj.weight"), stem + "down_proj.weight"
        )

    def _attention(self, x, stem, layer):
        count = len(x)
        q = self._linear(x, stem + "q_proj.weight").view(count, layer.q_heads, layer.qk_dim)
        k = self._linear(x, stem + "k_proj.weight").view(count, layer.kv_heads, layer.qk_dim)
        v = self._linear(x, stem + "v_proj.weight").view(count, layer.kv_heads, layer.v_dim)
        q, k, v = _rotate(q, layer), _rotate(k, layer), v * self.geometry.value_scale

        position = torch.arange(count)
        distance = position[:, None] - position[None, :]  # query minus key
        visible = distance >= 0
        if layer.window_tokens is not None:
            visible &= distance < layer.window_tokens

        heads = []
        for head in range(layer.q_heads):
            kv_head = head * layer.kv_heads // layer.q_heads
            score = (q[:, head] @ k[:, kv_head].T) * layer.qk_dim**-0.5
            score = score.masked_fill(~visible, -math.inf)
            if layer.has_sink:  # one more logit that takes weight and gives no value
                sink = self._weight(stem + "attention_sink_bias", x.dtype)[head]
                score = torch.cat([score, sink.expand(count, 1)], -1)
            weight = score.softmax(-1)[:, :count]
            heads.append(weight @ v[:, kv_head])
        return self._linear(torch.cat(heads, -1), stem + "o_proj.weight")

    def _moe(self, x, stem):
        geometry, wide = self.geometry, _wide(x.dtype)
        score = torch.sigmoid(self._linear(x.to(wide), stem + "gate.weight"))
        choice = score + self._weight(
            stem + "gate.e_score_correction_bias", wide
        )  # chooses, never weighs
        margin = torch.full((len(x),), math.inf, dtype=wide)
        if geometry.groups > 1:
            grouped = choice.view(len(x), geometry.groups, -1)
            group_score = grouped.topk(2, -1).values.sum(-1)
            kept, gap = _top(group_score, geometry.groups_per_token)
            margin = torch.minimum(margin, gap)
            choice = grouped.masked_fill(~kept[..., None], -math.inf).flatten(1)
        kept, gap = _top(choice, geometry.experts_per_token)
        margin = torch.minimum(margin, gap)
        weight = score * kept
        if geometry.renormalise:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        weight = weight * geometry.routed_scale

        out = torch.zeros_like(x)
        for expert in range(geometry.experts):
            rows = kept[:, expert].nonzero()[:, 0]
            if len(rows):
                y = self._swiglu(x[rows], f"{stem}experts.{expert}.")
                out[rows] += (y * weight[rows, expert, None]).to(x.dtype)
        return out, margin.float()


def _wide(dtype):
    return torch.promote_types(dtype, torch.float32)


def _top(score, count):
    """Mask of the `count` largest of each row, and the gap to the best one left out."""
    value, index = score.sort(-1, descending=True)
    mask = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, index[:, :count], True)
    if count == score.shape[-1]:
        return mask, torch.full_like(value[:, 0], math.inf)
    return mask, value[:, count - 1] - value[:, count]


def _rotate(x, layer):
    """RoPE on the first 2 ceil(d / 2) dims of x [T, heads, dim]; j pairs with j + ceil(d / 2)."""
    pairs = (layer.rotary_dim + 1) // 2
    if pairs == 0:
        return x
    frequency = layer.rope_theta ** -(
        2.0 * torch.arange(pairs, dtype=torch.float32) / layer.rotary_dim
    )
    angle = torch.arange(len(x), dtype=torch.float32)[:, None, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)
