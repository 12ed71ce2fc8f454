#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""tests/gpu.sh with stand-ins for CMake, the test programs and compute-sanitizer: what it runs, in which order and
with which options, and what it makes of a machine where something is not there."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CMAKE = """#!/bin/bash
echo "$*" >> "$CALLS.cmake"
if [ "$1" != --build ]; then
  [[ $* != *-DORIEL_EXAMPLES=ON* ]] || [ "$DOES_NOT_BUILD" != configure ] || { echo "CMake Error: no fmt"; exit 1; }
  exit 0
fi
[ "$4" != "$DOES_NOT_BUILD" ] || { echo "a.cpp:1: error: no"; exit 1; }
mkdir -p build/gpu/tests
cp "$STAND_INS/program" "build/gpu/tests/$4"
"""

# Notes each case that it runs.
PROGRAM = """#!/bin/bash
case "$*" in
  *--list-test-names-only)
    case $1 in
      "[alone]") echo "one alone" ;;
      "[long]") echo "a, long [one]" ;;
      *) printf 'first\\nsecond\\n' ;;
    esac ;;
  "no such case")
    echo "cuBLASLt: $CUBLASLT"
    [ "$LOST_AT" != "no such case" ] || exit 77 ;;
  *)
    echo "$(basename "$0") ${*: -1} ${ORIEL_TEST_NO_POISON:+unpoisoned} ${TOOL:-}" >> "$CALLS"
    [ "${*: -1}" != "$LOST_AT" ] || exit 77 ;;
esac
"""

SANITIZER = """#!/bin/bash
if [ "$2" = "$UNSUPPORTED" ]; then
  echo "========= Error: Device not supported. Please refer to the documentation."
  exit 1
