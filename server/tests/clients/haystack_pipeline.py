"""Haystack's generators and embedders against a server of the shipped model:
python haystack_pipeline.py http://127.0.0.1:8080

Needs `pip install haystack-ai`. Ends with status 0 if everything is as that package expects it.
"""

import sys

from haystack import Document, Pipeline, component
from haystack.components.builders import ChatPromptBuilder
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret
from openai import OpenAI

at_server = {"api_base_url": f"{sys.argv[1]}/v1", "api_key": Secret.from_token("none"), "model": "onegen"}


def conversation():
    generator = OpenAIChatGenerator(**at_server)
    said = [ChatMessage.from_system("Answer briefly.")]
    for question, answer in [("What is the capital of Peru?", "Lima"), ("And its currency?", "sol")]:
        said.append(ChatMessage.from_user(question))
        reply = generator.run(messages=said)["replies"][0]
        assert answer in reply.text, reply.text
        said.append(reply)
    pieces = []
    generator = OpenAIChatGenerator(**at_server, streaming_callback=lambda chunk: pieces.append(chunk.content))
    said.append(ChatMessage.from_user("And its language?"))
    reply = generator.run(messages=said)["replies"][0]
    assert "Spanish" in reply.text and "".join(pieces) == reply.text, reply.text


def embeddings():
    documents = [Document(content=text) for text in ["Lima is the capital of Peru.", "Gold is a metal."]]
    embedded = OpenAIDocumentEmbedder(**at_server, progress_bar=False).run(documents)["documents"]
    question = OpenAITextEmbedder(**at_server).run("Lima is the capital of Peru.")["embedding"]
    scores = [sum(a * b for a, b in zip(question, document.embedding, strict=True)) for document in embedded]
    assert scores[0] > scores[1], scores


@component
class VectorStoreRetriever:
    """Finds documents in a vector store of OpenAI's API, for which Haystack has no component of its own."""

    @component.output_types(documents=list[Document])
    def run(self, query: str):
        client = OpenAI(base_url=at_server["api_base_url"], api_key="none")
        store = client.vector_stores.list().data[0]
        assert client.vector_stores.retrieve(store.id).file_counts.total > 0
        hits = client.vector_stores.search(store.id, query=query, max_num_results=2)
        return {"documents": [Document(content=hit.content[0].text, score=hit.score) for hit in hits]}


def retrieval():
    """The usual pipeline of two steps, over what the model finds: the answer needs no retrieval of its own."""
    pipeline = Pipeline()
    pipeline.add_component("retriever", VectorStoreRetriever())
    template = [ChatMessage.from_user("{{ query }}\n{% for one in documents %}{{ one.content }}\n{% endfor %}")]
    pipeline.add_component("prompt", ChatPromptBuilder(template=template, required_variables="*"))
    options = {"extra_body": {"retrieval": {"enabled": False}}}
    pipeline.add_component("generator", OpenAIChatGenerator(**at_server, generation_kwargs=options))
    pipeline.connect("retriever.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "generator.messages")
    query = "What is the capital of Peru?"
    answer = pipeline.run({"retriever": {"query": query}, "prompt": {"query": query}}, include_outputs_from={"retriever"})
    assert "Lima" in answer["retriever"]["documents"][0].content
    assert answer["generator"]["replies"][0].text


for test in [conversation, embeddings, retrieval]:
    test()
    print(f"{test.__name__}: ok")
