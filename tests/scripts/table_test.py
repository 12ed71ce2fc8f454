#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""bench/cuda/table.py: every goal has a line, met, missed, named as not measured, or as more than a device can do."""

import io
import json
import re
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "cuda"))
import table  # noqa: E402


def figure(figure_id, ratio, value=4000.0, unit="GB/s", peer="", limit="COPY"):
    return json.dumps({"id": figure_id, "peer": peer, "unit": unit, "limit": limit, "value": value,
                       "limit_value": 4300.0, "ratio": ratio})


class TableTest(unittest.TestCase):
    def make(self, lines, outcomes="", device="one"):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "facts").write_text(f"device\t{device}\ncommit\tabc\n")
            (folder / "outcomes").write_text(outcomes)
            (folder / "lines").write_text("\n".join(lines) + "\n")
            out = io.StringIO()
            with redirect_stdout(out):
                code = table.main(*(str(folder / name) for name in
                                    ("facts", "outcomes", "out", "lines", "never_written")))
            return code, (folder / ("out" + table.MARKDOWN)).read_text(), json.loads((folder / "out.json").read_text())

    def line(self, markdown, name):
        return next(line for line in markdown.splitlines() if line.startswith(f"| {name} |"))

    def test_goals_are_met_or_missed_at_their_border(self):
        _, markdown, whole = self.make([figure("decode", 0.93), figure("decode_128k", 0.8799),
                                        figure("verify4", 1.06, unit="us", limit="decode(1)"),
                                        figure("kv_beside", 1.0301, unit="us", limit="alone")])
        verdicts = {f["id"]: f["verdict"] for f in whole["figures"]}
        self.assertEqual(verdicts["decode"], "met")
        self.assertEqual(verdicts["decode_128k"], "MISSED")
        self.assertEqual(verdicts["verify4"], "met")
        self.assertEqual(verdicts["kv_beside"], "MISSED")
        line = self.line(markdown, "GA decode, bf16 KV, 64 x 4,096 keys (0.67 GB)")
        self.assertIn("| 4,000 GB/s | COPY: 4,300 GB/s | 0.930 | >= 0.93 | met |", line)

    def verdict(self, line, device="one"):
        """Of one figure, and what the exit code would be if all others were there."""
        _, _, whole = self.make([line], device=device)
        return next(f for f in whole["figures"] if f["id"] == json.loads(line)["id"])

    def test_what_no_device_can_do_is_no_goal_met(self):
        for line in (
                figure("decode", 1.16), figure("kv_device", 1.06),
                figure("rms_norm", 1.06), figure("gather", 1.06), figure("kv_up", 1.16, limit="LINK"),
                figure("decode", 0), figure("decode", -0.95), figure("decode", 0.95, value=0),
                figure("decode", 0.95, value=-4000.0), figure("verify4", 0.94, unit="us", limit="decode(1)"),
                figure("kv_beside", 0.94, unit="us", limit="alone"),
                figure("prefill_8k_paged", 0.89, unit="us", limit="pages in order"),
                figure("decode_e4m3_time", 0.39, unit="us", limit="bf16 KV"),
                figure("router_128", -1.0, 5.0, "us", limit="the goal"),
                figure("swa_decode_small", 0.39, unit="us", limit="empty node + 1.3 x bytes"),
                figure("decode", float("nan")), figure("decode", 0.95, value=float("inf")),
                figure("sort_pairs", 0, -1.0, "us", limit="")):
            found = self.verdict(line)
            self.assertEqual(found["verdict"], table.IMPOSSIBLE, line)
            self.assertTrue(found["impossible"])

    def test_what_is_just_possible_is_judged_by_its_goal(self):
        for line, verdict in (
                (figure("decode", 1.15), "met"), (figure("combine", 1.15), "met"), (figure("gather", 1.05), "met"),
                (figure("rms_norm", 1.05), ""),
                (figure("verify4", 0.95, unit="us", limit="decode(1)"), "met"),
                (figure("decode_e4m3_time", 0.40, unit="us", limit="bf16 KV"), "met"),
                (figure("grouped_gemm", 1.3, 900.0, "TFLOP/s", limit="dense cuBLASLt bf16"), "met"),
                (figure("sort_pairs", 0, 10.0, "us", limit=""), "")):
            self.assertEqual(self.verdict(line)["verdict"], verdict, line)

    def test_a_known_device_has_a_peak(self):
        name = "NVIDIA H200, 580.1, 143771 MiB"
        fast = figure("GEMM", 0, 1100.0, "TFLOP/s", limit="")
        self.assertEqual(self.verdict(fast, name)["verdict"], table.IMPOSSIBLE)
        self.assertEqual(self.verdict(fast)["verdict"], "")
        e4m3 = figure("grouped_gemm_e4m3", 1.6, 1100.0, "TFLOP/s", limit="dense cuBLASLt bf16")
        self.assertEqual(self.verdict(e4m3, name)["verdict"], "")
        self.assertEqual(self.verdict(e4m3.replace("1100", "2200"), name)["verdict"], table.IMPOSSIBLE)
        self.assertEqual(self.verdict(figure("decode", 1.1, 5000.0), name)["verdict"], table.IMPOSSIBLE)

    def test_the_impossible_is_told_and_fails(self):
        rows = [figure(figure_id, 1.0) for figure_id, *_ in table.ROWS]
        self.assertEqual(self.make(rows)[0], 0)
        code, markdown, _ = self.make(rows + [figure("decode", 2.0), figure("decode", 0.9, peer="another"),
                                              figure("plan", 0.0, 0.0, "us", peer="third")])
        self.assertEqual(code, 1)
        line = self.line(markdown, "GA decode, bf16 KV, 64 x 4,096 keys (0.67 GB)")
        self.assertIn(f"{table.IMPOSSIBLE}: above 1.15 of COPY", line)
        self.assertNotIn("met", line)
        self.assertIn("| - another | | 4,000 GB/s |  | | |", markdown)  # Of what is impossible nobody has a part.
        self.assertIn(f"| - third | | 0 us | | | {table.IMPOSSIBLE}: not above zero |", markdown)

    def test_nothing_is_left_out(self):
        code, markdown, whole = self.make(
            [json.dumps({"id": "decode_e4m3", "peer": "", "missing": "plan_attention of e4m3 KV failed"}),
             '{"id": "decode_skewed", "pee'],
            "attention\ttimed out\t90 s of 90, exit code 124\n")
        self.assertEqual(code, 1)
        for _, _, name, _, _ in table.ROWS:
            self.assertIn("NOT MEASURED", self.line(markdown, name))
        self.assertIn("plan_attention of e4m3", self.line(markdown, "GA decode, fp8 KV"))
        self.assertIn("step attention: timed out 90 s", self.line(markdown, "the same, lengths 1:100 (0.57 GB)"))
        self.assertIn("step gemm: not run", self.line(markdown, table.ROWS[0][2]))
        self.assertEqual(len(whole["figures"]), len(table.ROWS))

    def test_what_was_measured_counts_whatever_else_was_said_of_it(self):
        lost = json.dumps({"id": "decode", "peer": "", "missing": "device lost by decode_e4m3"})
        for lines in ([lost, figure("decode", 0.93)], [figure("decode", 0.93), lost]):
            _, _, whole = self.make(lines)
            self.assertEqual(next(f for f in whole["figures"] if f["id"] == "decode")["verdict"], "met")

    def test_rows_that_were_not_begun(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            rows = [row[0] for row in table.ROWS if row[1] == "gemm"]
            self.assertEqual(table.not_begun("gemm", [str(log)]), rows)
            log.write_text(f"begins: {rows[1]} {rows[2]}\n{figure(rows[0], 0.9)}\n"
                           + json.dumps({"id": rows[3], "peer": "", "missing": "no time left"}) + "\n")
            self.assertEqual(table.not_begun("gemm", [str(log)]), rows[3:])

    def test_peers_stand_below_their_row(self):
        _, markdown, _ = self.make([figure("decode", 0.93), figure("decode", 0.8, 3200.0, peer="another"),
                                    figure("sort_pairs", 0, 10.0, "us", limit=""),
                                    figure("sort_pairs", 0, 20.0, "us", "CUB", ""),
                                    json.dumps({"id": "plan", "peer": "third", "missing": "not installed"})])
        lines = markdown.splitlines()
        at = lines.index(self.line(markdown, "GA decode, bf16 KV, 64 x 4,096 keys (0.67 GB)"))
        self.assertEqual(lines[at + 1], "| - another | | 3,200 GB/s | 1.250 of its rate | | |")
        self.assertIn("| - CUB | | 20 us | 2.000 of its rate | | |", lines)  # Half the time.
        self.assertIn("| - third | | not measured: not installed | | | |", lines)

    def test_a_figure_without_a_row_is_an_error(self):
        with self.assertRaises(SystemExit):
            self.make([figure("nobody", 1.0)])

    def test_rows_and_programs_name_the_same_figures(self):
        programs = " ".join(path.read_text() for path in (ROOT / "bench" / "cuda").glob("*.cpp"))
        for figure_id, step, *_ in table.ROWS:
            stem = re.sub(r"_(paged|small)$", "", figure_id)
            self.assertTrue(f'"{figure_id}"' in programs or f'"{stem}"' in programs, figure_id)
            self.assertTrue((ROOT / "bench" / "cuda" / f"{step}.cpp").exists(), step)


if __name__ == "__main__":
    unittest.main()
