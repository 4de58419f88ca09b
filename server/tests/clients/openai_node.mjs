// The openai package of npm against a server of the shipped model: node openai_node.mjs http://127.0.0.1:8080
//
// Needs `npm install openai zod`. Ends with status 0 if everything is as those expect it.

import assert from "node:assert/strict";
import OpenAI, { BadRequestError, ConflictError, NotFoundError } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const PERU = "What is the capital of Peru?";
const CURRENCY = "And its currency?";
const model = "onegen";
const messages = [{ role: "user", content: PERU }];
const Capital = z.object({ capital: z.enum(["Lima", "Quito"]) });

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });

const tests = {
  async chat() {
    const whole = await client.chat.completions.create({ model, messages });
    const { content, annotations } = whole.choices[0].message;
    assert.match(content, /Lima/);
    assert.equal(annotations[0].url_citation.title, "Peru");
    const stream_options = { include_usage: true };
    const chunks = await client.chat.completions.create({ model, messages, stream: true, stream_options });
    let text = "";
    let usage;
    for await (const chunk of chunks) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, content);
    assert.deepEqual(Object.keys(usage), Object.keys(whole.usage));
    // The helper that puts the chunks together again.
    const runner = client.chat.completions.stream({ model, messages });
    const put_together = await runner.finalChatCompletion();
    assert.equal(put_together.choices[0].message.content, content);
    assert.equal(put_together.choices[0].finish_reason, "stop");
  },

  async cancelling() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const _ of stream) break;
    const again = await client.chat.completions.create({ model, messages });
    assert.match(again.choices[0].message.content, /Lima/);
  },

  async structured_output() {
    const response_format = zodResponseFormat(Capital, "answer");
    const whole = await client.chat.completions.parse({ model, messages, response_format });
    assert.ok(Capital.parse(whole.choices[0].message.parsed));
    const runner = client.chat.completions.stream({ model, messages, response_format });
    const streamed = await runner.finalChatCompletion();
    assert.deepEqual(streamed.choices[0].message.parsed, whole.choices[0].message.parsed);
    const text = { format: zodTextFormat(Capital, "answer") };
    const response = await client.responses.parse({ model, input: PERU, text });
    assert.ok(Capital.parse(response.output_parsed));
  },

  async embeddings() {
    // The package asks for base64 unless it is told otherwise, and makes numbers of it.
    const coded = await client.embeddings.create({ model, input: ["Lima", "Quito"] });
    const floats = await client.embeddings.create({ model, input: "Lima", encoding_format: "float" });
    assert.equal(coded.data.length, 2);
    coded.data[0].embedding.forEach((a, at) => assert.ok(Math.abs(a - floats.data[0].embedding[at]) < 1e-6));
  },

  async responses() {
    const include = ["file_search_call.results"];
    const first = await client.responses.create({ model, input: PERU, include });
    assert.match(first.output_text, /Lima/);
    assert.deepEqual(first.output.map(({ type }) => type), ["file_search_call", "message"]);
    assert.equal(first.output[0].results[0].filename, "Peru");
    const second = await client.responses.create({ model, input: CURRENCY, previous_response_id: first.id });
    assert.match(second.output_text, /sol/);

    const kept = await client.responses.retrieve(first.id);
    assert.equal(kept.output_text, first.output_text);
    assert.equal(kept.status, "completed");
    const items = [];
    for await (const item of client.responses.inputItems.list(second.id)) items.push(item);
    assert.deepEqual(items.map((item) => item.content[0].text), [CURRENCY]);
    // Another question after the first: the conversation is forked there.
    const other = await client.responses.create({ model, input: CURRENCY, previous_response_id: first.id });
    assert.equal(other.output_text, second.output_text);
    assert.notEqual(other.conversation.id, second.conversation.id);
    await client.responses.delete(other.id);
    await assert.rejects(client.responses.retrieve(other.id), NotFoundError);

    const unkept = await client.responses.create({ model, input: PERU, store: false });
    assert.equal(unkept.output_text, first.output_text);
    await assert.rejects(client.responses.retrieve(unkept.id), NotFoundError);

    const runner = client.responses.stream({ model, input: PERU });
    const kinds = new Set();
    for await (const { type } of runner) kinds.add(type);
    assert.ok(kinds.has("response.file_search_call.completed") && kinds.has("response.output_text.delta"));
    assert.equal((await runner.finalResponse()).output_text, first.output_text);
  },

  async conversations() {
    const items = [
      { type: "message", role: "user", content: "Hello!" },
      { type: "message", role: "assistant", content: "Hello." },
    ];
    const conversation = await client.conversations.create({ metadata: { topic: "countries" }, items });
    assert.deepEqual((await client.conversations.retrieve(conversation.id)).metadata, { topic: "countries" });
    await client.responses.create({ model, input: PERU, conversation: conversation.id });
    const listed = [];
    for await (const item of client.conversations.items.list(conversation.id, { order: "asc", limit: 2 })) {
      listed.push(item.type);
    }
    assert.deepEqual(listed, ["message", "message", "message", "onegen.retrieval", "message"]);
    const added = await client.conversations.items.create(conversation.id, {
      items: [{ type: "message", role: "user", content: "Thanks!" }],
    });
    const [{ id }] = added.data;
    assert.equal((await client.conversations.items.retrieve(id, { conversation_id: conversation.id })).id, id);
    assert.ok((await client.conversations.delete(conversation.id)).deleted);
    await assert.rejects(client.conversations.retrieve(conversation.id), NotFoundError);
  },

  async vector_stores() {
    const found = [];
    for await (const hit of client.vectorStores.search("default", { query: PERU, max_num_results: 2 })) found.push(hit);
    assert.equal(found[0].filename, "Peru");
    await assert.rejects(client.vectorStores.search("atlantis", { query: PERU }), NotFoundError);
  },

  async errors() {
    const refused = (body) => client.chat.completions.create({ model, messages, ...body });
    const named = (param, code) => (error) =>
      error instanceof BadRequestError && error.param === param && error.code === code;
    await assert.rejects(refused({ n: 2 }), named("n", "unsupported_parameter"));
    await assert.rejects(refused({ top_p: 7 }), named("top_p", "invalid_value"));
    await assert.rejects(refused({ model: "gpt-7" }), NotFoundError);
    await assert.rejects(refused({ messages: [], stream: true }), named("messages", "invalid_value"));
    await assert.rejects(client.embeddings.create({ model, input: "x", dimensions: 3 }), named("dimensions", "invalid_value"));
  },

  async documents() {
    // OpenAI has no such route; its package sends what it is told to.
    const text = "Zembla is a country in Europe. Its capital is Onhava. Its currency is the krone.";
    await client.put("/documents", { body: { id: "zembla", title: "Zembla", text } });
    const asked = { model, input: "What is the capital of Zembla?" };
    const first = await client.responses.create(asked);
    assert.match(first.output_text, /Onhava/);
    await client.delete("/documents/zembla");
    const go_on = () => client.responses.create({ model, input: CURRENCY, previous_response_id: first.id });
    await assert.rejects(go_on(), ConflictError);
    assert.doesNotMatch((await client.responses.create(asked)).output_text, /Onhava/);
  },
};

for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`${name}: ok`);
}
