#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Makes one table of what bench/cuda and bench/peers measured, with a line for each goal: met, missed, not measured, or
impossible, where the figure is more than a device can do. Exit code 1: one of the latter two is there.

Usage: table.py FACTS OUTCOMES OUT LINES...     writes the table to OUT with the suffix of Markdown, figures with .json
       table.py --not-begun STEP LINES...       prints the rows of a step that its program did not come to
FACTS     lines "name<tab>value" of the machine; OUTCOMES of tests/support/steps.sh
LINES     files of JSON lines (bench/cuda/figures.hpp); of others only "begins: ID..." is read
"""

import json
import math
import sys
from pathlib import Path

MARKDOWN = ".md"
IMPOSSIBLE = "IMPOSSIBLE, the bench is wrong"

# id, step that measures it, what it is, sense and size of the goal for the ratio (None: no goal).
ROWS = [
    ("GEMM", "gemm", "GEMM: cuBLASLt 8192 x 8192 x 8192, bf16", None, None),
    ("decode", "attention", "GA decode, bf16 KV, 64 x 4,096 keys (0.67 GB)", ">=", 0.93),
    ("decode_skewed", "attention", "the same, lengths 1:100 (0.57 GB)", ">=", 0.90),
    ("decode_128k", "attention", "GA decode, batch 1, 128 K context", ">=", 0.88),
    ("verify4", "attention", "verify(4) / decode(1), time", "<=", 1.06),
    ("verify4_e4m3", "attention", "verify(4) / decode(1), fp8 KV, time", "<=", 1.15),
    ("decode_e4m3", "attention", "GA decode, fp8 KV", ">=", 0.85),
    ("decode_e4m3_time", "attention", "GA decode, fp8 KV / bf16 KV, time", "<=", 0.58),
    ("prefill_8k", "attention", "GA prefill, causal 8 K, paged", ">=", 0.82),
    ("prefill_8k_paged", "attention", "the same, scattered pages / pages in order, time", "<=", 1.04),
    ("prefill_32k", "attention", "GA prefill, causal 32 K, paged", ">=", 0.86),
    ("prefill_32k_paged", "attention", "the same, scattered pages / pages in order, time", "<=", 1.04),
    ("swa_prefill", "attention", "SWA prefill, 32 K rows, bytes of Q, K, V, O", ">=", 0.65),
    ("swa_decode", "attention", "SWA decode, batch 256, rings", ">=", 0.80),
    ("swa_decode_small", "attention", "SWA decode, batch 8, a node of a graph", "<=", 1.00),
    ("grouped_gemm", "gemm", "grouped GEMM, 64 experts x 256 rows, bf16", ">=", 0.93),
    ("grouped_gemm_1024", "gemm", "grouped GEMM, 64 experts x 1,024 rows, bf16", ">=", 0.93),
    ("grouped_swiglu", "gemm", "grouped GEMM with SwiGLU, 256 rows", ">=", 0.90),
    ("grouped_zipf", "gemm", "grouped GEMM, Zipf-skewed rows, 512 on average", ">=", 0.87),
    ("grouped_gemm_e4m3", "gemm", "grouped GEMM, 256 rows, e4m3", None, None),
    ("weight_stream", "gemm", "MoE decode, stream of weights, bf16", ">=", 0.88),
    ("weight_stream_e4m3", "gemm", "MoE decode, stream of weights, e4m3", ">=", 0.88),
    ("router_128", "moe", "router, 384 experts, 128 tokens", "<=", 1.00),
    ("router_32k", "moe", "router, 384 experts, 32 K tokens", "<=", 1.00),
    ("router_product_1", "moe", "the router's product, 384 x 6,144 in f32, 1 token, a node of a graph", None, None),
    ("router_product_64", "moe", "the same, 64 tokens", None, None),
    ("router_product_32k", "moe", "the same, 32 K tokens", None, None),
    ("sort_pairs", "moe", "permute: sort of 131,072 pairs by expert", None, None),
    ("gather", "moe", "permute: rows gathered by expert, a read and a write for each pair", ">=", 0.92),
    ("combine", "moe", "unpermute: rows combined", ">=", 0.92),
    ("append", "rows", "append to KV pages, f32 to bf16", ">=", 0.92),
    ("rope", "rows", "rope, 16 K rows of 64 query heads to bf16 and 4 KV heads", None, None),
    ("rms_norm", "rows", "RMSNorm with the residual, bf16, 32 K x 6,144", None, None),
    ("rms_norm_bf16", "rows", "RMSNorm of f32 to a product's bf16, 32 K x 6,144", None, None),
    ("rms_norm_e4m3", "rows", "RMSNorm of f32 to a product's e4m3, 32 K x 6,144", None, None),
    ("quantize", "rows", "rows of bf16 to e4m3, 32 K x 6,144", None, None),
    ("kv_up", "kv_copy", "KV host -> device, 160 KiB pages, 4 SMs", ">=", 0.95),
    ("kv_down", "kv_copy", "KV device -> host, 160 KiB pages, 4 SMs", ">=", 0.95),
    ("kv_up_small", "kv_copy", "KV host -> device, 10 KiB pages, 4 SMs", ">=", 0.95),
    ("kv_down_small", "kv_copy", "KV device -> host, 10 KiB pages, 4 SMs", ">=", 0.95),
    ("kv_device", "kv_copy", "KV device -> device, 160 KiB pages", None, None),
    ("kv_beside", "kv_copy", "attention beside such a copy, time", "<=", 1.03),
    ("sample_greedy", "sample", "verify and sample, greedy, 256 x 152,576 logits", ">=", 0.80),
    ("sample_top_p", "sample", "verify and sample, temperature 0.7, top-p 0.9", ">=", 0.80),
    ("sample_top_k", "sample", "verify and sample, top-k 50, min-p 0.05", ">=", 0.80),
    ("plan", "plan", "plan for 256 sequences (host only, no allocation)", "<=", 1.00),
]

# What cannot be, by what a ratio is against (`limit` of a figure): the least and the most of it. A figure outside is a
# bug of its bench: bytes that came from a cache, work that was left out, a clock that was not waited for. The bounds
# are wide, so that no true figure is outside; what is within may be wrong all the same.
ANY = math.inf
BOUNDS = {
    # The memory's raw rate over what a copy makes of it, 0.87 or more: reading alone is faster than copying.
    "COPY": (0, 1.15),
    "LINK": (0, 1.15),  # the same of a link: 63 GB/s raw, 55 by a large copy
    "decode(1)": (0.95, ANY),  # reads the same keys and computes four times as much
    "pages in order": (0.90, ANY),  # the same kernel, bytes and operations
    "alone": (0.95, ANY),  # the same work, on fewer multiprocessors
    "bf16 KV": (0.40, ANY),  # 0.52 of the bytes, beside a bf16 kernel that has 0.8 of the rate or more
    "empty node + 1.3 x bytes": (0.40, ANY),  # neither less than the node nor than the bytes
}
# Rows that write as much as they read cost the memory what a copy costs it.
LIKE_A_COPY = 1.05
COPIERS = {"rms_norm", "kv_device", "gather"}
# A device's most, whatever its power allows, where its name is known: 6,144 bits at 2 x 3,201 MHz; 132 multiprocessors
# at 1,980 MHz with 4,096 FLOPs a cycle in bf16 and 8,192 in e4m3.
PEAKS = {"H200": {"GB/s": 4917, "TFLOP/s": 1071, "TFLOP/s e4m3": 2141}}


def read_lines(paths):
    """JSON lines by id: (our figure or None, peers, in the order they came). A row may have been asked for again: what
    was measured counts."""
    ours, peers = {}, {}
    for line in lines_of(paths):
        if not line.startswith("{"):
            continue
        try:
            figure = json.loads(line)
        except json.JSONDecodeError:
            continue  # A program that was stopped within a line.
        if figure.get("peer"):
            peers.setdefault(figure["id"], []).append(figure)
        elif "value" in figure or "value" not in ours.get(figure["id"], {}):
            ours[figure["id"]] = figure
    return ours, peers


def lines_of(paths):
    for path in paths:
        if Path(path).exists():
            yield from Path(path).read_text(errors="replace").splitlines()


def not_begun(step, paths):
    """Rows of the step that no run of its program has begun or measured."""
    begun = {row for line in lines_of(paths) if line.startswith("begins: ") for row in line.split()[1:]}
    measured = {row for row, figure in read_lines(paths)[0].items() if "value" in figure}
    return [row[0] for row in ROWS if row[1] == step and row[0] not in begun | measured]


def read_pairs(path):
    return [line.split("\t") for line in Path(path).read_text().splitlines() if "\t" in line]


def is_met(sense, goal, ratio):
    return ratio >= goal if sense == ">=" else ratio <= goal


def number(x):
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def why_impossible(figure, device):
    """Why a measured figure, ours or a peer's, cannot be true, or None."""
    value, unit, limit = figure["value"], figure["unit"], figure.get("limit", "")
    numbers = [value] + ([figure["limit_value"], figure["ratio"]] if limit else [])
    if not all(math.isfinite(x) and x > 0 for x in numbers):
        return "not above zero"
    least, most = BOUNDS.get(limit, (0, ANY))
    if limit == "COPY" and figure["id"] in COPIERS:
        most = LIKE_A_COPY
    if limit and figure["ratio"] > most:
        return f"above {most:.2f} of {limit}"
    if limit and figure["ratio"] < least:
        return f"below {least:.2f} of {limit}"
    for name, peaks in PEAKS.items():
        peak = (peaks.get(f"{unit} e4m3") if "e4m3" in figure["id"] else None) or peaks.get(unit, ANY)
        if name in device and value > peak:
            return f"above the {number(peak)} {unit} of {name}"
    return None


