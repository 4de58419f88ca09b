"""What kept passages and drafts save, over HTTP: python passages_and_drafts.py http://127.0.0.1:8080 PASSAGES.jsonl.gz

PASSAGES holds a JSON object with `text` a line; those of 500 to 900 characters are put into the default collection.
The server's model must have block attention, for example:

    onegen-server --model models/smol --base SmolLM2-135M-Instruct.Q4_1.gguf --weights q8_0 --corpus ONE.jsonl --data-dir NEW

Prints, as medians: the time from a found passage to the first logits behind it, where its keys and values are computed
and where they are kept; the time to the first text where the query token is forwarded with the prompt, and where it is
forwarded alone; the time a token of a sentence of the passage that the answer must be, with drafts and without,
the two sides in turn and the best of three; and the same of 40 tokens that the model chooses itself, and the same for
the half of them for which drafts pay least.
"""

import gzip
import json
import re
import statistics
import sys
import time
import urllib.request

PASSAGES = 24
QUESTION = "Which city is the capital of the country that the text tells of, and when was it founded?"


def send(path, body, method="POST"):
    data = json.dumps(body).encode()
    request = urllib.request.Request(sys.argv[1] + path, data, {"content-type": "application/json"}, method=method)
    return urllib.request.urlopen(request)


def passages():
    with gzip.open(sys.argv[2], "rt") as lines:
        texts = (json.loads(line)["text"] for line in lines)
        fitting = (text for text in texts if 500 < len(text) < 900)
        return [text for text, _ in zip(fitting, range(PASSAGES))]


def ask(number, drafting, **fields):
    """The receipt, the seconds to the first text and for each token from there to the end, and the text."""
    search = {"forced": True, "max_retrievals": 1, "filter": {"type": "eq", "key": "n", "value": number}}
    body = {
        "model": "onegen", "messages": [{"role": "user", "content": "What does the text say?"}], "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True}, "store": False, "retrieval": search,
        "drafting": drafting, **fields,
    }
    receipt, first, text, began = None, None, "", time.perf_counter()
    for line in send("/v1/chat/completions", body):
        if not line.startswith(b"data: {"):
            continue
        chunk, now = json.loads(line.removeprefix(b"data: ")), time.perf_counter()
        receipt = (chunk.get("onegen") or {}).get("retrieval") or receipt
        for choice in chunk["choices"]:
            if choice["delta"].get("content"):
                text, first = text + choice["delta"]["content"], first or now
        if chunk.get("usage"):
            tokens, end = chunk["usage"]["completion_tokens"], now
    return receipt, ((first or end) - began, (end - (first or end)) / tokens), text


def kept_passages(texts):
    computed, kept, tokens = [], [], []
    for number in range(len(texts)):
        receipt, _, _ = ask(number, True, max_tokens=4)
        assert receipt["passage_kv"] == "computed", "the data directory is not new"
        computed.append(receipt["splice_ms"])
        tokens.append(receipt["splice_tokens"])
        for _ in range(2):
            receipt, _, _ = ask(number, True, max_tokens=4)
            assert receipt["passage_kv"] == "memory" and receipt["splice_forwarded"] == 1
            kept.append(receipt["splice_ms"])
    before, after = statistics.median(computed), statistics.median(kept)
    print(f"splices of {statistics.median(tokens)} tokens: {before:.1f} ms computed, {after:.1f} ms kept, {before / after:.1f} times")


def drafted_query(texts):
    """The passages are kept. Without drafts the model's own `[RQ]` is forwarded alone."""
    may = {"retrieval": {"max_retrievals": 1}, "max_tokens": 2, "messages": [{"role": "user", "content": QUESTION}]}
    runs = [(ask(0, True, **may), ask(0, False, **may)) for _ in range(8 * len(texts))]
    assert all(with_draft[0] and with_draft[0]["passage_kv"] == without[0]["passage_kv"] for with_draft, without in runs[1:])
    after, before = (1e3 * statistics.median(run[side][1][0] for run in runs[1:]) for side in (0, 1))
    print(f"first text ({len(runs)}): {before:.2f} ms where [RQ] is forwarded alone, {after:.2f} where it comes with the prompt")


def drafts(texts):
    quoted, free, same = [], [], 0
    for number, text in enumerate(texts):
        sentences = [one for one in re.split(r"(?<=[.!?]) ", text) if 80 < len(one) < 260]
        if sentences:
            must = {"structured_outputs": {"choice": sentences[:1]}, "max_tokens": 200}
            runs = [(ask(number, True, **must), ask(number, False, **must)) for _ in range(3)]
            assert all(with_drafts[2] == without[2] for with_drafts, without in runs)
            quoted.append(tuple(min(run[side][1][1] for run in runs) for side in (0, 1)))
        runs = [(ask(number, True, max_tokens=40), ask(number, False, max_tokens=40)) for _ in range(3)]
        same += all(with_drafts[2] == without[2] for with_drafts, without in runs)
        times = tuple(min(run[side][1][1] for run in runs) for side in (0, 1))
        if times[0]:
            free.append(times)
    for name, pairs in [("quoted sentences", quoted), ("the model's own words", free)]:
        ratio = statistics.median(without / with_drafts for with_drafts, without in pairs)
        before, after = (1e3 * statistics.median(pair[side] for pair in pairs) for side in (1, 0))
        least = sorted(pairs, key=lambda pair: pair[1] / pair[0])[:len(pairs) // 2]
        least = sum(without for _, without in least) / sum(with_drafts for with_drafts, _ in least)
        print(f"{name} ({len(pairs)}): {before:.2f} ms a token without drafts, {after:.2f} with, {ratio:.2f} times, {least:.2f} times for the half for which they pay least")
    print(f"the same text with drafts and without: {same} of {len(texts)}")


texts = passages()
for number, text in enumerate(texts):
    send("/v1/documents", {"id": f"p{number}", "text": text, "metadata": {"n": number}}, "PUT").read()
kept_passages(texts)
drafted_query(texts)
drafts(texts)
