#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Where cuBLASLt comes from when the toolkit has none: cublaslt_of_python.sh names a folder of Python's packages, and
CMake takes it as ORIEL_CUBLASLT_DIR. The folders here are made up."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ("include/cublasLt.h", "include/cublas_api.h")

PROJECT = """cmake_minimum_required(VERSION 3.24)
project(made_up LANGUAGES NONE)
set(CMAKE_FIND_LIBRARY_PREFIXES lib)
set(CMAKE_FIND_LIBRARY_SUFFIXES .so)
set(CUDAToolkit_INCLUDE_DIRS ${TOOLKIT}/include)
set(CUDAToolkit_LIBRARY_DIR ${TOOLKIT}/lib64)
set(CUDAToolkit_VERSION_MAJOR 13)
if(EXISTS ${TOOLKIT}/lib64)
  add_library(CUDA::cublasLt INTERFACE IMPORTED)
endif()
include(${ROOT}/src/cmake/oriel_cublaslt.cmake)
message(STATUS "links ${ORIEL_CUBLASLT_TARGET}")
message(STATUS "includes ${ORIEL_CUBLASLT_INCLUDE}")
"""


class Made(unittest.TestCase):
    """With a folder of its own, in which files are made."""

    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)

    def make(self, folder, *files):
        for name in files:
            (self.folder / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / folder / name).write_text(f"{folder}/{name}")
        return self.folder / folder


class PythonsPackageTest(Made):
    def found(self, *sites, python=f'exec "{sys.executable}" -S "$@"'):
        """The folder that is named, from the made up one."""
        stand_in = self.folder / "bin" / "python3"  # Which sees no packages but those made up.
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f"#!/bin/sh\n{python}\n")
        stand_in.chmod(0o755)
        done = subprocess.run(["bash", "-euc", f'. "{ROOT}/tests/support/cublaslt_of_python.sh"\ncublaslt_of_python'],
                              capture_output=True, text=True, check=True,
                              env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                                   "PYTHONPATH": ":".join(str(self.folder / site) for site in sites)})
        self.assertEqual(done.stderr, "")
        named = done.stdout.strip()
        return str(Path(named).relative_to(self.folder)) if named else ""

    def test_a_folder_with_headers_and_library(self):
        self.make("site/nvidia/cu13", *HEADERS, "lib/libcublasLt.so.13")
        self.make("site/nvidia/cudnn", "include/cudnn.h", "lib/libcudnn.so.9")
        self.assertEqual(self.found("site"), "site/nvidia/cu13")
        self.assertEqual(self.found("site", python="echo no python here >&2; exit 127"), "")

    def test_what_is_not_whole_is_not_named(self):
        self.assertEqual(self.found("no/such/folder"), "")
        self.make("site/nvidia/cudnn", "lib/libcudnn.so.9")
        self.assertEqual(self.found("site"), "")
        self.make("site/nvidia/runtime_only", "lib/libcublasLt.so.13")
        self.assertEqual(self.found("site"), "")
        self.make("site/nvidia/headers_only", *HEADERS)
        self.assertEqual(self.found("site"), "")
        self.make("site/nvidia/one_header", HEADERS[0], "lib/libcublasLt.so.13")
        self.assertEqual(self.found("site"), "")

    def test_of_several_the_newest_that_is_whole(self):
        self.make("site/nvidia/cublas", *HEADERS, "lib/libcublasLt.so.12")
        self.make("other/nvidia/cu13", *HEADERS, "lib/libcublasLt.so.13")
        self.make("site/nvidia/cu14", "lib/libcublasLt.so.14")
        for sites in (("site", "other"), ("other", "site")):
            self.assertEqual(self.found(*sites), "other/nvidia/cu13")
        self.make("site/nvidia/cu100", *HEADERS, "lib/libcublasLt.so.100")  # Numbers, not letters.
        self.assertEqual(self.found("site", "other"), "site/nvidia/cu100")


class CmakeTest(Made):
    def configure(self, folder, *options):
        """Exit code, what it says, what it links, and the text of the header that it includes."""
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "CMakeLists.txt").write_text(PROJECT)
        with tempfile.TemporaryDirectory() as build:
            done = subprocess.run(
                ["cmake", "-S", source, "-B", build, f"-DROOT={ROOT}", f"-DTOOLKIT={self.folder}/toolkit",
                 f"-DORIEL_CUBLASLT_DIR={folder}", *options], capture_output=True, text=True, check=False)
            said = " ".join((done.stdout + done.stderr).split())
            at = {word: line.split(" ", 2)[2] for line in done.stdout.splitlines()
                  for word in ("links", "includes") if line.startswith(f"-- {word} ")}
            header = Path(at["includes"]) / "cublasLt.h" if at.get("includes") else None
            return done.returncode, said, at.get("links", ""), header.read_text() if header else ""

    def test_a_folder_is_taken_where_the_toolkit_has_none(self):
        folder = self.make("cu13", *HEADERS, "lib/libcublasLt.so.13")
        code, said, links, header = self.configure(folder)
        self.assertEqual((code, links, header), (0, f"{folder}/lib/libcublasLt.so.13", "cu13/include/cublasLt.h"), said)
        self.assertNotIn("Warning", said)

    def test_of_two_versions_the_toolkits_own(self):
        folder = self.make("both", *HEADERS, "lib/libcublasLt.so.12", "lib/libcublasLt.so.13", "lib/libcublasLt.so.14")
        self.assertEqual(self.configure(folder)[2], f"{folder}/lib/libcublasLt.so.13")

    def test_what_a_folder_lacks_is_said(self):
        for name, files, lacks in (
                ("no_such_folder", (), "include/cublasLt.h include/cublas_api.h lib/libcublasLt.so.13"),
                ("no_header", ("lib/libcublasLt.so.13",), "include/cublasLt.h include/cublas_api.h"),
                ("one_header", (HEADERS[0], "lib/libcublasLt.so.13"), "include/cublas_api.h"),
                ("no_library", HEADERS, "lib/libcublasLt.so.13"),
                ("another_version", (*HEADERS, "lib/libcublasLt.so.12"), "lib/libcublasLt.so.13")):
            folder = self.make(name, *files)
            code, said, links, _ = self.configure(folder)
            self.assertEqual((code, links), (0, ""), said)
            self.assertIn(f"ORIEL_CUBLASLT_DIR ({folder}) lacks {lacks}", said)
            self.assertIn("without cuBLASLt", said)
            code, said, _, _ = self.configure(folder, "-DORIEL_CUBLASLT=ON")
            self.assertEqual(code, 1, said)
            self.assertIn(f"lacks {lacks}", said)

    def test_the_toolkits_own_comes_first(self):
        self.make("toolkit", "include/cublasLt.h", "lib64/libcublasLt.so.13")
        folder = self.make("cu13", *HEADERS, "lib/libcublasLt.so.13")
        self.assertEqual(self.configure(folder)[2:], ("CUDA::cublasLt", ""))

    def test_nothing_is_said_of_a_folder_that_is_not_asked_for(self):
        for folder, options in (("", ()), ("no/such/folder", ("-DORIEL_CUBLASLT=OFF",))):
            code, said, links, _ = self.configure(folder, *options)
            self.assertEqual((code, links), (0, ""), said)
            self.assertNotIn("lacks", said)


if __name__ == "__main__":
    unittest.main()