def result_of(row, ours, outcomes, device):
    """What becomes of a row: the figure with goal and verdict, or with the reason why there is none."""
    figure_id, step, name, sense, goal = row
    result = {"id": figure_id, "figure": name, "sense": sense, "goal": goal}
    figure = ours.get(figure_id)
    if figure is None or "missing" in figure:
        outcome = outcomes.get(step, ["not run"])
        reason = figure["missing"] if figure else f"step {step}: {' '.join(outcome)}"
        return result | {"verdict": "NOT MEASURED", "missing": reason}
    result |= {key: figure[key] for key in ("value", "unit", "limit", "limit_value", "ratio")}
    if why := why_impossible(figure, device):
        return result | {"verdict": IMPOSSIBLE, "impossible": why}
    verdict = "" if goal is None else "met" if is_met(sense, goal, figure["ratio"]) else "MISSED"
    return result | {"verdict": verdict}


def verdict_of(result):
    return f"{result['verdict']}: {result['impossible']}" if "impossible" in result else result["verdict"]


def peer_line(peer, ours, device):
    name = f"| - {peer['peer']} "
    if "missing" in peer:
        return name + f"| | not measured: {peer['missing']} | | | |"
    if why := why_impossible(peer, device):
        return name + f"| | {number(peer['value'])} {peer['unit']} | | | {IMPOSSIBLE}: {why} |"
    ratio = ""
    if ours and "value" in ours and "impossible" not in ours and peer.get("unit") == ours["unit"] and peer["value"]:
        faster = ours["value"] / peer["value"]
        ratio = f"{1 / faster if ours['unit'] == 'us' else faster:.3f} of its rate"
    return name + f"| | {number(peer['value'])} {peer['unit']} | {ratio} | | |"


