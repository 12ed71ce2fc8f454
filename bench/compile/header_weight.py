#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""What it costs to include a public header: CPU ms of `g++ -std=c++20 -fsyntax-only`, best of five.

    bench/compile/header_weight.py [--budget MS] [compiler]

Prints a table, heaviest first, and fails if a header is over the budget (150 ms). An empty unit's
time is subtracted. Not a test: machines differ.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def cpu_ms(compiler: str, text: str) -> float:
    """The least user + system time of five compilations."""
    command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{ROOT}/include", "-x", "c++", "-"]
    best = float("inf")
    for _ in range(5):
        before = os.times()
        subprocess.run(command, input=text.encode(), check=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    return best * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=150.0, metavar="MS")
    parser.add_argument("compiler", nargs="?", default="g++")
    options = parser.parse_args()
    empty = cpu_ms(options.compiler, "")
    headers = sorted(p for p in (ROOT / "include").rglob("*") if p.suffix in {".hpp", ".cuh"})
    rows = []
    for header in headers:
        name = header.relative_to(ROOT / "include")
        rows.append((cpu_ms(options.compiler, f"#include <{name}>\n") - empty, str(name)))
    rows.sort(reverse=True)
    print("| header | ms |\n|---|---:|")
    for ms, name in rows:
        print(f"| {name} | {ms:.0f}{' over' if ms > options.budget else ''} |")
    return 1 if rows and rows[0][0] > options.budget else 0


if __name__ == "__main__":
    sys.exit(main())
