#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that the README's example is the file it names; --write makes it so.

The block stands between `<!-- PATH -->` and `<!-- end -->` and holds PATH without its licence lines.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- (examples/\S+) -->\n```cpp\n(.*?)```\n<!-- end -->", re.S)


def source_of(path: str) -> str:
    lines = (ROOT / path).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("// SPDX-"))


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    if not BLOCK.search(text):
        print("README.md: no example block")
        return 1
    wanted = BLOCK.sub(lambda m: f"<!-- {m[1]} -->\n```cpp\n{source_of(m[1])}```\n<!-- end -->", text)
    if sys.argv[1:] == ["--write"]:
        readme.write_text(wanted)
    elif wanted != text:
        print("README.md: the example is not its file; run tests/lint/readme_example.py --write")
        return 1
    print("README example: same as its file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
