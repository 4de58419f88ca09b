"""Traces, read with the messages that OpenTelemetry publishes."""

import json
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer

from processes import Server, ask, question

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def setUpModule():
    global ExportTraceServiceRequest, Span, Status
    try:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
    except ImportError:
        raise unittest.SkipTest("opentelemetry-proto is not installed")


class Collector(HTTPServer):
    """Keeps what is sent to it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Take)
        self.exports = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Take(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = self.headers["content-type"]
        self.server.exports.append((self.path, kind, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Traces(unittest.TestCase):
    def test_a_collector_understands_every_field_of_what_is_sent(self):
        collector = Collector()
        self.addCleanup(collector.server_close)
        self.addCleanup(collector.shutdown)
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        server = Server(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="onegen-a")
        self.addCleanup(server.remove)
        headers = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
        path = "/v1/chat/completions"
        status, _, answer = ask(server.port, "POST", path, question(), headers)
        self.assertEqual(status, 200)
        server.stop()

        spans = []
        for path, kind, export in collector.exports:
            self.assertEqual((path, kind), ("/v1/traces", "application/x-protobuf"))
            for of_resource in export.resource_spans:
                resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
                self.assertEqual(resource["service.name"], "onegen-a")
                for of_scope in of_resource.scope_spans:
                    self.assertEqual(of_scope.scope.name, "onegen-server")
                    spans += of_scope.spans
        for message in [export for _, _, export in collector.exports] + spans:
            # What these messages do not know would be kept, and written again.
            known = type(message).FromString(message.SerializeToString())
            known.DiscardUnknownFields()
            self.assertEqual(known.ByteSize(), message.ByteSize())
        root = next(span for span in spans if span.kind == Span.SPAN_KIND_SERVER)
        self.assertEqual(root.trace_id.hex(), TRACE)
        self.assertEqual(root.parent_span_id.hex(), CLIENT)
        self.assertEqual(root.name, "chat onegen")
        self.assertEqual(root.status.code, Status.STATUS_CODE_UNSET)
        attributes = {a.key: a.value for a in root.attributes}
        self.assertEqual(attributes["gen_ai.request.model"].string_value, "onegen")
        tokens = attributes["gen_ai.usage.output_tokens"].int_value
        self.assertEqual(tokens, answer["usage"]["completion_tokens"])
        reasons = attributes["gen_ai.response.finish_reasons"].array_value.values
        self.assertEqual([reason.string_value for reason in reasons], ["stop"])

        inner = sorted((s for s in spans if s is not root), key=lambda s: s.start_time_unix_nano)
        names = ["queue", "prefill", "decode", "retrieval", "splice", "decode"]
        self.assertEqual([span.name for span in inner], names)
        for span in inner:
            self.assertEqual((span.parent_span_id, span.trace_id), (root.span_id, root.trace_id))
            self.assertEqual(span.kind, Span.SPAN_KIND_INTERNAL)
            self.assertLessEqual(root.start_time_unix_nano, span.start_time_unix_nano)
            self.assertLessEqual(span.start_time_unix_nano, span.end_time_unix_nano)
            self.assertLessEqual(span.end_time_unix_nano, root.end_time_unix_nano)
        found = {a.key: a.value for a in inner[3].attributes}["gen_ai.retrieval.documents"]
        [document] = json.loads(found.string_value)
        self.assertEqual(document["id"], "country-peru")
        passage = answer["onegen"]["retrievals"][0]["passages"][0]
        self.assertAlmostEqual(document["score"], passage["score"], places=6)


if __name__ == "__main__":
    unittest.main()
