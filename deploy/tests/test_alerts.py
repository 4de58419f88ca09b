"""Prometheus' configuration and alerts, by promtool."""

import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from processes import DEPLOY, installed

PROMETHEUS = DEPLOY / "prometheus"
ALERTS = (PROMETHEUS / "alerts.yml").read_text()


def setUpModule():
    installed("promtool")


def promtool(*arguments, cwd=PROMETHEUS):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=cwd)


class Alerts(unittest.TestCase):
    def test_promtool_takes_configuration_and_rules(self):
        for command in [["config", "prometheus.yml"], ["rules", "alerts.yml"]]:
            checked = promtool("check", *command)
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_each_alert_fires_on_what_it_is_for_and_only_on_that(self):
        tested = promtool("test", "rules", "alerts.test.yml")
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)

    def test_every_alert_s_test_notices_a_threshold_that_is_far_off(self):
        alerts = set(re.findall(r"- alert: (\w+)", ALERTS))
        threshold = re.compile(r"(?<= )(>|==) [\d.]+$", re.MULTILINE)
        self.assertEqual(len(threshold.findall(ALERTS)), len(alerts))
        for other in ["> 1e9", ">= 0"]:
            with self.subTest(other=other), tempfile.TemporaryDirectory() as directory:
                shutil.copy(PROMETHEUS / "alerts.test.yml", directory)
                (Path(directory) / "alerts.yml").write_text(threshold.sub(other, ALERTS))
                tested = promtool("test", "rules", "alerts.test.yml", cwd=directory)
                noticed = re.findall(r"alertname: *(\w+)", tested.stdout + tested.stderr)
                self.assertEqual(set(noticed), alerts)


if __name__ == "__main__":
    unittest.main()
