// Colours, widths, the keyboard, and what axe says.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import { after, afterEach, before, test } from "node:test";

import { answerWith, ask, chunk, end, events, finished, shot, startBrowser, startServer } from "./setup.mjs";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PERU = "What is the capital of Peru?";
const PHONE = { viewport: { width: 380, height: 760 } };
const RICH = `## Two countries

Peru and Chile are **neighbours**, see [Peru](https://example.org/peru).

| Country | Capital | Population |
|---|:-:|--:|
| Peru | Lima | 34 million |
| Chile | Santiago | 19 million |

1. Lima
   - on the *coast*
2. Santiago

\`\`\`python
print("Lima")  # ${"a long line ".repeat(12)}
\`\`\`

> What stands in \`code\` stays as it is.
`;

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
const rich = events(chunk({ content: RICH }), end, "[DONE]");

test("the keyboard does it all", async () => {
  const page = await open();
  await page.evaluate(() => {
    document.body.tabIndex = -1;
    document.body.focus();
  });
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  assert.ok((await page.locator(".skip").boundingBox()).y >= 0);
  const outline = await page.locator(".skip").evaluate((link) => getComputedStyle(link).outlineStyle);
  assert.equal(outline, "solid");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
  await page.keyboard.type("What is the capital");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("of Peru?");
  await page.keyboard.press("Enter");
  await finished(page);
  assert.equal(await page.locator(".question p").innerText(), "What is the capital\nof Peru?");
  assert.equal(await page.inputValue("#message"), "");
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
});

test("colours are the system's until they are chosen, and stay chosen", async () => {
  const ground = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground(await open({ colorScheme: "light" }));
  const page = await open({ colorScheme: "dark" });
  const dark = await ground(page);
  assert.notEqual(light, dark);
  await page.click("#theme");
  assert.equal(await page.locator("#theme").innerText(), "Colours: light");
  assert.equal(await ground(page), light);
  await page.reload();
  assert.equal(await ground(page), light);
  await page.click("#theme");
  assert.equal(await ground(page), dark);
  await page.click("#theme");
  assert.equal(await page.locator("#theme").innerText(), "Colours: system");
});

test("nothing moves where nothing is to move", async () => {
  const moving = async (reducedMotion) => {
    const page = await open({ reducedMotion, ...PHONE });
    return page.evaluate(() => {
      const nav = document.querySelector("nav ul");
      nav.append(Object.assign(document.createElement("li"), { className: "running" }));
      return [getComputedStyle(nav.lastChild, "::before").animationName, getComputedStyle(document.querySelector("#side")).transitionDuration];
    });
  };
  assert.deepEqual(await moving("no-preference"), ["breathe", "0.18s, 0.18s"]);
  assert.deepEqual(await moving("reduce"), ["none", "0s"]);
});

test("on a phone nothing is cut off and the conversations lie behind a button", async () => {
  const page = await open({ ...PHONE, colorScheme: "light" });
  await shot(page, "phone-welcome");
  await ask(page, "What is the capital of the country of K2?");
  await page.click(".receipt summary");
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.equal(await overflow(), 0);
  await shot(page, "phone");
  assert.equal(await page.locator("#new").isVisible(), false);
  await page.focus("#open-side");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#open-side").getAttribute("aria-expanded"), "true");
  await page.waitForFunction(() => document.activeElement.id === "close-side");
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.id), "open-side");
});

for (const [name, options] of [["light", { colorScheme: "light" }], ["dark", { colorScheme: "dark" }], ["phone", { ...PHONE, colorScheme: "dark" }]]) {
  test(`axe finds nothing to complain of: ${name}`, async () => {
    const page = await open(options);
    const check = async (state) => {
      await page.evaluate(AXE);
      // In the dark only colours are others.
      const rules = name === "dark" ? { runOnly: ["color-contrast"] } : {};
      const { violations } = await page.evaluate((rules) => axe.run(rules), rules);
      const told = violations.map(({ id, nodes }) => `${state}: ${id}: ${nodes.map((node) => node.html).join("; ")}`);
      assert.deepEqual(told, []);
    };
    await check("welcome");
    await shot(page, `${name}-welcome`);
    await ask(page, PERU);
    await ask(page, "And the capital of Chile?");
    await page.click(".receipt summary >> nth=1");
    await shot(page, `${name}-answered`);
    await check("answered");
    await answerWith(page, rich);
    await ask(page, "Tell me of both.");
    await shot(page, `${name}-rich`);
    await check("rich");
    await answerWith(page, { status: 500, json: { error: { message: "the server failed to answer" } } });
    await ask(page, PERU);
    await check("error");
    await shot(page, `${name}-error`);
    await page.click(".turn:last-child .edit");
    await check("editing");
    await page.keyboard.press("Escape");
    if (name === "phone") {
      await page.click("#open-side");
      await page.waitForTimeout(250);
      await shot(page, "phone-side");
      await check("conversations");
    }
    await page.click("#open-settings");
    await shot(page, `${name}-settings`);
    await check("settings");
    await page.keyboard.press("Escape");
    await page.click("#open-shortcuts");
    await shot(page, `${name}-shortcuts`);
    await check("shortcuts");
    await page.keyboard.press("Escape");
    if (name === "phone") await page.click("#close-side");
    await page.click("#delete");
    await check("deleted");
    await shot(page, `${name}-deleted`);
  });
}
