// Vercel's useChat in a page in Chromium against a server of the shipped model:
// CHROMIUM=/usr/bin/chromium node use_chat.mjs http://127.0.0.1:8080
//
// Needs `npm install @ai-sdk/react ai react react-dom esbuild playwright-core`. Ends with status 0 if a person who
// asks, asks again and edits a question gets the answers that fit.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const base = process.argv[2];
const here = dirname(fileURLToPath(import.meta.url));

// The page shows messages as they come, and has what chat pages have: a field, "again", and "edit".
const page = `
  import { useChat } from "@ai-sdk/react";
  import { DefaultChatTransport } from "ai";
  import { createElement as h, useState } from "react";
  import { createRoot } from "react-dom/client";

  const textOf = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
  const transport = new DefaultChatTransport({
    api: ${JSON.stringify(`${base}/v1/chat/completions`)},
    headers: { "x-vercel-ai-ui-message-stream": "v1" },
    prepareSendMessagesRequest: ({ messages }) => ({
      body: { model: "onegen", messages: messages.map((one) => ({ role: one.role, content: textOf(one) })) },
    }),
  });

  function cited(message) {
    const text = textOf(message);
    const citations = message.parts.filter((part) => part.type === "data-citations").flatMap((part) => part.data);
    return citations.map((one) => one.title + ": " + text.slice(one.start_index, one.end_index)).join("; ");
  }

  function Chat() {
    const [text, setText] = useState("");
    const [answers, setAnswers] = useState(0);
    const onFinish = () => setAnswers((before) => before + 1);
    const { messages, sendMessage, regenerate, status, error } = useChat({ transport, onFinish });
    const send = (options) => { sendMessage({ text, ...options }); setText(""); };
    const questions = messages.filter((message) => message.role === "user");
    return h("main", {},
      h("p", { id: "status" }, error ? "failed: " + error.message : status),
      h("p", { id: "answers" }, answers),
      ...messages.map((message) => h("p", { key: message.id, className: message.role },
        h("span", { className: "text" }, textOf(message)), h("cite", {}, cited(message)))),
      h("input", { id: "question", value: text, onChange: (event) => setText(event.target.value) }),
      h("button", { id: "send", onClick: () => send({}) }, "Send"),
      h("button", { id: "again", onClick: () => regenerate() }, "Again"),
      h("button", { id: "edit", onClick: () => send({ messageId: questions.at(-1).id }) }, "Edit the last question"));
  }

  createRoot(document.getElementById("root")).render(h(Chat));
`;
const bundle = await build({
  stdin: { contents: page, resolveDir: here },
  bundle: true, write: false, format: "esm", define: { "process.env.NODE_ENV": '"production"' },
});
const html = '<!doctype html><meta charset="utf-8"><div id="root"></div><script type="module" src="/page.js"></script>';
const server = createServer((request, response) => {
  const script = request.url === "/page.js";
  response.setHeader("content-type", script ? "text/javascript; charset=utf-8" : "text/html; charset=utf-8");
  response.end(script ? bundle.outputFiles[0].text : html);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  const tab = await browser.newPage();
  await tab.goto(`http://127.0.0.1:${server.address().port}/`);
  // What the last message cites, once so many answers have come to their ends.
  const answered = async (answers) => {
    await tab.waitForFunction(
      (most) => document.querySelector("#answers").textContent === String(most)
        && document.querySelector("#status").textContent === "ready",
      answers, { timeout: 60_000 },
    ).catch(async (error) => { throw new Error(`${await tab.textContent("#root")}: ${error.message}`); });
    return (await tab.locator("p.assistant").last().locator("cite").textContent());
  };
  const ask = async (question, button) => {
    await tab.fill("#question", question);
    await tab.click(button);
  };
  await ask("What is the capital of Peru?", "#send");
  assert.match(await answered(1), /^Peru: .*Lima/);
  await ask("And its currency?", "#send");
  assert.match(await answered(2), /^Peru: .*sol/);
  await ask("And its language?", "#send");
  assert.match(await answered(3), /^Peru: .*Spanish/);
  await tab.click("#again");
  assert.match(await answered(4), /^Peru: .*Spanish/);
  await ask("And its currency?", "#edit");
  assert.match(await answered(5), /^Peru: .*sol/);
  assert.equal(await tab.locator("p.assistant").count(), 3);
} finally {
  await browser.close();
  server.close();
}
console.log("three turns, one again, one edited: ok");
