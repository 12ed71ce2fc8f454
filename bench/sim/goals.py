#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""The goals of routing and scheduling on real traces, from runs of `oriel replay --workers 8`.

    bench/sim/goals.py --oriel build/cpu/examples/oriel --traces ../shared/traces [--out build/goals]
                       [--seeds 5] [--first-seed 6] [--clones 4] [--goal affinity ...] [--list] [--dry-run]

Prints each goal with its figure, the 95 % interval over the seeds, and whether it holds. The answer of each run is kept in
the folder --out under its command line, and not computed again: stop at any time, and go on later. Erase the folder after a
change of the simulator.

A load is a number of hours, looked for once with the first seed: K clones over H hours. Fewer clones over fewer hours are as
many sessions at once, and a shorter run; but sessions last half an hour and longer, so a short one sees fewer of their late turns. The weights of
predicted_seconds were chosen on seeds 1 to 5, so the figures are of others.
"""

import argparse
import hashlib
import json
import math
import pathlib
import shlex
import subprocess
import sys

TIERS = {"without L3": "device=2M,host=30M", "with L3": "device=2M,host=30M,l3=1G"}
FILES = {"agentic": "agentic/sessions.jsonl.zst", "conversation": "conversation/conversation_trace.jsonl.zst"}
CLONES = {"agentic": 10, "conversation": 20}


STUDENT_T = {}  # by the number of seeds, as the answers tell it


def mean_of(values):
    """(mean, half width of the 95 % interval or None)"""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    return mean, STUDENT_T[n] * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


class Figure:
    """A mean over seeds: of values, or of ratios seed by seed, by their logarithms."""

    def __init__(self, values, over=None):
        if over is None:
            self.mean, half = mean_of(values)
            self.low, self.high = (self.mean, self.mean) if half is None else (self.mean - half, self.mean + half)
        elif min(values) <= 0 or min(over) <= 0:
            self.mean = self.low = self.high = sum(values) / sum(over) if sum(over) else math.inf
        else:
            mean, half = mean_of([math.log(v / o) for v, o in zip(values, over)])
            self.mean = math.exp(mean)
            self.low, self.high = math.exp(mean - (half or 0)), math.exp(mean + (half or 0))

    def __str__(self):
        digits = 0 if abs(self.mean) >= 1000 else 3
        return f"{self.mean:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


class Goals:
    def __init__(self, options):
        self.options = options
        self.rows = []
        options.out.mkdir(parents=True, exist_ok=True)

    def tiers(self):
        return [(name, tiers) for name, tiers in TIERS.items() if self.options.l3 in ("both", name.split()[0])]

    def traces(self):
        return [self.options.trace] if self.options.trace else list(FILES)

    def hours(self, trace, load, *arguments):
        """For how many hours session_hash with fcfs is so busy, by runs with one seed."""
        at_most = min(load, 0.9)
        found = self.ask(trace, "--load", at_most, "--router", "session_hash", "--order", "fcfs", *arguments, seeds=1)
        return ("--hours", f"{found['hours'] * at_most / load:.4f}")

    def ask(self, trace, *arguments, seeds=None):
        """The answer of `oriel replay`, kept under its command line."""
        command = [str(self.options.traces / FILES[trace]), "--workers", "8", "--clones", str(self.options.clones or CLONES[trace]),
                   "--seeds", str(seeds or self.options.seeds), "-s", str(self.options.first_seed), *map(str, arguments)]
        name = f"{trace}_{hashlib.sha256(shlex.join(command).encode()).hexdigest()[:12]}.json"
        path = self.options.out / name
        shown = shlex.join(["oriel", "replay", *command, "--json"])
        if not path.exists():
            print(f"  $ {shown}", file=sys.stderr)
            if self.options.dry_run:
                sys.exit("a dry run stops at the first answer that it does not have")
            done = subprocess.run([self.options.oriel, "replay", *command, "--json"], stdout=subprocess.PIPE)
            if done.returncode != 0:
                sys.exit(f"goals.py: exit code {done.returncode} of: {shown}")
            part = path.with_suffix(".part")
            part.write_text(json.dumps({"command": shown, "answer": json.loads(done.stdout)}))
            part.rename(path)
        answer = json.loads(path.read_text())["answer"]
        STUDENT_T[answer["summary"][0]["seeds"]] = answer["student_t"]
        return answer

    def tell(self, what, figure, holds, limit):
        word = "holds" if holds else "missed"
        self.rows.append((what, word))
        print(f"{what:<86} {figure!s:>34}   {limit:<24} {word}", flush=True)

    def note(self, what, figure):
        print(f"{what:<86} {figure!s:>34}", flush=True)


def of(answer, router, order, get):
    """A figure of each seed of a policy."""
    return [get(r) for r in answer["runs"] if r["router"] == router and r["order"] == order]


def p90(run):
    return run["ttft_ms"]["p90"]


def p99(run):
    return run["ttft_ms"]["p99"]


def affinity(goals):
    for tiers_name, tiers in goals.tiers():
        for order in ("fcfs", "least_seconds"):
            answer = goals.ask("agentic", *goals.hours("agentic", 0.6, "--tiers", tiers), "--tiers", tiers, "--order", order,
                               "--compare", "session_hash,plain_hash,threshold_gate,predicted_seconds")
            ratio = lambda get, against: Figure(of(answer, "predicted_seconds", order, get), of(answer, against, order, get))
            where = f"affinity, agentic, load 0.6, {order}, {tiers_name}:"
            for key, against, most in (("local_miss_tokens", "threshold_gate", 0.5), ("local_miss_tokens", "session_hash", 1.1),
                                       ("local_miss_tokens", "plain_hash", 1.1), ("gpu_seconds", "session_hash", 1.1),
                                       ("gpu_seconds", "plain_hash", 1.1)):
                figure = ratio(lambda r: r[key], against)
                goals.tell(f"{where} {key} / {against}", figure, figure.mean <= most, f"<= {most}")
            for against in ("session_hash", "plain_hash"):
                figure = ratio(p99, against)
                goals.tell(f"{where} TTFT p99 / {against}", figure, figure.mean <= 0.6, "<= 0.6")


def least_hours(p90_ms_of, limit_ms, hours, step=1.03):
    """The least hours at which p90_ms_of(hours) <= limit_ms, to a factor of `step`, or None. It falls as hours grow: looked for by
    factors of two, then by interpolating its logarithm, a little towards the middle so that both ends close in."""
    good = bad = None
    for _ in range(16):
        ms = p90_ms_of(hours)
        if ms <= limit_ms:
            good = (hours, ms)
        else:
            bad = (hours, ms)
        if not (good and bad):
            hours *= 0.5 if good else 2.0
            continue
        width = math.log(good[0] / bad[0])
        if width < math.log(step) * 1.001:
            break
        share = math.log(bad[1] / limit_ms) / math.log(bad[1] / good[1])  # of the way from bad to good
        share += math.copysign(0.4 * math.log(step) / width, 0.5 - share)
        edge = min(0.5, 0.9 * math.log(step) / width)
        hours = bad[0] * math.exp(width * min(max(share, edge), 1 - edge))
    return good and good[0]


def throughput(goals):
    """The most input tokens/s with a TTFT p90 of 10 s, by the hours over which the same sessions start."""
    for tiers_name, tiers in goals.tiers():
        best, start = {}, 2.0
        for policy in ("predicted_seconds+least_seconds", "session_hash+fcfs", "threshold_gate+fcfs"):
            router, order = policy.split("+")
            ask = lambda hours, seeds=None: goals.ask("agentic", "--hours", f"{hours:.4f}", "--tiers", tiers, "--compare", policy, seeds=seeds)
            p90_ms = lambda answer: mean_of(of(answer, router, order, p90))[0]
            few = min(goals.options.seeds, 2)
            hours = least_hours(lambda h: p90_ms(ask(h, few)), 10_000, start)
            if hours and few < goals.options.seeds:  # then, near there, with all seeds
                if p90_ms(ask(hours)) <= 10_000:
                    while p90_ms(ask(hours / 1.03)) <= 10_000:
                        hours /= 1.03
                else:
                    while p90_ms(ask(hours)) > 10_000:
                        hours *= 1.03
            if not hours:
                goals.note(f"throughput, agentic, {tiers_name}: {policy}", "no load has p90 <= 10 s")
                continue
            start = hours * 1.5  # The others need more.
            found = ask(hours)
            best[policy] = of(found, router, order, lambda r: r["tokens_per_second"])
            where = f"throughput, agentic, {tiers_name}: {policy},"
            goals.note(f"{where} tokens/s over {hours:.3g} h", Figure(best[policy]))
            goals.note(f"{where} utilisation", Figure(of(found, router, order, lambda r: r["utilisation"])))
        for against, least in (("threshold_gate+fcfs", 3.0), ("session_hash+fcfs", 1.5)):
            if against in best and "predicted_seconds+least_seconds" in best:
                figure = Figure(best["predicted_seconds+least_seconds"], best[against])
                goals.tell(f"throughput at TTFT p90 <= 10 s, agentic, {tiers_name}: / {against}", figure, figure.mean >= least,
                           f">= {least}")


def orders(goals):
    """What least_seconds with the guard does to whom, beside fcfs. Judged with the same router, session_hash."""
    for trace in goals.traces():
        for tiers_name, tiers in goals.tiers():
            for load in (0.7, 0.8, 0.9):
                answer = goals.ask(trace, *goals.hours(trace, load, "--tiers", tiers), "--tiers", tiers, "--lengths", "64k", "--compare",
                                   "session_hash+fcfs,session_hash+least_seconds,predicted_seconds+fcfs,predicted_seconds+least_seconds")
                for router in ("session_hash", "predicted_seconds"):
                    where = f"orders, {trace}, load {load}, {router}, {tiers_name}: TTFT p90"
                    change = lambda get: Figure(of(answer, router, "least_seconds", get), of(answer, router, "fcfs", get))
                    short = change(lambda r: r["ttft_ms_by_bucket"]["0-64K"]["p90"])
                    long = change(lambda r: r["ttft_ms_by_bucket"]["64K and more"]["p90"])
                    every = change(p90)
                    tell = goals.tell if router == "session_hash" else lambda what, figure, _, __: goals.note(what, figure)
                    if trace == "agentic":
                        tell(f"{where} / fcfs", every, every.mean <= 0.4, "<= 0.4")
                        tell(f"{where} <= 64K / fcfs", short, short.mean <= 0.4, "<= 0.4")
                        tell(f"{where} > 64K / fcfs", long, long.mean <= 0.4, "<= 0.4")
                    else:
                        tell(f"{where} / fcfs", every, every.mean <= 0.5, "<= 0.5")
                        tell(f"{where} > 64K / fcfs", long, long.mean <= 3, "<= 3")


def guard(goals):
    """The theorem in every run; and the bound that admission makes absolute."""
    every = ",".join(f"{router}+{order}" for router in ("session_hash", "predicted_seconds")
                     for order in ("fcfs", "longest_prefix", "least_tokens", "least_seconds"))
    for trace in goals.traces():
        for load in (0.9, 1.5):
            answer = goals.ask(trace, *goals.hours(trace, load), "--open", "--compare", every)
            least = min(r["guard_slack_ms"] for r in answer["runs"])
            goals.tell(f"guard, {trace}, open loop at {load}: least slack of {len(answer['runs'])} runs, ms", f"{least:,.1f}",
                       least >= 0, ">= 0")
        answer = goals.ask(trace, *goals.hours(trace, 1.5), "--open", "--ahead-max", 60,
                           "--compare", "session_hash+least_seconds,predicted_seconds")
        least = min(r["guard_slack_ms"] for r in answer["runs"])
        longest = max(r["max_wait_ms"] for r in answer["runs"]) / 1e3
        goals.tell(f"guard, {trace}, open loop at 1.5, admission up to 60 s ahead: least slack, ms", f"{least:,.1f}", least >= 0, ">= 0")
        goals.note("  longest wait, s (promised: max(60, 2 * 60) + excess of estimates + one step)", f"{longest:,.1f}")
        for router, order in (("session_hash", "least_seconds"), ("predicted_seconds", "least_seconds")):
            goals.note(f"  rejected with {router}", Figure(of(answer, router, order, lambda r: r["rejected"])))


def faults(goals):
    """1 % events lost, 4 routers 100 ms stale, one restart of the store, one router killed."""
    question = (*goals.hours("agentic", 0.6), "--router", "predicted_seconds", "--order", "least_seconds")
    sound = goals.ask("agentic", *question)
    hurt = goals.ask("agentic", *question, "--routers", 4, "--event-loss", 0.01, "--event-delay", 0.1,
                     "--outage", "store@0.4+30", "--outage", "router1@0.6")
    each = lambda answer, get: [get(r) for r in answer["runs"]]
    lost = Figure([100 * (a - b) for a, b in zip(each(sound, lambda r: r["token_hit_rate"]), each(hurt, lambda r: r["token_hit_rate"]))])
    goals.tell("faults, agentic, load 0.6: hits lost, points", lost, lost.mean < 2, "< 2")
    uneven = Figure(each(hurt, lambda r: r["ten_minutes_most_over_mean"]), each(sound, lambda r: r["ten_minutes_most_over_mean"]))
    goals.tell("faults, agentic, load 0.6: max/mean GPU seconds in any 10 min / fault-free", uneven, uneven.mean <= 1.1, "<= 1.1")
    ends = ("completed", "rejected", "cancelled", "timed_out", "failed")
    once = all(r["whole_run"]["arrived"] == sum(r["whole_run"][end] for end in ends) for r in hurt["runs"] + sound["runs"])
    goals.tell("faults, agentic, load 0.6: requests that ended exactly once", "all" if once else "not all", once, "all")


def speed(goals):
    """One run at a time: others would share the machine."""
    answer = goals.ask("agentic", "--hours", 3, "--router", "predicted_seconds", "-t", 1)
    figure = Figure([r["simulated_requests_per_second"] for r in answer["runs"]])
    goals.tell("simulator, agentic, 8 workers, decode aggregated: requests/s of one thread", figure, figure.mean >= 100_000, ">= 100 K")


GOALS = {"affinity": affinity, "throughput": throughput, "orders": orders, "guard": guard, "faults": faults, "speed": speed}
ELSEWHERE = """Measured by programs of their own: makespan under the barrier (bench.sched.ranks), routing decisions (bench.route.router),
index look-ups and stores (bench.route.prefix_index), decode step by step (bench.sim.cluster)."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=ELSEWHERE)
    parser.add_argument("--oriel", default="build/cpu/examples/oriel")
    parser.add_argument("--traces", type=pathlib.Path, default=pathlib.Path("../shared/traces"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/goals"), help="folder of answers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=6)
    parser.add_argument("--clones", type=int, default=0, help="each session so many times [10; conversation 20]")
    parser.add_argument("--l3", choices=("with", "without", "both"), default="both", help="the store that all nodes share [both]")
    parser.add_argument("--trace", choices=FILES, help="orders and guard on this one alone [both]")
    parser.add_argument("--goal", action="append", choices=GOALS, help="this one; may be repeated [all]")
    parser.add_argument("--list", action="store_true", help="name the goals")
    parser.add_argument("--dry-run", action="store_true", help="take the answers that are there, run nothing")
    options = parser.parse_args()
    if options.list:
        for name, goal in GOALS.items():
            print(f"{name:<12} {(goal.__doc__ or 'Affinity beside session hash and the threshold gate.').splitlines()[0]}")
        print(ELSEWHERE)
        return 0
    goals = Goals(options)
    for name in options.goal or GOALS:
        GOALS[name](goals)
    missed = [what for what, word in goals.rows if word == "missed"]
    print(f"{len(goals.rows) - len(missed)} of {len(goals.rows)} hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