def markdown_of(facts, results, peers, outcomes, device):
    lines = [f"{name}: {value}  " for name, value in facts]
    lines += ["", "| figure | ours | limit or peer | ratio | goal | |", "|---|---|---|---|---|---|"]
    for r in results:
        goal = "" if r["goal"] is None else f"{r['sense']} {r['goal']:.2f}"
        if "missing" in r:
            lines.append(f"| {r['figure']} | | {r['missing']} | | {goal} | {r['verdict']} |")
        else:
            limit = f"{r['limit']}: {number(r['limit_value'])} {r['unit']}" if r["limit"] else ""
            ratio = f"{r['ratio']:.3f}" if r["limit"] else ""
            value = f"{number(r['value'])} {r['unit']}"
            lines.append(f"| {r['figure']} | {value} | {limit} | {ratio} | {goal} | {verdict_of(r)} |")
        lines += [peer_line(peer, r, device) for peer in peers.get(r["id"], [])]
    lines += ["", "| step | outcome | |", "|---|---|---|"]
    lines += [f"| {step} | {' | '.join(outcome)} |" for step, outcome in outcomes.items()]
    return "\n".join(lines) + "\n"


def main(facts_path, outcomes_path, out, *line_paths):
    facts = [(name, value) for name, value, *_ in read_pairs(facts_path)]
    outcomes = {name: rest for name, *rest in read_pairs(outcomes_path)}
    ours, peers = read_lines(line_paths)
    device = dict(facts).get("device", "")
    results = [result_of(row, ours, outcomes, device) for row in ROWS]
    known = {row[0] for row in ROWS}
    strangers = sorted((ours.keys() | peers.keys()) - known)
    markdown = markdown_of(facts, results, peers, outcomes, device)
    Path(out + MARKDOWN).write_text(markdown)
    whole = {"facts": dict(facts), "figures": results, "peers": peers, "steps": outcomes}
    Path(f"{out}.json").write_text(json.dumps(whole, indent=1) + "\n")
    sys.stdout.write(markdown)
    verdicts = [r["verdict"] for r in results]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("met", "MISSED", "NOT MEASURED", IMPOSSIBLE))
    print(f"\ngoals: {counts}")
    if strangers:
        raise SystemExit(f"table.py: no row for {', '.join(strangers)}")
    return 1 if "NOT MEASURED" in verdicts or IMPOSSIBLE in verdicts else 0


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--not-begun":
        print("".join(f"{row}\n" for row in not_begun(sys.argv[2], sys.argv[3:])), end="")
        sys.exit(0)
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    sys.exit(main(*sys.argv[1:]))
