"""The dashboard and the alerts against a real Prometheus that has scraped a real server."""

import json
import re
import subprocess
import time
import unittest
import urllib.parse

from processes import DEPLOY, Process, Server, ask, installed, question

DASHBOARD = json.loads((DEPLOY / "grafana" / "onegen.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]
]


class Prometheus(Process):
    """Prometheus with the shipped configuration, but for the target and the pace."""

    def __init__(self, target):
        super().__init__("prometheus", "/-/ready")
        for name in ["prometheus.yml", "alerts.yml"]:
            text = (DEPLOY / "prometheus" / name).read_text()
            text = text.replace("onegen:8080", f"127.0.0.1:{target}").replace("_interval: 15s", "_interval: 1s")
            (self.dir / name).write_text(text)
        self.start(
            [
                installed("prometheus"),
                f"--config.file={self.dir}/prometheus.yml",
                f"--storage.tsdb.path={self.dir}/tsdb",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ]
        )

    def get(self, path, **parameters):
        path += "?" + urllib.parse.urlencode(parameters)
        status, _, body = ask(self.port, "GET", path)
        if status != 200:
            raise AssertionError(f"{path}: {body}")
        return body["data"]

    def value_of(self, query):
        return self.get("/api/v1/query", query=query)["result"]


class Form(unittest.TestCase):
    def test_panels_have_ids_of_their_own_and_no_two_lie_on_one_another(self):
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken = {}
        for panel in DASHBOARD["panels"]:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    other = taken.setdefault((x, y), panel["title"])
                    self.assertEqual(other, panel["title"])

    def test_every_panel_asks_the_chosen_prometheus_about_the_chosen_servers(self):
        for panel in PANELS:
            for asks in [panel, *panel["targets"]]:
                self.assertEqual(asks["datasource"]["uid"], "${datasource}", panel["title"])
            for target in panel["targets"]:
                names = len(re.findall(r"\bonegen_\w+|\bup\b", target["expr"]))
                chosen = target["expr"].count('instance=~"$instance"')
                self.assertEqual(names, chosen, target["expr"])

    def test_what_is_measured_is_shown(self):
        shown = " ".join(query for _, query in QUERIES)
        for metric in [
            "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
            "request_queue_time_seconds", "kv_cache_usage_perc", "num_requests_running",
            "num_requests_waiting", "prefix_cache_hits_total", "retrievals_total", "retrieval_seconds",
            "splice_tokens_total", "splice_seconds", "generation_tokens_total", "request_success_total",
            "http_responses_total", "request_errors_total",
        ]:  # fmt: skip
            self.assertIn(f"onegen_{metric}", shown)


    def test_grafana_s_own_types_know_every_field(self):
        try:
            from grafana_foundation_sdk.cog import plugins
            from grafana_foundation_sdk.cog.encoder import JSONEncoder
            from grafana_foundation_sdk.models.dashboard import Dashboard
        except ImportError:
            self.skipTest("grafana-foundation-sdk is not installed")
        plugins.register_default_plugins()
        read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))

        def compare(ours, theirs, path):
            """What the types do not know is lost; defaults may come in addition."""
            if isinstance(ours, dict):
                for name, value in ours.items():
                    self.assertIn(name, theirs, path)
                    compare(value, theirs[name], f"{path}/{name}")
            elif isinstance(ours, list):
                self.assertEqual(len(ours), len(theirs), path)
                for index, pair in enumerate(zip(ours, theirs)):
                    compare(*pair, f"{path}/{index}")
            else:
                self.assertEqual(ours, theirs, path)

        compare(DASHBOARD, read, "")


class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        installed("prometheus")
        cls.server = Server()
        cls.addClassCleanup(cls.server.remove)
        cls.prometheus = Prometheus(cls.server.port)
        cls.addClassCleanup(cls.prometheus.remove)
        # Counters must grow between two scrapes.
        end = time.monotonic() + 120
        while time.monotonic() < end:
            for number in range(5):
                ask(cls.server.port, "POST", "/v1/chat/completions", question())
            time.sleep(0.5)
            if cls.prometheus.value_of("increase(onegen_retrievals_total[10s]) > 0"):
                return
        raise AssertionError("Prometheus has seen no retrieval")

    def test_every_query_of_the_dashboard_finds_something(self):
        self.assertGreater(len(QUERIES), 20)
        for title, query in QUERIES:
            for variable, value in {"$instance": ".*", "$__rate_interval": "30s"}.items():
                query = query.replace(variable, value)
            with self.subTest(panel=title, query=query):
                self.assertNotIn("$", query)
                self.assertTrue(self.prometheus.value_of(query), "nothing")

    def test_the_choice_of_servers_offers_this_one(self):
        [choice] = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "instance"]
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", choice["query"]["query"]).groups()
        [series] = self.prometheus.value_of(metric)
        self.assertEqual(series["metric"][label], f"127.0.0.1:{self.server.port}")

    def test_alerts_ask_for_metrics_that_there_are_and_none_fires(self):
        _, _, scrape = ask(self.server.port, "GET", "/metrics")
        groups = self.prometheus.get("/api/v1/rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertEqual(len(rules), (DEPLOY / "prometheus" / "alerts.yml").read_text().count("- alert:"))
        for rule in rules:
            with self.subTest(alert=rule["name"]):
                self.assertEqual(rule["health"], "ok", rule.get("lastError"))
                self.assertNotEqual(rule["state"], "firing")
                for metric in re.findall(r"\bonegen_\w+", rule["query"]):
                    self.assertRegex(scrape, rf"(?m)^{metric}[ {{]")

    def test_promtool_finds_nothing_wrong_with_the_metrics(self):
        _, _, scrape = ask(self.server.port, "GET", "/metrics")
        command = [installed("promtool"), "check", "metrics"]
        found = subprocess.run(command, input=scrape, capture_output=True, text=True)
        self.assertEqual(found.stdout + found.stderr, "")


if __name__ == "__main__":
    unittest.main()
