# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""The strings of corpus.txt, the same as tests/engine/tokenizer_golden_test.cpp makes."""

import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
MASK = (1 << 64) - 1
STRINGS_PER_BLOCK = 100  # one digest each


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n


def unescape(text):
    named = {"n": "\n", "r": "\r", "t": "\t", "s": " ", "\\": "\\"}
    return re.sub(
        r"\\(?:u\{([0-9A-Fa-f]+)\}|(.))",
        lambda m: chr(int(m[1], 16)) if m[1] else named[m[2]],
        text,
    )


def read_groups(path=HERE / "corpus.txt"):
    """[(name, strings, items_min, items_max, repeat_max, [text or (first, last)])]"""
    groups = []
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "group":
            name, *numbers = rest.split()
            groups.append((name, *map(int, numbers), []))
        elif kind == "t":
            groups[-1][-1].append(unescape(rest))
        elif kind == "r":
            first, last = (int(x, 16) for x in rest.split())
            groups[-1][-1].append((first, last))
        elif kind != "#":
            raise ValueError(f"corpus.txt: cannot read {line!r}")
    return groups


def strings_of(group, index):
    """The strings of one group; `index` is its place in the file, and its seed."""
    _, count, items_min, items_max, repeat_max, items = group
    random = Random(index + 1)
    for _ in range(count):
        parts = []
        for _ in range(items_min + random.below(items_max - items_min + 1)):
            item = items[random.below(len(items))]
            if isinstance(item, tuple):
                item = chr(item[0] + random.below(item[1] - item[0] + 1))
            if random.below(16) == 0:
                item *= 1 + random.below(repeat_max)
            parts.append(item)
        yield "".join(parts)


def digest(ids_of_strings):
    """FNV-1a, 64 bits, over count and ids of each string, as little-endian 32-bit words."""
    h = 0xCBF29CE484222325
    for ids in ids_of_strings:
        for word in (len(ids), *ids):
            for byte in word.to_bytes(4, "little"):
                h = ((h ^ byte) * 0x100000001B3) & MASK
    return h
