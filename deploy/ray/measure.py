"""Passages a second that the driver embeds with one worker after another: `python measure.py CORPUS --model MODEL`.

Starts a Ray cluster on this machine, of so many nodes with a CPU each, whose tasks embed with one thread. So a machine
with N cores tells what N machines of one core do, as far as they share nothing but memory and disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ray.cluster_utils import Cluster

DRIVER = Path(__file__).with_name("build.py")


def embed(given, nodes, out):
    """Embeds the corpus; returns the driver's report."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    command = [sys.executable, DRIVER, given.corpus, "--model", given.model, "--out", out, "--parts", str(given.parts)]
    command += ["--program", given.program, "--address", cluster.address]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        cluster.shutdown()
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", default="onegen-index")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", type=int, default=8)
    given = parser.parse_args()
    first = None
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as home:
            report = embed(given, workers, f"{home}/index")
        seconds, rate = report["embed_seconds"], report["passages_per_second"]
        first = first or rate
        print(f"{workers} workers: {report['embedded']} passages in {seconds:.1f} s, {rate:.2f} a second, {rate / first:.2f} times")


if __name__ == "__main__":
    main()
