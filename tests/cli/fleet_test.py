#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""`oriel replay --workers N`: figures of a fleet, its page in a browser, and what is said about bad options.

    python3 fleet_test.py PATH_TO_ORIEL
"""

import html.parser
import json
import os
import pathlib
import pty
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import unittest

ORIEL = sys.argv.pop(1) if len(sys.argv) > 1 else "oriel"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TRACES = pathlib.Path(os.environ.get("ORIEL_TRACES", pathlib.Path(__file__).resolve().parents[3] / "shared" / "traces"))


def run(*arguments):
    return subprocess.run([ORIEL, "replay", *map(str, arguments)], capture_output=True, timeout=300)


def run_json(*arguments):
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def write_trace(path, sessions=20, turns=12, seed=1):
    """Sessions whose turns go on from each other; some with a sub-agent; a few with long prompts."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for number in range(sessions):
            pages = list(range(draw.choice((20, 200, 1500, 5000))))
            rows, at = [], 0.0
            for turn in range(turns):
                pages += range(len(pages), len(pages) + draw.randrange(1, 30))
                row = {"t": at, "type": "n", "in": 64 * len(pages) + draw.randrange(64), "out": draw.randrange(1, 400),
                       "hash_ids": list(pages), "api_time": 2.0, "think_time": 1.0}
                row["hash_ids"].append(10**6 + turn)
                if row["in"] % 64 == 0:
                    row["hash_ids"].pop()
                rows.append(row)
                at += draw.uniform(3, 60)
            file.write(json.dumps({"id": f"session {number}", "block_size": 64, "hash_id_scope": "local",
                                   "requests": rows}) + "\n")


