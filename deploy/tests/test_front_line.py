"""What odd clients get from a server behind nginx with the shipped configuration."""

import json
import socket
import time
import unittest

from processes import Nginx, Server, ask, installed, question, server_binary

# So many clients send half a request and wait.
HALVES = 100


def setUpModule():
    installed("nginx")
    server_binary()


class FrontLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(ONEGEN_TRUSTED_PROXIES="127.0.0.1", ONEGEN_BODY_TIMEOUT=2)
        cls.addClassCleanup(cls.server.remove)
        cls.nginx = Nginx([cls.server.port, cls.server.port])
        cls.addClassCleanup(cls.nginx.remove)

    def refused(self, status, code, method, path, body=None, headers=None):
        got, _, answer = ask(self.nginx.port, method, path, body, headers)
        self.assertEqual((got, answer["error"]["code"]), (status, code))
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})

    def test_refusals_come_through_as_the_server_writes_them(self):
        self.refused(413, "body_too_large", "POST", "/v1/chat/completions", question("x" * (5 << 20)))
        self.refused(400, "invalid_value", "POST", "/v1/chat/completions", question(temperature=9))
        self.refused(404, "route_not_found", "GET", "/v1/nothing")
        self.refused(405, "method_not_allowed", "DELETE", "/v1/chat/completions")
        body = json.dumps(question())[:-1].encode()
        answer = self.raw(body, length=len(body))
        self.assertIn(b" 400 ", answer.split(b"\r\n")[0])
        self.assertIn(b'"invalid_json"', answer)

    def test_half_requests_do_not_hold_up_others(self):
        halves = [self.half(b'{"model": "onegen", ') for _ in range(HALVES)]
        try:
            for _ in range(5):
                began = time.monotonic()
                status, _, _ = ask(self.nginx.port, "POST", "/v1/chat/completions", question(max_tokens=4))
                self.assertEqual(status, 200)
                self.assertLess(time.monotonic() - began, 10)
        finally:
            for half in halves:
                half.close()
        self.assertEqual(self.server.metric("onegen_num_requests_running"), 0)

    def test_a_trickled_body_is_answered_when_it_is_complete(self):
        body = json.dumps(question(max_tokens=4)).encode()
        connection = self.half(b"", length=len(body))
        # Slower than the server would wait: nginx sends it on when it has all of it.
        for at in range(0, len(body), 20):
            connection.sendall(body[at : at + 20])
            time.sleep(0.5)
        answer = connection.recv(1 << 16)
        connection.close()
        self.assertIn(b" 200 ", answer.split(b"\r\n")[0])

    def half(self, body, length=1000):
        connection = socket.create_connection(("127.0.0.1", self.nginx.port), timeout=30)
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % length + body
        )
        return connection

    def raw(self, body, length):
        connection = self.half(body, length)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        connection.close()
        return answer
