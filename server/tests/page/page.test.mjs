import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { answerWith, ask, asked, chunk, end, events, finished, shot, startBrowser, startServer, texts } from "./setup.mjs";

const PERU = "What is the capital of Peru?";

let server, browser;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
});
afterEach(() => browser.clear());
after(async () => {
  await browser?.stop();
  await server?.stop();
});

const open = (options) => browser.open(server.url, options);

test("an answer shows where it searched, what it read with the sentence marked, and the receipt", async () => {
  const page = await open();
  await ask(page, PERU);
  // In the order of the text: first the search, then what was written after it.
  assert.match(await page.locator(".answer > .text").innerText(), /Peru[\s\S]*Lima\./);
  const first = await page.locator(".answer > .text p").evaluate((text) => text.firstChild.className);
  assert.equal(first, "retrieval");
  assert.deepEqual(await texts(page, ".card h4"), ["Peru"]);
  assert.match((await texts(page, ".card-head .score"))[0], /0\.\d\d$/);
  assert.deepEqual(await texts(page, "mark"), ["Its capital is Lima."]);
  assert.match((await texts(page, ".passage"))[0], /Its currency is the sol/);
  assert.equal((await texts(page, ".also li")).length, 2);

  await page.click(".receipt summary");
  assert.match((await texts(page, ".receipt summary"))[0], /1 search, query tokens forwarded again: 0/);
  const cells = await texts(page, ".receipt td");
  assert.equal(cells[0], "0");
  assert.match(cells[1], /ms$/);
  assert.ok(Number(cells[2]) > 10, cells[2]);
  assert.match(cells[3], /ms$/);
  assert.match((await texts(page, ".receipt dl"))[0], /Tokens read[\s\S]*of passages[\s\S]*Tokens written/);

  // The search leads to its card, and a screen reader hears the whole answer once.
  await page.click(".retrieval");
  assert.ok(await page.locator(".card").evaluate((card) => card === document.activeElement));
  assert.equal(await page.locator("#status").innerText(), "Lima. Read: Peru.");
  assert.deepEqual(page.problems, []);
  assert.deepEqual(page.elsewhere, []);
});

test("two searches of one answer stand where they happened, each with its own passage", async () => {
  const page = await open();
  await ask(page, "What is the capital of the country of K2?");
  const parts = await page.locator(".answer > .text p").evaluate((text) =>
    Array.from(text.childNodes, (node) => (node.nodeType === Node.TEXT_NODE ? node.data.trim() : node.querySelector(".found").textContent)),
  );
  assert.deepEqual(parts, ["K2", "Pakistan.", "Pakistan", "Islamabad."]);
  assert.deepEqual(await texts(page, ".card h4"), ["K2", "Pakistan"]);
  assert.deepEqual(await texts(page, "mark"), ["K2 is a mountain in Pakistan.", "Its capital is Islamabad."]);
  await shot(page, "two-searches");
});

test("a follow-up goes on in the server's conversation, after a reload too", async () => {
  const page = await open();
  const bodies = asked(page);
  await ask(page, PERU);
  await ask(page, "And its currency?");
  assert.match((await texts(page, ".answer > .text"))[1], /sol\.$/);
  await shot(page, "two-turns");
  await page.reload();
  await finished(page);
  assert.equal(await page.locator("h1").innerText(), PERU);
  assert.deepEqual(await texts(page, "mark"), ["Its capital is Lima.", "Its currency is the sol."]);
  await ask(page, "Which language do people speak there?");
  assert.match((await texts(page, ".answer > .text"))[2], /Spanish/);
  assert.deepEqual(bodies.map((body) => body.messages.length), [1, 1, 1]);
  assert.match(bodies[0].conversation, /^conv_/);
  for (const { conversation } of bodies) assert.equal(conversation, bodies[0].conversation);
});

test("a conversation that the server has forgotten goes on from what is shown", async () => {
  const page = await open();
  await ask(page, PERU);
  await page.evaluate(() => {
    const [name] = Object.keys(localStorage).filter((name) => name.startsWith("onegen.conversation."));
    const conversation = JSON.parse(localStorage.getItem(name));
    localStorage.setItem(name, JSON.stringify({ ...conversation, server: "conv_gone" }));
  });
  await page.reload();
  await finished(page);
  const bodies = asked(page);
  await ask(page, "And what is the capital of Chile?");
  assert.match((await texts(page, ".answer > .text"))[1], /Santiago/);
  assert.match((await texts(page, ".notice"))[0], /had forgotten/);
  assert.deepEqual(bodies.map((body) => body.messages.length), [1, 3]);
});

