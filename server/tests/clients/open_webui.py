"""What Open WebUI 0.12.4 asks of a server: python open_webui.py http://127.0.0.1:8080

Open WebUI itself is not run; it takes gigabytes. From its source: it lists the models, streams each turn with the whole
chat and `stream_options`, and asks beside that, whole and in one message, for follow-ups after each answer, and for a
title and tags after the first. A task's message is instructions with headings, and the chat's last messages between
`<chat_history>` tags as `ROLE: text`. The wording here is our own. Ends with status 0 if every turn fits its question
and goes on from what the server holds.
"""

import json
import sys
import threading
import urllib.request

TURNS = [("What is the capital of {}?", 0), ("And its currency?", 1), ("And its language?", 2)]
COUNTRIES = {"Peru": ("Lima", "sol", "Spanish"), "Japan": ("Tokyo", "yen", "Japanese")}
base = sys.argv[1]


def post(body):
    data = json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer any"}
    return urllib.request.urlopen(urllib.request.Request(f"{base}/v1/chat/completions", data, headers))


def turn(messages):
    """One streamed answer, and its usage."""
    body = {"model": "onegen", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    text, usage = "", None
    for line in post(body):
        data = line.removeprefix(b"data: ").strip()
        if not line.startswith(b"data: ") or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return text, usage


def task(instruction, form, messages):
    history = "\n".join(f"{message['role'].upper()}: {message['content']}" for message in messages[-4:])
    content = (
        f"### Task:\n{instruction}\n### Guidelines:\n- Answer with one JSON object and nothing else.\n"
        f"### Output:\nJSON format: {form}\n### Chat History:\n<chat_history>\n{history}\n</chat_history>"
    )
    body = {"model": "onegen", "messages": [{"role": "user", "content": content}], "stream": False}
    answer = json.load(post({**body, "max_completion_tokens": 100}))
    assert answer["choices"][0]["message"]["content"] is not None


def tasks(messages, is_first):
    task("Write what the person may ask next.", '{ "follow_ups": ["..."] }', messages)
    if is_first:
        task("Write a short title of the chat.", '{ "title": "..." }', messages)
        task("Write one to three tags of the chat.", '{ "tags": ["..."] }', messages)


def checked_turn(messages, country, number):
    text, usage = turn(messages)
    assert COUNTRIES[country][number] in text, f"{country}, turn {number}: {text}"
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert number == 0 or cached > 0, f"{country}, turn {number}: everything was read again"
    return [*messages, {"role": "assistant", "content": text}]


def chat(country, failures):
    try:
        messages = []
        for question, number in TURNS:
            messages = [*messages, {"role": "user", "content": question.format(country)}]
            messages = checked_turn(messages, country, number)
            tasks(messages, is_first=number == 0)
        # "Regenerate", and an earlier question in other words.
        checked_turn(messages[:-1], country, 2)
        edited = [*messages[:2], {"role": "user", "content": TURNS[2][0]}]
        text, usage = turn(edited)
        assert COUNTRIES[country][2] in text and usage["prompt_tokens_details"]["cached_tokens"] > 0, text
    except BaseException as error:
        failures.append(error)
        raise


models = json.load(urllib.request.urlopen(f"{base}/v1/models"))["data"]
assert [model["id"] for model in models] == ["onegen"]
failures = []
chats = [threading.Thread(target=chat, args=(country, failures)) for country in COUNTRIES]
for one in chats:
    one.start()
for one in chats:
    one.join()
assert not failures, failures
print("two chats with titles, tags and follow-ups: ok")
