# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""The nano model in PyTorch: the MiMo-V2 shape at a few million parameters, written to train fast on one CPU core.

Parameters carry the names of the released family, with one exception: the experts of a layer are stacked in one tensor
while they train (`mlp.experts.gate_up_proj` [E, 2I, H], `mlp.experts.down_proj` [E, H, I]); `checkpoint.py` splits them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. Per layer: heads and widths are equal for full and window attention, KV heads are not."""

    vocabulary: int = 4096
    hidden: int = 192
    layers: int = 6
    heads: int = 8
    kv_heads_full: int = 2
    kv_heads_window: int = 4
    head_dim: int = 48
    value_dim: int = 32
    rotary_dim: int = 16  # int(48 * 0.334)
    window: int = 32  # keys a window layer sees, the query's own included
    theta_full: float = 5e6
    theta_window: float = 1e4
    value_scale: float = 0.707
    norm_eps: float = 1e-5
    dense_inner: int = 512
    experts: int = 8
    experts_per_token: int = 2
    expert_inner: int = 128
    mtp_layers: int = 3
    mtp_inner: int = 384
    max_positions: int = 4096

    def is_full(self, layer: int) -> bool:
        """The released rule: the first layer and every sixth one attend to everything."""
        return layer == 0 or (layer + 1) % 6 == 0


def rope_table(positions: int, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each [positions, rotary_dim], the two halves equal."""
    inverse = theta ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * inverse
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first dimensions of x [batch, time, heads, head_dim]; pairs are (j, j + rotary_dim / 2)."""
    rotary_dim = cos.shape[-1]
    turned, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    low, high = turned.chunk(2, dim=-1)
    swapped = torch.cat([-high, low], dim=-1)
    return torch.cat([turned * cos[:, None] + swapped * sin[:, None], kept], dim=-1)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention, full or windowed; a window layer has one sink logit per query head."""

    def __init__(self, shape: Shape, full: bool):
        super().__init__()
        self.shape, self.full = shape, full
        self.kv_heads = shape.kv_heads_full if full else shape.kv_heads_window
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, self.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, self.kv_heads * shape.value_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.value_dim, shape.hidden, bias=False)
        if not full:
            self.attention_sink_bias = nn.Parameter(torch.zeros(shape.heads))
        theta = shape.theta_full if full else shape.theta_window
        cos, sin = rope_table(shape.max_positions, shape.rotary_dim, theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        s = self.shape
        cos, sin = self.cos[:time], self.sin[:time]
        q = apply_rope(self.q_proj(x).view(batch, time, s.heads, s.head_dim), cos, sin) * s.head_dim**-0.5
        k = apply_rope(self.k_proj(x).view(batch, time, self.kv_heads, s.head_dim), cos, sin)
        v = self.v_proj(x).view(batch, time, self.kv_heads, s.value_dim) * s.value_scale
        attend = self.attend_full if self.full else self.attend_window
        return self.o_proj(attend(q, k, v).reshape(batch, time, -1))

    def attend_full(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The fused kernel wants one width for keys and values.
        v = F.pad(v, (0, self.shape.head_dim - self.shape.value_dim))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        groups = self.shape.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return out[..., : self.shape.value_dim].transpose(1, 2)

    def attend_window(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries in blocks of W see their own block and the one before: O(time * W), not O(time^2)."""
        s, w = self.shape, self.shape.window
        batch, time = q.shape[:2]
        pad = -time % w
        if pad:
            q, k, v = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (q, k, v))
        blocks, groups = (time + pad) // w, s.heads // self.kv_heads

        def with_previous(t: Tensor) -> Tensor:  # -> [batch, kv_heads, blocks, 2W, dim]
            t = t.view(batch, blocks, w, self.kv_heads, -1).permute(0, 3, 1, 2, 4)
            return torch.cat([F.pad(t, (0, 0, 0, 0, 1, 0))[:, :, :-1], t], dim=3)

        q = q.view(batch, blocks, w, self.kv_heads, groups, -1).permute(0, 3, 1, 4, 2, 5)
        q = q.reshape(batch, self.kv_heads, blocks, groups * w, -1)
        scores = q @ with_previous(k).transpose(-1, -2)
        scores = scores.view(batch, self.kv_heads, blocks, groups, w, 2 * w) + self.window_mask(blocks)
        sink = self.attention_sink_bias.view(1, self.kv_heads, 1, groups, 1, 1)
        scores = torch.cat([scores, sink.expand(batch, -1, blocks, -1, w, -1)], dim=-1)
        weights = scores.softmax(dim=-1)[..., :-1].reshape(batch, self.kv_heads, blocks, groups * w, 2 * w)
        out = (weights @ with_previous(v)).view(batch, self.kv_heads, blocks, groups, w, -1)
        return out.permute(0, 2, 4, 1, 3, 5).reshape(batch, time + pad, -1)[:, :time]

    def window_mask(self, blocks: int) -> Tensor:
        """[blocks, 1, W, 2W] of 0 and -inf: key c of a block stands c - W positions after the block's first query."""
        w = self.shape.window
        distance = torch.arange(w)[:, None] - (torch.arange(2 * w) - w)
        seen = ((distance >= 0) & (distance < w)).expand(blocks, w, 2 * w).clone()
        seen[0, :, :w] = False
        return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


class DenseMlp(nn.Module):
    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Sigmoid scores; the correction bias takes part in the choice and not in the weights."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.experts, shape.hidden))
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.experts))
        self.chosen = shape.experts_per_token

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = F.linear(x, self.weight).sigmoid()
        index = (scores + self.e_score_correction_bias).topk(self.chosen, dim=-1).indices
        weights = scores.gather(-1, index)
        return weights / (weights.sum(-1, keepdim=True) + 1e-20), index


class Experts(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(shape.experts, 2 * shape.expert_inner, shape.hidden))
        self.down_proj = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.expert_inner))

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """Rows of x come sorted by expert, counts[e] rows for expert e."""
        parts = []
        for rows, gate_up, down in zip(x.split(counts), self.gate_up_proj, self.down_proj):
            gate, up = F.linear(rows, gate_up).chunk(2, dim=-1)
            parts.append(F.linear(F.silu(gate) * up, down))
        return torch.cat(parts)


