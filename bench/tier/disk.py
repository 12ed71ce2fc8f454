#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""A segment_store beside fio: the same disk, the same sizes, turn by turn.

    bench/tier/disk.py build/cpu/bench/bench.tier.disk DIRECTORY [--gib 12] [--pairs 15] [--seconds 1]

Reads: puts pages of incompressible bytes into a store, more than the host is likely to cache. Then ours gets
pages at random, every checksum and identity verified, and fio reads as much at once at random places of the same
segment files. `trust:KIB:DEPTH` among the cases shows what that costs without the checksums.
Writes: ours puts new pages into an empty store, which makes its files as it goes; fio writes in order with as large
requests at the same depth, `write` into a new file whose blocks are allocated before (fio's default, and what a
store does), `over` over blocks that were written before, which spares a file system work. After each run of ours
the store is opened again, by a scan, and every page that was acknowledged is got and compared, byte by byte:
`checked` counts them. A page that is lost or wrong ends the program.

Both sides' pages are in huge pages of memory (madvise), as an engine's are: a disk reads into few large pieces
more than twice as fast as into many small ones here. `--fio-pages small` leaves fio its usual memory.

Pairs are measured in turn, each in the other order than the one before. Prints a table in markdown: the median
of the pairs' ratios, and the 95 % bootstrap interval of that median. A goal counts as met when the
better end of the interval reaches it: the disks of virtual machines swing within seconds. A page's bytes count,
not its header's (4 KiB), which ours reads and writes besides.

Both run for --warm seconds before they count: a disk that is rated by a token bucket gives more to
whoever comes after a pause, and fio takes its time to start. "Depth reached" is the time-average of requests that
the disk has, of the depth asked for (of writes it says nothing: the store joins pages to larger requests); "device queue" is the
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


def measured(args, command: list[str], device: str, read, environment: dict[str, str] = {}) -> dict:
    queue = queue_ms(device)
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment).stdout
    figures = read(out)
    figures["device_queue"] = (queue_ms(device) - queue) / (1000 * (args.warm + figures["elapsed_s"]))
    return figures


def is_read(op: str) -> bool:
    return op in ("read", "trust")


def ours(args, device: str, case: tuple, backend: str, turn: int) -> dict:
    op, kib, depth = case
    common = [args.program, op if is_read(op) else "write", str(args.folder), backend, str(kib), str(depth), str(args.warm), str(args.seconds)]
    if is_read(op):
        return measured(args, common + [str(args.pages), str(turn)], device, json.loads)
    try:
        return measured(args, common + [str(args.write_gib)], device, json.loads)
    finally:
        clear(args.folder)


def clear(folder: pathlib.Path) -> None:
    for file in folder.iterdir() if folder.exists() else []:
        file.unlink()


def fill(args, kib: int) -> None:
    """A store of pages of `kib`, and for fio the names of its segments that are full."""
    clear(args.folder)
    print(f"writing {args.gib} GiB of pages of {kib} KiB", file=sys.stderr)
    out = subprocess.run([args.program, "fill", str(args.folder), "any", str(kib), str(args.gib)],
                         check=True, capture_output=True, text=True).stdout
    args.pages = json.loads(out)["pages"]
    segments = sorted(args.folder.glob("segment-*"))[:-1]
    args.segments = segments[:: len(segments) // 200 + 1]  # fio takes 4 KiB of names
    args.filled = kib


def fio(args, device: str, case: tuple) -> dict:
    op, kib, depth = case

    def read(text: str) -> dict:
        job = json.loads(text[text.index("{"):])["jobs"][0]
        side = job["read" if is_read(op) else "write"]
        # fio's own processor time, as a share of the job's run time.
        processor_us = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1000
        ios = side["total_ios"]
        return {"bytes_per_s": side["io_bytes"] * 1000 / side["runtime"],
                "depth": side["lat_ns"]["mean"] * ios / (side["runtime"] * 1e6),
                "processor_us": processor_us / ios,
                "elapsed_s": side["runtime"] / 1000}

    if op == "over":
        load = [f"--filename={args.peer}", f"--size={args.gib << 30}", "--rw=write", "--fallocate=none", "--overwrite=1"]
    elif op == "write":
        load = [f"--filename={args.peer_new}", f"--size={args.write_gib << 30}", "--rw=write", "--fallocate=native",
                "--unlink=1"]
    else:  # The last MiB of a segment may be empty.
        load = [f"--directory={args.folder}", "--filename=" + ":".join(s.name for s in args.segments), "--filesize=63m", f"--size={63 * len(args.segments)}m",
                "--rw=randread", "--readonly", "--file_service_type=random"]
    command = ["fio", "--name=peer", "--ioengine=io_uring", "--direct=1", f"--bs={kib}k", f"--iodepth={depth}",
               "--time_based", f"--runtime={round(1000 * args.seconds)}ms", f"--ramp_time={round(1000 * args.warm)}ms",
               "--norandommap", "--randrepeat=0", "--refill_buffers=0", "--output-format=json", *load]
    if args.fio_pages == "small":
        return measured(args, command, device, read)
    # glibc (2.35 and later) asks for huge pages, as huge_page_memory does.
    return measured(args, [*command, "--iomem_align=2m"], device, read, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})


