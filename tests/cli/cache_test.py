#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""`oriel cache`: what it shows of the folder of a disk cache, what damage it finds, what it erases; and that it makes
and changes nothing where it only looks.

    python3 cache_test.py PATH_TO_ORIEL
"""

import json
import os
import pathlib
import pty
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from cli_test import ORIEL, run
from tiers_test import FAST, TEXTS, answers

BLOCK = 4096


def contents(folder):
    """Everything that a look must not change: names, kinds, modes, times, bytes."""
    return {str(p.relative_to(folder)): (p.lstat().st_mode, p.lstat().st_mtime_ns,
                                         p.read_bytes() if p.is_file() and not p.is_symlink() else b"")
            for p in [folder, *sorted(folder.rglob("*"))]}


class Cache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.origin = pathlib.Path(tempfile.mkdtemp(prefix="oriel-cache-"))
        cls.addClassCleanup(shutil.rmtree, cls.origin, ignore_errors=True)
        limit = ["--disk-cache-gib", "0.0625"]  # Segments of 4 MiB: quick to read.
        cls.small = answers("--disk-cache", cls.origin / "kv", *limit, texts=TEXTS[:2])
        cls.large = answers("--disk-cache", cls.origin / "kv", *limit, "--page", "32", texts=TEXTS[:2])

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="oriel-cache-"))
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.folder = self.place / "kv"
        shutil.copytree(self.origin / "kv", self.folder)
        self.folder.chmod(0o700)

    def json(self, *arguments, code=0):
        done = run("cache", *arguments, "--json")
        self.assertEqual(done.returncode, code, done.stderr.decode())
        return json.loads(done.stdout)

    def groups(self):
        return self.json("list", self.folder)["groups"]

    def disk_hits(self, *arguments):
        return sum(a["hits"]["disk"] for a in answers("--disk-cache", self.folder, *arguments, texts=TEXTS[:2]))

    def test_list_shows_what_a_store_would_find(self):
        before = contents(self.folder)
        shown = self.json("list", self.folder)
        self.assertEqual(contents(self.folder), before)
        self.assertEqual(shown["health"], "healthy")
        self.assertEqual(shown["pages"], self.large[-1]["tiers"]["disk"]["pages"])
        self.assertEqual(shown["bytes"], self.large[-1]["tiers"]["disk"]["used_bytes"])
        self.assertEqual(shown["segments"], len(list(self.folder.glob("segment-*"))))
        self.assertEqual(shown["segment_bytes"], sum(p.stat().st_size for p in self.folder.glob("segment-*")))
        self.assertEqual(len(shown["groups"]), 2)  # Pages of 16 and of 32 tokens.
        for group in shown["groups"]:
            self.assertGreater(group["full_pages"], 0)
            self.assertGreater(group["window_pages"], 0)
            self.assertEqual(group["sessions"], ["0" * 16])
            self.assertEqual(len(group["namespace"]), 64)
            self.assertGreaterEqual(group["oldest_s"], group["youngest_s"])
            self.assertIsNone(group["next_expiry_s"])
        self.assertEqual(sum(g["full_pages"] + g["window_pages"] for g in shown["groups"]), shown["pages"])
        self.assertEqual(sum(g["bytes"] for g in shown["groups"]), shown["bytes"])
        tokens = sorted(g["tokens"] // g["full_pages"] for g in shown["groups"])
        self.assertEqual(tokens, [16, 32])
        table = run("cache", "list", self.folder)
        self.assertEqual(table.returncode, 0)
        for word in (shown["groups"][0]["namespace"][:16], shown["groups"][0]["tenant"], f"{shown['pages']} pages"):
            self.assertIn(word.encode(), table.stdout)

    def test_list_tells_when_pages_expire(self):
        for seconds in ("3600", "0.1"):
            answers("--disk-cache", self.place / seconds, "--tier-ttl", seconds, texts=TEXTS[:1])
        kept = self.json("list", self.place / "3600")
        self.assertGreater(kept["groups"][0]["next_expiry_s"], 3000)
        self.assertLessEqual(kept["groups"][0]["next_expiry_s"], 3600)
        time.sleep(0.1)
        over = self.json("list", self.place / "0.1")
        self.assertEqual((over["pages"], over["groups"]), (0, []))
        self.assertEqual(over["over_pages"], kept["pages"])

    def test_verify_reads_everything_and_changes_nothing(self):
        before = contents(self.folder)
        found = self.json("verify", self.folder)
        self.assertEqual(found["damage"], [])
        self.assertEqual(found["read_bytes"], found["segment_bytes"] // BLOCK * BLOCK)
        self.assertGreater(found["records"], found["pages"])
        self.assertEqual(contents(self.folder), before)
        for file in self.folder.iterdir():  # As a backup gives it back; still nothing is repaired.
            file.chmod(0o444)
        before = contents(self.folder)
        self.assertEqual(self.json("verify", self.folder)["damage"], [])
        self.assertEqual(contents(self.folder), before)

    def flip(self, file, offset):
        with open(file, "r+b") as f:
            f.seek(offset)
            byte = f.read(1)[0]
            f.seek(offset)
            f.write(bytes([byte ^ 0x10]))

    def test_damage_is_named_by_file_offset_and_kind(self):
        file = sorted(self.folder.glob("segment-*"))[0]
        # The segment's start, then pages of a header and 2 slices or more, each in blocks of its own.
        for offset, at, kind in ((BLOCK + 70, BLOCK, "header"), (BLOCK + 2, BLOCK, "no record"),
                                 (2 * BLOCK + 5, 2 * BLOCK, "slice"), (3, 0, "no record"), (100, 0, "header"),
                                 (BLOCK + 8, BLOCK, "version")):
            self.flip(file, offset)
            before = contents(self.folder)
            found = self.json("verify", self.folder, code=1)
            self.assertEqual(contents(self.folder), before)
            self.assertEqual(found["health"], "damaged")
            self.assertEqual([(d["file"], d["offset"], d["kind"]) for d in found["damage"]], [(str(file), at, kind)])
            table = run("cache", "verify", self.folder)
            self.assertEqual(table.returncode, 1)
            self.assertIn(f"{file}: {found['damage'][0]['bytes']} bytes at {at}: {kind}\n".encode(), table.stdout)
            self.assertEqual(self.json("list", self.folder)["damaged_places"], 0 if kind == "slice" else 1)
            self.flip(file, offset)
        self.assertEqual(self.json("verify", self.folder)["damage"], [])

    def test_every_byte_that_is_flipped_is_found(self):
        rng = random.Random(5)
        files = sorted(self.folder.glob("segment-*"))
        sizes = [len(file.read_bytes().rstrip(b"\0")) for file in files]  # What was written.
        found = unused = 0
        for _ in range(40):
            which = rng.randrange(len(files))
            offset = rng.randrange(sizes[which])
            self.flip(files[which], offset)
            done = run("cache", "verify", self.folder, "--json")
            damage = json.loads(done.stdout)["damage"]
            self.assertEqual(done.returncode, 1 if damage else 0)
            if damage:
                self.assertEqual(len(damage), 1)
                self.assertEqual(damage[0]["file"], str(files[which]))
                self.assertLessEqual(damage[0]["offset"], offset)
                self.assertLess(offset, damage[0]["offset"] + damage[0]["bytes"])
                found += 1
            else:  # Between the end of a slice and its padding: no byte of a page.
                unused += 1
            self.flip(files[which], offset)
        self.assertGreater(found, 3 * unused)

    def test_files_that_are_short_or_of_another_name_are_found(self):
        files = sorted(self.folder.glob("segment-*"))
        shutil.copy(files[0], self.folder / "segment-000000ff")
        found = self.json("verify", self.folder, code=1)
        self.assertEqual({d["kind"] for d in found["damage"]}, {"misplaced"})
        self.assertEqual({d["file"] for d in found["damage"]}, {str(self.folder / "segment-000000ff")})
        self.assertEqual(found["pages"], self.large[-1]["tiers"]["disk"]["pages"])
        (self.folder / "segment-000000ff").unlink()
        os.truncate(files[0], 3 * BLOCK + 100)  # In the first page, and not at a block.
        found = self.json("verify", self.folder, code=1)
        self.assertEqual([(d["offset"], d["kind"]) for d in found["damage"]],
                         [(BLOCK, "cut off"), (3 * BLOCK, "cut off")])
        (self.folder / "segment-000000ff").symlink_to("/etc/passwd")
        for action in ("list", "verify"):
            done = run("cache", action, self.folder)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"link", done.stderr)

    def test_a_folder_that_is_none_is_refused_and_stays_as_it_is(self):
        empty, foreign, plain, link, open_to_all = (self.place / n for n in ("empty", "foreign", "plain", "link", "open"))
        empty.mkdir(mode=0o700)
        foreign.mkdir(mode=0o700)
        (foreign / "segment-00000000").write_bytes(b"x" * BLOCK)
        (foreign / "letters").mkdir()
        plain.write_text("x")
        link.symlink_to(self.folder)
        shutil.copytree(self.folder, open_to_all)
        open_to_all.chmod(0o755)
        for folder, says in ((empty, b"no folder of a disk cache"), (foreign, b"no folder of a disk cache"),
                             (plain, b"directory"), (link, b"link"), (f"{link}/", b"link"), (open_to_all, b"chmod 700"),
                             (self.place / "missing", b"No such file"), (self.place / "missing" / "x", b"No such file")):
            for action in (["list"], ["verify"], ["list", "--json"], ["clear", "--yes"]):
                before = contents(self.place)
                done = run("cache", *action, folder)
                self.assertEqual(done.returncode, 1, (action, folder))
                self.assertIn(says, done.stderr, (action, folder))
                self.assertIn(str(folder).encode(), done.stderr)
                self.assertEqual(done.stdout, b"")
                self.assertEqual(contents(self.place), before)

    def test_a_folder_in_use_is_left_alone(self):
        prompts = [w for t in TEXTS * 20 for w in ("-p", t)]
        long = subprocess.Popen([ORIEL, "run", *prompts, *FAST, "--disk-cache", self.folder],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        long.stdout.readline()
        long.send_signal(signal.SIGSTOP)
        done = [run("cache", *action, self.folder) for action in (["list"], ["verify"], ["clear", "--yes"])]
        long.kill()
        long.wait()
        long.stdout.close()
        for one in done:
            self.assertEqual(one.returncode, 1)
            self.assertIn(b"another process", one.stderr)
        self.assertEqual(run("cache", "list", self.folder).returncode, 0)

    def test_after_clear_nothing_comes_back(self):
        self.assertGreater(self.disk_hits(), 0)
        pages = self.json("list", self.folder)["pages"]
        done = run("cache", "clear", self.folder, "--yes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"{pages} of {pages} pages".encode(), done.stdout)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["lock"])
        empty = self.json("verify", self.folder)
        self.assertEqual((empty["pages"], empty["segments"], empty["damage"]), (0, 0, []))
        first = answers("--disk-cache", self.folder, texts=TEXTS[:1])
        self.assertEqual(first[0]["hits"]["disk"], 0)
        self.assertEqual(first[0]["tokens"], self.small[0]["tokens"])

    def test_clear_of_a_namespace_a_tenant_or_a_session_leaves_the_rest(self):
        of_16, of_32 = sorted(self.groups(), key=lambda g: g["tokens"] // g["full_pages"])
        for prefix, code in ((of_16["namespace"][:16], 0), ("0" * 63 + "1", 1)):
            done = run("cache", "clear", self.folder, "--namespace", prefix, "--yes")
            self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual([g["namespace"] for g in self.groups()], [of_32["namespace"]])
        (self.folder / "index-snapshot").unlink()  # The tombstone is in the files, not in a hint.
        self.assertEqual([g["namespace"] for g in self.groups()], [of_32["namespace"]])
        self.assertEqual(self.json("verify", self.folder)["damage"], [])
        self.assertGreater(self.disk_hits("--page", "32"), 0)
        answer = answers("--disk-cache", self.folder, texts=TEXTS[:1])[0]
        self.assertEqual(answer["hits"]["disk"], 0)
        self.assertEqual(answer["tokens"], self.small[0]["tokens"])
        tenant = of_32["tenant"]
        for arguments, left, code in ((["--tenant", "abc"], 2, 1), (["--tenant", tenant[:6]], 2, 1),
                                      (["--tenant", tenant, "--session", "1"], 2, 1),
                                      (["--tenant", tenant, "--session", "0"], 0, 0)):
            done = run("cache", "clear", self.folder, *arguments, "--yes")
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(b"names all of them" if code else b"", done.stderr)
            self.assertEqual(len(self.groups()), left, arguments)
        self.assertGreater(self.json("list", self.folder)["tombstones"], 0)
        answers("--disk-cache", self.folder, texts=TEXTS[:1])
        self.assertEqual(len(self.groups()), 1)
        self.assertEqual(run("cache", "clear", self.folder, "--tenant", tenant, "--yes").returncode, 0)
        self.assertEqual(self.groups(), [])

    def test_clear_of_a_tenant_in_a_large_folder(self):
        of_16, of_32 = sorted(self.groups(), key=lambda g: g["tokens"] // g["full_pages"])
        with open(self.folder / "segment-000000fe", "xb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.truncate(66 << 30)  # Nothing is written in it.
        arguments = ["--namespace", of_16["namespace"][:16], "--yes"]
        done = run("cache", "clear", self.folder, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([g["namespace"] for g in self.groups()], [of_32["namespace"]])
        self.assertEqual(self.groups()[0]["full_pages"], of_32["full_pages"])
        self.assertEqual(self.json("list", self.folder)["segments"], len(list(self.origin.glob("kv/segment-*"))) + 2)
        done = run("cache", "clear", self.folder, "--tenant", of_32["tenant"], "--yes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.groups(), [])

    def test_clear_asks_on_a_terminal_and_nowhere_else(self):
        before = contents(self.folder)
        self.assertEqual(run("cache", "clear", self.folder, stdin=b"yes\n").returncode, 2)
        self.assertEqual(contents(self.folder), before)
        for answer, code in ((b"no\n", 1), (b"y\n", 1), (b"yes\n", 0)):
            ours, theirs = pty.openpty()
            child = subprocess.Popen([ORIEL, "cache", "clear", self.folder], stdin=theirs,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            os.close(theirs)
            os.write(ours, answer)
            _, said = child.communicate(timeout=60)
            os.close(ours)
            self.assertEqual(child.returncode, code)
            self.assertIn(b"erase everything", said)
            self.assertEqual(len(self.groups()), 0 if code == 0 else 2)

    def test_wrong_usage_is_2(self):
        for arguments in ([], ["list"], ["nonsense", self.folder], ["list", self.folder, "--yes"],
                          ["clear", self.folder, "--session", "1", "--yes"],
                          ["clear", self.folder, "--tenant", "xyz", "--yes"],
                          ["clear", self.folder, "--namespace", "12", "--yes"],
                          ["clear", self.folder, "--tenant", "1", "--namespace", "12345678", "--yes"]):
            done = run("cache", *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            action = f" {arguments[0]}" if arguments and arguments[0] in ("list", "clear") else ""
            self.assertIn(f"`oriel cache{action} --help`".encode(), done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
