"""A retrieval's first token, and the embedding of a corpus, beside llama.cpp's server with the same weights.

    onegen-train export --base SmolLM2-135M-Instruct.Q4_1.gguf --adapter models/smol --type q8_0 --out WORK/smol.gguf
    python server/benches/against_llama_cpp.py --onegen TARGET/release --llama-cpp BUILD/bin --gguf WORK/smol.gguf \\
        --base SmolLM2-135M-Instruct.Q4_1.gguf --passages squad1.passages.jsonl.gz --work WORK

Both run on two threads. *Turns*: a conversation of ten turns, each a question of some 20 tokens answered from a passage
of some 128. Here the model searches by itself and the passage was read before; there the passage stands in the prompt,
before the question, with `cache_prompt`. The time is that from the request to the first text, at the tenth turn; the two
sides by turns, medians. *Build*: the seconds of `onegen-index build` for a corpus, program start, graph and files
included, and those of llama.cpp's server for the embeddings alone, asked in batches of 32 by four clients. Bench
machines differ, so the ratios count.
"""

import argparse
import contextlib
import gzip
import json
import os
import shutil
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
TURNS = 10
QUESTION = "In a few words, what does the text number {} say about its subject, and who is named first in it?"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, env, health, log):
    """A server, from when it answers until the block ends."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with open(log, "w") as out:
        server = subprocess.Popen([str(part).format(port=port) for part in command],
                                  env=os.environ | env | {"ONEGEN_PORT": str(port)}, stdout=out, stderr=out)
    try:
        while True:
            try:
                urllib.request.urlopen(url + health)
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, f"it ended; see {log}"
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def post(url, body, method="POST"):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"}, method=method)
    return urllib.request.urlopen(request)


def answer(url, body):
    """The milliseconds to the first text of a streamed answer, and the text."""
    began, first, text = time.perf_counter(), None, ""
    for line in post(url + "/v1/chat/completions", body | {"stream": True, "temperature": 0}):
        if line.startswith(b"data: {"):
            for choice in json.loads(line.removeprefix(b"data: "))["choices"]:
                new = choice["delta"].get("content")
                if new:
                    first, text = first or time.perf_counter(), text + new
    return (first - began) * 1e3, text


def our_turns(url, numbers):
    times, messages = [], []
    for number in numbers:
        messages.append({"role": "user", "content": QUESTION.format(number)})
        search = {"forced": True, "max_retrievals": 1, "filter": {"type": "eq", "key": "n", "value": number}}
        took, text = answer(url, {"model": "onegen", "messages": messages, "retrieval": search, "max_tokens": 8})
        times.append(took)
        messages.append({"role": "assistant", "content": text})
    return times


def their_turns(url, numbers, passages):
    times, messages = [], []
    for number in numbers:
        content = f"{passages[number]}\n\n{QUESTION.format(number)}"
        messages.append({"role": "user", "content": content})
        took, text = answer(url, {"messages": messages, "max_tokens": 8, "cache_prompt": True})
        times.append(took)
        messages.append({"role": "assistant", "content": text})
    return times


def read(path, least, most, count):
    with gzip.open(path, "rt") as lines:
        texts = (json.loads(line)["text"] for line in lines)
        return [text for text, _ in zip((one for one in texts if least < len(one) < most), range(count))]


def turns(arguments, rounds):
    # Of about 128 tokens.
    passages = read(arguments.passages, 540, 600, TURNS)
    assert len(passages) == TURNS
    data = arguments.work / "turns"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    corpus = data / "corpus.jsonl"
    corpus.write_text("".join(
        json.dumps({"id": f"p{n}", "text": text, "metadata": {"n": n}}) + "\n" for n, text in enumerate(passages)))
    ours = [arguments.onegen / "onegen-server"]
    env = {
        "ONEGEN_MODEL": str(ROOT / "models/smol"), "ONEGEN_BASE": str(arguments.base), "ONEGEN_WEIGHTS": "q8_0",
        "ONEGEN_CORPUS": str(corpus), "ONEGEN_DATA_DIR": str(data / "data"), "ONEGEN_LOG": "error",
        "RAYON_NUM_THREADS": "2",
    }
    theirs = [arguments.llama_cpp / "llama-server", "-m", arguments.gguf, "-t", "2", "-tb", "2", "-c", "8192", "-np",
              "1", "--port", "{port}", "--jinja"]
    with running(ours, env, "/readyz", data / "ours.log") as us, running(theirs, {}, "/health", data / "theirs.log") as them:
        our_turns(us, range(TURNS))  # Now every passage has been read once.
        pairs = []
        for shift in range(rounds):
            numbers = [(n + shift) % TURNS for n in range(TURNS)]
            pairs.append((our_turns(us, numbers)[-1], their_turns(them, numbers, passages)[-1]))
    mine, peer = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return ("TTFT of the 10th turn, ms", mine, peer, peer / mine)


def build(arguments, rounds):
    texts = read(arguments.passages, 0, 1 << 20, arguments.count)
    data = arguments.work / "build"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    corpus = data / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"p{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    command = [arguments.onegen / "onegen-index", "build", corpus, "--model", ROOT / "models/smol", "--base",
               arguments.base, "--weights", "q8_0", "--max-tokens", "2000"]
    theirs = [arguments.llama_cpp / "llama-server", "-m", arguments.gguf, "-t", "2", "-tb", "2", "--embeddings",
              "--pooling", "last", "-c", "16384", "-b", "2048", "-ub", "2048", "-np", "8", "--port", "{port}"]
    batches = [texts[at:at + 32] for at in range(0, len(texts), 32)]
    pairs = []
    with running(theirs, {}, "/health", data / "theirs.log") as them, ThreadPoolExecutor(4) as pool:
        for number in range(rounds):
            began = time.perf_counter()
            subprocess.run([*command, "--out", data / f"index{number}"], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            mine = time.perf_counter() - began
            began = time.perf_counter()
            embed = lambda batch: json.load(post(them + "/v1/embeddings", {"input": batch}))["data"]
            assert sum(len(rows) for rows in pool.map(embed, batches)) == len(texts)
            pairs.append((mine, time.perf_counter() - began))
    mine, peer = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return (f"build of {len(texts)} passages, s", mine, peer, peer / mine)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("onegen", "llama-cpp", "gguf", "base", "passages", "work"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--count", type=int, default=2000, help="passages of the build")
    arguments.add_argument("--only", choices=["turns", "build"])
    arguments = arguments.parse_args()
    print("| | onegen | llama.cpp | ratio |\n|---|---|---|---|")
    for name, measure, rounds in (("turns", turns, arguments.rounds), ("build", build, max(1, arguments.rounds // 2))):
        if arguments.only in (None, name):
            what, mine, peer, ratio = measure(arguments, rounds)
            print(f"| {what} | {mine:.1f} | {peer:.1f} | {ratio:.2f} |", flush=True)


main()
