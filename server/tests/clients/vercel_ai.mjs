// Vercel's ai package against a server of the shipped model: node vercel_ai.mjs http://127.0.0.1:8080
//
// Needs `npm install ai @ai-sdk/openai zod`. Ends with status 0 if everything is as those expect it.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { DefaultChatTransport, Output, embedMany, generateText, readUIMessageStream, streamText } from "ai";
import { z } from "zod";

const base = process.argv[2];
const PERU = "What is the capital of Peru?";
const CURRENCY = "And its currency?";
const openai = createOpenAI({ baseURL: `${base}/v1`, apiKey: "none" });

for (const [name, model] of [
  ["chat", openai.chat("onegen")],
  ["responses", openai.responses("onegen")],
]) {
  const whole = await generateText({ model, prompt: PERU });
  assert.match(whole.text, /Lima/);
  assert.equal(whole.sources[0].title, "Peru");
  const stream = streamText({ model, prompt: PERU });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.sources)[0].title, "Peru");
  const capital = z.object({ capital: z.enum(["Lima", "Quito"]) });
  const { output } = await generateText({ model, prompt: PERU, output: Output.object({ schema: capital }) });
  assert.ok(capital.parse(output));
  console.log(`${name}: ok`);
}

// One names what it goes on after; the other sends it back, and nothing of it is kept here.
const model = openai.responses("onegen");
const openaiOptions = (options) => ({ providerOptions: { openai: options } });
const first = await generateText({ model, prompt: PERU });
const previousResponseId = first.providerMetadata.openai.responseId;
const named = await generateText({ model, prompt: CURRENCY, ...openaiOptions({ previousResponseId }) });
const unkept = openaiOptions({ store: false });
const { response } = await generateText({ model, prompt: PERU, ...unkept });
const question = (content) => ({ role: "user", content });
const sentBack = [question(PERU), ...response.messages, question(CURRENCY)];
const sent = await generateText({ model, messages: sentBack, ...unkept });
assert.match(named.text, /sol/);
assert.match(sent.text, /sol/);
console.log("going on: ok");

const { embeddings } = await embedMany({ model: openai.embedding("onegen"), values: ["Lima", "Quito"] });
assert.equal(embeddings.length, 2);
console.log("embeddings: ok");

// What useChat does, which sends no OpenAI request by itself.
const transport = new DefaultChatTransport({
  api: `${base}/v1/chat/completions`,
  headers: { "x-vercel-ai-ui-message-stream": "v1" },
  prepareSendMessagesRequest: ({ messages }) => ({
    body: {
      model: "onegen",
      messages: messages.map(({ role, parts }) => ({
        role,
        content: parts.filter((part) => part.type === "text").map((part) => part.text).join(""),
      })),
    },
  }),
});
const messages = [{ id: "1", role: "user", parts: [{ type: "text", text: PERU }] }];
const stream = await transport.sendMessages({ chatId: "1", trigger: "submit-message", messages });
let message;
for await (const state of readUIMessageStream({ stream, onError: assert.ifError })) message = state;
const part = (type) => message.parts.find((part) => part.type === type);
assert.match(part("text").text, /Lima/);
assert.equal(part("source-document").title, "Peru");
assert.equal(part("data-retrieval").data.query_tokens_reencoded, 0);
assert.ok(message.metadata.conversation);
console.log("UI message stream: ok");
