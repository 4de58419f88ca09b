// Connections that break, pages that are loaded again, servers that die: no answer is lost or doubled.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { ask, askUntil, asked, finished, shot, startBrowser, startLink, startServer, texts } from "./setup.mjs";

const PERU = "What is the capital of Peru?";
const K2 = "What is the capital of the country of K2?";
const RUNNING = "onegen_num_requests_running";
const WRITTEN = 'onegen_forwarded_tokens_total{kind="generated"}';
/** Of Peru's answer: the role, the search, and two tokens of four. */
const HALF = 4;

let server, link, browser;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
});
// A link of its own for each test, so that what one leaves held concerns no other.
const open = async () => {
  link?.stop();
  link = await startLink(server.url);
  return browser.open(link.url);
};
afterEach(async () => {
  server.slow(false);
  await browser.clear();
  link?.stop();
});
after(async () => {
  await browser?.stop();
  await server?.stop();
});

const said = (page, at = 0) => page.locator(".answer > .text").nth(at).innerText();
const resumed = () => link.asked.filter((one) => one.startsWith("GET /v1/stream")).map((one) => Number(one.match(/from=(\d+)/)[1]));
const put = () => link.asked.filter((one) => one.startsWith("POST /v1/chat")).length;
/** Has the next answers be long nonsense. */
const long = (page) =>
  page.route("**/v1/chat/completions", (route) => {
    const body = { ...route.request().postDataJSON(), min_tokens: 700, temperature: 1 };
    return route.continue({ postData: JSON.stringify(body) });
  });
const idle = async () => {
  while ((await server.metric(RUNNING)) > 0) await new Promise((resolve) => setTimeout(resolve, 20));
};

test("an answer goes on where its connection was cut, after each of its events", async () => {
  let page = await open();
  await ask(page, K2);
  const whole = await said(page);
  page = await open();
  link.cutAfter(1);
  await ask(page, K2);
  assert.equal(await said(page), whole);
  // One event a connection, and none is left out. One may come twice: what a browser has read and a
  // script has not is lost with the connection.
  const from = resumed();
  assert.ok(from.length > 8, String(from));
  assert.deepEqual([...new Set(from)], Array.from({ length: from.at(-1) }, (_, at) => at + 1));
  assert.equal(put(), 1);
  assert.deepEqual(await texts(page, ".card h4"), ["K2", "Pakistan"]);
  link.cutAfter(Infinity);
  await ask(page, "And its currency?");
  assert.match(await said(page, 1), /rupee/);
});

test("while the network is away the page says so and waits, and goes on when it is back", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  link.down(true);
  await page.locator(".turn:last-child .waiting").waitFor();
  await shot(page, "waiting");
  await page.waitForTimeout(700);
  link.down(false);
  link.release();
  await finished(page);
  assert.match(await said(page), /Lima\.$/);
  assert.equal(await page.locator(".waiting").isVisible(), false);
  assert.equal(resumed().at(-1), HALF);
  assert.equal(put(), 1);
});

test("a connection that only seems to be there, after a sleep, is made again", async () => {
  const page = await open();
  await page.clock.install();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  link.hold(Infinity);
  await page.clock.fastForward(60_000);
  await finished(page);
  assert.match(await said(page), /Lima\.$/);
  assert.deepEqual(resumed(), [HALF]);
});

test("a page that is loaded again in the middle of an answer goes on with it", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  await page.reload();
  assert.equal(await page.locator("#stop").isVisible(), true);
  link.release();
  await finished(page);
  assert.match(await said(page), /Peru\s*1\s*Lima\.$/);
  // The page that went away may have tried, too.
  assert.equal(resumed().at(-1), 0);
  assert.equal(put(), 1);
  assert.equal(await page.locator(".turn").count(), 1);
  // The server and the page agree on what was said.
  const bodies = asked(page);
  await ask(page, "And its currency?");
  assert.match(await said(page, 1), /sol\.$/);
  assert.equal(bodies[0].messages.length, 1);
});

test("an answer whose stream the server has forgotten by then is taken from its conversation", async () => {
  const page = await open();
  const forgetful = await startServer("--retention", "0");
  link.to(forgetful.url);
  link.hold(HALF);
  await askUntil(page, K2, 2);
  await page.goto("about:blank");
  while ((await forgetful.metric(RUNNING)) > 0) await page.waitForTimeout(20);
  link.release();
  await page.goto(link.url);
  await finished(page);
  const parts = await page.locator(".answer > .text p").evaluate((text) =>
    Array.from(text.childNodes, (node) => (node.nodeType === Node.TEXT_NODE ? node.data.trim() : node.querySelector(".found").textContent)),
  );
  assert.deepEqual(parts, ["K2", "Pakistan.", "Pakistan", "Islamabad."]);
  assert.deepEqual(await texts(page, "mark"), ["K2 is a mountain in Pakistan.", "Its capital is Islamabad."]);
  assert.match((await texts(page, ".receipt summary"))[0], /2 searches, query tokens forwarded again: 0/);
  assert.equal(put(), 1);
  await ask(page, "And its currency?");
  assert.match(await said(page, 1), /rupee/);
  await forgetful.stop();
});

