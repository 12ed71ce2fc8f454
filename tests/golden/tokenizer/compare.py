#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Compares our ids and texts with the `tokenizers` library, live, string by string.

    compare.py BUILD/tests/test.engine tokenizer.json...

Takes the strings of corpus.txt and, with --seed, as many random ones again. Exit 1 on a difference.
"""

import argparse
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

import strings


def run_ours(program, model, texts, parse_special):
    """[(ids, decoded bytes)] by the hidden test case of tokenizer_compare_test.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        into, out = pathlib.Path(folder, "strings"), pathlib.Path(folder, "ids")
        encoded = [t.encode("utf-8", "surrogatepass") for t in texts]
        into.write_bytes(b"".join(struct.pack("<I", len(t)) + t for t in encoded))
        env = dict(os.environ, ORIEL_TOKENIZER=str(model), ORIEL_STRINGS=str(into), ORIEL_IDS=str(out))
        if not parse_special:
            env["ORIEL_NO_SPECIAL"] = "1"
        subprocess.run([program, "[.tokenizer_compare]"], env=env, check=True, stdout=subprocess.DEVNULL)
        data, at, results = out.read_bytes(), 0, []
    for _ in texts:
        (count,) = struct.unpack_from("<I", data, at)
        ids = list(struct.unpack_from(f"<{count}I", data, at + 4))
        at += 4 + 4 * count
        (length,) = struct.unpack_from("<I", data, at)
        results.append((ids, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return results


def reseeded(group, index, seed):
    return list(strings.strings_of(group, index + 1000 * seed))


def compare(program, model, seed):
    theirs = Tokenizer.from_file(str(model))
    bad = total = 0
    for parse_special in (True, False):
        theirs.encode_special_tokens = not parse_special
        for index, group in enumerate(strings.read_groups()):
            texts = reseeded(group, index, seed)
            ours = run_ours(program, model, texts, parse_special)
            for text, (ids, decoded), expected in zip(texts, ours, theirs.encode_batch(texts)):
                text_back = theirs.decode(expected.ids, skip_special_tokens=False)
                total += 1
                if ids != expected.ids or decoded.decode("utf-8", "replace") != text_back:
                    bad += 1
                    if bad <= 5:
                        print(f"{model}: {group[0]}: {text!r}\n  theirs {expected.tokens}\n  "
                              f"theirs {expected.ids}\n  ours   {ids}\n  {text_back!r}\n  {decoded!r}")
    print(f"{model}: {total} strings, {bad} differ")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seed", type=int, default=0, help="0: the strings of the committed fixtures")
    args = parser.parse_args()
    sys.exit(1 if sum(compare(args.program, m, args.seed) for m in args.models) else 0)


if __name__ == "__main__":
    main()
