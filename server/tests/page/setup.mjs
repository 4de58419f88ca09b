// A real server, a slow link in front of it, and browsers that look at it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { CHROMIUM, ONEGEN_SERVER, ONEGEN_MODELS, PAGE_SHOTS } = process.env;
const ELEMENT = "element-gold";
/** How long the slow link holds each event back. */
const SLOW_MS = 300;

/** The passages that are served, by id. */
const passages = new Map();

/** Starts a server with two collections and gives its address and `stop`. */
export async function startServer() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "onegen-page-"));
  const model = path.join(ONEGEN_MODELS, "almanac");
  const all = fs.readFileSync(path.join(model, "almanac.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  for (const passage of all) passages.set(passage.id, passage);
  passages.get("country-chile").url = "https://example.org/chile?a=1&b=<2>";
  const corpus = (name, which) => {
    const file = path.join(dir, `${name}.jsonl`);
    fs.writeFileSync(file, all.filter(which).map((passage) => JSON.stringify(passage)).join("\n"));
    return `${name}=${file}`;
  };
  const server = spawn(ONEGEN_SERVER, [
    ...["--model", model, "--data-dir", path.join(dir, "data"), "--port", "0", "--log", "error"],
    ...["--corpus", corpus("default", (passage) => !passage.id.startsWith("element-"))],
    ...["--corpus", corpus("elements", (passage) => passage.id.startsWith("element-"))],
  ], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: server.stdout });
  const url = await new Promise((resolve, reject) => {
    lines.on("line", (line) => {
      const found = line.match(/^serving on (\S+);/);
      if (found) resolve(found[1]);
    });
    server.on("exit", () => reject(new Error("the server did not start")));
  });
  assert.ok(passages.has(ELEMENT));
  return {
    url,
    async stop() {
      const gone = new Promise((resolve) => server.on("exit", resolve));
      server.kill("SIGTERM");
      await gone;
      fs.rmSync(dir, { recursive: true });
    },
  };
}

/** A link to the server that passes on one event at a time, slowly. */
export async function slowLink(url) {
  const link = http.createServer((request, response) => {
    const options = { method: request.method, headers: request.headers };
    const passed = http.request(new URL(request.url, url), options, async (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      if (!answer.headers["content-type"]?.startsWith("text/event-stream")) return answer.pipe(response);
      let rest = "";
      try {
        for await (const piece of answer.setEncoding("utf8")) {
          const events = (rest + piece).split("\n\n");
          rest = events.pop();
          for (const event of events) {
            response.write(`${event}\n\n`);
            await new Promise((resolve) => setTimeout(resolve, SLOW_MS));
          }
        }
        response.end();
      } catch {
        response.destroy();
      }
    });
    passed.on("error", () => response.destroy());
    response.on("close", () => passed.destroy());
    request.pipe(passed);
  });
  await new Promise((resolve) => link.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${link.address().port}`, stop: () => link.close() };
}

/** Chromium, and pages in it that have a browser context each. */
export async function startBrowser() {
  // As root, in a container, there is no sandbox.
  const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: sandbox });
  return {
    stop: () => browser.close(),
    /** A page that is ready. `problems` collects what its console complains of. */
    async open(url, options = {}) {
      const context = await browser.newContext({ viewport: { width: 1200, height: 820 }, ...options });
      const page = await context.newPage();
      page.problems = [];
      page.elsewhere = [];
      page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.problems.push(message.text()));
      page.on("pageerror", (error) => page.problems.push(String(error)));
      page.on("dialog", (dialog) => page.problems.push(`a dialog: ${dialog.message()}`) && dialog.dismiss());
      page.on("request", (request) => request.url().startsWith(url) || page.elsewhere.push(request.url()));
      await documents(page, url);
      await page.goto(url);
      await page.waitForSelector("#served:not(:empty)", { state: "attached" });
      return page;
    },
  };
}

/** Where the server does not give documents yet, they are given here, in the form agreed upon. */
async function documents(page, url) {
  const asked = await fetch(`${url}/v1/documents/${ELEMENT}?collection=elements`);
  const { error } = await asked.json();
  if (error?.code !== "route_not_found") return;
  await page.route("**/v1/documents/**", (route) => {
    const { pathname, searchParams } = new URL(route.request().url());
    const { id, title, text, url, metadata } = passages.get(decodeURIComponent(pathname.split("/").at(-1)));
    const json = { id, title, text, url: url ?? null, metadata, part: null, collection: searchParams.get("collection") };
    return route.fulfill({ json });
  });
}

/** Asks and waits for the end of the answer. */
export async function ask(page, question) {
  await page.fill("#message", question);
  await page.press("#message", "Enter");
  await finished(page);
}

/** Waits until no answer is under way and the cards have their text. */
export async function finished(page) {
  await page.waitForFunction(
    () =>
      document.querySelector("#turns")?.lastElementChild &&
      !document.querySelector("#turns [aria-busy]") &&
      [...document.querySelectorAll(".passage")].every((passage) => passage.childElementCount),
  );
}

/** The bodies of chat requests, as they are sent. */
export function asked(page) {
  const bodies = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/chat/completions")) bodies.push(request.postDataJSON());
  });
  return bodies;
}

/** Answers the next chats with this, whatever they ask. */
export async function answerWith(page, response) {
  await page.unroute("**/v1/chat/completions");
  await page.route("**/v1/chat/completions", (route) => (response ? route.fulfill(response) : route.abort()));
}

/** Server-sent events of chunks or errors. */
export function events(...values) {
  const body = values.map((value) => `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`).join("");
  return { contentType: "text/event-stream", body };
}

export const chunk = (delta, more = {}) => ({ choices: [{ index: 0, delta, finish_reason: null }], ...more });

/** Leaves a screenshot where one is wanted. */
export async function shot(page, name) {
  if (PAGE_SHOTS) await page.screenshot({ path: path.join(PAGE_SHOTS, `${name}.png`) });
}
