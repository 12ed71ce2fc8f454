#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""bench/gpu.sh with stand-ins for CMake and the programs: in which order they run and for how long, what becomes of
rows behind one that loses the device or never ends, and what is left when time is short."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "cuda"))
import table  # noqa: E402

CMAKE = """#!/bin/bash
[ "$1" = --build ] || exit 0
echo build >> "$CALLS"
mkdir -p build/gpu_bench/bench
for target in "${@:4}"; do
  [ "$target" != -- ] || break
  [ "$target" = "bench.cuda.$DOES_NOT_BUILD" ] || cp "$STAND_INS/program" "build/gpu_bench/bench/$target"
done
[ -z "$DOES_NOT_BUILD" ]
"""

# One task for each row, as bench/cuda/measure.hpp has them.
PROGRAM = f"""#!{sys.executable}
import json, os, sys, time
sys.path.insert(0, "bench/cuda")
import table
name = os.path.basename(sys.argv[0]).split(".")[-1]
with open(os.environ["CALLS"], "a") as calls:
    print(name, *sys.argv[1:], file=calls)
lost = ""
for row in [row[0] for row in table.ROWS if row[1] == name]:
    if len(sys.argv) > 2 and row not in sys.argv[2:]:
        continue
    if lost:
        print(json.dumps({{"id": row, "peer": "", "missing": "device lost by " + lost}}), flush=True)
        continue
    print("begins:", row, flush=True)
    if row == os.environ["SLEEPS_AT"]:
        time.sleep(600)
    elif row == os.environ["HANGS_AT"]:
        sys.exit(124)  # As `timeout` says that its time was up.
    elif row == os.environ["LOST_AT"]:
        lost = row
        print(json.dumps({{"id": row, "peer": "", "missing": "an illegal address"}}), flush=True)
    else:
        print(json.dumps({{"id": row, "peer": "", "unit": "us", "limit": "", "value": 1.0, "limit_value": 0,
                          "ratio": 0}}), flush=True)
sys.exit(1 if lost else 0)
"""

PROGRAMS = ["attention", "gemm", "moe", "rows", "sample", "kv_copy", "plan"]


class BenchTest(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)
        for name in ("bench/gpu.sh", "bench/cuda/table.py", "tests/support/steps.sh", "tests/support/cublaslt_of_python.sh"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        for name, text in (("cmake", CMAKE), ("program", PROGRAM)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def start(self, seconds="570", **given):
        environment = {"SLEEPS_AT": "", "HANGS_AT": "", "LOST_AT": "", "DOES_NOT_BUILD": ""} | given
        environment |= {"PATH": f"{self.folder}:{os.environ['PATH']}", "STAND_INS": str(self.folder), "OUT": f"{self.folder}/out",
                        "CALLS": f"{self.folder}/calls", "GPU_SECONDS": seconds, "GPU_COMMIT": "abc"}
        return subprocess.Popen([self.folder / "bench" / "gpu.sh"], env=os.environ | environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run_script(self, **given):
        """What it said, and the calls of programs: name, seconds, rows."""
        said = self.start(**given).communicate(timeout=100)[0]
        calls = [call.split() for call in (self.folder / "calls").read_text().splitlines()]
        return said, [call for call in calls if call != ["build"]]

    def figures(self):
        whole = json.loads((self.folder / "out" / "gpu_bench.json").read_text())
        return {figure["id"]: figure for figure in whole["figures"]}

    def not_measured(self):
        return [row for row, figure in self.figures().items() if "missing" in figure]

    def test_all_of_it(self):
        said, calls = self.run_script()
        self.assertEqual([call[0] for call in calls], PROGRAMS)
        self.assertEqual([int(call[1]) for call in calls], [92, 62, 32, 22, 32, 42, 8])
        self.assertEqual(self.not_measured(), [])
        self.assertIn("| GA decode, bf16 KV", said)
        self.assertEqual((self.folder / "out" / ("gpu_bench" + table.MARKDOWN)).read_text() in said, True)

    def test_where_time_is_short_all_have_their_share(self):
        _, calls = self.run_script(seconds="172")  # Half of what they may take.
        self.assertEqual([call[0] for call in calls], PROGRAMS)
        self.assertLessEqual(int(calls[0][1]), 50)
        self.assertTrue(all(int(call[1]) > 0 for call in calls))
        self.assertEqual(self.not_measured(), [])

    def test_rows_behind_a_lost_device_are_asked_for_again(self):
        said, calls = self.run_script(LOST_AT="decode_128k")
        again = [call for call in calls if call[0] == "attention"]
        rows = [row[0] for row in table.ROWS if row[1] == "attention"]
        self.assertEqual([call[2:] for call in again], [[], rows[rows.index("decode_128k") + 1:]])
        self.assertEqual(self.not_measured(), ["decode_128k"])
        self.assertIn("an illegal address", said)

    def test_rows_behind_one_that_never_ends_too(self):
        _, calls = self.run_script(HANGS_AT="decode")
        self.assertEqual([call[0] for call in calls], [*PROGRAMS, "attention"])
        self.assertEqual(calls[-1][2:], [row[0] for row in table.ROWS if row[1] == "attention"][1:])
        self.assertEqual(self.not_measured(), ["decode"])
        self.assertIn("timed out", self.figures()["decode"]["missing"])

    def test_a_program_that_does_not_compile_stops_no_other(self):
        _, calls = self.run_script(DOES_NOT_BUILD="gemm")
        self.assertEqual([call[0] for call in calls], [name for name in PROGRAMS if name != "gemm"])
        self.assertEqual(self.not_measured(), [row[0] for row in table.ROWS if row[1] == "gemm"])
        self.assertIn("was not built", self.figures()["GEMM"]["missing"])

    def test_what_is_cut_off_leaves_a_table(self):
        with self.start(SLEEPS_AT="grouped_swiglu") as process:
            log = self.folder / "calls"
            while not log.exists() or "gemm" not in log.read_text():
                self.assertIsNone(process.poll())
                time.sleep(0.01)
            before = self.figures()  # Written before that program began: a kill would leave it.
            self.assertIn("value", before["decode"])
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        self.assertEqual(process.returncode, 143)
        self.assertIn("value", self.figures()["decode"])
        self.assertIn("missing", self.figures()["sample_greedy"])
        self.assertIn("cut off", self.figures()["grouped_swiglu"]["missing"])
        self.assertIn("== gemm\n", (self.folder / "out" / "gpu_bench.log").read_text())

    def test_a_second_call_builds_nothing(self):
        self.run_script()
        self.run_script()
        self.assertEqual((self.folder / "calls").read_text().count("build\n"), 1 + 2 * 2)  # Ours once, peers are asked for.


if __name__ == "__main__":
    unittest.main()