def interval(ratios: list[float], draws: int = 4000) -> tuple[float, float, float]:
    source = random.Random(1)
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def row(args, device: str, case: tuple, backend: str) -> str:
    op, kib, depth = case
    if is_read(op) and args.filled != kib:
        fill(args, kib)
    if not is_read(op) and args.filled != 0:
        clear(args.folder)
        args.filled = 0
    pairs = []
    for turn in range(args.pairs):
        first = ours(args, device, case, backend, turn) if turn % 2 == 0 else None
        peer = fio(args, device, case)
        pairs.append((first or ours(args, device, case, backend, turn), peer))
    rate, low, high = interval([a["bytes_per_s"] / b["bytes_per_s"] for a, b in pairs])
    processor, cpu_low, cpu_high = interval([a["processor_us"] / b["processor_us"] for a, b in pairs])
    reached = statistics.median(a["depth"] for a, _ in pairs) / depth
    queue = statistics.median(a["device_queue"] / b["device_queue"] for a, b in pairs if b["device_queue"] > 0)
    checked = "" if is_read(op) else sum(a["found"] for a, _ in pairs)
    both = [statistics.median(p[i]["bytes_per_s"] for p in pairs) / 1e6 for i in (0, 1)]
    processors = [statistics.median(p[i]["processor_us"] for p in pairs) for i in (0, 1)]
    reads = is_read(op)
    missed = [name for name, ok in (("rate", high >= GOALS["read" if reads else "write"]),
                                    ("depth", not reads or reached >= DEPTH_GOAL),
                                    ("processor", not reads or cpu_low <= PROCESSOR_GOAL)) if not ok]
    return (f"| {pairs[0][0]['backend']} | {op} {kib} KiB | {depth} | {both[0]:.0f} / {both[1]:.0f} | {rate:.2f} [{low:.2f}, {high:.2f}] "
            f"| {f'{reached:.3f}' if reads else ''} | {queue:.2f} | {processors[0]:.0f} / {processors[1]:.0f} "
            f"| {processor:.2f} [{cpu_low:.2f}, {cpu_high:.2f}] | {checked} | {'met' if not missed else 'missed: ' + ', '.join(missed)} |")


def make_peer(file: pathlib.Path, size: int) -> None:
    """The file that fio writes over: its blocks are written once before."""
    block = os.urandom(8 << 20)
    with open(file, "xb", buffering=0) as out:
        for _ in range(0, size, len(block)):
            out.write(block)
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    parse = argparse.ArgumentParser()
    parse.add_argument("program")
    parse.add_argument("directory", type=pathlib.Path)
    parse.add_argument("--gib", type=int, default=12)
    parse.add_argument("--pairs", type=int, default=15)
    parse.add_argument("--seconds", type=float, default=1.0)
    parse.add_argument("--warm", type=float, default=0.5)
    parse.add_argument("--write-gib", type=int, default=12, help="room for what one run of ours puts")
    parse.add_argument("--fio-pages", choices=("huge", "small"), default="huge", help="the memory that fio reads into [huge, as ours]")
    parse.add_argument("--backends", nargs="+", default=["io_uring", "threads"])
    parse.add_argument("--cases", nargs="+", help="read|trust|write|over:KIB:DEPTH; the same size in a row is filled once",
                       default=[f"read:{kib}:{depth}" for kib in (256, 1024) for depth in (8, 16, 32)]
                       + [f"{op}:{kib}:16" for op in ("write", "over") for kib in (64, 256, 1024, 4096)])
    args = parse.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the files are removed.
    args.folder = args.directory / "oriel-disk-bench"
    args.peer, args.peer_new = (args.directory / f"oriel-disk-bench-{name}" for name in ("peer", "new"))
    args.folder.mkdir(mode=0o700)
    args.filled = 0
    try:
        if any(case.startswith("over") for case in args.cases):
            make_peer(args.peer, args.gib << 30)
        device = device_of(args.directory)
        print("| backend | requests | depth | MB/s, ours / fio | rate, of fio | depth reached | device queue, of fio "
              "| processor us a request, ours / fio | of fio | checked | goals |\n|---|---|---|---|---|---|---|---|---|---|---|")
        for case in args.cases:
            op, kib, depth = case.split(":")
            for backend in args.backends:
                print(row(args, device, (op, int(kib), int(depth)), backend), flush=True)
        print(f"\nload average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores, {args.pairs} pairs of {args.seconds} s",
              flush=True)
    finally:
        clear(args.folder)
        args.folder.rmdir()
        for file in (args.peer, args.peer_new):
            file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
