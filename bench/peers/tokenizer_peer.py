#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Our encoding speed beside Hugging Face's tokenizers: same text, same tokenizer, one thread,
by turns, in CPU time (other work on the machine then matters less).

    tokenizer_peer.py BUILD/bench/bench.engine.tokenizer [--tokenizer FILE] [--text FILE] [--rounds 5]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402: reads the two variables

ROOT = pathlib.Path(__file__).resolve().parents[2]


def own_text():
    """Sources of this project, and prose in many scripts: about 2 MB."""
    text = "".join(p.read_text() for p in sorted(ROOT.rglob("*.[ch]pp")) if "build" not in p.parts)
    return text * max(1, 2_000_000 // len(text))


def documents(text):
    """As bench/engine/tokenizer_bench.cpp cuts them, but by characters."""
    parts, at = [], 0
    while at < len(text):
        end = text.find("\n", min(at + 4096, len(text)))
        end = len(text) if end < 0 else end + 1
        parts.append(text[at:end])
        at = end
    return parts


def ours(program, env):
    out = subprocess.run(
        [program, "--benchmark_filter=encode_documents", "--benchmark_format=json"],
        env=env, check=True, capture_output=True, text=True,
    ).stdout
    return json.loads(out)["benchmarks"][0]["bytes_per_second"]


def theirs(tokenizer, parts, bytes_total):
    """The better of their two ways: one text after the other, or one call for all, without offsets."""
    rates = []
    for run in (lambda: [tokenizer.encode(p) for p in parts], lambda: tokenizer.encode_batch_fast(parts)):
        start = time.process_time()
        run()
        rates.append(bytes_total / (time.process_time() - start))
    return max(rates)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--tokenizer", default=str(ROOT / "examples/models/nano/tokenizer.json"))
    parser.add_argument("--text")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    text = pathlib.Path(args.text).read_text() if args.text else own_text()
    parts, size = documents(text), len(text.encode())
    tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "text")
        path.write_text(text)
        env = dict(os.environ, ORIEL_BENCH_TEXT=str(path), ORIEL_BENCH_TOKENIZER=args.tokenizer)
        theirs(tokenizer, parts, size)  # Fills their cache of words.
        rounds = [(ours(args.program, env), theirs(tokenizer, parts, size)) for _ in range(args.rounds)]
    mine, peer = (statistics.median(r[i] for r in rounds) / 1e6 for i in (0, 1))
    print(f"{size} bytes, {args.tokenizer}: oriel {mine:.1f} MB/s, tokenizers {tokenizers.__version__} "
          f"{peer:.1f} MB/s, ratio {mine / peer:.1f} (medians of {args.rounds}; "
          f"worst ratio {min(a / b for a, b in rounds):.1f})")


if __name__ == "__main__":
    main()
