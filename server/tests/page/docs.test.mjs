import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

import { startServer } from "./setup.mjs";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const { CHROMIUM, PAGE_SHOTS } = process.env;
const NARROW = { viewport: { width: 380, height: 760 } };

let server, browser, api;
before(async () => {
  server = await startServer();
  const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
  browser = await chromium.launch({ executablePath: CHROMIUM, args: sandbox });
  api = await (await fetch(`${server.url}/openapi.json`)).json();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

async function open(path = "/docs", options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 820 }, ...options });
  const page = await context.newPage();
  page.problems = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.problems.push(message.text()));
  page.on("pageerror", (error) => page.problems.push(String(error)));
  page.on("request", (request) => request.url().startsWith(server.url) || page.problems.push(request.url()));
  await page.goto(server.url + path);
  return page;
}

async function shown(path, options) {
  const page = await open(path, options);
  await page.waitForSelector("#schemas:not([hidden])");
  return page;
}

const shot = (page, name) => PAGE_SHOTS && page.screenshot({ path: `${PAGE_SHOTS}/${name}.png` });

test("every operation and every type of the document is shown, and nothing breaks a rule of the page's policy", async () => {
  const page = await shown();
  const asked = Object.entries(api.paths).flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`));
  const headings = await page.locator("#operations h3").allInnerTexts();
  assert.deepEqual(headings.map((text) => text.replace(/\s+/, " ")).sort(), asked.sort());
  const types = await page.locator("#schemas h3").allInnerTexts();
  assert.deepEqual(types, Object.keys(api.components.schemas));
  const text = await page.innerText("body");
  for (const nothing of ["undefined", "[object", "NaN"]) assert.ok(!text.includes(nothing), nothing);
  const broken = await page.$$eval("main a[href^='#']", (links) =>
    links.map((link) => link.getAttribute("href").slice(1)).filter((id) => document.getElementById(id) === null));
  assert.deepEqual(broken, []);
  assert.deepEqual(page.problems, []);
  await shot(page, "docs-light");
});

test("an operation tells of its fields, and of a command that the server answers", async () => {
  const page = await shown();
  const operation = page.locator("#operation-post_chat_completions");
  assert.match(await operation.innerText(), /messages\s*list of at least 1 RequestMessage\s*required/);
  assert.match(await operation.innerText(), /temperature\s*number ≥ 0, ≤ 2/);
  const command = await operation.locator("pre").innerText();
  const [, url, body] = command.match(/^curl '(.*)'[\s\S]*-d '([\s\S]*)'$/);
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
  assert.equal(answer.status, 200);
  assert.match(await answer.text(), /Peru/);
});

test("the list finds operations, and a link leads to one", async () => {
  const page = await shown();
  await page.fill("#filter", "fork");
  const left = await page.locator("#contents li:visible").allInnerTexts();
  assert.deepEqual(left.map((text) => text.replace(/\s+/, " ")), ["POST /v1/conversations/{id}/fork"]);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.match(page.url(), /#operation-post_conversations_id_fork$/);
  const again = await shown("/docs#operation-get_readyz");
  assert.ok(await again.locator("#operation-get_readyz").evaluate((section) => Math.abs(section.getBoundingClientRect().top) < 40));
});

for (const [name, options] of [
  ["docs-dark", { colorScheme: "dark" }],
  ["docs-narrow", NARROW],
]) {
  test(`the documentation can be read and reached: ${name}`, async () => {
    const page = await shown("/docs", options);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${wide} px wider than the window`);
    await page.locator("#operation-post_responses").scrollIntoViewIfNeeded();
    await shot(page, name);
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => axe.run());
    assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes[0].html]), []);
  });
}

test("a document that cannot be had is told of", async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.route("**/openapi.json", (route) => route.fulfill({ status: 503, body: "" }));
  await page.goto(`${server.url}/docs`);
  await page.waitForSelector("#problem:not([hidden])");
  assert.equal(await page.innerText("#problem"), "The document cannot be shown: the server answered 503.");
});
