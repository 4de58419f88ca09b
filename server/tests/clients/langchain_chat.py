"""LangChain's ChatOpenAI against a server of the shipped model: python langchain_chat.py http://127.0.0.1:8080

Needs `pip install langchain-openai`. Ends with status 0 if everything is as that package expects it.
"""

import asyncio
import sys
from typing import Literal

import openai
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

PERU = "What is the capital of Peru?"
CURRENCY = "And its currency?"
SERVER = {"model": "onegen", "base_url": f"{sys.argv[1]}/v1", "api_key": "none", "max_retries": 0}

chat = ChatOpenAI(**SERVER)
responses = ChatOpenAI(**SERVER, use_responses_api=True)


class Answer(BaseModel):
    """An answer of a fixed form."""

    capital: Literal["Lima", "Quito"]


def cited(message):
    blocks = [block for block in message.content_blocks if block["type"] == "text"]
    return [mark.get("title") for block in blocks for mark in block.get("annotations", [])]


def invoke():
    answer = chat.invoke(PERU)
    assert "Lima" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    history = [HumanMessage(PERU), answer, HumanMessage(CURRENCY)]
    assert "sol" in chat.invoke(history).content
    # What was read is used again.
    assert chat.invoke(history).usage_metadata["input_token_details"]["cache_read"] > 0


def stream():
    whole = chat.invoke(PERU)
    chunks = list(chat.stream(PERU))
    assert len(chunks) > 2
    assert "".join(chunk.content for chunk in chunks) == whole.content
    usage = [chunk.usage_metadata for chunk in ChatOpenAI(**SERVER, stream_usage=True).stream(PERU)]
    assert next(filter(None, usage))["total_tokens"] == whole.usage_metadata["total_tokens"]


def structured_output():
    for model in [chat, responses]:
        structured = model.with_structured_output(Answer, method="json_schema")
        assert isinstance(structured.invoke(PERU), Answer)
        *_, last = structured.stream(PERU)
        assert last == structured.invoke(PERU)
    raw = chat.with_structured_output(Answer, method="json_schema", include_raw=True).invoke(PERU)
    assert raw["parsing_error"] is None


def token_usage():
    usage = chat.invoke(PERU).usage_metadata
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def responses_api():
    first = responses.invoke(PERU)
    assert "Lima" in first.text
    assert cited(first) == ["Peru"]
    second = responses.invoke([HumanMessage(PERU), first, HumanMessage(CURRENCY)])
    assert "sol" in second.text
    going_on = ChatOpenAI(**SERVER, use_responses_api=True, use_previous_response_id=True)
    third = going_on.invoke([HumanMessage(PERU), going_on.invoke(PERU), HumanMessage(CURRENCY)])
    assert third.text == second.text
    streamed = list(responses.stream(PERU))
    assert "".join(chunk.text for chunk in streamed) == first.text


def errors():
    def refused(kind, call):
        try:
            call()
        except kind as error:
            return error
        raise AssertionError(f"not refused with {kind.__name__}")

    assert refused(openai.BadRequestError, lambda: chat.bind(n=2).invoke(PERU)).param == "n"
    refused(openai.NotFoundError, lambda: ChatOpenAI(**{**SERVER, "model": "gpt-7"}).invoke(PERU))
    refused(openai.BadRequestError, lambda: list(chat.stream([AIMessage("Hello.")])))
    with_tool = chat.bind_tools([Answer])
    assert refused(openai.BadRequestError, lambda: with_tool.invoke(PERU)).param == "tools"


def embeddings():
    # Otherwise it cuts texts with OpenAI's own tokenizer, which it downloads.
    embedder = OpenAIEmbeddings(**SERVER, check_embedding_ctx_length=False)
    query, passages = embedder.embed_query("Lima"), embedder.embed_documents(["Lima", "Quito"])
    assert len(passages) == 2 and len(passages[0]) == len(query)


async def asynchronous():
    answers = await asyncio.gather(*(chat.ainvoke(PERU) for _ in range(4)))
    assert len({answer.content for answer in answers}) == 1
    streamed = [chunk.content async for chunk in chat.astream(PERU)]
    assert "".join(streamed) == answers[0].content
    assert "Lima" in (await responses.ainvoke(PERU)).text
    assert isinstance(await chat.with_structured_output(Answer, method="json_schema").ainvoke(PERU), Answer)


for test in [invoke, stream, structured_output, token_usage, responses_api, errors, embeddings]:
    test()
    print(f"{test.__name__}: ok")
asyncio.run(asynchronous())
print("asynchronous: ok")
