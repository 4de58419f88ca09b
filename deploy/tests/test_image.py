"""What of the Dockerfile can be tried without a daemon that builds it."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from processes import DEPLOY, ROOT, Server, free_port, installed, server_binary

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


class Image(unittest.TestCase):
    def test_hadolint_has_nothing_against_the_dockerfile(self):
        command = [installed("hadolint"), DEPLOY / "Dockerfile"]
        linted = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(linted.returncode, 0, linted.stdout)

    def test_what_the_ignore_file_lets_through_is_a_whole_workspace(self):
        installed("cargo")
        allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        allowed = [line[1:] for line in allowed if line.startswith("!")]
        with tempfile.TemporaryDirectory() as context:
            for name in allowed:
                source, copy = ROOT / name, Path(context) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
            # Without --offline cargo would look whether the lock file could be newer.
            command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
            read = subprocess.run(command, cwd=context, capture_output=True, text=True)
            self.assertEqual(read.returncode, 0, read.stderr)
            packages = {package["name"] for package in json.loads(read.stdout)["packages"]}
            built = re.findall(r"-p (\S+)", re.search(r"cargo build .*", DOCKERFILE)[0])
            self.assertTrue(built)
            self.assertLessEqual(set(built), packages)
            # Files that the sources include must be there too.
            for source in Path(context).rglob("*.rs"):
                for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
                    self.assertTrue((source.parent / name).exists(), f"{source} includes {name}")

    def test_the_server_needs_no_library_that_a_slim_debian_lacks(self):
        linked = subprocess.run([installed("ldd"), server_binary()], capture_output=True, text=True)
        libraries = set(re.findall(r"^\s*(?:/lib64/)?(\S+?)\.so", linked.stdout, re.MULTILINE))
        # libc6 and libgcc-s1 are essential packages.
        slim = {"linux-vdso", "ld-linux-x86-64", "libc", "libm", "libgcc_s"}
        self.assertLessEqual(libraries, slim)

    def test_the_health_check_tells_a_ready_server_from_none(self):
        check = json.loads(re.search(r"HEALTHCHECK[^\n]*\n\s*CMD (\[.*\])", DOCKERFILE)[1])
        installed(check[0])

        def health(port):
            environment = {**os.environ, "ONEGEN_PORT": str(port)}
            return subprocess.run(check, env=environment, capture_output=True, timeout=10).returncode

        server = Server()
        self.addCleanup(server.remove)
        self.assertEqual(health(server.port), 0)
        self.assertNotEqual(health(free_port()), 0)


if __name__ == "__main__":
    unittest.main()
