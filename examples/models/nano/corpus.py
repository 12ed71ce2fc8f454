# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""The nano model's text: the Python standard library that ships with the running interpreter.

Files are taken in sorted order and split by a hash of their relative path, so two runs on one Python version see the
same bytes in the same order, and no held-out file ever reaches the tokenizer's training or the model's.
"""

import ast
import hashlib
import sysconfig
import textwrap
from pathlib import Path

# Tests repeat themselves, code pages and generated tables are not prose, and the rest is not the standard library.
SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__",
}
HELD_OUT_ONE_IN = 20

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END, "<think>", "</think>"]


def source_files() -> list[tuple[str, str]]:
    """All (relative path, text) pairs, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(name.parts) or name.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if text.strip():
            files.append((name.as_posix(), text))
    return sorted(files)


def is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def split_files() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(training files, held-out files)."""
    files = source_files()
    return [f for f in files if not is_held_out(f[0])], [f for f in files if is_held_out(f[0])]


def fingerprint(files: list[tuple[str, str]]) -> str:
    """SHA-256 over names and texts: equal fingerprints mean equal data."""
    digest = hashlib.sha256()
    for name, text in files:
        digest.update(f"{name}\0{len(text)}\0{text}\0".encode())
    return digest.hexdigest()


def conversations(text: str) -> list[str]:
    """One ChatML exchange for each short documented function: its docstring asks, its source answers."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    exchanges = []
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ").strip()
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if 16 <= len(summary) <= 160 and len(source) <= 1200:
            exchanges.append(
                f"{TURN_START}user\nWrite {node.name}: {summary}{TURN_END}\n"
                f"{TURN_START}assistant\n{source}{TURN_END}\n{END_OF_TEXT}"
            )
    return exchanges
