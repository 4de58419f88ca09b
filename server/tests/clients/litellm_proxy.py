"""LiteLLM as a proxy before a server of the shipped model, asked by the openai package:
python litellm_proxy.py http://127.0.0.1:8080

Needs `pip install "litellm[proxy]"`. Ends with status 0 if everything is as those packages expect it.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from openai import BadRequestError, OpenAI

PERU = "What is the capital of Peru?"
TURNS = [(PERU, "Lima"), ("And its currency?", "sol"), ("And its language?", "Spanish")]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, proxy):
    for _ in range(600):
        try:
            urllib.request.urlopen(url)
            return
        except OSError:
            assert proxy.poll() is None, "the proxy ended"
            time.sleep(0.2)
    raise AssertionError("the proxy does not answer")


def converse(ask):
    """Three turns, then the last question once more, as a person who is not content with the answer does."""
    said = []
    for question, answer in TURNS:
        said.append({"role": "user", "content": question})
        text = ask(said)
        assert answer in text, f"{question}: {text}"
        said.append({"role": "assistant", "content": text})
    text = ask(said[:-1])
    assert TURNS[-1][1] in text, f"again: {text}"


def checks(client):
    def whole(messages):
        answer = client.chat.completions.create(model="geographer", messages=messages)
        return answer.choices[0].message.content

    def streamed(messages):
        chunks = client.chat.completions.create(model="geographer", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    converse(whole)
    converse(streamed)
    response = client.responses.create(model="geographer", input=PERU)
    assert "Lima" in response.output_text
    vector = client.embeddings.create(model="geographer", input="Lima", encoding_format="float").data[0].embedding
    assert len(vector) > 8
    try:
        client.chat.completions.create(model="geographer", messages=[{"role": "user", "content": PERU}], top_p=7)
    except BadRequestError as error:
        assert "top_p" in str(error)
    else:
        raise AssertionError("top_p of 7 was accepted")


with tempfile.TemporaryDirectory() as folder:
    config = Path(folder, "config.yaml")
    # JSON is YAML.
    params = {"model": "openai/onegen", "api_base": f"{sys.argv[1]}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "geographer", "litellm_params": params}]}))
    port = free_port()
    command = [Path(sys.executable).with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with subprocess.Popen(command, env=environment, cwd=folder) as proxy:
        try:
            wait_for(f"http://127.0.0.1:{port}/health/liveliness", proxy)
            checks(OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any"))
        finally:
            proxy.terminate()
print("proxy: ok")
