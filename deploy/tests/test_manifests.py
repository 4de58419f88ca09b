"""The Kubernetes manifests as kubectl puts them together, and compose.yaml."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from processes import DEPLOY, installed

try:
    import yaml
except ImportError:
    yaml = None


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=DEPLOY)
    if done.returncode != 0:
        raise AssertionError(f"{command}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Kubernetes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = run(installed("kubectl"), "kustomize", ".")

    def setUp(self):
        if yaml is None:
            self.skipTest("Python's yaml is not installed")
        self.objects = list(yaml.safe_load_all(self.text))

    def only(self, kind, name):
        [found] = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found

    def test_they_are_what_kubernetes_takes(self):
        program = installed("kubernetes-validate")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(self.text)
            file.flush()
            run(program, "--strict", "--quiet", file.name)

    def test_there_is_a_service_for_every_server_and_nginx_knows_it(self):
        servers = (DEPLOY / "nginx" / "onegen-servers.conf").read_text()
        replicas = self.only("StatefulSet", "onegen")["spec"]["replicas"]
        for number in range(replicas):
            service = self.only("Service", f"onegen-{number}")["spec"]
            pod = {"statefulset.kubernetes.io/pod-name": f"onegen-{number}"}
            self.assertEqual(service["selector"], pod)
            self.assertEqual(service["ports"][0]["port"], 8080)
            # In both groups.
            self.assertEqual(servers.count(f"server onegen-{number}:8080 "), 2)
        self.assertEqual(servers.count("    server "), 2 * replicas)

    def test_selectors_find_pods(self):
        pods = [o["spec"]["template"]["metadata"]["labels"] for o in self.objects if "template" in o.get("spec", {})]
        for o in self.objects:
            if o["kind"] in ("Service", "PodDisruptionBudget", "StatefulSet", "Deployment"):
                chosen = o["spec"]["selector"]
                chosen = chosen.get("matchLabels", chosen)
                if "statefulset.kubernetes.io/pod-name" not in chosen:
                    found = [pod for pod in pods if chosen.items() <= pod.items()]
                    self.assertEqual(len(found), 1, o["metadata"]["name"])

    def test_no_service_gives_the_server_a_setting(self):
        # A Service "onegen" would set ONEGEN_PORT to tcp://…, which is no port.
        self.assertIn("onegen", [o["metadata"]["name"] for o in self.objects if o["kind"] == "Service"])
        pod = self.only("StatefulSet", "onegen")["spec"]["template"]["spec"]
        self.assertIs(pod["enableServiceLinks"], False)

    def test_a_pod_is_given_the_time_that_its_end_takes(self):
        pod = self.only("StatefulSet", "onegen")["spec"]["template"]["spec"]
        [server] = pod["containers"]
        settings = {setting["name"]: setting["value"] for setting in server["env"]}
        before = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
        drain = int(settings["ONEGEN_DRAIN_TIMEOUT"])
        self.assertGreater(pod["terminationGracePeriodSeconds"], before + drain)
        compose = (DEPLOY / "compose.yaml").read_text()
        drain = int(re.search(r'ONEGEN_DRAIN_TIMEOUT: "(\d+)"', compose)[1])
        self.assertGreater(int(re.search(r"stop_grace_period: (\d+)s", compose)[1]), drain)

    def test_every_pod_runs_as_nobody_and_writes_only_to_its_volumes(self):
        for kind, name in [("StatefulSet", "onegen"), ("Deployment", "onegen-router")]:
            pod = self.only(kind, name)["spec"]["template"]["spec"]
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertEqual(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault")
            for container in pod["containers"]:
                allowed = container["securityContext"]
                self.assertTrue(allowed["readOnlyRootFilesystem"])
                self.assertFalse(allowed["allowPrivilegeEscalation"])
                self.assertEqual(allowed["capabilities"], {"drop": ["ALL"]})
                self.assertIn("memory", container["resources"]["limits"])


class Compose(unittest.TestCase):
    def test_it_is_a_compose_file(self):
        checker = installed("check-jsonschema")
        run(checker, "--builtin-schema", "vendor.compose-spec", "compose.yaml")

    def test_the_files_that_it_mounts_are_there(self):
        text = (DEPLOY / "compose.yaml").read_text()
        mounts = re.findall(r"- (\./\S+?):(/\S+?)(?::ro)?$", text, re.MULTILINE)
        self.assertEqual(len(mounts), 3)
        for source, _ in mounts:
            self.assertTrue((DEPLOY / source).exists(), source)
        # Grafana looks for dashboards where one is put.
        provider = (DEPLOY / "grafana/provisioning/dashboards/onegen.yaml").read_text()
        directory = re.search(r"path: (\S+)", provider)[1]
        self.assertIn(f"{directory}/onegen.json", [target for _, target in mounts])


if __name__ == "__main__":
    unittest.main()
