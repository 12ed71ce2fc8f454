#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that includes point downward (docs/architecture.md).

A folder has a rank; a file includes lower ranks, its own folder, and of other folders of its own
rank only the doorways: concept headers and plain vocabulary types. Public headers never include CUDA, fmt or the heavy parts of std.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
RANK = {
    "core": 0, "model": 1, "metrics": 1, "kv": 2, "kernels": 2, "device": 2,
    "request": 3, "prefix": 3, "output": 3, "route": 4, "sched": 4, "tier": 4, "spec": 4, "sim": 5,
}
# The doorways between folders of one rank: headers that are a concept, or plain vocabulary types.
DOORWAYS = {
    "kernels/paged_kv.hpp", "kernels/kv_copy.hpp", "kernels/reference/kv_element.hpp", "device/host_device.cuh", "device/paged_kv_view.cuh", "device/copy_streams.hpp", "device/memory_driver.hpp",
    "request/request.hpp", "request/sampling_options.hpp", "request/stop_conditions.hpp",
    "kv/page_allocator.hpp", "kv/memory.hpp", "prefix/prefix_cache.hpp", "route/router.hpp",
    "route/state_store.hpp", "tier/kv_store.hpp", "spec/drafter.hpp",
}
HEAVY = {"iostream", "regex", "functional", "ranges", "thread", "mutex", "future", "sstream", "fstream"}
BANNED = re.compile(r"^(cuda|cub/|thrust/|fmt/|nlohmann/|catch2/)")
CUDA = {".cu", ".cuh"}  # These may see CUDA's headers; a .hpp that a .cu includes may not.
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def problems_in(path: pathlib.Path, relative: str) -> list[str]:
    folder = relative.split("/")[0]
    if folder not in RANK:
        return [f"{path}: folder '{folder}' has no rank; give it one in {pathlib.Path(__file__).name}"]
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        where = f"{path.relative_to(ROOT)}:{number}"
        if (BANNED.match(target) and path.suffix not in CUDA) or (path.suffix == ".hpp" and "include/" in str(path) and target in HEAVY):
            found.append(f"{where}: a public header may not include <{target}>")
        if target.startswith(("engine/", "cli/")):
            found.append(f"{where}: the library may not include the engine (<{target}>)")
        if not target.startswith("oriel/"):
            continue
        other = target.removeprefix("oriel/")
        other_folder = other.split("/")[0]
        if other_folder == folder:
            continue
        if other_folder not in RANK:
            continue  # oriel/config.hpp and the like
        if RANK[other_folder] > RANK[folder] or (RANK[other_folder] == RANK[folder] and other not in DOORWAYS):
            found.append(f"{where}: {folder}/ (rank {RANK[folder]}) may not include <{target}> (rank {RANK[other_folder]})")
        on_device = "kernels/cuda" in str(path) or "kernels/reference" in str(path)  # References know a device's order.
        allowed = {"core", "device"} if on_device else {"core"}
        if folder == "kernels" and other_folder not in allowed:
            found.append(f"{where}: kernels/ includes core/ alone, not <{target}>")
    return found


def main() -> int:
    found = []
    for base in (ROOT / "include" / "oriel", ROOT / "src"):
        for path in sorted(base.rglob("*")):
            if path.suffix in {".hpp", ".cpp", ".cuh"} and path.parent != base:
                found += problems_in(path, str(path.relative_to(base)))
    for path in sorted((ROOT / "kernels").rglob("*")):
        if path.suffix in {".hpp", ".cpp", ".cu", ".cuh"}:
            found += problems_in(path, "kernels/" + path.name)
    print("\n".join(found) if found else "include directions: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
