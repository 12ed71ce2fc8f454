# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Runs bench.spec.acceptance on the nano model's held-out text (examples/models/nano/README.md).

    python acceptance.py BUILD/bench/bench.spec.acceptance

The text is that of the running interpreter's standard library: with CPython 3.11.7 it is the held-out text of training.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "models" / "nano"))
import corpus


def main() -> int:
    _, held_out = corpus.split_files()
    print(f"{len(held_out)} files, {corpus.fingerprint(held_out)[:8]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, (_, text) in enumerate(held_out):
            paths.append(Path(folder) / f"{number:02}.py")
            paths[-1].write_text(text, encoding="utf-8")
        return subprocess.run([sys.argv[1], *paths]).returncode


if __name__ == "__main__":
    sys.exit(main())
