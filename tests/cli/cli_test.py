#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""The program `oriel` as a user meets it: outputs, exit codes, and what it says about bad input.

    python3 cli_test.py PATH_TO_ORIEL
"""

import fcntl
import json
import os
import pathlib
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ORIEL = sys.argv.pop(1) if len(sys.argv) > 1 else "oriel"
ROOT = pathlib.Path(__file__).resolve().parents[2]
NANO = ROOT / "examples" / "models" / "nano"
GOLDEN = ROOT / "tests" / "golden"
SCALE = float(os.environ.get("ORIEL_TEST_SCALE", "1"))


def run(*arguments, stdin=None):
    return subprocess.run([ORIEL, *map(str, arguments)], input=stdin, capture_output=True, timeout=300)


def run_on_terminal(*arguments):
    """The exit code, and what a terminal on stderr shows."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([ORIEL, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # The other side is closed.
        pass
    os.close(ours)
    return child.wait(timeout=60), shown


def run_json(*arguments):
    done = run("run", "--json", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


class Run(unittest.TestCase):
    def test_no_arguments_writes_text_and_says_what_the_kv_took(self):
        done = run("run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"class FileReader", done.stdout)
        for word in (b"tokens/s", b"KV in use", b"uniform cache"):
            self.assertIn(word, done.stderr)

    def test_json_has_the_promised_keys(self):
        answer = run_json("-p", "def main():", "-n", 32, "--temp", 0)
        self.assertEqual(
            list(answer),
            ["text", "tokens", "prompt_tokens", "completion_tokens", "cached_tokens", "healed_tokens", "computed_tokens",
             "hits", "fetched_bytes", "copied_bytes", "stall_ms", "tiers", "drafted", "accepted",
             "mean_accept_length", "acceptance_by_position", "missing_mtp_rows", "finish_reason", "prefill_ms", "decode_ms", "kv_bytes",
             "kv_bytes_uniform"])
        self.assertEqual(len(answer["tokens"]), answer["completion_tokens"])
        self.assertGreater(answer["kv_bytes"], 0)
        self.assertGreater(answer["kv_bytes_uniform"], 0)

    def test_drafts_change_no_token(self):
        prompt = ["-p", "import os\n\nclass Stack:\n    def push(self, item):\n", "-n", 48]
        for sampling in (["--temp", 0], ["--temp", 0.9, "-s", 5]):
            plain = run_json(*prompt, *sampling)
            self.assertEqual((plain["drafted"], plain["accepted"], plain["mean_accept_length"]), (0, 0, 1))
            self.assertEqual(plain["acceptance_by_position"], [])
            for spec, lengths in (("mtp", ("auto", 1, 2, 3)), ("lookup", ("auto", 1, 7))):
                for length in lengths:
                    drafted = run_json(*prompt, *sampling, "--spec", spec, "--draft-len", length)
                    self.assertEqual(drafted["tokens"], plain["tokens"], (spec, length))
                    self.assertEqual(drafted["text"], plain["text"])
                    self.assertLessEqual(drafted["accepted"], drafted["drafted"])
        drafted = run_json(*prompt, "--temp", 0, "--spec", "mtp", "--draft-len", 3)
        self.assertGreater(drafted["mean_accept_length"], 1.5)
        self.assertEqual(len(drafted["acceptance_by_position"]), 3)

    def test_one_token_has_no_decode_step(self):
        self.assertIsNone(run_json("-p", "x =", "-n", 1)["mean_accept_length"])

    def test_rows_that_a_hit_left_out_are_counted(self):
        text = "import os\n\nclass Stack:\n    def push(self, item):\n        self.items.append(item)\n" * 4
        drafts = ["-n", 8, "--temp", 0, "--json", "--spec", "mtp"]
        first, hit = (json.loads(line) for line in run("run", "-p", text, "-p", text, *drafts).stdout.splitlines())
        self.assertEqual((first["missing_mtp_rows"], hit["missing_mtp_rows"]), (0, 0))
        self.assertGreater(hit["cached_tokens"], 0)
        with tempfile.TemporaryDirectory() as folder:  # Pages of a run without drafts have no rows of the blocks.
            disk = ["-p", text, "--disk-cache", folder, "-n", 8, "--temp", 0]
            run_json(*disk)
            for _ in range(8):  # On a busy machine a fetch may be late, and is computed.
                hit = run_json(*disk, "--spec", "mtp", "--draft-len", 3, "--tier-writes", "selective")
                if hit["cached_tokens"] > 31:
                    break
            self.assertGreater(hit["cached_tokens"], 31)
            self.assertEqual(hit["missing_mtp_rows"], 31)
            shown = run("run", *disk[:2], "--disk-cache", folder, "-n", 8, "--temp", 0, "--spec", "mtp", "--draft-len", 3)
            self.assertIn(b"tokens a step", shown.stderr)

    def test_drawn_drafts_take_a_fixed_length_unless_told(self):
        prompt = ["-p", "import os\n\nclass Stack:\n", "-n", 48, "--spec", "mtp", "--spec-accept", "rejection"]
        drawn = ["--temp", 1, "-s", 3]
        self.assertEqual(run_json(*prompt, *drawn)["tokens"], run_json(*prompt, *drawn, "--draft-len", 3)["tokens"])
        self.assertEqual(run("run", *prompt, *drawn, "--draft-len", "auto").returncode, 0)
        shown = run("run", "--help").stdout.decode()
        self.assertIn("with auto a seed does not repeat them", " ".join(shown.split()))

    def test_drawn_drafts_are_other_answers_that_a_seed_repeats(self):
        prompt = ["-p", "import os\n\nclass Stack:\n", "-n", 64, "--spec", "mtp", "--draft-len", 3]
        drawn = ["--temp", 1, "--top-k", 0, "--top-p", 1, "-s", 3]
        matched = run_json(*prompt, *drawn, "--spec-accept", "match")
        rejection = run_json(*prompt, *drawn, "--spec-accept", "rejection")
        self.assertNotEqual(rejection["tokens"], matched["tokens"])
        self.assertGreater(rejection["accepted"], matched["accepted"])
        self.assertEqual(run_json(*prompt, *drawn, "--spec-accept", "rejection", "-t", 1)["tokens"], rejection["tokens"])
        greedy = run_json(*prompt, "--temp", 0)
        self.assertEqual(run_json(*prompt, "--temp", 0, "--spec-accept", "rejection")["tokens"], greedy["tokens"])

    def test_tokens_do_not_depend_on_threads_chunks_or_pages(self):
        prompt = ["-p", "import os\n\nclass Stack:\n    def push(self, item):\n", "-n", 48]
        for sampling in (["--temp", 0], ["--temp", 0.9, "-s", 5]):
            first = run_json(*prompt, *sampling, "-t", 1)["tokens"]
            for other in (["-t", 2], ["--chunk", 1], ["--chunk", 5], ["--page", 64], ["-c", 256]):
                self.assertEqual(run_json(*prompt, *sampling, *other)["tokens"], first, other)

    def test_prompts_one_after_another_hit_what_came_before(self):
        text = "import os\n\nclass Stack:\n    def push(self, item):\n        self.items.append(item)\n" * 6
        prompts = [text, text + "\nx = 1\n", text[:len(text) // 2] + "\ny = 2\n", text]
        arguments = [word for prompt in prompts for word in ("-p", prompt)] + ["-n", "12", "--temp", "0"]

        def answers(*more):
            done = run("run", "--json", *arguments, *more)
            self.assertEqual(done.returncode, 0, done.stderr)
            return [json.loads(line) for line in done.stdout.splitlines()]

        cold = answers("--no-cache")
        self.assertEqual([a["cached_tokens"] for a in cold], [0] * 4)
        for more in ([], ["--heal", "off"], ["--retain", "every:32,branch"], ["--page", "32"], ["--chunk", "7"]):
            warm = answers(*more)
            self.assertEqual([a["tokens"] for a in warm], [a["tokens"] for a in cold], more)
            self.assertEqual(warm[0]["cached_tokens"], 0)
            self.assertGreater(warm[3]["cached_tokens"], warm[3]["prompt_tokens"] - 34)
            for a in cold + warm:
                self.assertEqual(a["cached_tokens"] + a["computed_tokens"], a["prompt_tokens"])
                self.assertLessEqual(a["healed_tokens"], a["cached_tokens"])
            if more in ([], ["--heal", "off"]):
                self.assertEqual(any(a["healed_tokens"] for a in warm), more == [])
        shown = run("run", *arguments)
        self.assertEqual(shown.stdout.count(b"class Stack"), sum(p.count("class Stack") for p in prompts)
                         + sum(a["text"].count("class Stack") for a in cold))
        self.assertIn(b"cached", shown.stderr)

    def test_seeds_matter_only_with_a_temperature(self):
        tokens = [run_json("-p", "def ", "-n", 24, "--temp", t, "-s", s)["tokens"] for t in (0, 1) for s in (1, 2)]
        self.assertEqual(tokens[0], tokens[1])
        self.assertNotEqual(tokens[2], tokens[3])

    def test_prompt_from_file_and_standard_input(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "prompt.py"
            path.write_text("import sys\n")
            arguments = ["run", "--json", "-n", "8", "--temp", "0"]
            from_file = json.loads(run(*arguments, "-f", path).stdout)
            from_stdin = json.loads(run(*arguments, "-f", "-", stdin=b"import sys\n").stdout)
            from_text = json.loads(run(*arguments, "-p", "import sys\n").stdout)
        self.assertEqual(from_file["tokens"], from_text["tokens"])
        self.assertEqual(from_stdin["tokens"], from_text["tokens"])

    def test_logprobs_tell_of_each_token_and_change_none(self):
        prompt = ("-p", "def main():\n", "-n", 12, "--temp", 0)
        plain = run_json(*prompt)
        self.assertNotIn("logprobs", plain)
        asked = run_json(*prompt, "--logprobs", 3)
        self.assertEqual(asked["tokens"], plain["tokens"])
        self.assertEqual([one["token"] for one in asked["logprobs"]], plain["tokens"])
        for one in asked["logprobs"]:
            self.assertEqual(len(one["top"]), 3)
            self.assertEqual(one["top"][0], {"token": one["token"], "logprob": one["logprob"]})
            self.assertLessEqual(one["logprob"], 0)
        self.assertEqual(run_json(*prompt, "--logprobs", 0)["logprobs"][0]["top"], [])

    def test_penalties_and_biases_change_the_answer(self):
        prompt = ("-p", "x = 1\n" * 8, "-n", 24, "--temp", 0)
        plain = run_json(*prompt)["tokens"]
        first = plain[0]
        self.assertNotIn(first, run_json(*prompt, "--logit-bias", f"{first}:never,{first + 1}:-2.5")["tokens"])
        self.assertEqual(run_json(*prompt, "--repetition-penalty", 1, "--presence-penalty", 0)["tokens"], plain)
        for penalty in ("--repetition-penalty", "--frequency-penalty", "--presence-penalty"):
            varied = run_json(*prompt, penalty, 2)["tokens"]
            self.assertGreater(len(set(varied)), len(set(plain)), penalty)
        refused = run("run", "--logit-bias", "99999999:1")
        self.assertEqual(refused.returncode, 1)
        self.assertIn(b"--logit-bias 99999999", refused.stderr)

    def test_stop_string_ends_the_text_before_it(self):
        whole = run_json("-p", "def main():\n", "-n", 40, "--temp", 0)["text"]
        stop = whole[len(whole) // 2:][:4]
        stopped = run_json("-p", "def main():\n", "-n", 40, "--temp", 0, "--stop", stop)
        self.assertEqual(stopped["text"], whole[:whole.index(stop)])
        self.assertEqual(stopped["finish_reason"], "stop")

    def test_chat_and_a_full_context_end_well(self):
        self.assertGreater(run_json("-p", "hello", "--chat", "-n", 4)["prompt_tokens"], 4)
        answer = run_json("-p", "x = 1\n" * 5, "-c", 48, "-n", 1000, "--temp", 1)
        self.assertLessEqual(answer["prompt_tokens"] + answer["completion_tokens"], 48)

    def test_ctrl_c_ends_with_130_and_what_was_produced(self):
        arguments = [ORIEL, "run", "-p", "x = [", "-n", "3500", "--temp", "1.5", "--top-k", "0", "--top-p", "1", "-t", "1"]
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        seen = child.stdout.read(40)  # It is generating now.
        child.send_signal(signal.SIGINT)
        rest, log = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130)
        self.assertGreaterEqual(len(seen + rest), 40)
        self.assertIn(b"cancelled", log)
        (seen + rest).decode()  # Whole characters only.

    def test_ctrl_c_loses_nothing_of_a_write_that_waits(self):
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        filler = bytes(fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ))
        os.write(theirs, filler)  # Full: the first write waits.
        child = subprocess.Popen([ORIEL, "run", "-p", "x = [", "-t", "1"], stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        self.until_asleep(child)
        child.send_signal(signal.SIGINT)
        self.until_asleep(child)
        text = b""
        while part := os.read(ours, 65536):
            text += part
        _, log = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130, log)
        self.assertEqual(text, filler + b"x = [")

    @staticmethod
    def until_asleep(child):
        """Or until it ended. On one thread, only a full pipe makes it sleep that long."""
        asleep = 0
        while asleep < 20 and child.poll() is None:
            time.sleep(0.01)
            state = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0]
            asleep = asleep + 1 if state == "S" else 0

    def test_ctrl_c_elsewhere_is_the_death_by_the_signal(self):
        child = subprocess.Popen([ORIEL, "bench", "-r", "1000"], stdout=subprocess.DEVNULL,
                                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(timeout=60), -signal.SIGINT)  # 130 in a shell.

    @unittest.skipIf(SCALE < 1, "a sanitizer's memory is not ours")
    def test_peak_memory_is_weights_pools_and_at_most_100_mib(self):
        pools = json.loads(run("inspect", "-m", NANO, "--context", 4096, "--json").stdout)["kv_bytes_allocated"]
        weights = sum(file.stat().st_size for file in NANO.glob("*.safetensors"))
        child = subprocess.Popen([ORIEL, "run", "-p", "x = 1\n" * 600, "-n", "64", "--json"], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(child.returncode, 0)
        self.assertLessEqual(used.ru_maxrss * 1024, weights + pools + 100 * 2**20)


class Usage(unittest.TestCase):
    def fails(self, code, *arguments, says):
        done = run(*arguments)
        message = done.stderr.decode() + done.stdout.decode()
        self.assertEqual(done.returncode, code, message)
        self.assertIn(says, message)

    def usage(self, *arguments, says):
        done = run(*arguments)
        message = done.stderr.decode()
        self.assertEqual(done.returncode, 2, f"{arguments}: {message}")
        self.assertTrue(message.startswith("oriel: "), message)
        self.assertIn(says, message)
        command = f" {arguments[0]}" if arguments and arguments[0] in ("run", "inspect", "bench", "replay") else ""
        self.assertIn(f"`oriel{command} --help`", message)

    def test_wrong_usage_is_2(self):
        self.usage(says="subcommand is required: run, inspect, bench, replay, cache")
        self.usage("nonsense", says="no subcommand 'nonsense' here; the subcommands are run, inspect, bench, replay, cache")
        self.usage("--nonsense", says="no option '--nonsense' here")
        self.usage("run", "a\x1b[31m", "b", says="not expected: 'a?[31m' 'b'")
        self.usage("run", "--nonsense", says="nonsense")
        self.usage("run", "-p", "a", "-f", "b", says="excludes")
        self.usage("run", "-p", "a", "b", says="'b'")
        self.usage("run", "--heal", "maybe", says="--heal")
        self.usage("run", "--spec", "mtp", "--draft-len", "4", says="1 to 3")
        self.usage("run", "--spec", "lookup", "--draft-len", "8", says="--draft-len")
        self.usage("run", "--spec", "mtp", "--draft-len", "0", says="--draft-len")
        self.usage("run", "--draft-len", "2", says="--spec")
        self.usage("run", "--spec", "eagle", says="--spec")
        self.usage("bench", "--spec", "mtp", "--draft-len", "4", says="1 to 3")
        self.usage("bench", "--draft-len", "2", says="--spec")
        self.usage("bench", "--random", "bench-0.4b", "-f", "b", says="excludes")
        self.usage("run", "--retain", "all", says="retention")
        self.usage("run", "--retain", "every:40", says="--retain: every:40 is not a multiple of the 16 tokens")
        self.usage("run", "--retain", "every:16", "--page", "32", says="not a multiple of the 32 tokens")
        self.usage("run", "--no-cache", "--retain", "tail", says="excludes")
        self.usage("run", "--no-cache", "--heal", "off", says="excludes")
        self.usage("replay", "a", "--retain", "every:100", "--page", "64", says="not a multiple of the 64 tokens")
        self.usage("run", "-p", "a", "--ids", "1", says="excludes")
        self.usage("run", "--chat", "--ids", "1", says="excludes")
        self.usage("inspect", "--preset", "gpt-5", says="mimo-v2.5-pro")
        self.usage("bench", "--random", "nothing", says="bench-0.4b")
        self.usage("bench", "-o", "xml", says="--output")
        self.usage("replay", says="trace is required")
        self.usage("replay", "a", "b", says="b")
        self.usage("replay", "a", "--capacity-gib", 1, "--capacity-tokens", 1, says="excludes")
        self.usage("replay", "a", "--capacity-gib", 1, "--tiers", "device=1M,host=1M", says="excludes")
        self.usage("replay", "a", "--tiers", "device=1M,host=1M", "--capacity-tokens", 1, says="excludes")
        self.usage("replay", "a", "--tiers", "device=1M", says="--capacity-tokens")
        self.usage("replay", "a", "--tiers", "disk=1M", says="device=SIZE, and host=SIZE, disk=SIZE or both")
        self.usage("replay", "a", "--tier-writes", "back", says="--tiers")
        self.usage("replay", "a", "--pools", "triple", says="--pools")
        self.usage("replay", "a", "--evict", "newest", says="hit-density")
        self.usage("replay", "a", "--heal", "maybe", says="--heal")

    def test_help_is_that_of_the_subcommand(self):
        done = run("cache", "clear", "x", "--nonsense")
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"`oriel cache clear --help`", done.stderr)

    def test_an_id_that_is_no_token_is_named_with_those_that_are(self):
        self.fails(1, "run", "--ids", "5,70000", "-n", 1, says="--ids 70000 is outside the vocabulary of ")
        self.fails(1, "run", "-p", "a", "--logit-bias", "70000:1", "-n", 1, says="--logit-bias 70000 is outside the vocabulary of ")

    def test_inspect_keeps_to_the_context_that_the_model_allows(self):
        done = run("inspect", "-m", NANO)
        self.assertIn(b"One sequence of 4096 tokens", done.stdout)
        self.assertRegex(done.stdout, rb"[0-9.]+ M parameters, [0-9.]+ M active")
        self.fails(1, "inspect", "-m", NANO, "--context", 4097, says="--context 4097: the model allows a context of 4096 tokens")

    def test_one_repetition_has_no_deviation(self):
        arguments = ("bench", "-p", 4, "-n", 2, "-r", 1)
        self.assertNotIn("±", run(*arguments).stdout.decode())
        for row in json.loads(run(*arguments, "-o", "json").stdout):
            self.assertIsNone(row["tokens_per_s_deviation"])

    def test_sequences_decode_together(self):
        dense = GOLDEN / "native_w64_dense"
        one, both = (json.loads(run("bench", "-m", dense, "-p", 16, "-n", 4, "-r", 1, "-o", "json", *more).stdout)
                     for more in ((), ("-b", 3)))
        self.assertEqual([row["test"] for row in both], ["pp16 x3", "tg4 x3"])
        # The weights are read once for all three.
        self.assertLess(both[1]["bytes_per_token"], one[1]["bytes_per_token"] / 2)
        moe = json.loads(run("bench", "-p", 4, "-n", 2, "-r", 1, "-b", 40, "--chunk", 16, "-o", "json").stdout)
        self.assertIsNone(moe[1]["bytes_per_token"])
        self.assertGreater(moe[1]["tokens_per_s"], 0)

    def test_a_stderr_that_nobody_reads_loses_no_answer(self):
        arguments = ("run", "-p", "hi", "-p", "ho", "-n", 8, "--temp", 0)
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([ORIEL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=write)
        os.close(write)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stdout, run(*arguments).stdout)

    def test_a_stdout_that_nobody_reads_ends_it_without_a_word(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([ORIEL, "run", "-p", "hi", "-n", "8"], stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        self.assertEqual(done.returncode, -signal.SIGPIPE)
        self.assertNotIn(b"cannot write", done.stderr)

    def test_a_device_that_is_not_there_is_said_before_weights_are_read(self):
        for command in ("run", "bench"):
            done = run(command, "--device", "cuda", "-n", "1")
            if done.returncode == 0:
                continue  # There is one.
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertEqual(done.stdout, b"")
            self.assertRegex(done.stderr, b"built without CUDA|no cuBLASLt|no CUDA device")
            self.assertEqual(run(command, "--device", "tpu").returncode, 2)
            self.usage(command, "--products", "fixed", says="--device cuda")
            self.usage(command, "--device", "cuda", "--products", "best", says="--products")
        self.usage("run", "--kv-type", "e4m3", says="--device cuda")
        self.assertEqual(run("run", "--kv-type", "f32", "-n", "1").returncode, 0)

    def test_values_out_of_range_are_2(self):
        for command, option, values in (
                ("run", "--new-tokens", ("0", "-1", "many", "1.5", "4294967296", "")),
                ("run", "--seed", ("-1", "18446744073709551616", "0x10")),
                ("run", "--top-p", ("0", "2", "nan", "inf", "-0.5", "1e-60")), ("run", "--temp", ("nan", "inf", "-1")),
                ("run", "--repetition-penalty", ("0", "-1", "10.5", "nan")), ("run", "--frequency-penalty", ("2.1", "inf")),
                ("run", "--presence-penalty", ("-3", "x")), ("run", "--logprobs", ("21", "-1", "1.5")),
                ("run", "--logit-bias", ("", "1", "1:", ":1", "1:101", "1:nan", "1:-inf", "x:1", "1:1,", "1:1,2")),
                ("run", "--min-p", ("nan", "1.1")), ("run", "--page", ("0", "24", "8192")),
                ("run", "--chunk", ("0", "65537")), ("run", "--threads", ("1025", "100000", "-1")),
                ("run", "--context", ("0", "1")), ("run", "--qkv-shards", ("0",)),
                ("run", "--ids", ("", "1,,2", "x", "4294967296")), ("run", "--model", ("",)), ("run", "--file", ("",)),
                ("run", "--prompt", ("",)), ("run", "--stop", ("", "x" * 1025)),
                ("inspect", "--budget-gib", ("-1", "nan", "inf", "1e6")), ("inspect", "--context", ("0", "2147483649")),
                ("inspect", "--page", ("24",)), ("bench", "--threads", ("100000",)), ("bench", "--prompt-tokens", ("0",)),
                ("bench", "--new-tokens", ("0",)), ("bench", "--repetitions", ("0",)),
                ("replay", "--capacity-gib", ("0", "-1", "nan", "1e9")), ("replay", "--capacity-tokens", ("0", "-5")),
                ("replay", "--tiers", ("", "device", "device=", "device=1M", "host=1M", "device=1M,", "device=1M,device=2M", "device=1M,tape=1M",
                                       "device=0", "device=-1", "device=nan", "device=1T", "device=1GB", "device=1M,host=0.1",
                                       "device=2e12", "device=1M,disk=65537GiB")),
                ("replay", "--tier-writes", ("sometimes",)), ("replay", "--hours", ("0", "nan", "9999")), ("replay", "--page", ("8", "24", "8192")),
                ("replay", "--window-share", ("-0.1", "0.95", "nan")), ("replay", "--seed", ("-1", "x")),
                ("replay", "--retain", ("", "tail,", "every", "every:0", "every:x", "dense:-1", "tails", "branch:2",
                                        "every:64,every:128"))):
            for value in values:
                self.usage(command, option, value, says=option)

    def test_numbers_are_decimal(self):
        self.assertEqual(len(run_json("-n", "010", "--temp", 0)["tokens"]), 10)
        self.assertEqual(run("run", "-n", 1, "-s", 2**64 - 1).returncode, 0)

    def test_how_drafts_are_judged_is_of_mtp_alone(self):
        self.usage("run", "--spec-accept", "match", says="--spec")
        self.usage("run", "--spec", "lookup", "--spec-accept", "rejection", says="--spec mtp")
        self.usage("run", "--spec", "mtp", "--spec-accept", "maybe", says="--spec-accept")

    def test_logprobs_go_to_json_alone(self):
        self.usage("run", "--logprobs", "3", says="--json")

    def test_each_stop_is_one_text(self):
        self.usage("run", "--stop", "a", "b", says="b")
        many = [word for i in range(17) for word in ("--stop", f"stop {i}")]
        self.usage("run", *many, says="--stop")
        self.assertEqual(run_json("-n", 40, "-p", "x = ", "--stop", "never seen", "--stop", "\n",
                                  "--temp", 0)["text"].count("\n"), 0)

    def test_help_and_version_are_0(self):
        for arguments in (["--help"], ["--version"], ["run", "--help"]):
            self.assertEqual(run(*arguments).returncode, 0)

    def test_what_the_user_can_mend_is_1_and_named(self):
        self.fails(1, "run", "-m", "/nowhere", says="/nowhere")
        self.fails(1, "run", "-f", "/nowhere.txt", says="/nowhere.txt")
        self.fails(1, "run", "-f", "/", says="directory")
        self.fails(1, "run", "-f", "/dev/null", says="empty")
        self.fails(1, "run", "-p", "x " * 500, "-c", "64", says="context limit is 64")
        self.fails(1, "run", "-c", "99999999", says="-c")
        self.fails(1, "run", "--qkv-shards", "2", says="no fused QKV")
        self.fails(1, "run", "--ids", "1,4096", says="vocabulary")
        self.fails(1, "bench", "-p", "5000", says="-p + -n")
        self.fails(1, "bench", "-f", "/dev/null", "-p", "5", says="has 0 tokens, -p asks for 5")
        # Before any weight is drawn: they would not fit.
        self.fails(1, "bench", "--random", "gpt-oss-120b", "-p", "8", "-n", "1", "--spec", "mtp", says="no MTP blocks")
        self.fails(1, "bench", "--random", "mimo-v2.5-pro", "-p", "8", "-n", "1", says="this machine has")

    def test_a_prompt_without_end_is_refused_at_once(self):
        self.fails(1, "run", "-f", "/dev/zero", says="1.25 MiB")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "sparse"
            path.touch()
            os.truncate(path, 100 * 2**30)
            self.fails(1, "run", "-f", path, says="sparse has more than 1.25 MiB")


    def test_what_needs_no_weights_is_said_before_they_are_read(self):
        code, shown = run_on_terminal("run", "-n", 1)
        self.assertEqual(code, 0)
        self.assertIn(b"loading", shown)
        for arguments in (("--ids", "1,4096"), ("-p", "x " * 500, "-c", "64"), ("-c", "9999"), ("-f", "/dev/zero"),
                          ("-f", "/nowhere"), ("-m", GOLDEN / "native_w4")):
            code, shown = run_on_terminal("run", *arguments)
            self.assertEqual(code, 1, arguments)
            self.assertNotIn(b"loading", shown)


class Streams(unittest.TestCase):
    """Results that are lost are a failure; messages that are lost are not."""

    COMMANDS = (["run", "-n", "2"], ["run", "--json", "-n", "2"], ["run", "--help"],
                ["inspect", "-m", NANO], ["inspect", "-m", NANO, "--json"], ["bench", "-p", "4", "-n", "2", "-r", "1"])

    @staticmethod
    def shell(command, redirection):
        return subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", ORIEL, *map(str, command)],
                              capture_output=True, timeout=300)

    def test_output_that_cannot_be_written_is_1(self):
        for command in self.COMMANDS:
            for redirection in (">/dev/full", ">&-"):
                done = self.shell(command, redirection)
                self.assertEqual(done.returncode, 1, f"{command} {redirection}")
                self.assertIn(b"oriel: cannot write to standard output", done.stderr)

    def test_lost_messages_change_nothing(self):
        for redirection in ("2>/dev/full", "2>&-"):
            for command in self.COMMANDS:
                done = self.shell(command, redirection)
                self.assertEqual(done.returncode, 0, f"{command} {redirection}")
                self.assertNotEqual(done.stdout, b"")
            self.assertEqual(self.shell(["run", "-m", "/nowhere"], redirection).returncode, 1)
            self.assertEqual(self.shell(["run", "-n", "0"], redirection).returncode, 2)

    def test_closed_standard_input_is_named(self):
        done = self.shell(["run", "-f", "-"], "<&-")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot read standard input: Bad file descriptor", done.stderr)


class WithoutTokenizer(unittest.TestCase):
    MODEL = GOLDEN / "native_w4"

    def test_ids_go_in_and_come_out(self):
        answer = run_json("-m", self.MODEL, "--ids", "1,2, 3", "-n", 6, "--temp", 0)
        self.assertEqual((answer["prompt_tokens"], len(answer["tokens"]), answer["text"]), (3, 6, ""))
        shown = run("run", "-m", self.MODEL, "--ids", "1,2,3", "-n", 6, "--temp", 0)
        self.assertEqual(shown.stdout.decode(), " ".join(map(str, answer["tokens"])) + "\n")

    def test_what_needs_text_is_refused(self):
        for arguments, says in (((), b"--ids"), (("-p", "a"), b"tokenizer.json"), (("--ids", "1", "--stop", "a"), b"--stop"),
                                (("--ids", "64"), b"vocabulary")):
            done = run("run", "-m", self.MODEL, *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(says, done.stderr)

    def test_ids_with_a_tokenizer_are_the_text_they_spell(self):
        ids = ("--ids", self.ids_of("def main():"), "-n", 8, "--temp", 0)
        answer = run_json(*ids)
        self.assertEqual(answer["prompt_tokens"], len("def main():"))
        self.assertNotEqual(answer["text"], "")
        self.assertEqual(run("run", *ids).stdout.decode(), "def main():" + answer["text"])

    @staticmethod
    def ids_of(text):
        vocab = json.loads((NANO / "tokenizer.json").read_text())["model"]["vocab"]
        return ",".join(str(vocab[c.replace(" ", "\u0120")]) for c in text)


class Shards(unittest.TestCase):
    def test_a_count_that_is_given_needs_no_warning(self):
        ambiguous = GOLDEN / "fp8_ambiguous"
        self.assertIn(b"--qkv-shards", run("run", "-m", ambiguous, "--ids", "1", "-n", 1).stderr)
        done = run("run", "-m", ambiguous, "--ids", "1", "-n", 1, "--qkv-shards", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn(b"warning", done.stderr)


class Bench(unittest.TestCase):
    def bench(self, form, *arguments):
        done = run("bench", "-p", 4, "-n", 2, "-r", 2, "-o", form, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def test_rows_name_the_folder_and_the_threads(self):
        rows = json.loads(self.bench("json", "-m", f"{NANO}/", "-t", 0))
        self.assertEqual([row["test"] for row in rows], ["pp4", "tg2"])
        for row in rows:
            self.assertEqual((row["model"], row["repetitions"]), ("nano", 2))
            self.assertEqual(row["threads"], len(os.sched_getaffinity(0)))
        self.assertIsNone(rows[0]["bytes_per_token"])
        self.assertGreater(rows[1]["bytes_per_token"], 0)

    def test_tables(self):
        self.assertIn("| nano | 1 | pp4 |", self.bench("md"))
        lines = self.bench("csv").splitlines()
        self.assertEqual([len(line.split(",")) for line in lines], [9, 9, 9])

    def test_drafts_are_measured_beside_plain_decoding(self):
        with tempfile.NamedTemporaryFile("w", suffix=".py") as text:
            text.write(pathlib.Path(__file__).read_text())
            text.flush()
            done = run("bench", "-p", 64, "-n", 2, "-r", 1, "-o", "json", "-f", text.name, "--spec", "mtp", "--draft-len", 2)
        rows = json.loads(done.stdout)
        self.assertEqual([row["test"] for row in rows[2:]],
                         ["tg0-128 plain", "tg0-128 mtp", "tg128-256 plain", "tg128-256 mtp"])
        for plain, drafted in (rows[2:4], rows[4:6]):
            self.assertEqual((plain["accept_length"], plain["times_plain"]), (1, None))
            self.assertGreater(drafted["accept_length"], 1.2)
            self.assertLessEqual(drafted["accept_length"], 3)
            self.assertAlmostEqual(drafted["times_plain"], drafted["tokens_per_s"] / plain["tokens_per_s"])

    def test_no_messages_without_a_terminal(self):
        self.assertEqual(run("bench", "-p", 4, "-n", 2, "-r", 1).stderr, b"")


class Inspect(unittest.TestCase):
    def inspect(self, *arguments):
        done = run("inspect", "--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_published_figures(self):
        gib = 2.0**30
        pro = self.inspect("--preset", "mimo-v2.5-pro", "--context", 131072)
        self.assertAlmostEqual(pro["kv_bytes"] / gib, 6.29, delta=0.005)
        self.assertAlmostEqual(pro["kv_bytes_uniform"] / gib, 43.75, delta=0.005)
        self.assertEqual((pro["full_layers"], pro["window_layers"]), (10, 60))
        flash = self.inspect("--preset", "mimo-v2-flash", "--context", 131072)
        self.assertAlmostEqual(flash["kv_bytes"] / gib, 2.84, delta=0.005)
        self.assertAlmostEqual(flash["kv_bytes_uniform"] / gib, 27.2, delta=0.05)
        self.assertAlmostEqual(flash["window_bytes_per_sequence"] / 2**20, 24.4, delta=0.05)

    def test_dual_pools_hold_five_times_the_sequences(self):
        pro = self.inspect("--preset", "mimo-v2.5-pro", "--context", 65536, "--budget-gib", 80)
        self.assertGreaterEqual(pro["sequences_dual"], 5 * pro["sequences_uniform"])
        self.assertGreater(pro["sequences_uniform"], 0)
        self.assertLessEqual(pro["sequences_dual"] * pro["kv_bytes_allocated"], 80 * 2**30)
        self.assertGreaterEqual(pro["kv_bytes_allocated"], pro["kv_bytes"])

    def test_a_checkpoint_and_every_preset(self):
        nano = self.inspect("-m", NANO, "--context", 1024, "--budget-gib", 0.1)
        self.assertGreater(nano["sequences_dual"], nano["sequences_uniform"])
        for name in ("mimo-v2.5", "gpt-oss-20b", "gpt-oss-120b", "gemma-3-27b", "bench-0.4b", "bench-0.4b-moe", "bench-1.4b"):
            self.assertGreater(self.inspect("--preset", name)["kv_bytes"], 0)

    def test_a_count_that_takes_too_much_memory_is_refused_with_numbers(self):
        done = run("inspect", "-m", NANO, "--context", 1, "--budget-gib", 800)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"16777216 sequences", done.stderr)
        self.assertIn(b"1.00 GiB", done.stderr)
        for budget in (0, 400):
            self.inspect("--preset", "mimo-v2.5-pro", "--budget-gib", budget)

    def test_the_table_reads(self):
        done = run("inspect", "--preset", "mimo-v2.5-pro")
        self.assertIn(b"6.29 GiB", done.stdout)
        self.assertIn(b"43.75 GiB", done.stdout)


class Replay(unittest.TestCase):
    REQUESTS = [(0, [0, 1]), (1000, [0, 1, 2]), (2000, [3]), (3000, [0, 1, 4])]

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.trace = pathlib.Path(self.folder.name) / "trace.jsonl"
        self.write(*self.lines())

    def lines(self):
        return [json.dumps({"timestamp": t, "input_length": 512 * len(ids), "output_length": 9, "hash_ids": ids})
                for t, ids in self.REQUESTS]

    def write(self, *lines):
        self.trace.write_text("".join(line + "\n" for line in lines))

    def replay(self, *arguments):
        done = run("replay", "--json", self.trace, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, b"")
        return json.loads(done.stdout)

    def test_simple_caches_hit_what_can_be_counted_by_hand(self):
        answer = self.replay("--capacity-tokens", 512 * 3, "--pools", "uniform")
        self.assertEqual((answer["requests"], answer["input_tokens"]), (4, 9 * 512))
        self.assertEqual(answer["infinite_token_hit_rate"], 4 / 9)
        self.assertEqual(answer["lru_token_hit_rate"], 4 / 9)
        answer = self.replay("--capacity-tokens", 512 * 2, "--pools", "uniform")
        self.assertEqual(answer["lru_token_hit_rate"], 3 / 9)
        self.assertEqual(answer["clairvoyant_token_hit_rate"], 4 / 9)

    def test_the_tree_hits_what_can_be_counted_by_hand(self):
        for pools in ("uniform", "dual"):
            answer = self.replay("--capacity-tokens", 512 * 8, "--pools", pools)
            self.assertEqual(answer["token_hit_rate"], 4 / 9)
            self.assertEqual(answer["clipped_tokens"], 0)
            self.assertEqual(answer["working_bytes"] % (512 * 3), 0)
            self.assertGreater(answer["working_bytes"], 0)
            self.assertLessEqual(answer["peak_bytes"], answer["capacity_bytes"] + answer["working_bytes"])
            self.assertIsNone(answer["sessions"])
            self.assertIsNone(answer["top_decile_token_hit_rate"])

    def test_every_policy_serves(self):
        keys = set(self.replay())
        for key in ("requests input_tokens token_hit_rate net_token_hit_rate lru_token_hit_rate clairvoyant_token_hit_rate "
                    "infinite_token_hit_rate clipped_tokens heals healed_tokens heal_token_equivalents evicted_full_pages "
                    "evicted_window_pages peak_bytes").split():
            self.assertIn(key, keys)
        for arguments in (("--evict", "lru"), ("--evict", "s3-fifo"), ("--evict", "cost-aware"), ("--heal", "off"),
                          ("--evict", "hit-density", "--seed", 7), ("--retain", "every:1024,branch"), ("--page", 64),
                          ("--retain", "tail,dense:2048"), ("--preset", "gemma-3-27b")):
            answer = self.replay(*arguments)
            self.assertEqual(set(answer), keys)
            self.assertEqual(answer["working_bytes"], 0)
            self.assertLessEqual(answer["net_token_hit_rate"], answer["token_hit_rate"])
            self.assertLessEqual(answer["token_hit_rate"], 4 / 9, arguments)
        self.assertEqual(self.replay("--retain", "branch,every:1024")["retain"], "tail,every:1024,branch")
        wrong = run("replay", self.trace, "--retain", "every:100")  # The page is the trace's.
        self.assertEqual((wrong.returncode, wrong.stdout), (1, b""))
        self.assertIn(b"--retain: every:100 is not a multiple of the 512 tokens of a page", wrong.stderr)

    def test_room_that_nothing_fills_costs_nothing(self):
        for capacity in (("--capacity-tokens", 2**36), ("--capacity-gib", 65536)):
            self.assertEqual(self.replay(*capacity, "--preset", "gpt-oss-20b", "--page", 64)["token_hit_rate"], 4 / 9)

    def test_requests_larger_than_the_pool_stream_through(self):
        answer = self.replay("--capacity-tokens", 512, "--pools", "uniform", "--evict", "lru")
        self.assertEqual(answer["token_hit_rate"], answer["lru_token_hit_rate"])

    def test_tiers_hit_what_the_device_forgot(self):
        room = 512  # A page.
        over = self.replay("--tiers", f"device={room},host=1M", "--evict", "lru", "--pools", "uniform")
        plain = self.replay("--capacity-tokens", room, "--evict", "lru", "--pools", "uniform")
        self.assertEqual(list(over["levels"]), ["device", "host"])
        self.assertGreater(over["token_hit_rate"], plain["token_hit_rate"])
        self.assertEqual(over["capacity_tokens"], plain["capacity_tokens"])
        for writes in ("through", "back"):
            answer = self.replay("--tiers", "device=512,host=1M,disk=64GiB", "--evict", "lru", "--pools", "uniform",
                                 "--tier-writes", writes)
            device, host, disk = (answer["levels"][name] for name in ("device", "host", "disk"))
            self.assertEqual(device["hit_tokens"] + host["hit_tokens"] + disk["hit_tokens"], answer["token_hit_rate"] * 9 * 512)
            self.assertEqual(answer["tier_writes"], writes)
            self.assertGreater(device["evicted_pages"], 0)
            self.assertGreater(device["mean_age_at_eviction_s"], 0)
            self.assertIsNone(host["mean_age_at_eviction_s"])
            self.assertEqual(disk["capacity_bytes"], 2**36)
            self.assertEqual(host["fetched_bytes"], host["fetched_pages"] * answer["capacity_bytes"])  # Of one page.
            if writes == "through":
                self.assertEqual(answer["token_hit_rate"], 4 / 9)
                self.assertEqual((device["hit_tokens"], host["hit_tokens"]), (512, 3 * 512))
                self.assertEqual((host["pages"], disk["pages"]), (5, 5))
                self.assertEqual(answer["dropped_copies"], 0)
        table = run("replay", self.trace, "--tiers", "device=512,host=1M,disk=64GiB").stdout
        for word in (b"device", b"host", b"disk", b"their age", b"writes through"):
            self.assertIn(word, table)
        vast = self.replay("--tiers", "device=1G,host=1G,disk=65536GiB", "--preset", "gpt-oss-20b", "--page", 64)
        self.assertEqual(vast["token_hit_rate"], 4 / 9)
        small = run("replay", self.trace, "--tiers", "device=1M,disk=512")
        self.assertEqual((small.returncode, small.stdout), (1, b""))
        self.assertIn(b"the disk does not hold 32 of the largest pages", small.stderr)

    def test_bytes_buy_more_tokens_in_dual_pools(self):
        dual = self.replay("--capacity-gib", 400)
        uniform = self.replay("--capacity-gib", 400, "--pools", "uniform")
        self.assertGreater(dual["capacity_tokens"], 6 * uniform["capacity_tokens"])
        for answer in (dual, uniform):
            self.assertLessEqual(answer["capacity_bytes"], 400 * 2**30)

    def test_damaged_traces_are_1_and_say_where(self):
        for line, says in (("{", "trace.jsonl:5: not valid JSON"), ('{"timestamp": 1}', "input_length"),
                           ('{"timestamp": -1}', "timestamp: expected"),
                           ('{"timestamp": 1, "input_length": 5, "output_length": 5, "hash_ids": [1, 2]}', "2 ids")):
            self.write(*self.lines(), line)
            done = run("replay", self.trace)
            self.assertEqual((done.returncode, done.stdout), (1, b""))
            self.assertIn(b"trace.jsonl:5: ", done.stderr)
            self.assertIn(says.encode(), done.stderr)
        for text in ("", "hello", "{}"):
            self.write(text)
            self.assertEqual(run("replay", self.trace).returncode, 1)
        self.assertEqual(run("replay", "/nowhere").returncode, 1)

    def test_a_capacity_that_holds_nothing_is_1(self):
        for capacity in (("--capacity-tokens", 511), ("--capacity-gib", 0.001)):
            done = run("replay", self.trace, *capacity)
            self.assertEqual(done.returncode, 1)
            self.assertIn(capacity[0].encode(), done.stderr)

    def test_progress_is_shown_on_a_terminal(self):
        code, shown = run_on_terminal("replay", self.trace)
        self.assertEqual(code, 0)
        self.assertIn(b"reading the trace", shown)
        self.assertIn(b"4 of 4 requests", shown)

    def test_the_table_reads(self):
        done = run("replay", self.trace)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stderr, b"")
        for part in (b"4 requests", b"full pool", b"window pool, W = 128", b"net of heals", b"clipped", b"evicted",
                     b"clairvoyant", b"infinite", b"uniform"):
            self.assertIn(part, done.stdout)


class FirstStep(unittest.TestCase):
    def test_one_token_still_tells_what_the_kv_took(self):
        answer = run_json("-p", "x", "-n", 1)
        self.assertGreater(answer["kv_bytes"], 0)
        self.assertGreaterEqual(answer["kv_bytes_uniform"], answer["kv_bytes"])


class BadModels(unittest.TestCase):
    """Whatever is done to a model's files: exit 1 with a message, or the same answer; never a crash."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        for file in NANO.iterdir():
            if file.suffix in (".json", ".safetensors"):
                shutil.copy(file, self.folder)
        self.random = random.Random(20261120)

    def ends_well(self, what):
        done = run("run", "-m", self.folder, "-p", "a", "-n", "2", "--json", "--temp", "0")
        self.assertIn(done.returncode, (0, 1), f"{what}: {done.stderr.decode()[-2000:]}")
        if done.returncode == 1:
            self.assertTrue(done.stderr.startswith(b"oriel: "), f"{what}: {done.stderr!r}")
        return done

    def test_weights_that_are_not_numbers(self):
        path = self.folder / "model.safetensors"
        whole = bytearray(path.read_bytes())
        header = int.from_bytes(whole[:8], "little")
        begin, end = json.loads(whole[8:8 + header])["model.norm.weight"]["data_offsets"]
        whole[8 + header + begin:8 + header + end] = b"\xff\x7f" * ((end - begin) // 2)  # bf16 NaN
        path.write_bytes(whole)
        done = self.ends_well("NaN in model.norm")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"no number", done.stderr)

    def test_truncated_weights(self):
        path = self.folder / "model.safetensors"
        whole = path.stat().st_size
        for _ in range(max(5, int(200 * SCALE))):
            size = self.random.randrange(whole)
            shutil.copy(NANO / "model.safetensors", path)
            os.truncate(path, size)
            done = self.ends_well(f"truncated to {size} bytes")
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"model.safetensors", done.stderr)

    def test_flipped_header_bytes(self):
        path = self.folder / "model.safetensors"
        original = (NANO / "model.safetensors").read_bytes()
        header = 8 + int.from_bytes(original[:8], "little")
        for _ in range(max(5, int(60 * SCALE))):
            position = self.random.randrange(header)
            changed = bytearray(original)
            changed[position] ^= 1 << self.random.randrange(8)
            path.write_bytes(changed)
            self.ends_well(f"bit flipped in byte {position}")

    def test_broken_json_files(self):
        for name in ("config.json", "tokenizer.json", "model.safetensors.index.json", "generation_config.json"):
            if not (self.folder / name).exists():
                continue
            original = (NANO / name).read_bytes()
            for _ in range(max(3, int(20 * SCALE))):
                (self.folder / name).write_bytes(original[:self.random.randrange(len(original))])
                self.ends_well(f"{name} truncated")
                changed = bytearray(original)
                changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
                (self.folder / name).write_bytes(changed)
                self.ends_well(f"{name} flipped")
            (self.folder / name).write_bytes(original)

    def test_wrong_config_values_are_named(self):
        original = json.loads((NANO / "config.json").read_text())
        for key, value in (("model_type", "llama"), ("num_hidden_layers", 7), ("hidden_size", 0), ("head_dim", 10**9),
                           ("vocab_size", 5), ("hidden_act", "gelu"), ("num_attention_heads", "eight")):
            (self.folder / "config.json").write_text(json.dumps({**original, key: value}))
            done = self.ends_well(f"{key} = {value}")
            self.assertEqual(done.returncode, 1, key)
        (self.folder / "config.json").unlink()
        self.assertEqual(self.ends_well("no config").returncode, 1)

    def test_a_tokenizer_of_another_model_is_refused(self):
        path = self.folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        beyond = {**tokenizer["added_tokens"][-1], "id": 4096, "content": "beyond the model"}
        tokenizer["added_tokens"].append(beyond)
        path.write_text(json.dumps(tokenizer))
        done = run("run", "-m", self.folder, "-n", 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"vocabulary of 4096", done.stderr)

    def test_missing_files_are_named(self):
        for name in ("tokenizer.json", "model.safetensors"):
            (self.folder / name).unlink()
            done = self.ends_well(f"no {name}")
            self.assertEqual(done.returncode, 1)
            self.assertIn(name.encode(), done.stderr)
            shutil.copy(NANO / name, self.folder)


if __name__ == "__main__":
    unittest.main(verbosity=2)
