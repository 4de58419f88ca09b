"""The systemd unit, where no systemd runs."""

import re
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from processes import DEPLOY, Server, ask, installed, question

UNIT = DEPLOY / "systemd" / "onegen.service"


def setUpModule():
    installed("systemd-analyze")


def analyze(*arguments):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True
    )


class Unit(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.dir)
        # verify wants the program where the unit says.
        self.unit = self.dir / UNIT.name
        self.unit.write_text(UNIT.read_text().replace("/usr/local/bin/onegen-server", "/bin/true"))

    def test_systemd_understands_every_line(self):
        verified = analyze("verify", self.unit)
        self.assertEqual((verified.returncode, verified.stderr), (0, ""))

    def test_it_is_exposed_to_little(self):
        # Of 100; network, which it is for, makes most of what is left.
        rated = analyze("security", "--offline=true", "--threshold=15", self.unit)
        self.assertEqual(rated.returncode, 0, rated.stdout[-400:])

    def test_the_server_is_stopped_after_its_drain_and_not_in_it(self):
        drain = int(re.search(r"ONEGEN_DRAIN_TIMEOUT=(\d+)", UNIT.read_text())[1])
        limit = int(re.search(r"TimeoutStopSec=(\d+)", UNIT.read_text())[1])
        self.assertGreater(limit, drain)

    def test_the_server_makes_no_system_call_that_the_unit_forbids(self):
        strace = installed("strace")
        allowed = allowed_calls()
        self.assertIn("openat", allowed)
        self.assertNotIn("mount", allowed)
        counts = self.dir / "calls"
        # -D: the server is our child and strace its grandchild, so that the signal reaches the server.
        server = Server(under=[strace, "-D", "-f", "-c", "-U", "name", "-o", counts])
        self.addCleanup(server.remove)
        status, _, _ = ask(server.port, "POST", "/v1/chat/completions", question())
        self.assertEqual(status, 200)
        server.stop()
        end = time.monotonic() + 10
        while not counts.exists() or "total" not in counts.read_text():
            self.assertLess(time.monotonic(), end, "strace wrote nothing")
            time.sleep(0.05)
        # A heading, a rule, the names, a rule, "total".
        called = set(counts.read_text().split()[2:-2])
        self.assertIn("accept4", called)
        self.assertLessEqual(called, allowed)


def allowed_calls():
    """The system calls that the unit's filter lets through."""
    groups, group = {}, None
    for line in analyze("syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line, set())
        elif line.startswith("    ") and not line.strip().startswith("#"):
            group.add(line.strip())

    def calls(name):
        if not name.startswith("@"):
            return {name}
        return set().union(*map(calls, groups[name]))

    allowed = calls("@default")
    for line in re.findall(r"SystemCallFilter=(.*)", UNIT.read_text()):
        named = set().union(*map(calls, line.lstrip("~").split()))
        # systemd.exec(5): the default group stays allowed in a list of what is allowed.
        allowed = allowed - (named - calls("@default")) if line.startswith("~") else allowed | named
    return allowed


if __name__ == "__main__":
    unittest.main()
