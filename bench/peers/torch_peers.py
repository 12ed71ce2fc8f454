#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch and Triton on the problems of bench/cuda: JSON lines for bench/cuda/table.py.

Usage: torch_peers.py [seconds]     what the installed versions lack is named, and so is what finds no time

Sizes, types and what is counted are those of bench/cuda; KV is contiguous, as these peers want it. Medians of 15 rounds,
all of a row in turn; inputs are larger than the caches, or rotated.
"""

import json
import math
import statistics
import sys
import time

ROUNDS = 15
Q_HEADS, KV_HEADS, DK, DV = 64, 4, 192, 128
SCALE = 1 / math.sqrt(DK)
PEERS = []  # (row's id, peer's name, function that returns (callable, amount, unit))


def peer(row, name):
    def add(make):
        PEERS.append((row, name, make))
        return make
    return add


def report(row, name, value, unit):
    print(json.dumps({"id": row, "peer": name, "value": round(value, 3), "unit": unit}), flush=True)


def report_missing(row, name, why):
    why = " ".join(str(why).split())[:160]
    print(json.dumps({"id": row, "peer": name, "missing": why}), flush=True)


def rate_of(milliseconds, amount, unit):
    """`amount` is bytes, FLOPs, or nothing for us."""
    if unit == "us":
        return milliseconds * 1e3
    return amount / milliseconds / (1e6 if unit == "GB/s" else 1e9)


def causal_flops(rows):
    return 2.0 * rows * (rows + 1) / 2 * Q_HEADS * (DK + DV)


def median_ms(run):
    import torch
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    run(0)
    took = []
    for turn in range(ROUNDS):
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000)  # Half a millisecond, in which the host enqueues.
        begin.record()
        run(turn + 1)
        end.record()
        end.synchronize()
        took.append(begin.elapsed_time(end))
    return statistics.median(took)


def random(*shape, dtype=None):
    import torch
    return torch.empty(shape, dtype=dtype or torch.bfloat16, device="cuda").uniform_(-1, 1)


def sdpa(backend, batch, rows, keys, is_causal):
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    chosen = getattr(SDPBackend, backend)
    q, k, v = random(batch, Q_HEADS, rows, DK), random(batch, KV_HEADS, keys, DK), random(batch, KV_HEADS, keys, DV)

    def run(_):
        with sdpa_kernel(chosen):
            F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=SCALE, enable_gqa=True)
    return run


for _backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
    @peer("decode", f"SDPA {_backend}, contiguous")
    def _(backend=_backend):
        return sdpa(backend, 64, 1, 4096, False), 64 * 4096 * 2.0 * KV_HEADS * (DK + DV), "GB/s"

    @peer("decode_128k", f"SDPA {_backend}, contiguous")
    def _(backend=_backend):
        return sdpa(backend, 1, 1, 131072, False), 131072 * 2.0 * KV_HEADS * (DK + DV), "GB/s"

    @peer("prefill_8k", f"SDPA {_backend}, contiguous")
    def _(backend=_backend):
        return sdpa(backend, 1, 8192, 8192, True), causal_flops(8192), "TFLOP/s"


@peer("prefill_32k", "SDPA CUDNN_ATTENTION, contiguous")
def _():
    return sdpa("CUDNN_ATTENTION", 1, 32768, 32768, True), causal_flops(32768), "TFLOP/s"


@peer("GEMM", "torch.matmul")
def _():
    a, b = random(8192, 8192), random(8192, 8192)
    return lambda _: a @ b.T, 2.0 * 8192**3, "TFLOP/s"


def grouped(rows_of):
    import torch
    n, k, total = 4096, 2048, sum(rows_of)
    x, w = random(total, k), random(len(rows_of), n, k)
    ends = torch.tensor(rows_of, device="cuda").cumsum(0).to(torch.int32)
    product = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    return lambda _: product(x, w.transpose(1, 2), offs=ends), 2.0 * total * n * k, "TFLOP/s"


def zipf_rows(groups, rows):
    """As bench/cuda/figures.hpp deals them out."""
    total = sum(1 / i for i in range(1, groups + 1))
    of, left = [0] * groups, rows
    for i in range(groups):
        share = min(left, int(rows / (total * (i + 1))))
        of[i * 37 % groups] += share
        left -= share
    of[0] += left
    return of


peer("grouped_gemm", "torch._grouped_mm")(lambda: grouped([256] * 64))
peer("grouped_gemm_1024", "torch._grouped_mm")(lambda: grouped([1024] * 64))
peer("grouped_zipf", "torch._grouped_mm")(lambda: grouped(zipf_rows(64, 64 * 512)))


@peer("weight_stream", "torch._grouped_mm, down alone")
def _():
    run, _, _ = grouped([2] * 64)
    return run, 64 * 4096 * 2048 * 2.0, "GB/s"


def route(tokens, copies):
    import torch
    logits, bias = random(copies, tokens, 384, dtype=torch.float32), random(384, dtype=torch.float32)

    def run(turn):
        scores = logits[turn % copies].sigmoid()
        ids = (scores + bias).topk(8, sorted=False).indices
        weights = scores.gather(1, ids)
        return weights / weights.sum(1, keepdim=True)
    return run, 0, "us"


peer("router_128", "torch: sigmoid, topk, gather, sum, divide")(lambda: route(128, 1024))
peer("router_32k", "torch: sigmoid, topk, gather, sum, divide")(lambda: route(32768, 7))


@peer("sort_pairs", "torch.sort, stable")
def _():
    import torch
    ids = torch.randint(0, 384, (131072,), device="cuda", dtype=torch.int32)
    return lambda _: torch.sort(ids, stable=True), 0, "us"


def pairs_and_rows():
    import torch
    tokens, hidden = 16384, 4096
    # As bench/cuda/moe.cpp routes them, in the order of experts.
    first = torch.randint(0, 384, (tokens, 1), device="cuda")
    experts = (first + 47 * torch.arange(8, device="cuda")) % 384
    order = torch.argsort(experts.flatten(), stable=True) // 8
    return random(tokens, hidden), order, torch.empty(tokens * 8, hidden, dtype=torch.bfloat16, device="cuda")


@peer("gather", "torch.index_select")
def _():
    import torch
    x, order, out = pairs_and_rows()
    return lambda _: torch.index_select(x, 0, order, out=out), 16.0 * x.numel() * 2, "GB/s"


@peer("gather", "Triton")
def _():
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(x, order, out, WIDTH: tl.constexpr):
        row = tl.program_id(0)
        columns = tl.arange(0, WIDTH)
        tl.store(out + row.to(tl.int64) * WIDTH + columns, tl.load(x + tl.load(order + row) * WIDTH + columns))
    x, order, out = pairs_and_rows()
    return lambda _: kernel[(len(order),)](x, order, out, x.shape[1]), 16.0 * x.numel() * 2, "GB/s"


def logits_of(copies=3):
    import torch
    return [random(256, 152576, dtype=torch.float32) * 6 for _ in range(copies)]


@peer("sample_greedy", "torch.argmax")
def _():
    logits = logits_of()
    return lambda turn: logits[turn % 3].argmax(-1), 256 * 152576 * 4.0, "GB/s"


@peer("sample_top_k", "torch: topk 50, softmax, multinomial")
def _():
    import torch
    logits = logits_of()

    def run(turn):
        best = (logits[turn % 3] / 0.7).topk(50)
        return best.indices.gather(1, torch.multinomial(best.values.softmax(-1), 1))
    return run, 256 * 152576 * 4.0, "GB/s"


@peer("sample_top_p", "torch: sort, softmax, cumsum, multinomial")
def _():
    import torch
    logits = logits_of()

    def run(turn):
        values, ids = (logits[turn % 3] / 0.7).sort(-1, descending=True)
        p = values.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= 0.9, 0)
        return ids.gather(1, torch.multinomial(p, 1))
    return run, 256 * 152576 * 4.0, "GB/s"


# The last: each is compiled for tens of seconds.
def flex(batch, rows, keys, mask):
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    attend = torch.compile(flex_attention)
    q, k, v = random(batch, Q_HEADS, rows, DK), random(batch, KV_HEADS, keys, DK), random(batch, KV_HEADS, keys, DV)
    block_mask = None if mask is None else create_block_mask(mask, None, None, rows, keys)
    return lambda _: attend(q, k, v, block_mask=block_mask, scale=SCALE, enable_gqa=True)


@peer("swa_prefill", "FlexAttention, contiguous")
def _():
    run = flex(1, 32768, 32768, lambda b, h, q, k: (q >= k) & (q - k < 128))
    return run, 32768 * 2.0 * (KV_HEADS + Q_HEADS) * (DK + DV), "GB/s"


@peer("prefill_8k", "FlexAttention, contiguous")
def _():
    return flex(1, 8192, 8192, lambda b, h, q, k: q >= k), causal_flops(8192), "TFLOP/s"


@peer("decode", "FlexAttention, contiguous")
def _():
    return flex(64, 1, 4096, None), 64 * 4096 * 2.0 * KV_HEADS * (DK + DV), "GB/s"


def measure(row, name, make):
    """What it allocates is given back when it returns."""
    import torch
    try:
        with torch.no_grad():
            run, amount, unit = make()
            report(row, name, rate_of(median_ms(run), amount, unit), unit)
    except Exception as error:  # noqa: BLE001: whatever a peer refuses with is its line in the table
        report_missing(row, name, f"{type(error).__name__}: {error}")


def main(seconds):
    end = time.monotonic() + seconds
    try:
        import torch
        why = "" if torch.cuda.is_available() else "no CUDA device"
    except ImportError:
        why = "PyTorch is not installed"
    for row, name, make in PEERS:
        if why or time.monotonic() > end:
            report_missing(row, name, why or "no time left")
            continue
        measure(row, name, make)
        torch.cuda.empty_cache()
    return 77 if why else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1e9))
