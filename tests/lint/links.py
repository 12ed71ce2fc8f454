#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that documents and comments name files and sections that exist.

In documents: relative links, `#section` links, and paths written as code that begin with a folder of the
repository, such as `examples/engine/engine.hpp`; headers may be named as they are included,
`kernels/paged_kv.hpp`. In sources: every mention of a document, `docs/model.md#attention`; a bare
`name.md` lies beside the file, in docs/ or at the top.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
CODE = re.compile(r"`((?:include|src|kernels|examples|tests|bench|docs)/[\w./-]*)`")
MENTION = re.compile(r"(?<![\w*./-])((?:[\w-]+/)*[\w-]+\.md)(?:#([\w-]+))?")
SOURCES = ["*.hpp", "*.cpp", "*.cu", "*.cuh", "*.cmake", "*CMakeLists.txt", "*.sh", "*.py"]


def tracked(*patterns: str) -> list[str]:
    listing = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return listing.stdout.split()


def sections(document: pathlib.Path) -> set[str]:
    """The anchors of a document's headings, as they are made for display."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem_with(candidates: list[pathlib.Path], section: str | None) -> str | None:
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        return "no such file"
    if section and found.suffix == ".md" and section not in sections(found):
        return "no such section"
    return None


def references_in(name: str, line: str):
    """Yields (as written, files that may be meant, section or None)."""
    file = ROOT / name
    if file.suffix == ".md":
        for target, section in LINK.findall(line):
            yield f"{target}#{section}", [file.parent / target if target else file], section
        for target in CODE.findall(line):
            yield target, [ROOT / target, ROOT / "include/oriel" / target], None
    else:
        for target, section in MENTION.findall(line):
            yield f"{target}#{section}", [ROOT / target, file.parent / target, ROOT / "docs" / target], section


def main() -> int:
    found = []
    for name in tracked("*.md", *SOURCES):
        if ROOT / name == pathlib.Path(__file__).resolve():
            continue
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            for written, candidates, section in references_in(name, line):
                if problem := problem_with(candidates, section):
                    found.append(f"{name}:{number}: {problem}: {written.rstrip('#')}")
    print("\n".join(found) if found else "links: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
