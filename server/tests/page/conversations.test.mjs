// Conversations in their list, and what can be done with questions and answers.

import assert from "node:assert/strict";
import fs from "node:fs";
import { after, afterEach, before, test } from "node:test";

import { answerWith, ask, asked, chunk, end, events, finished, shot, startBrowser, startServer, texts } from "./setup.mjs";

const PERU = "What is the capital of Peru?";
const CHILE = "What is the capital of Chile?";

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
const listed = (page) => texts(page, "nav .open");
const said = (page, at = 0) => page.locator(".answer > .text").nth(at).innerText();
/** The page's conversation as the browser keeps it. */
const kept = (page) =>
  page.evaluate(() => JSON.parse(localStorage.getItem(`onegen.conversation.${sessionStorage.getItem("onegen.current")}`)));
const statusOf = async (conversation) => (await fetch(`${server.url}/v1/conversations/${conversation}`)).status;

test("conversations are listed, switched and searched", async () => {
  const page = await open();
  await ask(page, PERU);
  assert.equal(await page.locator("#search").isVisible(), false);
  await page.click("#new");
  assert.equal(await page.locator("#welcome").isVisible(), true);
  await ask(page, CHILE);
  assert.deepEqual(await listed(page), [CHILE, PERU]);
  await page.click(`nav .open:has-text("Peru")`);
  await finished(page);
  assert.deepEqual(await texts(page, ".card h4"), ["Peru"]);
  assert.equal(await page.locator("nav [aria-current=page]").innerText(), PERU);

  // Words of questions and answers, in any order.
  await page.keyboard.press("Control+k");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
  await page.keyboard.type("santiago CAPITAL");
  assert.deepEqual(await listed(page), [CHILE]);
  assert.equal(await page.locator("#status").innerText(), "1 conversation");
  await page.fill("#search", "nothing of the kind");
  assert.deepEqual(await listed(page), []);
  assert.equal(await page.locator("#no-conversations").innerText(), "No conversation has these words.");
  await shot(page, "search");
  await page.keyboard.press("Escape");
  assert.equal((await listed(page)).length, 2);
});

test("a deleted conversation comes back when that is wanted, and is gone from the server when it is not", async () => {
  const page = await browser.open(server.url, { clock: true });
  await ask(page, PERU);
  await page.click("#new");
  await ask(page, CHILE);
  const { server: conversation } = await kept(page);
  await page.click(`[aria-label="Delete “${CHILE}”"]`);
  assert.deepEqual(await listed(page), [PERU]);
  assert.equal(await page.locator("#welcome").isVisible(), true);
  assert.match(await page.locator("#status").innerText(), /Deleted “What is the capital of Chile\?”/);
  await shot(page, "deleted");
  await page.click("#undo");
  await finished(page);
  assert.deepEqual(await listed(page), [CHILE, PERU]);
  assert.equal(await page.locator("h1").innerText(), CHILE);
  await page.clock.runFor(20_000);
  assert.equal(await statusOf(conversation), 200);
  assert.equal(await page.locator("#toast").isVisible(), false);

  await page.click("#delete");
  const deleted = page.waitForResponse((response) => response.request().method() === "DELETE");
  await page.clock.runFor(10_000);
  assert.equal((await deleted).status(), 200);
  assert.equal(await statusOf(conversation), 404);
  assert.equal(await page.locator("#toast").isVisible(), false);
  await page.reload();
  assert.deepEqual(await listed(page), [PERU]);
});

test("a conversation that was deleted before its page was closed is gone from the server later", async () => {
  const page = await browser.open(server.url, { clock: true });
  await ask(page, PERU);
  const { server: conversation } = await kept(page);
  await page.click("#delete");
  await page.goto("about:blank");
  await page.goto(server.url);
  assert.deepEqual(await listed(page), []);
  assert.equal(await statusOf(conversation), 200);
  const deleted = page.waitForResponse((response) => response.request().method() === "DELETE");
  await page.clock.runFor(20_000);
  await deleted;
  assert.equal(await statusOf(conversation), 404);
});

test("a conversation is renamed", async () => {
  const page = await open();
  await ask(page, PERU);
  await page.click("#rename");
  await page.keyboard.type("Lima <b>");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("h1").innerText(), "Lima <b>");
  assert.deepEqual(await listed(page), ["Lima <b>"]);
  assert.equal(await page.evaluate(() => document.activeElement.id), "rename");
  await page.click("#rename");
  await page.keyboard.type("not this");
  await page.keyboard.press("Escape");
  await page.reload();
  assert.equal(await page.locator("h1").innerText(), "Lima <b>");
  await ask(page, "And its currency?");
  assert.equal(await page.title(), "Lima <b> – onegen");
});

test("a conversation is saved as Markdown, with what was read in footnotes", async () => {
  const page = await open();
  await ask(page, "What is the capital of the country of K2?");
  await ask(page, "And the capital\nof Chile?");
  const download = page.waitForEvent("download");
  await page.click("#export");
  const file = await download;
  assert.equal(file.suggestedFilename(), "What-is-the-capital-of-the-country-of-K2.md");
  const text = fs.readFileSync(await file.path(), "utf8").replace(/0\.\d\d/g, "0.nn");
  assert.equal(text, [
    "# What is the capital of the country of K2?",
    "## What is the capital of the country of K2?",
    "Pakistan.[^1] Islamabad.[^2]",
    "## And the capital of Chile?",
    "> And the capital\n> of Chile?",
    "Santiago.[^3]",
    "[^1]: K2, passage mountain-k2 of default, score 0.nn",
    "[^2]: Pakistan, passage country-pakistan of default, score 0.nn",
    "[^3]: [Chile](<https://example.org/chile?a=1&b=%3C2%3E>), passage country-chile of default, score 0.nn\n",
  ].join("\n\n"));
  assert.deepEqual(page.problems, []);
});

