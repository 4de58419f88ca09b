"""Three servers with one store of conversations behind nginx with the shipped configuration; one is killed."""

import re
import threading
import time
import unittest

from processes import Nginx, Postgres, Server, ask, installed, question, server_binary

CLIENTS = 12
# Turns of a conversation: the model's context holds no more of them.
TURNS = 16
# Seconds of load before and after the kill.
BEFORE, AFTER = 3, 12


def setUpModule():
    installed("nginx")
    server_binary()


class Client(threading.Thread):
    """One client, which asks again whenever an answer does not come."""

    def __init__(self, port, number, stopped):
        super().__init__(daemon=True)
        self.port, self.number, self.stopped = port, number, stopped
        self.headers = {"x-onegen-affinity": f"chat-{number}"}
        # What was answered in each conversation, in order, and the statuses of answers that did not come.
        self.conversations, self.failures = {}, []
        self.longest = 0.0
        self.wrong = None

    @property
    def turns(self):
        return sum(len(answered) for answered in list(self.conversations.values()))

    def run(self):
        try:
            while not self.stopped.is_set():
                conversation = None
                for turn in range(TURNS):
                    conversation = self.turn(conversation, f"Question {turn} of {self.number}?")
                    if self.stopped.is_set():
                        break
        except Exception as error:
            self.wrong = error

    def turn(self, conversation, text):
        body = question(text, max_tokens=12, retrieval={"enabled": False})
        if conversation:
            body["conversation"] = conversation
        began = time.monotonic()
        while True:
            try:
                status, headers, answer = ask(self.port, "POST", "/v1/chat/completions", body, self.headers, 30)
            except OSError as error:
                status, answer = None, error
            if status == 200:
                break
            if status not in (None, 409, 502, 503) or time.monotonic() - began > 30:
                raise AssertionError(f"{status}: {answer}")
            self.failures.append(status)
            time.sleep(0.2)
        self.longest = max(self.longest, time.monotonic() - began)
        conversation = answer["onegen"]["conversation"]
        answered = self.conversations.setdefault(conversation, [])
        answered.append((text, answer["choices"][0]["message"]["content"]))
        return conversation


class Failover(unittest.TestCase):
    def test_conversations_go_on_at_others_when_a_server_is_killed(self):
        postgres = Postgres()
        self.addCleanup(postgres.remove)
        store = {"ONEGEN_TRUSTED_PROXIES": "127.0.0.1", "ONEGEN_CONVERSATION_STORE": postgres.address}
        servers = []
        self.addCleanup(lambda: [server.remove() for server in servers])
        for _ in range(3):
            servers.append(Server(**store))
        *two, third = [server.port for server in servers]

        def with_third(text):
            return re.sub(rf"( *server )127.0.0.1:{two[1]}(.*)\n", rf"\g<0>\g<1>127.0.0.1:{third}\2\n", text)

        nginx = Nginx(two, with_third, "onegen-servers-shared.conf")
        self.addCleanup(nginx.remove)
        stopped = threading.Event()
        clients = [Client(nginx.port, number, stopped) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(BEFORE)
        killed = servers[0]
        before = sum(client.turns for client in clients)
        killed.process.kill()
        killed.process.wait(10)
        time.sleep(AFTER)
        stopped.set()
        for client in clients:
            client.join(60)
            self.assertIsNone(client.wrong, client.wrong)
        repeated = 0
        for client in clients:
            extra = 0
            for conversation, answered in client.conversations.items():
                path = f"/v1/conversations/{conversation}/items?order=asc&limit=100"
                status, _, page = ask(nginx.port, "GET", path, None, client.headers)
                self.assertEqual(status, 200, page)
                stored = [i["content"][0]["text"] for i in page["data"] if i["type"] == "message"]
                self.assertEqual(len(stored) % 2, 0, stored)
                pairs = list(zip(stored[::2], stored[1::2]))
                # Each answered turn is there once, in order.
                rest = iter(pairs)
                self.assertTrue(all(pair in rest for pair in answered), (pairs, answered))
                extra += len(pairs) - len(answered)
            # A turn whose answer was cut off with its server may be there too: its client has asked again.
            self.assertLessEqual(extra, 1)
            repeated += extra
        turns = sum(client.turns for client in clients)
        failures = sum(len(client.failures) for client in clients)
        self.assertGreater(before, 2 * CLIENTS, "the load was none")
        self.assertGreater(failures, 0, "the server that was killed had nothing to do")
        print(
            f"\n{turns} turns of {CLIENTS} clients, {before} before the kill: none lost; {repeated} stored whose "
            f"answer was cut off; {failures} requests were sent again; the longest turn, waits included, took "
            f"{max(client.longest for client in clients):.1f} s"
        )
