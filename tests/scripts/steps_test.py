#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""steps.sh: what becomes of a step, and of all of them, by their exit codes and their time."""

import subprocess
import tempfile
import time
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

    def test_what_passed_is_not_done_again_for_new_times(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "src" / "a"
            source.parent.mkdir()
            source.write_text("one")
            again = f'cd {folder}\nstep_once build name 50 sh -c "echo done >> calls; $1" || true\n' * 2

            def calls(command):
                run(again.replace("$1", command))
                return (Path(folder) / "calls").read_text().count("done")

            self.assertEqual(calls("true"), 1)
            source.write_text("one")  # Another time, the same bytes.
            self.assertEqual(calls("true"), 1)
            source.write_text("two")
            self.assertEqual(calls("true"), 2)
            (Path(folder) / "build" / "build.ninja").write_text("other flags")
            self.assertEqual(calls("true"), 3)
            self.assertEqual(calls("false"), 5)  # What failed is tried again,
            self.assertEqual(calls("true"), 6)   # and what passed before it counts no more.

    def test_a_script_that_is_told_to_end_keeps_what_was_said_and_leaves_nobody(self):
        for begin in ("{}", "{} &\nwait", "{{ steps_pass_on; {} & wait; }} &\nwait"):
            with tempfile.TemporaryDirectory() as folder:
                pid = Path(folder) / "pid"
                long = begin.format(f'step long 30 sh -c "echo two; echo \\$\\$ > {pid}.new; mv {pid}.new {pid}; exec sleep 30"')
                script = (f'. "{STEPS}"\nsteps_keep() {{ {{ cat "$steps"/*.log; steps_summary || true; }} > {folder}/kept; }}\nsteps_begin 600\n'
                          f'step first 50 echo one\n{long}')
                with subprocess.Popen(["bash", "-euc", script], stderr=subprocess.DEVNULL) as process:
                    while not pid.exists():
                        self.assertIsNone(process.poll())
                        time.sleep(0.01)
                    process.terminate()
                    self.assertEqual(process.wait(60), 143)
                kept = (Path(folder) / "kept").read_text().splitlines()
                self.assertEqual(kept[:2], ["one", "two"])
                self.assertEqual(self.outcome(kept, "first"), "passed")
                self.assertEqual(self.outcome(kept, "long"), "cut off")
                for _ in range(1000):  # It was told; it may not have heard yet.
                    if not Path(f"/proc/{int(pid.read_text())}").exists():
                        break
                    time.sleep(0.01)
                else:
                    self.fail("a step goes on")

    def test_what_a_step_said_is_kept(self):
        _, lines = run('step "a/b" 50 echo hello\nstep_tail a_b')
        self.assertEqual(lines, ["    hello"])


if __name__ == "__main__":
    unittest.main()