test("the last question is edited and asked again, and both answers stay", async () => {
  const page = await open();
  await ask(page, PERU);
  await ask(page, "And its currency?");
  const bodies = asked(page);
  // The first question stays what it was: only the last can be edited.
  assert.equal(await page.locator(".edit:visible").count(), 1);
  await page.focus("#message");
  await page.keyboard.press("ArrowUp");
  assert.equal(await page.inputValue(".editing textarea"), "And its currency?");
  await shot(page, "editing");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(".editing").count(), 0);
  await page.click(".turn:last-child .edit");
  await page.fill(".editing textarea", "And which language do people speak there?");
  await page.keyboard.press("Enter");
  await finished(page);
  assert.match(await said(page, 1), /Spanish/);
  assert.equal(bodies[0].messages.at(-1).content, "And which language do people speak there?");
  assert.match(await page.locator(".versions").innerText(), /2 of 2/);

  // Back to the first version, after a reload too; its conversation goes on with its passages.
  await page.reload();
  await page.click("[aria-label='Version before']");
  assert.match(await said(page, 1), /sol\.$/);
  assert.match(await page.locator(".versions").innerText(), /1 of 2/);
  await shot(page, "versions");
  await ask(page, "And the capital of Chile?");
  assert.match(await said(page, 2), /Santiago/);
  assert.equal(bodies[1].messages.length, 1);
  assert.notEqual(bodies[1].conversation, bodies[0].conversation);
  assert.equal(await page.locator(".versions").count(), 1);
  assert.equal(await page.locator(".versions:visible").count(), 0);
});

test("an answer is asked for again, not for the same words", async () => {
  const page = await open();
  await ask(page, PERU);
  const bodies = asked(page);
  await page.click("text=Answer again");
  await finished(page);
  assert.equal(bodies[0].temperature, 0.7);
  assert.equal(bodies[0].messages.length, 1);
  assert.match(await page.locator(".versions").innerText(), /2 of 2/);
  assert.equal(await page.locator(".turn").count(), 1);
});

test("what is deleted is deleted with all its versions", async () => {
  const page = await browser.open(server.url, { clock: true });
  await ask(page, PERU);
  const first = (await kept(page)).server;
  await page.click("text=Answer again");
  await finished(page);
  const second = (await kept(page)).server;
  assert.notEqual(first, second);
  await page.click("#delete");
  await page.clock.runFor(20_000);
  await page.waitForTimeout(200);
  assert.deepEqual([await statusOf(first), await statusOf(second)], [404, 404]);
});

test("the collection is picked where there are several, and a search is asked for where one is wanted", async () => {
  const page = await open();
  const bodies = asked(page);
  await page.selectOption("#collection", "elements");
  await page.click("#always");
  assert.equal(await page.locator("#always").getAttribute("aria-pressed"), "true");
  await ask(page, "What is the symbol of gold?");
  assert.match(await said(page), /Au/);
  assert.deepEqual(bodies[0].retrieval, { k: 3, collection: "elements", forced: true });
  await page.click(".receipt summary");
  assert.deepEqual(await texts(page, ".receipt th[scope=row]"), ["1 in elements"]);
  await page.reload();
  assert.equal(await page.inputValue("#collection"), "elements");
  await page.click("#always");
  await ask(page, "What is the symbol of gold?");
  assert.equal(bodies[1].retrieval.forced, undefined);
});

test("shortcuts are listed and do what the list says", async () => {
  const page = await open();
  await ask(page, PERU);
  await page.keyboard.press("Control+/");
  assert.match(await page.locator("#shortcuts").innerText(), /begins a conversation/);
  await page.keyboard.press("Escape");
  await page.keyboard.press("Control+Shift+O");
  assert.equal(await page.locator("#welcome").isVisible(), true);
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
});

test("a long answer can be left and come back to", async () => {
  const page = await open();
  const long = Array.from({ length: 100 }, (_, at) => `Line ${at}.`).join("\n\n");
  await answerWith(page, events(chunk({ content: long }), end, "[DONE]"));
  await ask(page, "Much?");
  // Nobody has to hear it all at once.
  assert.equal((await page.locator("#status").innerText()).trim(), "An answer of 200 words.");
  // The question stays in view; the end is a press away.
  assert.ok(await page.locator(".question").isVisible());
  await page.click("#to-end");
  await page.waitForFunction(() => document.querySelector("#to-end").hidden);
  const main = await page.locator("main").evaluate((main) => main.scrollHeight - main.clientHeight - main.scrollTop);
  assert.ok(main < 2, String(main));
});

test("a server without passages says so", async () => {
  const page = await open();
  await page.route("**/readyz", (route) => route.fulfill({ json: { status: "ok", model: "onegen", passages: 0, collections: [{ name: "default", passages: 0 }] } }));
  await page.reload();
  await page.waitForSelector("#served:not(:empty)");
  assert.match(await page.locator("#served").innerText(), /over no passages yet/);
  await shot(page, "no-passages");
});
