#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""steps.sh: what becomes of a step, and of all of them, by their exit codes and their time."""

import subprocess
import unittest
from pathlib import Path

STEPS = Path(__file__).resolve().parents[1] / "support" / "steps.sh"


def run(script, seconds=600):
    done = subprocess.run(["bash", "-euc", f'. "{STEPS}"\nsteps_begin {seconds}\n{script}'], capture_output=True,
                          text=True, check=False)
    assert done.stderr == "", done.stderr
    return done.returncode, done.stdout.splitlines()


class StepsTest(unittest.TestCase):
    def outcome(self, line, name):
        lines = [text for text in line if f" {name} (" in text]
        self.assertEqual(len(lines), 1, line)
        return lines[0].split(f" {name} (")[0].strip()

    def test_a_step_is_what_its_exit_code_says(self):
        code, lines = run('step good 50 true\nstep bad 50 false || true\nstep none 50 sh -c "exit 77" || true\n'
                          'step long 1 sleep 600 || true\nsteps_summary')
        self.assertEqual(code, 1)
        self.assertEqual(self.outcome(lines, "good"), "passed")
        self.assertEqual(self.outcome(lines, "bad"), "failed")
        self.assertEqual(self.outcome(lines, "none"), "skipped")
        self.assertEqual(self.outcome(lines, "long"), "timed out")
        counts = sorted(lines[-1].split(", "))
        self.assertEqual(counts, ["1 failed", "1 passed", "1 skipped", "1 timed out"])

    def test_the_caller_gets_the_exit_code(self):
        for code in (0, 3, 77):
            _, lines = run(f'got=0\nstep one 50 sh -c "exit {code}" || got=$?\necho $got')
            self.assertEqual(lines, [str(code)])

    def test_what_was_skipped_is_no_failure(self):
        self.assertEqual(run('step good 50 true\nstep none 50 sh -c "exit 77" || true\nsteps_summary')[0], 0)

    def test_nothing_but_skipped_steps_is_skipped(self):
        self.assertEqual(run('step none 50 sh -c "exit 77" || true\nsteps_summary')[0], 77)

    def test_a_step_for_which_there_is_no_time_is_not_run(self):
        code, lines = run("step never 50 touch /nowhere/at/all || true\nsteps_summary", seconds=0)
        self.assertEqual(code, 1)
        self.assertEqual(self.outcome(lines, "never"), "not run")

    def test_families_share_a_line_for_those_that_passed_and_for_those_that_were_skipped(self):
        _, lines = run('step "tool: a" 50 true\nstep "tool: b" 50 true\nstep "tool: c" 50 sh -c "exit 77" || true\n'
                       'step "tool: d" 50 false || true\nsteps_summary || true')
        self.assertIn("passed       tool: 2", lines)
        self.assertIn("skipped      tool: 1", lines)
        self.assertEqual(self.outcome(lines, "tool: d"), "failed")

    def test_what_a_step_said_is_kept(self):
        _, lines = run('step "a/b" 50 echo hello\nstep_tail a_b')
        self.assertEqual(lines, ["    hello"])


if __name__ == "__main__":
    unittest.main()