class WellFormed(html.parser.HTMLParser):
    """Every element is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.links += [value for name, value in attributes if name in ("href", "src", "action", "data")]
        self.open.append(tag)
        if tag in ("meta", "link"):
            self.open.pop()

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> at {self.getpos()} closes {self.open[-3:]}"
        self.open.pop()


class Fleet(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="oriel_fleet_"))
        cls.trace = cls.folder / "sessions.jsonl"
        write_trace(cls.trace)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_json_has_the_promised_keys(self):
        answer = run_json(self.trace, "--workers", 3, "--compare", "session_hash+fcfs,predicted_seconds,least_load+least_tokens",
                          "--seeds", 2, "--hours", 0.2, "--clones", 3)
        self.assertEqual([(r["router"], r["order"], r["seed"]) for r in answer["runs"]],
                         [("session_hash", "fcfs", 1), ("session_hash", "fcfs", 2),
                          ("predicted_seconds", "least_seconds", 1), ("predicted_seconds", "least_seconds", 2),
                          ("least_load", "least_tokens", 1), ("least_load", "least_tokens", 2)])
        for r in answer["runs"]:
            for key in ("token_hit_rate", "hits", "ttft_ms", "ttft_ms_by_bucket", "gpu_seconds", "offered_load", "utilisation",
                        "local_miss_tokens", "fetched_tokens", "duplicated_tokens", "rejected", "max_wait_ms",
                        "guard_slack_ms", "tokens_per_second"):
                self.assertIn(key, r)
            ttft = r["ttft_ms"]
            self.assertLessEqual(ttft["p50"], ttft["p90"])
            self.assertLessEqual(ttft["p90"], ttft["p99"])
            self.assertLessEqual(ttft["p99"], ttft["max"])
            self.assertEqual(set(r["ttft_ms_by_bucket"]), {"0-64K", "64K-256K", "256K and more"})
            self.assertEqual(sum(b["requests"] for b in r["ttft_ms_by_bucket"].values()), r["requests"])
            self.assertEqual(r["ttft_ms_cold"]["requests"] + r["ttft_ms_hot"]["requests"], r["requests"])
            self.assertAlmostEqual(sum(r["hits"].values()) / r["input_tokens"], r["token_hit_rate"])
            self.assertAlmostEqual(r["gpu_seconds_per_mtoken"], 1e6 * r["gpu_seconds"] / r["input_tokens"])
            self.assertAlmostEqual(r["local_miss_tokens_per_mtoken"], 1e6 * r["local_miss_tokens"] / r["input_tokens"])
            self.assertGreaterEqual(r["guard_slack_ms"], 0)
        self.assertEqual(len(answer["summary"]), 3)
        first, second = answer["summary"][:2]
        self.assertEqual(first["ttft_p99_ms"]["difference"], {"mean": 0, "low": 0, "high": 0})
        p99 = [r["ttft_ms"]["p99"] for r in answer["runs"]]
        self.assertAlmostEqual(second["ttft_p99_ms"]["difference"]["mean"], (p99[2] + p99[3] - p99[0] - p99[1]) / 2)
        self.assertTrue(any(p["held_out"] for p in answer["calibration"][0]["points"]))

    def test_who_completes_nothing_has_no_times(self):
        question = (self.trace, "--workers", 1, "--router", "least_load", "--seeds", 2, "--hours", 0.2, "--outage", "worker0@0")
        answer = run_json(*question)
        for r in answer["runs"]:
            self.assertEqual(r["requests"], 0)
            for key in ("token_hit_rate", "max_wait_ms", "gpu_seconds_per_mtoken", "local_miss_tokens_per_mtoken"):
                self.assertIsNone(r[key])
            for times in (r["ttft_ms"], r["ttft_ms_cold"], r["ttft_ms_hot"], *r["ttft_ms_by_bucket"].values()):
                self.assertEqual(times, {"requests": 0, "mean": None, "p50": None, "p90": None, "p99": None, "max": None})
        self.assertEqual(answer["summary"][0]["ttft_p99_ms"], {"mean": None, "low": None, "high": None,
                                                               "difference": {"mean": None, "low": None, "high": None}, "ratio": None})
        table = run(*question).stdout.decode()
        row = next(line for line in table.splitlines() if line.startswith("least_load + least_seconds"))
        self.assertEqual(row.split()[3:8], ["-"] * 5)
        self.assertEqual(table.count("no times"), 0)

    def test_cold_and_hot_are_the_same_requests_with_every_policy(self):
        runs = run_json(self.trace, "--workers", 3, "--compare", "round_robin+fcfs,predicted_seconds", "--seeds", 1, "--hours", 0.2,
                        "--open")["runs"]
        self.assertNotEqual(runs[0]["token_hit_rate"], runs[1]["token_hit_rate"])
        for key in ("ttft_ms_cold", "ttft_ms_hot"):
            self.assertGreater(runs[0][key]["requests"], 0)
            self.assertEqual(runs[0][key]["requests"], runs[1][key]["requests"])

    def test_intervals_are_students(self):
        answer = run_json(self.trace, "--workers", 2, "--router", "least_load", "--seeds", 3, "--hours", 0.1)
        p99 = [r["ttft_ms"]["p99"] for r in answer["runs"]]
        told = answer["summary"][0]["ttft_p99_ms"]
        half = answer["student_t"] * statistics.stdev(p99) / 3 ** 0.5
        self.assertAlmostEqual(told["high"] - told["mean"], half)
        self.assertIsNone(run_json(self.trace, "--workers", 2, "--seeds", 1, "--hours", 0.1)["student_t"])

    def test_the_same_question_has_the_same_answer_on_any_number_of_threads(self):
        question = (self.trace, "--workers", 2, "--compare", "predicted_seconds,round_robin", "--seeds", 3, "--hours", 0.1)
        answers = [run_json(*question, "-t", threads) for threads in (1, 2)]
        for answer in answers:
            for r in answer["runs"]:
                self.assertGreater(r.pop("simulated_requests_per_second"), 0)
        self.assertEqual(*answers)

    def test_one_seed_has_no_interval(self):
        summary = run_json(self.trace, "--workers", 2, "--compare", "session_hash,least_load", "--seeds", 1)["summary"]
        self.assertIsNone(summary[1]["ttft_p99_ms"]["low"])
        self.assertIsNone(summary[1]["gpu_seconds"]["ratio"]["high"])

    def test_a_load_is_found(self):
        answer = run_json(self.trace, "--workers", 2, "--router", "session_hash", "--order", "fcfs", "--seeds", 1,
                          "--load", 0.5, "--clones", 6)
        self.assertAlmostEqual(answer["runs"][0]["utilisation"], 0.5, delta=0.03)

    def test_tables_tell_calibration_comparison_and_the_guard(self):
        done = run(self.trace, "--workers", 2, "--compare", "session_hash+fcfs,predicted_seconds", "--seeds", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, b"")
        for words in ("held out", "with t0 of", "session_hash + fcfs", "against the first", "64K-256K tokens", "cold",
                      "The guard's bound held in every run"):
            self.assertIn(words, done.stdout.decode())

    def test_progress_is_shown_on_a_terminal_only(self):
        ours, theirs = pty.openpty()
        child = subprocess.Popen([ORIEL, "replay", str(self.trace), "--workers", "2", "--clones", "30"],
                                 stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # The other side is closed.
            pass
        os.close(ours)
        self.assertEqual(child.wait(timeout=60), 0)
        self.assertIn(b"of 5 runs", shown)
        self.assertTrue(shown.endswith(b"\r\x1b[K"))

    def page(self, *arguments):
        path = self.folder / "page.html"
        done = run(self.trace, "--workers", 3, "--compare", "session_hash+fcfs,predicted_seconds,least_load+longest_prefix",
                   "--seeds", 2, "--hours", 0.2, "--html", path, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def test_a_page_takes_the_place_of_nothing_but_a_page(self):
        for file, says in ((self.trace, b"it is the trace"), (self.folder, b"it is a folder")):
            before = self.trace.read_bytes()
            done = run(self.trace, "--workers", 2, "--seeds", 1, "--html", file)
            self.assertEqual(done.returncode, 1)
            self.assertIn(says, done.stderr)
            self.assertEqual(self.trace.read_bytes(), before)
        page, link, part = (self.folder / name for name in ("p.html", "l.html", "p.html.part"))
        part.write_text("mine")
        link.symlink_to(page)
        page.write_text("old")
        done = run(self.trace, "--workers", 2, "--seeds", 1, "--hours", 0.1, "--html", link)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(link.is_symlink())
        self.assertIn("<html", page.read_text())
        self.assertEqual(part.read_text(), "mine")
        done = run(self.trace, "--workers", 2, "--seeds", 1, "--hours", 0.1, "--html", page)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(p.name for p in self.folder.glob("p.html*")), ["p.html", "p.html.part"])

    def test_workers_that_do_not_fit_memory_are_told(self):
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (1_000_000_000,) * 2)
        done = subprocess.run([ORIEL, "replay", self.trace, "--workers", "256", "--seeds", "1"], capture_output=True, preexec_fn=limit)
        if b"AddressSanitizer failed to allocate" in done.stderr:
            self.skipTest("the address sanitizer does not start within a limit of memory")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(b"out of memory: lower --workers", done.stderr)

    def test_the_page_is_well_formed_and_needs_no_network(self):
        text = self.page().read_text()
        self.assertNotIn("http", text)
        self.assertNotIn("<script", text)
        self.assertLess(len(text), 300_000)
        page = WellFormed()
        page.feed(text)
        page.close()
        self.assertEqual(page.open, [])
        self.assertEqual(page.links, ["data:,"])
        self.assertLessEqual({"svg", "table", "title", "section", "h1"}, page.seen)
        for section in ("comparison", "table", "buckets", "classes", "hits", "load", "waits", "calibration"):
            self.assertIn(f'<section id="{section}">', text)

    @unittest.skipUnless(CHROMIUM, "no chromium here")
    def test_a_browser_opens_the_page_without_a_word_on_its_console(self):
        page = self.page()
        for width in (1280, 390):
            picture = self.folder / f"{width}.png"
            done = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
                 f"--user-data-dir={self.folder / 'profile'}", f"--window-size={width},2000", f"--screenshot={picture}",
                 page.as_uri()], capture_output=True, timeout=120)
            self.assertGreater(picture.stat().st_size, 10_000, done.stderr)
            self.assertNotIn(b"CONSOLE", done.stderr)

    def measured(self, script, width):
        """What a script, run in a copy of the page of that width, puts into `said`."""
        copy = self.folder / "measured.html"
        copy.write_text(self.page().read_text().replace("</body>", f"<script>let said;\n{script}\ndocument.title = said;</script></body>"))
        # A window has a least width, a frame has not.
        frame = self.folder / "frame.html"
        frame.write_text(f"""<iframe id=f src="{copy.as_uri()}" width={width} height=2000 style="border:0"></iframe>
          <script>onload = () => document.title = f.contentDocument.title</script>""")
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
             f"--user-data-dir={self.folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()],
            capture_output=True, timeout=120)
        return re.search("<title>(.*?)</title>", done.stdout.decode(), re.S).group(1)

    @unittest.skipUnless(CHROMIUM, "no chromium here")
    def test_nothing_is_wider_than_a_phone(self):
        self.assertEqual("390", self.measured("""
          const wide = [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > 390.5);
          said = document.documentElement.scrollWidth + wide.map(e => ' ' + e.tagName + ' ' + e.textContent.trim().slice(0, 30)).join();
          """, 390))

    @unittest.skipUnless(CHROMIUM, "no chromium here")
    def test_no_table_is_cut_at_1280(self):
        self.assertEqual("none", self.measured("""
          const cut = [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth);
          said = cut.map(e => e.closest('section').id + ' ' + e.scrollWidth).join() || 'none';
          """, 1280))

    @unittest.skipUnless(CHROMIUM, "no chromium here")
    def test_labels_of_an_axis_do_not_touch(self):
        self.assertEqual("none", self.measured("""
          const touching = [];
          for (const drawing of document.querySelectorAll('.panels svg')) {
            const labels = [...drawing.querySelectorAll('text.axis')].map(e => [e.getBoundingClientRect(), e.textContent]);
            for (const [a, x] of labels) for (const [b, y] of labels)
              if (x !== y && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) touching.push(x + ' ' + y);
          }
          said = touching.join() || 'none';
          """, 1280))


class Refusals(unittest.TestCase):
    """Wrong usage is exit code 2, and says what is wrong and what would be right."""

    def refused(self, words, *arguments):
        done = run("trace.jsonl", *arguments)
        self.assertEqual(done.returncode, 2, (arguments, done.stderr))
        self.assertEqual(done.stdout, b"")
        for word in words:
            self.assertIn(word, done.stderr.decode())

    def test_values(self):
        fleet = ("--workers", 4)
        self.refused(["--workers", "'0'", "[1, 1024]"], "--workers", 0)
        self.refused(["--router", "'fastest'", "predicted_seconds", "round_robin"], *fleet, "--router", "fastest")
        self.refused(["--order", "'lifo'", "least_seconds"], *fleet, "--order", "lifo")
        for guard in ("60", "60,0.5", "-1,2", "60,2,3", "a,b", "nan,2"):
            self.refused(["--guard", "D,k", "60,2"], *fleet, f"--guard={guard}")
        self.refused(["--seeds", "'0'"], *fleet, "--seeds", 0)
        for load in ("0", "2.5", "-1", "nan"):
            self.refused(["--load", "(0, 2]"], *fleet, f"--load={load}")
        for bounds in ("256k,64k", "0", "64k,", "64k,64k", "x"):
            self.refused(["--buckets", "ascending"], *fleet, f"--buckets={bounds}")
        self.refused(["--buckets", "3 buckets", "2"], "--workers", 2, "--buckets", "64k,256k")
        for tiers in ("host=1M", "device=1M,disk=1M", "device=1M,device=2M", "device=64GiB", "device=0"):
            self.refused(["--tiers", "l3=TOKENS"], *fleet, "--tiers", tiers)
        self.refused(["--compare", "'nobody'"], *fleet, "--compare", "session_hash,nobody")
        self.refused(["--compare", "'session_hash+lifo'"], *fleet, "--compare", "session_hash+lifo")
        self.refused(["--compare", "twice"], *fleet, "--compare", "session_hash,session_hash")
        for outage in ("store", "store@2", "worker@0.5", "disk@0.5", "store@0.5+0"):
            self.refused(["--outage", "store@0.5+30"], *fleet, "--outage", outage)
        self.refused(["--outage", "worker9", "worker0 to worker3"], *fleet, "--outage", "worker9@0.5")
        self.refused(["--preset", "mimo-v2.5-pro", "nano"], *fleet, "--preset", "nano")

    def test_what_does_not_go_together(self):
        self.refused(["--compare", "--router"], "--workers", 4, "--router", "session_hash", "--compare", "least_load")
        self.refused(["--load", "--hours"], "--workers", 4, "--load", 0.5, "--hours", 3)
        for option in (("--capacity-gib", 4), ("--evict", "lru"), ("--page", 64), ("--retain", "tail"), ("--pools", "dual")):
            self.refused([option[0], "--workers"], "--workers", 4, *option)

    def test_options_of_a_fleet_need_workers(self):
        for option in (("--router", "session_hash"), ("--order", "fcfs"), ("--compare", "least_load"), ("--guard", "off"),
                       ("--ranks", 2), ("--buckets", "64k"), ("--load", 0.5), ("--open",), ("--seeds", 2), ("--clones", 2),
                       ("--html", "page.html"), ("--ahead-max", 5), ("--event-loss", 0.1), ("--outage", "store@0.5")):
            self.refused([option[0], "--workers"], *option)

    def test_tiers_of_one_cache_are_as_they_were(self):
        self.refused(["--tiers", "disk=SIZE"], "--tiers", "device=1M,l3=1M")

    def test_a_page_that_cannot_be_written_is_told_before_the_runs(self):
        done = run("/nowhere/trace.jsonl", "--workers", 4, "--html", "/nowhere/page.html")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"/nowhere/page.html", done.stderr)
        self.assertIn(b"--html", done.stderr)

    def test_a_trace_that_is_not_there_is_named(self):
        done = run("/nowhere/trace.jsonl", "--workers", 4)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"/nowhere/trace.jsonl", done.stderr)


class RealTraces(unittest.TestCase):
    @unittest.skipUnless((TRACES / "conversation").exists(), "no traces here")
    def test_affinity_beats_chance(self):
        answer = run_json(TRACES / "conversation" / "conversation_trace.jsonl.zst", "--workers", 4,
                          "--compare", "round_robin+fcfs,predicted_seconds", "--seeds", 1, "--hours", 4)
        chance, affinity = answer["runs"]
        self.assertGreater(affinity["token_hit_rate"], chance["token_hit_rate"])
        self.assertLess(affinity["gpu_seconds"], chance["gpu_seconds"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
