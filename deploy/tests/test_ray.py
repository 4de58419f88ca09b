"""The driver for Ray, on a real cluster of two nodes of which one is killed in the middle."""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from processes import DEPLOY, ROOT, free_port, server_binary

ALMANAC = ROOT / "models" / "almanac"
DRIVER = DEPLOY / "ray" / "build.py"
PARTS = 24
COPIES = 4


def cluster_class():
    """Ray's cluster for tests; skips the test where Ray is not installed."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError as error:
        raise unittest.SkipTest(f"ray is not installed: {error}")
    return Cluster


def index_program():
    """onegen-index, beside the server."""
    program = server_binary().with_name("onegen-index")
    if not program.exists():
        raise unittest.SkipTest(f"{program} is not built: cargo build --release -p onegen-index --features cli")
    return program


def files(index):
    """The checksums of an index of one segment."""
    manifest = json.loads((Path(index) / "manifest.json").read_text())
    (segment,) = manifest["segments"]
    return segment["files"]


def last_object(output):
    """The driver's report. Ray writes to standard output, too, when a node is gone."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


class Ray(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cluster, program = cluster_class(), index_program()
        cls.home = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.program = program
        cls.corpus = cls.home / "corpus.jsonl"
        passages = [json.loads(line) for line in (ALMANAC / "almanac.jsonl").read_text().splitlines()]
        with open(cls.corpus, "w") as corpus:
            for copy in range(COPIES):
                for passage in passages:
                    corpus.write(json.dumps({**passage, "id": f"{passage['id']}-{copy}"}) + "\n")
        cls.whole = cls.home / "whole"
        subprocess.run(
            [program, "build", cls.corpus, "--model", ALMANAC, "--out", cls.whole], check=True, capture_output=True
        )
        cls.cluster = cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "gcs_server_port": free_port()}
        )
        cls.addClassCleanup(cls.cluster.shutdown)

    def driver(self, corpus, out, *more):
        command = [sys.executable, DRIVER, corpus, "--model", ALMANAC, "--out", out, "--parts", str(PARTS)]
        command += ["--program", self.program, "--address", self.cluster.address, "--compact", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def parts_done(self, out):
        return len(list(Path(f"{out}.parts").glob("part-*/manifest.json")))

    def test_a_build_survives_a_node_that_is_killed(self):
        out = self.home / "index"
        driver = self.driver(self.corpus, out)
        # The driver is on the first node; of two on one machine it could choose the other.
        while driver.poll() is None and self.parts_done(out) < 1:
            time.sleep(0.02)
        node = self.cluster.add_node(num_cpus=1)
        while driver.poll() is None and self.parts_done(out) < PARTS // 4:
            time.sleep(0.02)
        self.assertLess(self.parts_done(out), PARTS, "the node was to be killed in the middle")
        self.cluster.remove_node(node, allow_graceful=False)
        report, log = driver.communicate(timeout=300)
        self.assertEqual(driver.returncode, 0, log)
        report = last_object(report)
        self.assertEqual(report["shards"], PARTS)
        self.assertEqual(files(out), files(self.whole))

    def test_a_build_that_was_stopped_goes_on(self):
        out = self.home / "stopped"
        driver = self.driver(self.corpus, out)
        while driver.poll() is None and self.parts_done(out) < 3:
            time.sleep(0.02)
        driver.kill()
        driver.communicate()
        self.assertFalse(out.exists())
        done = self.parts_done(out)
        driver = self.driver(self.corpus, out)
        report, log = driver.communicate(timeout=300)
        self.assertEqual(driver.returncode, 0, log)
        whole = json.loads((self.whole / "manifest.json").read_text())["segments"][0]["passages"]
        self.assertGreaterEqual(done, 3)
        self.assertLess(last_object(report)["embedded"], whole)
        self.assertEqual(files(out), files(self.whole))

        other = self.home / "other.jsonl"
        other.write_text(self.corpus.read_text())
        refused = self.driver(other, out)
        _, log = refused.communicate(timeout=60)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("holds the parts of another build", log)

    def test_a_corpus_and_parts_in_a_store_are_fetched_and_sent(self):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise unittest.SkipTest("pyarrow is not installed")
        out = self.home / "stored"
        work = f"file://{self.home}/store"
        driver = self.driver(f"file://{self.corpus}", out, "--work", work)
        _, log = driver.communicate(timeout=300)
        self.assertEqual(driver.returncode, 0, log)
        self.assertEqual(files(out), files(self.whole))

    def test_a_part_that_cannot_be_built_is_named(self):
        broken = self.home / "broken.jsonl"
        broken.write_text("{\n")
        driver = self.driver(broken, self.home / "none", "--tries", "2", "--", "--strict")
        _, log = driver.communicate(timeout=300)
        self.assertNotEqual(driver.returncode, 0)
        self.assertIn("not a JSON object", log)
        self.assertFalse((self.home / "none").exists())


if __name__ == "__main__":
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    unittest.main()
