"""Builds an index of a million passages, opens it and searches it within 4 GiB, and prints what it took.

    pip install numpy
    python index/benches/million.py [--passages 1000000] [--work DIR]

Clustered vectors of 896 dimensions, one a passage; the exact scan is the judge. Needs about 10 GB of disk.
As root on a machine with control groups of version 1 or 2, every process that touches the index runs in a
group whose memory, page cache included, is limited; elsewhere only the peak of its own is told.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
DIMENSION, QUERIES, LIMIT = 896, 200, 4 << 30


def write_rows(path, count, seed):
    """Rows around 1,000 centres: (count, dimension) f32."""
    centres = np.random.default_rng(1).uniform(-1, 1, (1000, DIMENSION)).astype(np.float32)
    random = np.random.default_rng(seed)
    with open(path, "wb") as file:
        for start in range(0, count, 10_000):
            rows = random.uniform(-0.6, 0.6, (min(10_000, count - start), DIMENSION))
            rows += centres[random.integers(0, len(centres), len(rows))]
            file.write(rows.astype(np.float32).tobytes())


def program():
    build = ["cargo", "bench", "-p", "onegen-index", "--no-default-features", "--bench", "speed", "--no-run"]
    told = subprocess.run(build, check=True, cwd=ROOT, stderr=subprocess.PIPE, text=True).stderr
    return ROOT / re.search(r"Executable .*\((.*)\)", told)[1]


def limited_group():
    """A control group of LIMIT bytes, or None where there cannot be one."""
    for parent, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / parent / "onegen-million"
        try:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(LIMIT))
            return group
        except OSError:
            continue
    return None


def run(group, *arguments):
    def enter():
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    start = time.perf_counter()
    told = subprocess.run(
        [*map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True, preexec_fn=enter
    ).stdout
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    return json.loads(told), time.perf_counter() - start, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path("million"))
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    speed, group = program(), limited_group()
    print(f"memory limit: {'4 GiB, page cache included' if group else 'none, not root'}", flush=True)

    write_rows(work / "rows", arguments.passages, 2)
    write_rows(work / "queries", QUERIES, 3)
    shutil.rmtree(work / "index", ignore_errors=True)
    built, seconds, peak = run(group, speed, "build", work / "rows", DIMENSION, work / "index")
    (work / "rows").unlink()
    graph = built["graph"]["calibration"]
    print(f"built in {seconds:.0f} s, of which {built['seconds_of_linking']:.0f} s the graph; peak {peak} MiB; {graph}", flush=True)
    files = {name: record["length"] / arguments.passages for name, record in built["files"].items()}
    print(f"bytes a passage: {files}", flush=True)

    found, _, peak = run(group, speed, "search", work / "queries", DIMENSION, work / "index")
    exact, _, _ = run(group, speed, "exact", work / "queries", DIMENSION, work / "index")
    hits = sum(len(set(f) & set(e)) for f, e in zip(found["found"], exact["found"]))
    wanted = sum(map(len, exact["found"]))
    print(f"opened in {found['seconds_to_open']:.3f} s; peak {peak} MiB")
    print(f"search {found['seconds'] * 1e3:.2f} ms ({found['seconds_at_first'] * 1e3:.2f} ms the first time), recall@10 {hits / wanted:.4f}")
    print(f"exact scan {exact['seconds'] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
