"""OpenAI's Agents SDK against a server of the shipped model: python openai_agents.py http://127.0.0.1:8080

Needs `pip install openai-agents`. Ends with status 0 if everything is as that package expects it.
"""

import asyncio
import sys

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

# Each question but the first needs what was said before it.
TURNS = [("What is the capital of Peru?", "Lima"), ("And its currency?", "sol"), ("And its language?", "Spanish")]

client = AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
set_tracing_disabled(True)


def agent(model):
    return Agent(name="geographer", instructions="Answer briefly.", model=model("onegen", openai_client=client))


async def with_session(model, session):
    """The session stores what was said, here or at the server, and sends it back."""
    asked = agent(model)
    for question, answer in TURNS:
        result = await Runner.run(asked, question, session=session)
        assert answer in result.final_output, f"{question}: {result.final_output}"
    # The last exchange is taken back and asked again.
    await session.pop_item()
    while (await session.pop_item()).get("role") != "user":
        pass
    question, answer = TURNS[-1]
    result = await Runner.run(asked, question, session=session)
    assert answer in result.final_output, f"again: {result.final_output}"


async def after_previous_responses():
    asked, previous = agent(OpenAIResponsesModel), None
    for question, answer in TURNS:
        result = await Runner.run(asked, question, previous_response_id=previous)
        assert answer in result.final_output, f"{question}: {result.final_output}"
        previous = result.last_response_id


async def in_a_conversation():
    conversation = await client.conversations.create()
    asked = agent(OpenAIResponsesModel)
    for question, answer in TURNS:
        result = await Runner.run(asked, question, conversation_id=conversation.id)
        assert answer in result.final_output, f"{question}: {result.final_output}"


async def streamed(model):
    asked, said = agent(model), []
    for question, answer in TURNS:
        result = Runner.run_streamed(asked, [*said, {"role": "user", "content": question}])
        kinds = {event.type async for event in result.stream_events()}
        assert "raw_response_event" in kinds
        assert answer in result.final_output, f"{question}: {result.final_output}"
        said = result.to_input_list()


async def main():
    for model in [OpenAIChatCompletionsModel, OpenAIResponsesModel]:
        await with_session(model, SQLiteSession("local"))
        await streamed(model)
        print(f"{model.__name__}: ok")
    await with_session(OpenAIResponsesModel, OpenAIConversationsSession(openai_client=client))
    print("session at the server: ok")
    await after_previous_responses()
    await in_a_conversation()
    print("previous responses and conversations: ok")


asyncio.run(main())
