#!/usr/bin/env bash
# openai-python 3.57.0 (with httpx 0.28.1): a stream of chat completions whose events have an `id` breaks at the first
# comment that stands alone, as `: keep-alive` and a blank line, which is what server libraries send to keep a
# connection open (axum's KeepAlive, for one).
#  1. The decoder takes the blank line after the comment for the end of an event as soon as an id was seen, and gives out
#     an event without data. By the HTML standard an event without data is not dispatched. Without ids it is not.
#  2. The client parses that event's data as JSON and raises json.JSONDecodeError in the middle of the answer.
#  3. A comment without a blank line of its own, before the next event, breaks nothing.
# Seen on 2026-11-29. onegen writes its heartbeats without a blank line (server/src/routes/heartbeat.rs).
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet 'openai==3.57.0' 'httpx==0.28.1'
"$scratch/venv/bin/python" - <<'PY'
import json

import httpx
from openai import OpenAI

chunk = json.dumps({
    "id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Lima"}, "finish_reason": None}],
})


def read(stream):
    """The texts of a stream, or the name of the error that it ends in."""
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream.encode())
    http = httpx.Client(transport=httpx.MockTransport(lambda request: answer))
    client = OpenAI(api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0)
    texts = []
    try:
        for part in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True):
            texts.append(part.choices[0].delta.content)
    except Exception as error:
        texts.append(type(error).__name__)
    return texts


end = "data: [DONE]\n\n"
plain = read(f"data: {chunk}\n\n: keep-alive\n\ndata: {chunk}\n\n{end}")
numbered = read(f"id: 0\ndata: {chunk}\n\n: keep-alive\n\nid: 1\ndata: {chunk}\n\n{end}")
joined = read(f"id: 0\ndata: {chunk}\n\n: keep-alive\nid: 1\ndata: {chunk}\n\n{end}")
print("without ids:", plain)
print("with ids:", numbered)
print("with ids, the comment before the next event:", joined)
assert plain == joined == ["Lima", "Lima"], (plain, joined)
assert numbered == ["Lima", "JSONDecodeError"], numbered
PY
