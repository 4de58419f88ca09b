// A real server, a link to it that tests disturb, and browsers that look at it.

import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { CHROMIUM, ONEGEN_SERVER, ONEGEN_MODELS, PAGE_SHOTS } = process.env;

/** Passages that tests ask for. */
const ASKED_FOR = ["country-peru", "country-chile", "country-pakistan", "mountain-k2", "element-gold"];

/** Starts a server with two collections and gives its address, `stop`, `kill` and `again`, which have it die and come back, and more. */
export async function startServer(...more) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "onegen-page-"));
  const model = path.join(ONEGEN_MODELS, "almanac");
  const all = fs.readFileSync(path.join(model, "almanac.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  all.find((passage) => passage.id === "country-chile").url = "https://example.org/chile?a=1&b=<2>";
  // Few enough to be embedded at once.
  const some = all.filter(({ id }, at) => ASKED_FOR.includes(id) || at % 20 === 0);
  const corpus = (name, which) => {
    const file = path.join(dir, `${name}.jsonl`);
    fs.writeFileSync(file, some.filter(which).map((passage) => JSON.stringify(passage)).join("\n"));
    return `${name}=${file}`;
  };
  const options = [
    ...["--model", model, "--data-dir", path.join(dir, "data"), "--port", "0", "--log", "error"],
    ...["--corpus", corpus("default", (passage) => !passage.id.startsWith("element-"))],
    ...["--corpus", corpus("elements", (passage) => passage.id.startsWith("element-"))],
    ...more,
  ];
  let running = await spawned(options);
  let slowing = null;
  return {
    get url() {
      return running.url;
    },
    kill: () => running.end("SIGKILL"),
    /** Lets it work for a hundredth of its time: its answers are over too soon to be stopped. */
    slow(is) {
      clearInterval(slowing);
      slowing = null;
      running.signal("SIGCONT");
      if (!is) return;
      slowing = setInterval(() => {
        running.signal("SIGCONT");
        setTimeout(() => slowing && running.signal("SIGSTOP"), 1);
      }, 100);
    },
    async again() {
      running = await spawned(options);
    },
    async metric(name) {
      const text = await (await fetch(`${running.url}/metrics`)).text();
      return Number(text.split("\n").find((line) => line.startsWith(`${name} `)).split(" ").at(-1));
    },
    async stop() {
      await running.end("SIGTERM");
      fs.rmSync(dir, { recursive: true });
    },
  };
}

async function spawned(options) {
  const server = spawn(ONEGEN_SERVER, options, { stdio: ["ignore", "pipe", "inherit"] });
  const gone = new Promise((resolve) => server.on("exit", resolve));
  const lines = createInterface({ input: server.stdout });
  const url = await new Promise((resolve, reject) => {
    lines.on("line", (line) => {
      const found = line.match(/^serving on (\S+);/);
      if (found) resolve(found[1]);
    });
    server.on("exit", () => reject(new Error("the server did not start")));
  });
  return {
    url,
    signal: (signal) => server.kill(signal),
    end(signal) {
      server.kill(signal);
      return gone;
    },
  };
}

/**
 * A link to a server, for tests to disturb. `hold(n)` passes on n events of each stream and no more until
 * `release()`; `cut()` breaks all connections; `down(is)` has it refuse everything; `to(url)` leads it
 * elsewhere; `cutAfter(n)` breaks each stream after n events; `lose(when)` loses the next question on its
 * `way` or the answer's beginning on its way `back`. `asked` are the paths of what came, with their methods.
 */
export async function startLink(url) {
  let [target, held, cutAfter, down, lost] = [url, Infinity, Infinity, false, null];
  let waiting = [];
  const asked = [];
  const link = http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    const loses = request.url.endsWith("/chat/completions") ? lost : null;
    if (loses) lost = null;
    if (down || loses === "way") return request.socket.destroy();
    const options = { method: request.method, headers: request.headers };
    const passed = http.request(new URL(request.url, target), options, async (answer) => {
      if (loses === "back") return request.socket.destroy();
      response.writeHead(answer.statusCode, answer.headers);
      if (!answer.headers["content-type"]?.startsWith("text/event-stream")) return answer.pipe(response);
      let rest = "";
      let count = 0;
      try {
        for await (const piece of answer.setEncoding("utf8")) {
          const events = (rest + piece).split("\n\n");
          rest = events.pop();
          for (const event of events) {
            if (count >= held) await new Promise((resolve) => waiting.push(resolve));
            response.write(`${event}\n\n`);
            count += 1;
            if (count >= cutAfter) return setTimeout(() => request.socket.destroy(), 20);
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
  return {
    url: `http://127.0.0.1:${link.address().port}`,
    asked,
    hold: (events) => (held = events),
    release() {
      held = Infinity;
      waiting.forEach((resolve) => resolve());
      waiting = [];
    },
    cut: () => link.closeAllConnections(),
    cutAfter: (events) => (cutAfter = events),
    lose: (when) => (lost = when),
    down(is) {
      down = is;
      if (is) link.closeAllConnections();
    },
    to: (url) => (target = url),
    stop() {
      link.close();
      link.closeAllConnections();
    },
  };
}

/** Chromium, and pages in it that have a browser context each. */
export async function startBrowser() {
  // As root, in a container, there is no sandbox.
  const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: sandbox });
  return {
    stop: () => browser.close(),
    /** Closes all pages. */
    clear: () => Promise.all(browser.contexts().map((context) => context.close())),
    /** A page that is ready, in another tab `beside` one if there is one, with a `clock` that tests move if they want one. `problems` collects what its console complains of. */
    async open(url, { beside, clock, ...options } = {}) {
      const context = beside?.context() ?? (await browser.newContext({ viewport: { width: 1200, height: 820 }, ...options }));
      const page = await context.newPage();
      page.problems = [];
      page.elsewhere = [];
      page.on("console", (message) => {
        const complains = ["error", "warning"].includes(message.type());
        if (complains) page.problems.push(message.text());
      });
      page.on("pageerror", (error) => page.problems.push(String(error)));
      page.on("dialog", (dialog) => page.problems.push(`a dialog: ${dialog.message()}`) && dialog.dismiss());
      page.on("request", (request) => request.url().startsWith(url) || page.elsewhere.push(request.url()));
      if (clock) await page.clock.install();
      await page.goto(url);
      await page.waitForSelector("#served:not(:empty)", { state: "attached" });
      return page;
    },
  };
}

/** Asks and waits for the end of the answer. */
export async function ask(page, question) {
  await page.fill("#message", question);
  await page.press("#message", "Enter");
  await finished(page);
}

/** Asks, and waits until so many characters of the answer are there. */
export async function askUntil(page, question, characters = 1) {
  await page.fill("#message", question);
  await page.press("#message", "Enter");
  await page.waitForFunction(
    ([question, characters]) => {
      const turn = document.querySelector("#turns")?.lastElementChild;
      return turn?.querySelector(".question").textContent.includes(question) && turn.querySelector(".answer > .text").innerText.length >= characters;
    },
    [question, characters],
  );
}

/** What selectors' elements say. */
export const texts = (page, selector) => page.locator(selector).allInnerTexts();

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

/** The chunk that ends an answer. */
export const end = { choices: [{ index: 0, delta: {}, finish_reason: "stop" }] };

/** Leaves a screenshot where one is wanted. */
export async function shot(page, name) {
  if (PAGE_SHOTS) await page.screenshot({ path: path.join(PAGE_SHOTS, `${name}.png`) });
}