fi
TOOL=$*
TOOL=${TOOL%%./*}
export TOOL
while [[ $1 != ./* ]]; do shift; done
exec "$@"
"""


class GpuTest(unittest.TestCase):
    def run_script(self, *options, cublaslt="130100", unsupported="", lost_at="", does_not_build="", seconds="570", times=1):
        """Exit code, lines of the summary, and the cases that were run, in order."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for name in ("gpu.sh", "support/steps.sh", "support/cublaslt_of_python.sh"):
                (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
            for name, text in (("cmake", CMAKE), ("program", PROGRAM), ("compute-sanitizer", SANITIZER)):
                (folder / name).write_text(text)
                (folder / name).chmod(0o755)
            calls = folder / "calls"
            calls.touch()
            builds = folder / "calls.cmake"
            builds.touch()
            environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "STAND_INS": str(folder), "CALLS": str(calls),
                                        "CUBLASLT": cublaslt, "UNSUPPORTED": unsupported, "LOST_AT": lost_at,
                                        "DOES_NOT_BUILD": does_not_build, "GPU_SECONDS": seconds, "OUT": f"{folder}/out"}
            for _ in range(times):
                done = subprocess.run([folder / "tests" / "gpu.sh", *options], capture_output=True, text=True, check=False,
                                      env=environment)
            self.kept = {path.name: path.read_text() for path in (folder / "out").glob("*")}
            self.builds = builds.read_text().splitlines()
            return done.returncode, done.stdout.splitlines(), calls.read_text().splitlines()

    def test_all_of_it(self):
        code, summary, _ = self.run_script("--engine")
        self.assertEqual(code, 0, summary)
        self.assertIn("passed       cuBLASLt (version: 130100)", summary)
        self.assertIn("passed       test.cuda: 4", summary)
        self.assertIn("passed       test.cuda_engine: 2", summary)
        for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
            self.assertIn(f"passed       {tool}: 2", summary)

    def test_what_is_alone_comes_first_and_what_is_long_with_the_models(self):
        _, _, calls = self.run_script("--engine", "--no-sanitize")
        names = [call.strip() for call in calls]
        self.assertEqual(names[0], "test.cuda one alone")
        self.assertEqual(sorted(names[1:3]), ["test.cuda first", "test.cuda second"])
        self.assertEqual(sorted(names[3:]), ["test.cuda a\\, long \\[one\\]", "test.cuda_engine first", "test.cuda_engine second"])

    def test_kernels_are_tested_where_the_engine_is_not_built(self):
        for broken, failed in (("configure", "configure"), ("test.cuda_engine", "build_engine")):
            code, summary, calls = self.run_script("--engine", "--no-sanitize", does_not_build=broken)
            self.assertEqual(code, 1)
            self.assertIn("passed       test.cuda: 4", summary)
            self.assertTrue([line for line in summary if line.startswith(f"failed       {failed} ")], summary)
            self.assertFalse([call for call in calls if "cuda_engine" in call])

    def test_who_does_not_want_the_engine_does_not_need_it(self):
        code, summary, _ = self.run_script("--no-sanitize", does_not_build="configure")
        self.assertEqual(code, 0, summary)

    def test_models_alone(self):
        code, summary, calls = self.run_script("--models")
        self.assertEqual(code, 0, summary)
        self.assertEqual([call.split()[0] for call in calls], ["test.cuda_engine"] * 2)
        code, _, calls = self.run_script("--models", does_not_build="configure")
        self.assertEqual((code, calls), (1, []))

    def test_what_leaves_nothing_to_do_is_refused(self):
        for options in (("--sanitize", "--no-sanitize"), ("--sanitize", "--models"), ("--no-such-option",)):
            self.assertEqual(self.run_script(*options)[0], 2)

    def test_the_engine_is_built_behind_the_kernels_tests(self):
        self.run_script("--engine", "--no-sanitize")
        self.assertEqual([build.split()[3] for build in self.builds if "--build" in build], ["test.cuda", "test.cuda_engine"])

    def test_kernels_that_do_not_compile_say_why(self):
        code, summary, calls = self.run_script("--engine", does_not_build="test.cuda")
        self.assertEqual((code, calls), (1, []))
        self.assertIn("a.cpp:1: error: no", summary)
        self.assertIn("a.cpp:1: error: no", self.kept["gpu_build.log"])
        self.assertIn("failed       build", self.kept["gpu_tests.log"])

    def test_a_second_call_builds_nothing(self):
        _, summary, _ = self.run_script("--engine", "--no-sanitize", times=2)
        self.assertEqual(len([build for build in self.builds if "--build" in build]), 2, self.builds)
        self.assertIn("passed       test.cuda_engine: 2", summary)

    def test_without_time_each_step_is_named(self):
        code, summary, calls = self.run_script("--no-sanitize", seconds="0")
        self.assertEqual((code, calls), (1, []))
        self.assertTrue([line for line in summary if line.startswith("not run      configure")], summary)

    def test_the_log_has_the_summary_on_top(self):
        self.run_script("--no-sanitize", lost_at="second")
        log = self.kept["gpu_tests.log"].splitlines()
        self.assertTrue([line for line in log[:10] if line.startswith("failed") and "second" in line], log)
        self.assertTrue([line for line in log if line.startswith("==> ") and "second" in line], log)

    def test_each_sanitizer_has_its_options(self):
        _, _, calls = self.run_script("--sanitize")
        for tool, option, is_poisoned in (("memcheck", "--report-api-errors no", True), ("racecheck", "", True),
                                          ("synccheck", "", True), ("initcheck", "--check-api-memory-access no", False)):
            found = [call for call in calls if f"--tool {tool} --error-exitcode 1 {option}" in call]
            self.assertEqual(len(found), 2, calls)
            self.assertTrue(all(("unpoisoned" in call) != is_poisoned for call in found))
        self.assertFalse([call for call in calls if "alone" in call or "long" in call])

    def test_without_cublaslt_it_fails_unless_that_is_said(self):
        code, summary, _ = self.run_script("--no-sanitize", cublaslt="NONE")
        self.assertEqual(code, 1)
        self.assertIn("failed       cuBLASLt (version: NONE)", summary)
        code, summary, calls = self.run_script("--engine", "--no-sanitize", "--without-cublaslt", cublaslt="NONE")
        self.assertEqual(code, 0)
        self.assertIn("skipped      cuBLASLt (version: NONE)", summary)
        self.assertIn("skipped      test.cuda_engine (no cuBLASLt)", summary)
        self.assertFalse([call for call in calls if "cuda_engine" in call])

    def test_a_device_that_goes_is_a_failure(self):
        for option in ("--no-sanitize", "--sanitize"):
            code, summary, _ = self.run_script(option, lost_at="second")
            self.assertEqual(code, 1)
            self.assertTrue([line for line in summary if line.startswith("failed") and "second" in line], summary)

    def test_without_a_device_nothing_is_tested(self):
        code, summary, calls = self.run_script(cublaslt="NONE", lost_at="no such case")
        self.assertEqual((code, calls), (77, []), summary)

    def test_a_sanitizer_that_does_not_know_the_device_is_one_line(self):
        code, summary, _ = self.run_script("--sanitize", unsupported="racecheck")
        self.assertEqual(code, 1)
        lines = [line for line in summary if "racecheck" in line and not line.startswith("gpu: ")]
        self.assertEqual(lines, ["not run      racecheck (the sanitizer does not support this device)"])
        self.assertIn("passed       synccheck: 2", summary)


if __name__ == "__main__":
    unittest.main()
