// LangChain.js's ChatOpenAI against a server of the shipped model: node langchain_js.mjs http://127.0.0.1:8080
//
// Needs `npm install @langchain/openai @langchain/core zod`. Ends with status 0 if everything is as those expect it.

import assert from "node:assert/strict";
import { AIMessage, HumanMessage, SystemMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

const configuration = { baseURL: `${process.argv[2]}/v1` };
const TURNS = [
  ["What is the capital of Peru?", /Lima/],
  ["And its currency?", /sol/],
  ["And its language?", /Spanish/],
];

for (const useResponsesApi of [false, true]) {
  const model = new ChatOpenAI({ model: "onegen", apiKey: "none", configuration, useResponsesApi });
  const said = [new SystemMessage("Answer briefly.")];
  for (const [question, answer] of TURNS) {
    said.push(new HumanMessage(question));
    const message = await model.invoke(said);
    assert.match(message.text, answer);
    assert.ok(message.usage_metadata.total_tokens > 0);
    said.push(message);
  }
  // The second question is asked in other words: all after it goes.
  const edited = [...said.slice(0, 3), new HumanMessage("And its language?")];
  let text = "";
  for await (const chunk of await model.stream(edited)) text += chunk.text;
  assert.match(text, /Spanish/);
  // A front end may have kept nothing but texts.
  const plain = said.map((message) => (message instanceof AIMessage ? new AIMessage(message.text) : message));
  assert.match((await model.invoke([...plain, new HumanMessage(TURNS[1][0])])).text, /sol/);
  const capital = z.object({ capital: z.enum(["Lima", "Quito"]) });
  const structured = model.withStructuredOutput(capital, { method: "jsonSchema" });
  assert.ok(capital.parse(await structured.invoke(TURNS[0][0])));
  console.log(`${useResponsesApi ? "responses" : "chat"}: ok`);
}

const embeddings = new OpenAIEmbeddings({ model: "onegen", apiKey: "none", configuration });
const vectors = await embeddings.embedDocuments(["Lima", "Quito"]);
assert.equal(vectors.length, 2);
assert.equal((await embeddings.embedQuery("Lima")).length, vectors[0].length);
console.log("embeddings: ok");
