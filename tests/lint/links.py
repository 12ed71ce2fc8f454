#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that the documents name files that exist: relative links, and paths written as code.

A path is checked if it begins with a folder of the repository, such as `examples/engine/engine.hpp`;
headers may be named as they are included, `kernels/paged_kv.hpp`.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
CODE = re.compile(r"`((?:include|src|kernels|examples|tests|bench|docs)/[\w./-]*)`")


def main() -> int:
    missing = []
    names = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split():
        document = ROOT / name
        for number, line in enumerate(document.read_text().splitlines(), 1):
            targets = [(t, document.parent / t) for t in LINK.findall(line)]
            targets += [(t, ROOT / t) for t in CODE.findall(line) if not (ROOT / "include/oriel" / t).exists()]
            missing += [f"{name}:{number}: no such file: {t}" for t, path in targets if not path.exists()]
    print("\n".join(missing) if missing else "links: clean")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