class MoeMlp(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.gate = Router(shape)
        self.experts = Experts(shape)
        self.register_buffer("load", torch.zeros(shape.experts), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.shape.hidden)
        weights, index = self.gate(flat)
        chosen = index.reshape(-1)
        counts = torch.bincount(chosen, minlength=self.shape.experts)
        self.load += counts
        order = chosen.argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        rows = flat.repeat_interleave(self.shape.experts_per_token, 0)[order]
        out = self.experts(rows, counts.tolist())[inverse].view(len(flat), -1, self.shape.hidden)
        return (out * weights[..., None]).sum(1).view(x.shape)

    @torch.no_grad()
    def balance(self, rate: float) -> None:
        """Moves the correction bias towards an equal load, by the load since the last call."""
        self.gate.e_score_correction_bias += rate * (self.load.mean() - self.load).sign()
        self.load.zero_()


class Layer(nn.Module):
    def __init__(self, shape: Shape, index: int):
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape, shape.is_full(index))
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = DenseMlp(shape.hidden, shape.dense_inner) if index == 0 else MoeMlp(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class MtpLayer(nn.Module):
    """One draft head: from the main model's residual stream at row p and a later token's embedding."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.enorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.hnorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.eh_proj = nn.Linear(2 * shape.hidden, shape.hidden, bias=False)
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape, full=False)
        self.pre_mlp_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = DenseMlp(shape.hidden, shape.mtp_inner)
        self.final_layernorm = RMSNorm(shape.hidden, shape.norm_eps)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        x = self.eh_proj(torch.cat([self.enorm(embedding), self.hnorm(hidden)], dim=-1))
        x = x + self.self_attn(self.input_layernorm(x))
        x = x + self.mlp(self.pre_mlp_layernorm(x))
        return self.final_layernorm(x)


class Body(nn.Module):
    """The part of the checkpoint under `model.`"""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, i) for i in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mtp = nn.ModuleDict({"layers": nn.ModuleList(MtpLayer(shape) for _ in range(shape.mtp_layers))})


class NanoModel(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Residual writers and the head start at zero: a fresh layer is the identity, the first guess is uniform."""
        for name, p in self.named_parameters():
            if p.ndim < 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj", "lm_head.weight")):
                p.zero_()
            elif "embed_tokens" in name:
                p.normal_(std=0.5)
            else:
                p.normal_(std=p.shape[-1] ** -0.5)

    def hidden(self, tokens: Tensor) -> Tensor:
        """tokens [batch, time] -> the residual stream before the final norm [batch, time, hidden]."""
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(self.model.norm(hidden))

    def mtp_logits(self, head: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        """hidden [batch, time, hidden] of rows p, tokens [batch, time] that stand at p + 1 + head -> logits for the
        token at p + 2 + head."""
        return self.lm_head(self.model.mtp["layers"][head](hidden, self.model.embed_tokens(tokens)))

    def moe_layers(self) -> list[MoeMlp]:
        return [layer.mlp for layer in self.model.layers if isinstance(layer.mlp, MoeMlp)]