test("a server that is killed in the middle of an answer and comes back is asked again", async () => {
  const page = await open();
  await ask(page, PERU);
  await long(page);
  server.slow(true);
  await askUntil(page, "And its currency?", 12);
  server.slow(false);
  await server.kill();
  await page.locator(".turn:last-child .waiting").waitFor();
  await page.unroute("**/v1/chat/completions");
  await server.again();
  link.to(server.url);
  await finished(page);
  assert.match(await said(page, 1), /Peru\s*1\s*sol\.$/);
  assert.match((await texts(page, ".notice"))[0], /was asked again/);
  assert.equal(put(), 3);
  await ask(page, "Which language do people speak there?");
  assert.match(await said(page, 2), /Spanish/);
});

test("an answer that a killed server had finished is not asked for again", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  await idle();
  await server.kill();
  link.down(true);
  await server.again();
  link.to(server.url);
  link.release();
  link.down(false);
  await finished(page);
  assert.match(await said(page), /Peru\s*1\s*Lima\.$/);
  assert.equal(await page.locator(".notice").count(), 0);
  assert.equal(put(), 1);
});

for (const [way, where] of [["way", "its way to the server"], ["back", "the answer's way back"]]) {
  test(`a question that is lost on ${where} is answered once`, async () => {
    const page = await open();
    await ask(page, PERU);
    link.lose(way);
    await ask(page, "And its currency?");
    assert.match(await said(page, 1), /sol\.$/);
    const server = await page.evaluate(() => {
      const name = Object.keys(localStorage).find((name) => name.startsWith("onegen.conversation."));
      return JSON.parse(localStorage.getItem(name)).server;
    });
    const conversation = await (await fetch(`${link.url}/v1/conversations/${server}`)).json();
    assert.equal(conversation.onegen.messages, 4);
  });
}

test("Escape stops an answer at the server, and its conversation goes on without it", async () => {
  const page = await open();
  await ask(page, PERU);
  await long(page);
  const before = await server.metric(WRITTEN);
  server.slow(true);
  await askUntil(page, "Which language do people speak in Chile?", 12);
  assert.equal(await page.locator("#stop").isVisible(), true);
  await shot(page, "streaming");
  await page.keyboard.press("Escape");
  await finished(page);
  server.slow(false);
  await idle();
  assert.ok((await server.metric(WRITTEN)) - before < 600);
  assert.match(await page.locator(".halt.stopped p").innerText(), /^Stopped\./);
  assert.equal(await page.locator("#send").isVisible(), true);
  await page.unroute("**/v1/chat/completions");
  const bodies = asked(page);
  await ask(page, "And its currency?");
  assert.match(await said(page, 2), /sol\./);
  // In the same conversation of the server's, with its passages and its KV-cache.
  assert.equal(bodies[0].messages.length, 1);
});

test("a stop that comes too late shows the answer that the server has kept", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  await idle();
  await page.keyboard.press("Escape");
  await finished(page);
  assert.match(await said(page), /Lima\.$/);
  assert.equal(await page.locator(".halt").count(), 0);
  assert.deepEqual(await texts(page, ".card h4"), ["Peru"]);
  link.release();
  await ask(page, "And its currency?");
  assert.match(await said(page, 1), /sol\.$/);
});

test("a stop without a network is a stop here, and what the server has kept is shown when it is known", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  link.down(true);
  await page.keyboard.press("Escape");
  await finished(page);
  assert.equal(await page.locator(".halt.stopped").count(), 1);
  await idle();
  link.down(false);
  link.release();
  await ask(page, "And its currency?");
  assert.match(await said(page, 0), /Lima\.$/);
  assert.equal(await page.locator(".halt").count(), 0);
  assert.match(await said(page, 1), /sol\.$/);
});

test("two tabs show the same answer as it comes, and what is asked in one is seen in the other", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  const other = await browser.open(link.url, { beside: page });
  await other.click("nav .open");
  await other.waitForFunction(() => document.querySelector(".answer > .text")?.innerText.includes("Li"));
  link.release();
  await Promise.all([finished(page), finished(other)]);
  for (const tab of [page, other]) assert.match(await said(tab), /Lima\.$/);
  assert.equal(put(), 1);
  await ask(other, "And its currency?");
  await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
  await finished(page);
  assert.match(await said(page, 1), /sol\.$/);
});

test("what is stopped in one tab is stopped in the other", async () => {
  const page = await open();
  await long(page);
  server.slow(true);
  await askUntil(page, PERU, 12);
  const other = await browser.open(link.url, { beside: page });
  await other.click("nav .open");
  await other.waitForFunction(() => document.querySelector(".answer > .text")?.innerText.length > 12);
  await page.keyboard.press("Escape");
  await Promise.all([finished(page), finished(other)]);
  server.slow(false);
  for (const tab of [page, other]) assert.equal(await tab.locator(".halt.stopped").count(), 1);
  assert.equal(put(), 1);
});

test("an answer goes on while another conversation is looked at", async () => {
  const page = await open();
  link.hold(HALF);
  await askUntil(page, PERU, 2);
  await page.click("#new");
  assert.equal(await page.locator("#send").isVisible(), true);
  await page.click("nav .open");
  assert.equal(await page.locator("#stop").isVisible(), true);
  link.release();
  await finished(page);
  assert.match(await said(page), /Lima\./);
  assert.deepEqual(await texts(page, "mark"), ["Its capital is Lima."]);
});
