#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""`oriel run` with tiers, as a user meets them: KV that comes back from host memory, from a folder after a restart or a
kill -9, from a Redis server in another process; and what happens when a tier is full, taken, or gone.

    python3 tiers_test.py PATH_TO_ORIEL
"""

import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from cli_test import ORIEL, SCALE, run

TEXTS = [f"class Reader{i}:\n" + "".join(f"    def read_{i}_{j}(self, path):\n        return open(path)\n" for j in range(24))
         for i in range(5)]
FAST = ["-n", "4", "--temp", "0", "--json", "-c", "512"]


def answers(*arguments, texts=TEXTS):
    prompts = [word for text in texts for word in ("-p", text)]
    done = run("run", *prompts, *FAST, *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


class Tiers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cold = [a["tokens"] for a in answers("--no-cache")]

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="oriel-tiers-"))
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.folder = self.place / "kv"

    def check(self, found, texts=range(5)):
        self.assertEqual([a["tokens"] for a in found], [self.cold[i] for i in texts])
        for a in found:
            self.assertEqual(sum(a["hits"].values()), a["cached_tokens"])
            self.assertEqual(a["cached_tokens"] + a["computed_tokens"], a["prompt_tokens"])
            self.assertGreaterEqual(a["stall_ms"], 0)

    def until(self, holds, again):
        """Answers of which that holds. On a busy machine what is late is computed, and a figure does not wait for a
        copy that is late: then once more."""
        for _ in range(8):
            found = again()
            if holds(found):
                return found
        told = [{key: a[key] for key in ("hits", "copied_bytes", "tiers")} for a in found]
        self.fail(f"not in eight runs, of which the last gave: {told}")

    def some_from(self, tier, *arguments, texts=range(5)):
        """Right answers, one at least with a prefix that comes from the tier."""
        def again():
            found = answers(*arguments, texts=[TEXTS[i] for i in texts])
            self.check(found, texts)
            return found
        return self.until(lambda found: sum(a["hits"][tier] for a in found) > 0, again)

    def all_from(self, tier, *arguments):
        """Right answers, whose prompts all come from the tier."""
        return self.until(lambda found: all(a["hits"][tier] > a["prompt_tokens"] - 34 for a in found),
                          lambda: self.some_from(tier, *arguments))

    def test_without_tiers_all_hits_are_the_devices(self):
        found = answers(texts=[TEXTS[0], TEXTS[0]])
        self.assertEqual(found[1]["hits"], {"device": found[1]["cached_tokens"], "host": 0, "disk": 0, "remote": 0})
        self.assertGreater(found[1]["cached_tokens"], 0)
        self.assertEqual(found[1]["tiers"], {})

    def test_what_the_device_evicted_comes_back_from_host_memory(self):
        texts = [0, 1, 2, 3, 4, 0]
        found = self.until(lambda found: found[0]["copied_bytes"]["host"] > 0,
                           lambda: self.some_from("host", "--host-cache-gib", "0.25", texts=texts))
        self.assertGreater(found[5]["hits"]["host"], 0)
        self.assertGreater(found[5]["fetched_bytes"]["host"], 0)
        self.assertGreater(found[5]["tiers"]["host"]["pages"], 0)
        self.assertEqual(found[5]["tiers"]["host"]["health"], "healthy")
        self.assertEqual(list(found[5]["tiers"]), ["host"])
        self.assertIsNone(found[5]["tiers"]["host"]["mean_age_at_eviction_s"])

    def test_a_folder_outlives_the_program(self):
        self.check(answers("--disk-cache", self.folder))
        self.all_from("disk", "--disk-cache", self.folder)
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
        for file in self.folder.iterdir():
            self.assertEqual(file.stat().st_mode & 0o777, 0o600, file)
        # Another page size, another arithmetic: nothing is shared, and nothing is wrong.
        other = answers("--disk-cache", self.folder, "--page", "32")
        self.check(other)
        self.assertEqual(sum(a["hits"]["disk"] for a in other), 0)

    def test_a_folder_gets_what_was_asked_for(self):
        texts = [0, 0, 1]
        found = answers("--disk-cache", self.folder, "--tier-writes", "selective", texts=[TEXTS[i] for i in texts])
        self.check(found, texts)
        self.assertEqual([a["copied_bytes"]["disk"] for a in found], [0, 0, 0])  # Hit once at most.
        found = answers("--disk-cache", self.folder, "--tier-writes", "selective", texts=[TEXTS[0]] * 4)
        self.check(found, [0] * 4)
        self.some_from("disk", "--disk-cache", self.folder, texts=[0])

    def test_a_folder_forgets_when_time_is_over(self):
        self.check(answers("--disk-cache", self.folder, "--tier-ttl", "0.001"))
        time.sleep(0.01)
        again = answers("--disk-cache", self.folder)
        self.check(again)
        self.assertEqual(sum(a["hits"]["disk"] for a in again), 0)
        self.some_from("disk", "--disk-cache", self.folder)

    def test_a_budget_changes_no_answer(self):
        budget = ["--disk-cache", self.folder, "--disk-mb-per-s", "20", "--tier-cpu", "0.2"]
        self.check(answers(*budget))
        self.check(answers(*budget))
        for arguments in (["--tier-cpu", "0"], ["--tier-writes", "often"], ["--disk-mb-per-s", "1"], ["--tier-ttl", "-1"],
                          ["--tier-ttl", "1e-7"], ["--disk-cache", self.folder, "--disk-mb-per-s", "1e-4"]):
            self.assertEqual(run("run", "-n", "1", *arguments).returncode, 2, arguments)

    def test_an_answer_is_printed_before_its_copies_end_and_ctrl_c_drops_them(self):
        slow = subprocess.Popen([ORIEL, "run", "-p", TEXTS[0] * 4, *FAST[:-2], "-c", "4096", "--disk-cache", self.folder,
                                 "--disk-mb-per-s", "0.25"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertIn("tokens", json.loads(slow.stdout.readline()))
        slow.send_signal(signal.SIGINT)
        _, said = slow.communicate(timeout=60)
        self.assertEqual(slow.returncode, 0)
        self.assertIn(b"did not reach their tiers", said)
        self.check(answers("--disk-cache", self.folder))

    def test_a_tier_that_does_not_work_is_told(self):
        done = run("run", "-n", "1", "--remote", "redis://127.0.0.1:1")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stderr, rb"warning: the remote tier is .*Connection refused")

    def test_kill_9_at_any_time_loses_no_answer(self):
        rng = random.Random(7)
        killed = 0
        for cycle in range(max(4, int(30 * SCALE))):
            child = subprocess.Popen(
                [ORIEL, "run", *[w for t in TEXTS for w in ("-p", t)], *FAST, "--disk-cache", self.folder],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.0, 0.6))
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
            if cycle % 5 == 4:
                self.check(answers("--disk-cache", self.folder))
        self.check(answers("--disk-cache", self.folder))
        self.assertGreater(killed, 0)

    def test_a_damaged_folder_costs_hits_and_nothing_else(self):
        self.check(answers("--disk-cache", self.folder))
        rng = random.Random(3)
        for _ in range(max(3, int(12 * SCALE))):
            for file in sorted(self.folder.glob("segment-*")):
                with open(file, "r+b") as f:
                    for _ in range(20):
                        f.seek(rng.randrange(file.stat().st_size))
                        f.write(bytes([rng.randrange(256)]))
            self.check(answers("--disk-cache", self.folder))
        for file in self.folder.glob("segment-*"):
            os.truncate(file, file.stat().st_size // 2 // 4096 * 4096)
        (self.folder / "index-snapshot").write_bytes(b"not a snapshot")
        self.check(answers("--disk-cache", self.folder))

    def test_a_folder_that_cannot_be_used_is_named(self):
        self.folder.mkdir(mode=0o755)
        link = self.place / "link"
        link.symlink_to(self.folder)
        plain = self.place / "plain"
        plain.write_text("x")
        for folder, says in ((self.folder, b"chmod 700"), (link, b"link"), (plain, b""), (self.place / "a" / "b", b"")):
            done = run("run", "-n", "1", "--disk-cache", folder)
            self.assertEqual(done.returncode, 1, folder)
            self.assertIn(str(folder).encode(), done.stderr)
            self.assertIn(says, done.stderr)
        for arguments in (["--disk-cache-gib", "1"], ["--no-cache", "--disk-cache", self.folder],
                          ["--host-cache-gib", "-1"], ["--no-cache", "--remote", "redis://127.0.0.1"]):
            self.assertEqual(run("run", "-n", "1", *arguments).returncode, 2, arguments)
        for gib, says in (("0.00001", b"give it more"), ("65536", b"give it less")):
            done = run("run", "-n", "1", "--host-cache-gib", gib)
            self.assertEqual(done.returncode, 1, gib)
            self.assertIn(says, done.stderr)

    def test_a_folder_has_one_owner(self):
        prompts = [w for t in TEXTS * 20 for w in ("-p", t)]
        long = subprocess.Popen([ORIEL, "run", *prompts, *FAST, "--disk-cache", self.folder],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        long.stdout.readline()  # It answers: the folder is its own, and stays so.
        long.send_signal(signal.SIGSTOP)
        done = run("run", "-n", "1", "--disk-cache", self.folder)
        long.kill()
        long.wait()
        long.stdout.close()
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"another process", done.stderr)
        self.assertEqual(run("run", "-n", "1", "--disk-cache", self.folder).returncode, 0)

    def test_a_full_disk_pauses_writes_and_serves_reads(self):
        small = self.place / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", small],
                          capture_output=True).returncode != 0:
            self.skipTest("mounting a tmpfs is not permitted")
        self.addCleanup(subprocess.run, ["umount", "-l", small])

        def filled():
            found = answers("--disk-cache", small / "kv")
            self.check(found)
            return found
        found = self.until(lambda found: found[-1]["tiers"]["disk"]["health"] == "write_paused", filled)
        self.assertRegex(found[-1]["tiers"]["disk"]["last_fault"], r"segment-\d+: No space left on device")
        subprocess.run(["mount", "-o", "remount,size=400m", small], check=True)
        other = itertools.count()
        found = self.until(
            lambda found: found[-1]["copied_bytes"]["disk"] > 0,
            lambda: answers("--disk-cache", small / "kv", texts=[f"other {next(other)} {t}" for t in TEXTS]))
        self.assertEqual(found[-1]["tiers"]["disk"]["health"], "healthy")

    def test_a_server_serves_other_processes(self):
        server = self.redis()
        url = f"redis://127.0.0.1:{server.port}"
        self.check(answers("--remote", url))
        self.all_from("remote", "--remote", url)
        server.kill()
        server.wait()
        gone = answers("--remote", url)
        self.check(gone)
        self.assertEqual(sum(a["hits"]["remote"] for a in gone), 0)

    def test_a_server_that_is_silent_costs_little_and_no_answer(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(8)
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            self.check(answers("--disk-cache", self.folder))
            self.some_from("disk", "--disk-cache", self.folder, "--remote", url)

    def test_all_tiers_at_once(self):
        server = self.redis()
        everything = ["--host-cache-gib", "0.25", "--disk-cache", self.folder, "--remote",
                      f"redis://127.0.0.1:{server.port}"]
        for _ in range(2):
            self.check(answers(*everything))

        def without_folder():
            shutil.rmtree(self.folder)
            found = answers(*everything)
            self.check(found)
            return found
        self.until(lambda found: sum(a["hits"]["remote"] for a in found) > 0, without_folder)

    def test_a_url_that_cannot_be_read_is_named(self):
        for url in ("http://localhost", "redis://", "redis://h:99999", "redis://h/x"):
            done = run("run", "-n", "1", "--remote", url)
            self.assertEqual(done.returncode, 2, url)
            self.assertIn(url.encode(), done.stderr)

    def test_options_of_tiers_need_a_tier(self):
        for option, value in (("--tier-writes", "back"), ("--tier-ttl", "5"), ("--tier-cpu", "0.5")):
            for more in ([], ["--host-cache-gib", "0"]):
                done = run("run", "-n", "1", option, value, *more)
                self.assertEqual((done.returncode, done.stdout), (2, b""), option)
                self.assertRegex(done.stderr, f"{option}.*needs .*--disk-cache or --remote".encode())
        self.assertEqual(run("run", "-n", "1", "--tier-writes", "back", "--host-cache-gib", "0.25").returncode, 2)
        self.assertEqual(run("run", "-n", "1", "--tier-ttl", "5", "--host-cache-gib", "0.25").returncode, 0)

    def test_the_help_says_what_a_url_is(self):
        self.assertIn(b"redis[s]://[[user:]password@]host[:port][/database]", b"".join(run("run", "--help").stdout.split(b"\n" + b" " * 30)))

    def redis(self):
        if shutil.which("redis-server") is None:
            self.skipTest("there is no redis-server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                                   "--appendonly", "no", "--dir", str(self.place)], stdout=subprocess.DEVNULL)
        server.port = port
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        for _ in range(3000):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return server
            except OSError:
                time.sleep(0.01)
        self.fail("redis-server does not start")


if __name__ == "__main__":
    unittest.main(verbosity=2)
