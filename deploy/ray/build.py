"""Builds an index on the machines of a Ray cluster: each task embeds one part of the corpus, and at the end the parts
are joined. It can be started again at any time and goes on where it was.

    python build.py CORPUS --model MODEL --out DIR --parts 400 [--work PLACE] [-- further options of `onegen-index build`]

CORPUS and the work place are paths that all machines share, or addresses that pyarrow can open (s3://, gs://, hdfs://,
file://). MODEL is a path on every machine; so is the program, `onegen-index` or --program.
"""

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray


class Place:
    """A file or a directory of a shared file system, or of a store that pyarrow opens."""

    def __init__(self, address):
        self.address = address
        self.is_remote = "://" in address

    def __truediv__(self, name):
        head, mark, query = self.address.partition("?")
        return Place(f"{head.rstrip('/')}/{name}{mark}{query}")

    def _open(self):
        from pyarrow import fs

        return fs.FileSystem.from_uri(self.address)

    def read(self):
        """The bytes of a file; None where there is none."""
        if not self.is_remote:
            path = Path(self.address)
            return path.read_bytes() if path.exists() else None
        store, path = self._open()
        if not store.get_file_info(path).is_file:
            return None
        with store.open_input_stream(path) as stream:
            return stream.read()

    def write(self, content):
        if not self.is_remote:
            path = Path(self.address)
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
            return
        store, path = self._open()
        store.create_dir(str(Path(path).parent))
        with store.open_output_stream(path) as stream:
            stream.write(content)

    def fetch(self, into):
        """A path on this machine with the same content, under the directory `into` if it is fetched."""
        if not self.is_remote:
            return Path(self.address)
        from pyarrow import fs

        store, path = self._open()
        target = Path(into) / Path(path).name
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=into) as beside:
                part = Path(beside) / target.name
                if store.get_file_info(path).type == fs.FileType.Directory:
                    part.mkdir()
                fs.copy_files(path, str(part), source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
                try:
                    part.rename(target)
                except OSError:
                    # Another task of this machine was faster.
                    if not target.exists():
                        raise
        return target

    def send(self, directory):
        """Stores a directory; the manifest is stored last, so that a part with one is whole."""
        from pyarrow import fs

        store, path = self._open()
        local = fs.LocalFileSystem()
        for file in sorted(Path(directory).rglob("*"), key=lambda file: (file.name == "manifest.json", file)):
            if file.is_file():
                target = f"{path}/{file.relative_to(directory)}"
                store.create_dir(str(Path(target).parent))
                fs.copy_files(str(file), target, source_filesystem=local, destination_filesystem=store)


def end_with_parent():
    """A program that outlives a killed worker would hold the lock that the next try needs."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def run(command, **environment):
    environment = {**os.environ, **environment}
    ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=end_with_parent, env=environment)
    if ran.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {ran.stderr.strip()}")
    return json.loads(ran.stdout)


def build_part(job, number):
    """Embeds one part; what `onegen-index build` reports, or None where it was there already."""
    part = Place(job["work"]) / f"part-{number:06}"
    if (part / "manifest.json").read() is not None:
        return None
    cache = Path(tempfile.gettempdir()) / f"onegen-{job['id']}"
    cache.mkdir(exist_ok=True)
    local = Path(cache) / f"part-{number:06}" if part.is_remote else Path(part.address)
    began = time.monotonic()
    report = run(
        [job["program"], "build", Place(job["corpus"]).fetch(cache), "--model", job["model"], "--out", local]
        + ["--shard", f"{number}/{job['parts']}", "--json", *job["options"]],
        RAYON_NUM_THREADS=str(job["threads"]),
    )
    if part.is_remote:
        part.send(local)
        shutil.rmtree(local)
    return {**report, "task_seconds": time.monotonic() - began, "node": ray.get_runtime_context().get_node_id()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the corpus")
    parser.add_argument("--model", required=True, help="the model, a path on every machine")
    parser.add_argument("--out", required=True, help="the index, on this machine")
    parser.add_argument("--parts", required=True, type=int, help="into how many parts the corpus is cut; some times as many as machines")
    parser.add_argument("--work", help="where parts are stored until they are joined [default: OUT.parts]")
    parser.add_argument("--program", default="onegen-index", help="the program, on every machine")
    parser.add_argument("--address", help="the cluster [default: the one of this machine, or a new one]")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs that a task takes, and threads that it embeds with; each task has a model in memory")
    parser.add_argument("--tries", type=int, default=5, help="how often a part is tried")
    parser.add_argument("--compact", action="store_true", help="join the parts into one segment with one graph")
    own, mark, options = sys.argv[1:], "--", []
    if mark in own:
        at = own.index(mark)
        own, options = own[:at], own[at + 1 :]
    return parser.parse_args(own, argparse.Namespace(options=options))


def main():
    given = arguments()
    job = {
        "corpus": given.corpus if "://" in given.corpus else str(Path(given.corpus).resolve()),
        "model": given.model,
        "parts": given.parts,
        "options": given.options,
    }
    if "://" not in given.corpus and not Path(given.corpus).exists():
        sys.exit(f"error: {given.corpus} does not exist")
    work = given.work or f"{Path(given.out).resolve()}.parts"
    work = work if "://" in work else str(Path(work).resolve())
    described = json.dumps(job, indent=1).encode()
    stored = (Place(work) / "job.json").read()
    if stored not in (None, described):
        sys.exit(f"error: {work} holds the parts of another build:\n{stored.decode()}\nremove it, or give another --work")
    (Place(work) / "job.json").write(described)
    job |= {"work": work, "program": given.program, "id": hashlib.sha256(described + work.encode()).hexdigest()[:16]}
    job["threads"] = max(1, round(given.cpus))

    ray.init(address=given.address, ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(num_cpus=given.cpus, max_retries=given.tries - 1, retry_exceptions=True)(build_part)
    began, passages, embedded, done = time.monotonic(), 0, 0, 0
    waiting = {task.remote(job, number): number for number in range(1, given.parts + 1)}
    failed = []
    while waiting:
        ready, _ = ray.wait(list(waiting))
        for finished in ready:
            number = waiting.pop(finished)
            try:
                report = ray.get(finished)
            except Exception as error:
                failed.append(f"part {number}: {str(error).strip().splitlines()[-1]}")
                continue
            done += 1
            if report is not None:
                embedded += report["passages"]
            seconds = time.monotonic() - began
            print(f"{done} of {given.parts} parts, {embedded} passages, {embedded / seconds:.0f}/s", file=sys.stderr)
    if failed:
        sys.exit("error: started again, the build goes on with what is missing:\n" + "\n".join(failed))

    seconds = time.monotonic() - began
    with tempfile.TemporaryDirectory(dir=Path(given.out).resolve().parent) as fetched:
        parts = [(Place(work) / f"part-{number:06}").fetch(fetched) for number in range(1, given.parts + 1)]
        compact = ["--compact"] if given.compact else []
        joined = run([given.program, "merge", given.out, *parts, "--json", *compact])
    rate = embedded / seconds
    print(json.dumps({**joined, "embedded": embedded, "embed_seconds": seconds, "passages_per_second": rate}))


if __name__ == "__main__":
    main()
