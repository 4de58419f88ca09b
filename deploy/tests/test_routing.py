"""Two servers behind nginx with the shipped configuration."""

import json
import re
import socket
import statistics
import threading
import time
import unittest
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from processes import DEPLOY, Nginx, Server, ask, installed, question, server_binary

# So many conversations never all lie in one of two servers by chance.
MANY = 24
LONG = dict(min_tokens=900, max_tokens=900, stream=True)


def setUpModule():
    installed("nginx")
    server_binary()


class Routing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.servers = []
        cls.addClassCleanup(lambda: [server.remove() for server in cls.servers])
        for _ in range(2):
            # A server on a loopback address takes another host's name only from a proxy that it trusts.
            cls.servers.append(Server(ONEGEN_TRUSTED_PROXIES="127.0.0.1"))
        cls.nginx = Nginx([server.port for server in cls.servers])
        cls.addClassCleanup(cls.nginx.remove)

    def turn(self, body, **headers):
        """A turn through nginx: the port that it reached, and the answer."""
        request_id = uuid.uuid4().hex
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["x-request-id"] = request_id
        status, _, answer = ask(self.nginx.port, "POST", "/v1/chat/completions", body, headers)
        self.assertEqual(status, 200, answer)
        return self.nginx.server_of(request_id), answer

    def server_at(self, port):
        return next(server for server in self.servers if server.port == port)

    def test_a_conversation_always_reaches_the_server_that_has_it(self):
        reached = set()
        for number in range(MANY):
            key = f"chat-{number}"
            port, answer = self.turn(question(), x_onegen_affinity=key)
            conversation = answer["onegen"]["conversation"]
            reached.add(port)
            for text in ["And its currency?", "And its language?"]:
                more = question(text, conversation=conversation)
                again, answer = self.turn(more, x_onegen_affinity=key)
                self.assertEqual(again, port)
                self.assertEqual(answer["onegen"]["conversation"], conversation)
                cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
                self.assertGreater(cached, 0, "its KV-cache was not used")
            other = next(server for server in self.servers if server.port != port)
            status, _, _ = ask(other.port, "POST", "/v1/chat/completions", more)
            self.assertEqual(status, 404, "any server would have done: this test shows nothing")
        self.assertEqual(len(reached), 2, "they should not all lie in one server")

    def test_open_webui_needs_no_header_of_ours(self):
        ports = {self.turn(question(), x_openwebui_chat_id="a1b2")[0] for _ in range(4)}
        self.assertEqual(len(ports), 1)
        many = {self.turn(question(), x_openwebui_chat_id=str(n))[0] for n in range(MANY)}
        self.assertEqual(len(many), 2)

    def test_a_browser_stays_with_the_server_of_its_cookie(self):
        ports = {self.turn(question(), cookie="onegen_affinity=c0ffee")[0] for _ in range(4)}
        self.assertEqual(len(ports), 1)
        many = {self.turn(question(), cookie=f"onegen_affinity={n}")[0] for n in range(MANY)}
        self.assertEqual(len(many), 2)

    def test_the_page_gives_a_browser_its_cookie_once(self):
        status, headers, _ = ask(self.nginx.port, "GET", "/")
        if status != 200:
            self.skipTest("this server has no page at /")
        self.assertRegex(headers["set-cookie"], "^onegen_affinity=[0-9a-f]{32}; Path=/;")
        given = {"cookie": headers["set-cookie"].split(";")[0]}
        self.assertIsNone(ask(self.nginx.port, "GET", "/", headers=given)[1]["set-cookie"])

    def test_an_ordinary_client_goes_on_with_its_transcript_at_one_server(self):
        reached = set()
        for key in range(MANY):
            authorization = f"Bearer key-{key}"
            body = question()
            port, answer = self.turn(body, authorization=authorization)
            body["messages"].append(
                {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
            )
            body["messages"].append({"role": "user", "content": "And its currency?"})
            again, more = self.turn(body, authorization=authorization)
            self.assertEqual(again, port)
            self.assertEqual(more["onegen"]["conversation"], answer["onegen"]["conversation"])
            reached.add(port)
        self.assertEqual(len(reached), 2)

    def test_a_client_behind_another_proxy_is_known_by_its_own_address(self):
        def reached(last):
            return self.turn(question(), x_forwarded_for=f"203.0.113.{last}, 10.0.0.{last % 2}")[0]

        self.assertEqual(len({reached(7) for _ in range(4)}), 1)
        self.assertEqual(len({reached(last) for last in range(MANY)}), 2)

    def test_a_stream_arrives_as_it_is_written(self):
        # A reader that gets no CPU finds lumps too: the best of five tells what nginx does.
        reads = [read_stream(self.nginx.port) for _ in range(5)]
        sizes, first, total = min(reads, key=lambda read: statistics.median(read[0]))

        # What nginx would do if neither its configuration nor the server told it otherwise.
        def buffered(text):
            text = text.replace("proxy_buffering off;", "proxy_ignore_headers X-Accel-Buffering;")
            return text.replace("proxy_http_version 1.1;", "")

        nginx = Nginx([server.port for server in self.servers], buffered)
        self.addCleanup(nginx.remove)
        late_sizes, late_first, late_total = read_stream(nginx.port)
        print(
            f"\na stream of {sum(sizes)} bytes: first event after {first * 1e3:.1f} of {total * 1e3:.0f} ms, "
            f"{len(sizes)} reads, median {statistics.median(sizes):.0f} bytes; buffered: after "
            f"{late_first * 1e3:.1f} of {late_total * 1e3:.0f} ms, {len(late_sizes)} reads, median "
            f"{statistics.median(late_sizes):.0f} bytes"
        )
        self.assertLess(statistics.median(sizes), 1024, "events came in lumps")
        self.assertLess(first, total / 4)
        self.assertGreater(statistics.median(late_sizes), 2048, "buffering does not show: nor would its lack")

    def test_a_client_that_goes_away_ends_its_turn(self):
        aborted = 'onegen_request_success_total{finished_reason="abort"}'
        before = sum(server.metric(aborted) for server in self.servers)
        stream = open_stream(self.nginx.port)
        stream.recv(256)
        stream.close()
        end = time.monotonic() + 10
        while sum(server.metric(aborted) for server in self.servers) == before:
            self.assertLess(time.monotonic(), end, "the turn went on")
            time.sleep(0.02)

    def test_while_a_server_is_away_its_conversations_are_not_sent_elsewhere(self):
        port, answer = self.turn(question(), x_onegen_affinity="mine")
        away = self.server_at(port)
        named = {"x-onegen-affinity": "mine"}
        keys = [f"Bearer {number}" for number in range(MANY)]
        others = [key for key in keys if self.turn(question(), authorization=key)[0] == port]
        away.stop()
        try:
            more = question("And its currency?", conversation=answer["onegen"]["conversation"])
            for _ in range(3):
                status, headers, body = ask(
                    self.nginx.port, "POST", "/v1/chat/completions", more, named
                )
                self.assertEqual((status, headers["retry-after"]), (503, "2"))
                self.assertEqual(body["error"]["code"], "server_unreachable")
                self.assertEqual(set(body["error"]), {"message", "type", "param", "code"})
            # Who sends whole transcripts tries again, as OpenAI's clients do, and goes on elsewhere.
            ordinary = {"authorization": others[0]}
            statuses = [
                ask(self.nginx.port, "POST", "/v1/chat/completions", question(), ordinary)[0]
                for _ in range(3)
            ]
            self.assertEqual(statuses, [503, 200, 200])
        finally:
            away.run()
        again, body = self.turn(more, x_onegen_affinity="mine")
        self.assertEqual(again, port)
        self.assertEqual(body["onegen"]["conversation"], answer["onegen"]["conversation"])

    def test_a_server_that_is_stopped_ends_its_streams_first(self):
        # Of one client, so at one server; several, so that they take a while.
        server = self.server_at(self.turn(question())[0])
        streams = [open_stream(self.nginx.port) for _ in range(8)]
        for stream in streams:
            self.addCleanup(stream.close)
        texts = [stream.recv(256) for stream in streams]
        server.process.terminate()
        try:
            arrived = [stream.recv(1 << 20, socket.MSG_PEEK) for stream in streams]
            if all(b"[DONE]" in piece for piece in arrived):
                self.skipTest("the machine is too busy: the streams had ended before the signal")
            for text, stream in zip(texts, streams):
                while piece := stream.recv(1 << 16):
                    text += piece
                self.assertIn(b"data: [DONE]", text)
            self.assertEqual(server.process.wait(60), 0)
        finally:
            server.stop()
            server.run()

    def test_documents_are_not_changed_through_the_router(self):
        for method in ["POST", "PUT", "DELETE"]:
            status, _, body = ask(self.nginx.port, method, "/v1/documents/orm", {})
            self.assertEqual((status, body["error"]["code"]), (403, "documents_are_per_server"))

    def test_metrics_of_one_server_are_not_taken_for_those_of_all(self):
        self.assertEqual(ask(self.nginx.port, "GET", "/metrics")[0], 404)


class Growth(unittest.TestCase):
    def test_a_third_server_takes_its_share_and_moves_nothing_else(self):
        class Named(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(str(self.server.server_port).encode())

            def log_message(self, *_):
                pass

        servers = [ThreadingHTTPServer(("127.0.0.1", 0), Named) for _ in range(3)]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.addCleanup(server.server_close)
            self.addCleanup(server.shutdown)
        *two, third = [server.server_port for server in servers]

        def with_third(text):
            return re.sub(rf"( *server )127.0.0.1:{two[1]}(.*)\n", rf"\g<0>\g<1>127.0.0.1:{third}\2\n", text)

        def places(nginx):
            self.addCleanup(nginx.remove)
            keys = [{"x-onegen-affinity": str(number)} for number in range(200)]
            return [int(ask(nginx.port, "GET", "/", headers=key)[2]) for key in keys]

        before, after = places(Nginx(two)), places(Nginx(two, with_third))
        moved = [place for old, place in zip(before, after) if old != place]
        self.assertEqual(set(moved), {third})
        self.assertLess(len(moved), 100)


class Deaf(unittest.TestCase):
    def test_a_turn_that_got_no_answer_is_not_sent_again(self):
        heard = []
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]

        def hear(listener):
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                heard.append(connection.recv(65536))
                connection.close()

        for listener in listeners:
            threading.Thread(target=hear, args=[listener], daemon=True).start()
            self.addCleanup(listener.close)
        nginx = Nginx([listener.getsockname()[1] for listener in listeners])
        self.addCleanup(nginx.remove)
        for headers in [{}, {"x-onegen-affinity": "a"}]:
            heard.clear()
            status, _, _ = ask(nginx.port, "POST", "/v1/chat/completions", question(), headers)
            self.assertEqual(status, 503)
            self.assertEqual(len(heard), 1)


def open_stream(port):
    body = json.dumps(question(**LONG))
    stream = socket.create_connection(("127.0.0.1", port), timeout=60)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: onegen\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    stream.sendall((head + body).encode())
    return stream


def read_stream(port):
    """The sizes of what comes in one piece, seconds to the first event, and seconds to the end."""
    sizes, first = [], None
    start = time.perf_counter()
    with open_stream(port) as stream:
        text = b""
        while piece := stream.recv(1 << 20):
            sizes.append(len(piece))
            text += piece
            if first is None and b"data: " in text:
                first = time.perf_counter() - start
    total = time.perf_counter() - start
    if b"data: [DONE]" not in text:
        raise AssertionError(f"the stream has no end: {text[-500:]}")
    return sizes, first, total


class Addresses(unittest.TestCase):
    def test_servers_that_trust_nginx_count_each_client_by_its_address(self):
        manifest = (DEPLOY / "kubernetes" / "servers.yaml").read_text()
        [trusted] = re.findall(r'ONEGEN_TRUSTED_PROXIES, value: "(.*)"', manifest)
        shipped = set(re.findall(r"set_real_ip_from (.*);", (DEPLOY / "nginx" / "onegen.conf").read_text()))
        self.assertEqual(set(trusted.split(",")) | {"127.0.0.0/8"}, shipped)
        variables = {"ONEGEN_TRUSTED_PROXIES": f"{trusted},127.0.0.0/8", "ONEGEN_REQUESTS_PER_MINUTE": "1"}
        server = Server(**variables)
        self.addCleanup(server.remove)
        nginx = Nginx([server.port] * 2)
        self.addCleanup(nginx.remove)

        def asked(forwarded):
            headers = {"x-forwarded-for": forwarded}
            return ask(nginx.port, "POST", "/v1/chat/completions", question(), headers)[0]

        self.assertEqual([asked("203.0.113.1"), asked("203.0.113.2, 10.0.0.7")], [200, 200])
        for again in ["203.0.113.1", "203.0.113.9, 203.0.113.1", "203.0.113.9, 203.0.113.2, 10.0.0.8"]:
            self.assertEqual(asked(again), 429, again)


if __name__ == "__main__":
    unittest.main()
