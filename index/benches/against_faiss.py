"""Measures this index, faiss, usearch and hnsw_rs by turns, on the same vectors, and prints the ratios.

    pip install numpy faiss-cpu usearch
    python index/benches/against_faiss.py [--vectors 20000 100000] [--rounds 3]

Clustered vectors of 896 dimensions, M 16 and ef_construction 200 on all sides. Builds run on two threads,
searches on one, one query after the other. Every round runs all sides; the medians are compared. Ours is
the whole of it: building writes passages and vectors to the disk and measures the ef, a search reads its
passages. Theirs hold vectors in memory and return numbers. Of theirs the fastest ef of a ladder is taken
whose recall@10 is at most .001 below ours at the ef that our build has chosen, or else the largest.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import faiss
import numpy as np
import usearch.index

ROOT = Path(__file__).parents[2]
DIMENSION, QUERIES, K, M, EF_CONSTRUCTION = 896, 1000, 10, 16, 200
BUILD_THREADS, SEARCH_THREADS = 2, 1
LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def clustered(count, seed=7):
    """Unit vectors around 100 centres: rows (count, dimension) and queries (queries, dimension)."""
    random = np.random.default_rng(seed)
    centres = random.uniform(-1, 1, (100, DIMENSION)).astype(np.float32)
    rows = random.uniform(-0.6, 0.6, (count + QUERIES, DIMENSION)).astype(np.float32)
    rows += centres[np.arange(len(rows)) % len(centres)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:count], rows[count:]


def recall(found, truth):
    return float(np.mean([len(set(f) & set(t)) / K for f, t in zip(found, truth)]))


def timed(search, queries):
    """Seconds a query, one after the other, and what was found."""
    start = time.perf_counter()
    found = [search(query) for query in queries]
    return (time.perf_counter() - start) / len(queries), found


def program(name="speed"):
    build = ["cargo", "bench", "-p", "onegen-index", "--no-default-features", "--bench", name, "--no-run"]
    told = subprocess.run(build, check=True, cwd=ROOT, stderr=subprocess.PIPE, text=True).stderr
    return ROOT / re.search(r"Executable .*\((.*)\)", told)[1]


class Ours:
    def __init__(self, work, rows, queries):
        self.program, self.work, self.index = program(), work, work / "index"
        rows.tofile(work / "rows.f32")
        queries.tofile(work / "queries.f32")

    def run(self, what, file, threads):
        command = [self.program, what, self.work / file, str(DIMENSION), self.index]
        env = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        return json.loads(subprocess.run(command, check=True, env=env, capture_output=True, text=True).stdout)

    def build(self, _rows):
        shutil.rmtree(self.index, ignore_errors=True)
        self.report = self.run("build", "rows.f32", BUILD_THREADS)
        return self.report["seconds"]

    def search(self, _queries):
        told = self.run("search", "queries.f32", SEARCH_THREADS)
        return told["seconds"], told["found"]

    def exact(self):
        return self.run("exact", "queries.f32", SEARCH_THREADS)["seconds"]


class Faiss:
    def build(self, rows):
        faiss.omp_set_num_threads(BUILD_THREADS)
        start = time.perf_counter()
        self.index = faiss.IndexHNSWFlat(DIMENSION, M, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.add(rows)
        return time.perf_counter() - start

    def search(self, queries, ef):
        faiss.omp_set_num_threads(SEARCH_THREADS)
        self.index.hnsw.efSearch = ef
        return timed(lambda query: self.index.search(query[None], K)[1][0], queries)


class Usearch:
    def build(self, rows):
        start = time.perf_counter()
        self.index = usearch.index.Index(
            ndim=DIMENSION, metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION,
        )
        self.index.add(np.arange(len(rows)), rows, threads=BUILD_THREADS)
        return time.perf_counter() - start

    def search(self, queries, ef):
        self.index.expansion_search = ef
        return timed(lambda query: self.index.search(query, K, threads=SEARCH_THREADS).keys, queries)


class HnswRs:
    """The crate that the live part of this index uses, here over f32. One process does it all."""

    def __init__(self, work):
        self.program, self.work = program("yardstick"), work

    def build(self, _rows):
        numbers = (DIMENSION, M, EF_CONSTRUCTION, BUILD_THREADS, *LADDER)
        command = [self.program, self.work / "rows.f32", self.work / "queries.f32", *map(str, numbers)]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        self.searches = {search["ef"]: search for search in report["searches"]}
        return report["build_seconds"]

    def search(self, _queries, ef):
        return self.searches[ef]["seconds"], self.searches[ef]["found"]


def measure(count, rounds, work):
    rows, queries = clustered(count)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(rows)
    truth = flat.search(queries, K)[1]
    ours = Ours(work, rows, queries)
    theirs = {"faiss": Faiss(), "usearch": Usearch(), "hnsw_rs": HnswRs(work)}
    efs = {}
    builds, searches, scans = [], [], []
    for _ in range(rounds):
        builds.append({"onegen": ours.build(rows)} | {name: side.build(rows) for name, side in theirs.items()})
        seconds, found = ours.search(queries)
        reached = recall(found, truth)
        times, recalls = {"onegen": seconds}, {"onegen": reached}
        for name, side in theirs.items():
            for ef in [efs[name]] if name in efs else LADDER:
                times[name], found = side.search(queries, ef)
                recalls[name] = recall(found, truth)
                if recalls[name] >= reached - 0.001:
                    break
            efs[name] = ef
        searches.append(times)
        faiss.omp_set_num_threads(SEARCH_THREADS)
        flat_seconds, _ = timed(lambda query: flat.search(query[None], K), queries[:100])
        scans.append({"onegen": ours.exact(), "faiss": flat_seconds})
    print(f"\n{count} vectors: recall@10 {recalls}, ef {efs}, ours {ours.report['graph']}")
    files = {name: record["length"] for name, record in ours.report["files"].items()}
    searched = ("vectors.i8", "vectors.scales", "vectors.passages", "graph.links")
    print(f"bytes a vector in memory: {sum(files.get(name, 0) for name in searched) / count:.0f}")
    print("| | onegen | faiss | ratio | usearch | ratio | hnsw_rs | ratio |\n|---|---|---|---|---|---|---|---|")
    for what, unit, scale, taken in (
        ("build", "s", 1, builds), ("search", "µs", 1e6, searches), ("exact scan", "µs", 1e6, scans),
    ):
        median = {side: scale * statistics.median(r[side] for r in taken) for side in taken[0]}
        cells = [f"{what}, {unit}", f"{median['onegen']:.1f}"]
        for side in theirs:
            known = side in median
            cells += [f"{median[side]:.1f}", f"{median['onegen'] / median[side]:.2f}"] if known else ["", ""]
        print("| " + " | ".join(cells) + " |")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--work", type=Path, default=Path("/tmp/onegen-index-bench"))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--vectors", type=int, nargs="+", default=[20_000, 100_000])
    arguments = arguments.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for count in arguments.vectors:
        measure(count, arguments.rounds, arguments.work)


main()
