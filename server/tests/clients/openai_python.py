"""The openai package against a server of the shipped model: python openai_python.py http://127.0.0.1:8080

Needs `pip install openai`. Ends with status 0 if everything is as that package expects it.
"""

import sys
from typing import Literal

from openai import BadRequestError, ConflictError, NotFoundError, OpenAI
from pydantic import BaseModel

PERU = "What is the capital of Peru?"
CURRENCY = "And its currency?"
MODEL = "onegen"

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


def chat():
    messages = [{"role": "user", "content": PERU}]
    whole = client.chat.completions.create(model=MODEL, messages=messages)
    message = whole.choices[0].message
    assert "Lima" in message.content
    assert message.annotations[0].url_citation.title == "Peru"
    chunks = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == message.content


class Answer(BaseModel):
    """An answer of a fixed form."""

    capital: Literal["Lima", "Quito"]


def structured_output():
    messages = [{"role": "user", "content": PERU}]
    parsed = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    with client.chat.completions.stream(model=MODEL, messages=messages, response_format=Answer) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == parsed.choices[0].message.parsed
    response = client.responses.parse(model=MODEL, input=PERU, text_format=Answer)
    assert isinstance(response.output_parsed, Answer)


def embeddings():
    # The package asks for base64 unless it is told otherwise.
    coded = client.embeddings.create(model=MODEL, input=["Lima", "Quito"])
    floats = client.embeddings.create(model=MODEL, input="Lima", encoding_format="float")
    pairs = zip(coded.data[0].embedding, floats.data[0].embedding, strict=True)
    assert all(abs(a - b) < 1e-6 for a, b in pairs)
    error = refused(BadRequestError, lambda: client.embeddings.create(model=MODEL, input="x", dimensions=3))
    assert error.param == "dimensions"


def completions():
    whole = client.completions.create(model=MODEL, prompt="Lima is", max_tokens=5)
    pieces = client.completions.create(model=MODEL, prompt="Lima is", max_tokens=5, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    error = refused(BadRequestError, lambda: client.completions.create(model=MODEL, prompt="x", echo=True))
    assert error.param == "echo" and error.code == "unsupported_parameter"


def vector_stores():
    found = client.vector_stores.search("default", query=PERU, max_num_results=2)
    assert [hit.filename for hit in found][0] == "Peru"
    refused(NotFoundError, lambda: client.vector_stores.search("atlantis", query=PERU))


def conversations_and_responses():
    conversation = client.conversations.create(metadata={"topic": "countries"})
    first = client.responses.create(
        model=MODEL, input=PERU, conversation=conversation.id, include=["file_search_call.results"]
    )
    assert "Lima" in first.output_text
    assert [item.type for item in first.output] == ["file_search_call", "message"]
    assert first.output[0].results[0].filename == "Peru"
    second = client.responses.create(model=MODEL, input=CURRENCY, previous_response_id=first.id)
    assert "sol" in second.output_text
    assert second.usage.input_tokens_details.cached_tokens > 0
    tools = [{"type": "file_search", "vector_store_ids": ["default"]}]
    with client.responses.stream(model=MODEL, input=PERU, tools=tools) as stream:
        kinds = {event.type for event in stream}
        assert {"response.file_search_call.completed", "response.output_text.delta"} <= kinds
        assert stream.get_final_response().output_text == first.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    asked = [item.content[0].text for item in client.responses.input_items.list(second.id)]
    assert asked == [CURRENCY]
    other = client.responses.create(model=MODEL, input=CURRENCY, previous_response_id=first.id)
    assert other.output_text == second.output_text and other.conversation.id != conversation.id
    client.responses.delete(other.id)
    unkept = client.responses.create(model=MODEL, input=PERU, store=False)
    for gone in [other.id, unkept.id]:
        refused(NotFoundError, lambda: client.responses.retrieve(gone))
    items = [item.type for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
    assert items.count("message") == 4 and items.count("onegen.retrieval") == 2
    added = client.conversations.items.create(
        conversation.id, items=[{"type": "message", "role": "user", "content": "Thanks!"}]
    )
    again = client.conversations.items.retrieve(added.data[0].id, conversation_id=conversation.id)
    assert again.content[0].text == "Thanks!"
    assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.conversations.delete(conversation.id).deleted
    refused(NotFoundError, lambda: client.conversations.retrieve(conversation.id))


def documents():
    # OpenAI has no such route; its package sends what it is told to.
    text = "Zembla is a country in Europe. Its capital is Onhava. Its currency is the krone."
    document = {"id": "zembla", "title": "Zembla", "text": text}
    client.put("/documents", body=document, cast_to=object)
    asked = {"model": MODEL, "input": "What is the capital of Zembla?"}
    first = client.responses.create(**asked)
    assert "Onhava" in first.output_text
    client.delete("/documents/zembla", cast_to=object)
    go_on = lambda: client.responses.create(model=MODEL, input=CURRENCY, previous_response_id=first.id)
    assert refused(ConflictError, go_on).code == "conversation_holds_deleted_document"
    assert "Onhava" not in client.responses.create(**asked).output_text
    client.post(f"/conversations/{first.conversation.id}/rebuild", cast_to=object)
    go_on()


def errors():
    chat = client.chat.completions
    messages = [{"role": "user", "content": PERU}]
    assert refused(BadRequestError, lambda: chat.create(model=MODEL, messages=messages, n=2)).param == "n"
    assert refused(BadRequestError, lambda: chat.create(model=MODEL, messages=messages, top_p=7)).param == "top_p"
    refused(NotFoundError, lambda: chat.create(model="gpt-7", messages=messages))
    error = refused(BadRequestError, lambda: client.responses.create(model=MODEL, input=PERU, max_output_tokens=0))
    assert error.param == "max_output_tokens"


tests = [chat, structured_output, embeddings, completions, vector_stores, conversations_and_responses]
for test in [*tests, documents, errors]:
    test()
    print(f"{test.__name__}: ok")