test("a conversation that holds a deleted document goes on without its passages", async () => {
  const page = await open();
  await ask(page, PERU);
  const error = { message: "it holds a deleted document", type: "invalid_request_error", param: "conversation", code: "conversation_holds_deleted_document" };
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 409, json: { error } }), { times: 1 });
  const bodies = asked(page);
  await ask(page, "And what is the capital of Chile?");
  assert.match((await texts(page, ".answer > .text"))[1], /Santiago/);
  assert.match((await texts(page, ".notice"))[0], /was deleted/);
  assert.deepEqual(bodies.map((body) => body.messages.length), [1, 3]);
});

test("what looks like markup stays text, in questions, answers and passages, and no link runs a script", async () => {
  const page = await open();
  const hostile = `<img src=x onerror=alert(1)><b>bold</b>`;
  const passage = (url) => ({ id: hostile, title: hostile, url, score: 0.5 });
  const passages = [passage("javascript:alert(3)"), passage("https://example.org/?a=<b>"), passage("data:text/html,<script>alert(4)</script>")];
  const retrieval = { index: 0, at_token: 0, collection: hostile, passages, query_tokens_reencoded: 0, search_ms: 0.1, splice_tokens: 3, splice_ms: 1 };
  const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2, prompt_tokens_details: { cached_tokens: 0, passage_tokens: 0 } };
  await page.unroute("**/v1/documents/**");
  await page.route("**/v1/documents/**", (route) => route.fulfill({ json: { text: `${hostile} Said so.` } }));
  await answerWith(page, events(chunk({}, { onegen: { retrieval } }), chunk({ content: hostile }), end, { choices: [], usage }, "[DONE]"));
  await ask(page, hostile);
  await page.click(".receipt summary");
  for (const selector of [".question p", ".answer > .text", ".card h4", ".passage", "h1", "nav .open", ".receipt th[scope=row]"]) {
    assert.ok((await page.locator(selector).first().textContent()).includes(hostile), selector);
  }
  assert.equal(await page.locator("main img, main script, main b, nav b, h1 *").count(), 0);
  const links = await page.locator("main a").evaluateAll((links) => links.map((link) => [link.protocol, link.rel]));
  assert.deepEqual(links, [["https:", "noopener noreferrer"]]);
  assert.deepEqual(page.problems, []);
  await shot(page, "markup");
});

test("the policy forbids scripts in the markup and markup made of strings", async () => {
  const page = await open();
  const refused = await page.evaluate(() => {
    try {
      document.body.innerHTML = "<b>x</b>";
      return false;
    } catch (error) {
      return error instanceof TypeError;
    }
  });
  assert.ok(refused);
  await page.evaluate(() => {
    const button = document.createElement("button");
    button.id = "evil";
    button.setAttribute("on" + "click", "window.evil = true");
    document.querySelector("main").append(button);
    button.click();
  }).catch(() => {});
  assert.equal(await page.evaluate(() => window.evil), undefined);
});

test("errors are told in words and the question can be asked again", async () => {
  const page = await open();
  const error = (message, code = null) => ({ error: { message, type: "server_error", param: null, code } });
  for (const [response, said] of [
    [events(chunk({ content: "Li" }), error("the server failed to answer"), "[DONE]"), "The server failed to answer."],
    [events(chunk({ content: "Li" })), "The server has lost this answer, and lost it again."],
    [null, "The server cannot be reached. Is it running?"],
    [{ status: 429, headers: { "retry-after": "3" }, json: error("too many requests are waiting") }, "Too many requests are waiting. It asks to wait 3\u00a0s."],
    [{ status: 502, body: "bad gateway" }, "The server answered with status 502."],
  ]) {
    await page.click("#new");
    await answerWith(page, response);
    await ask(page, PERU);
    assert.equal(await page.locator(".halt.failed p").innerText(), said);
    assert.equal(await page.locator("#status").innerText(), said);
    if (said.includes("wait")) await shot(page, "error");
  }
  await page.unroute("**/v1/chat/completions");
  const bodies = asked(page);
  await page.click("text=Ask again");
  await finished(page);
  assert.match((await texts(page, ".answer > .text"))[0], /Lima\./);
  assert.equal(await page.locator(".halt").count(), 0);
  // What failed is no part of the conversation.
  assert.equal(bodies[0].messages.length, 1);
});

test("where a key is wanted it is asked for, sent, and kept for the tab only", async () => {
  const page = await open();
  await answerWith(page, { status: 401, json: { error: { message: "no API key", type: "invalid_request_error", param: null, code: "invalid_api_key" } } });
  await ask(page, PERU);
  assert.match(await page.locator(".halt.failed p").innerText(), /asks for an API key/);
  await page.fill("#key", "secret-key");
  await page.keyboard.press("Enter");
  await page.unroute("**/v1/chat/completions");
  const request = page.waitForRequest("**/v1/chat/completions");
  await page.click("text=Ask again");
  assert.equal((await request).headers().authorization, "Bearer secret-key");
  await finished(page);
  const kept = await page.evaluate(() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage)].map((all) => all.includes("secret-key")));
  assert.deepEqual(kept, [true, false]);
});
