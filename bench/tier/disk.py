#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""A directory_disk beside fio: the same file, the same requests, turn by turn.

    bench/tier/disk.py build/cpu/bench/bench.tier.disk DIRECTORY [--gib 12] [--pairs 15] [--seconds 1]

Fills a file of incompressible bytes, more than the host is likely to cache, measures pairs of (ours, fio)
in turn, each pair in the other order than the one before, and removes the file. Prints a table in
markdown: the median of the pairs' ratios, and the 95 % bootstrap interval of that median. A goal counts
as met when the better end of the interval reaches it: the disks of virtual machines swing within seconds.

Both run for --warm seconds before they count: a disk that is rated by a token bucket gives more to
whoever comes after a pause, and fio takes its time to start. "Depth reached" is the time-average of
requests in flight, the sum of latencies / elapsed time, of the depth asked for; "device queue" is the
same as the kernel counts it (/proc/diskstats, with whatever else uses the disk), ours / fio's.
On a machine that compiles meanwhile, `nice -n -15` before all of it keeps the compilers out.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys

GOALS = {"read": 0.95, "write": 0.90}
DEPTH_GOAL, PROCESSOR_GOAL = 0.95, 1.2


def device_of(directory: pathlib.Path) -> str:
    number = os.stat(directory).st_dev
    return f"{os.major(number)} {os.minor(number)}"


def queue_ms(device: str) -> float:
    """Time that requests spent in the block layer's queue, summed over requests."""
    for line in pathlib.Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if " ".join(fields[:2]) == device:
            return float(fields[13])
    return float("nan")


def measured(args, command: list[str], device: str, read) -> dict:
    queue = queue_ms(device)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = read(out)
    figures["device_queue"] = (queue_ms(device) - queue) / (1000 * (args.warm + figures["elapsed_s"]))
    return figures


def ours(args, device: str, case: tuple, backend: str) -> dict:
    op, kib, depth = case
    command = [args.program, str(args.folder), backend, op, str(kib), str(depth), str(args.warm),
               str(args.seconds), str(args.bytes)]
    return measured(args, command, device, json.loads)


def fio(args, device: str, case: tuple) -> dict:
    op, kib, depth = case

    def read(text: str) -> dict:
        job = json.loads(text[text.index("{"):])["jobs"][0]
        side = job[op]
        # fio's own processor time, as a share of the job's run time.
        processor_us = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1000
        ios = side["total_ios"]
        return {"bytes_per_s": side["io_bytes"] * 1000 / side["runtime"],
                "depth": side["lat_ns"]["mean"] * ios / (side["runtime"] * 1e6),
                "processor_us": processor_us / ios,
                "elapsed_s": side["runtime"] / 1000}

    command = ["fio", "--name=peer", f"--filename={args.file}", f"--size={args.bytes}", "--ioengine=io_uring",
               "--direct=1", f"--bs={kib}k", f"--iodepth={depth}", "--time_based", f"--runtime={round(1000 * args.seconds)}ms",
               f"--ramp_time={round(1000 * args.warm)}ms",
               f"--rw={'randread' if op == 'read' else 'write'}", "--norandommap", "--randrepeat=0",
               "--refill_buffers=0", "--fallocate=none", "--output-format=json"]
    return measured(args, command, device, read)


def interval(ratios: list[float], draws: int = 4000) -> tuple[float, float, float]:
    source = random.Random(1)
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def row(args, device: str, case: tuple, backend: str) -> str:
    op, kib, depth = case
    pairs = []
    for turn in range(args.pairs):
        first = ours(args, device, case, backend) if turn % 2 == 0 else None
        peer = fio(args, device, case)
        pairs.append((first or ours(args, device, case, backend), peer))
    rate, low, high = interval([a["bytes_per_s"] / b["bytes_per_s"] for a, b in pairs])
    processor, cpu_low, cpu_high = interval([a["processor_us"] / b["processor_us"] for a, b in pairs])
    reached = statistics.median(a["depth"] for a, _ in pairs) / depth
    queue = statistics.median(a["device_queue"] / b["device_queue"] for a, b in pairs if b["device_queue"] > 0)
    both = [statistics.median(p[i]["bytes_per_s"] for p in pairs) / 1e6 for i in (0, 1)]
    processors = [statistics.median(p[i]["processor_us"] for p in pairs) for i in (0, 1)]
    missed = [name for name, ok in (("rate", high >= GOALS[op]), ("depth", reached >= DEPTH_GOAL),
                                    ("processor", cpu_low <= PROCESSOR_GOAL or op != "read")) if not ok]
    return (f"| {backend} | {op} {kib} KiB | {depth} | {both[0]:.0f} / {both[1]:.0f} | {rate:.2f} [{low:.2f}, {high:.2f}] "
            f"| {reached:.3f} | {queue:.2f} | {processors[0]:.0f} / {processors[1]:.0f} | {processor:.2f} [{cpu_low:.2f}, {cpu_high:.2f}] "
            f"| {'met' if not missed else 'missed: ' + ', '.join(missed)} |")


def fill(file: pathlib.Path, size: int) -> None:
    """Bytes that do not compress, each MiB different from the others."""
    block = bytearray(os.urandom(8 << 20))
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb", buffering=0) as out:
        for at in range(0, size, len(block)):
            for mib in range(0, len(block), 1 << 20):
                block[mib:mib + 4096] = os.urandom(4096)
            out.write(block)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    parse = argparse.ArgumentParser()
    parse.add_argument("program")
    parse.add_argument("directory", type=pathlib.Path)
    parse.add_argument("--gib", type=int, default=12)
    parse.add_argument("--pairs", type=int, default=15)
    parse.add_argument("--seconds", type=float, default=1.0)
    parse.add_argument("--warm", type=float, default=0.5)
    parse.add_argument("--backends", nargs="+", default=["io_uring", "threads"])
    parse.add_argument("--cases", nargs="+", default=[f"read:{kib}:{depth}" for kib in (256, 1024) for depth in (8, 16, 32)]
                       + ["write:1024:8", "write:1024:16"])
    args = parse.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the file is removed.
    args.folder = args.directory / "oriel-disk-bench"
    args.bytes = args.gib << 30
    args.folder.mkdir(mode=0o700)
    args.file = args.folder / "segment-00000000"
    try:
        print(f"writing {args.gib} GiB", file=sys.stderr)
        fill(args.file, args.bytes)
        device = device_of(args.directory)
        print("| backend | requests | depth | MB/s, ours / fio | rate, of fio | depth reached | device queue, of fio "
              "| processor us a request, ours / fio | of fio | goals |\n|---|---|---|---|---|---|---|---|---|---|")
        for backend in args.backends:
            for case in args.cases:
                op, kib, depth = case.split(":")
                print(row(args, device, (op, int(kib), int(depth)), backend), flush=True)
        print(f"\nload average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores, {args.pairs} pairs of {args.seconds} s",
              flush=True)
    finally:
        for file in args.folder.iterdir():
            file.unlink()
        args.folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
