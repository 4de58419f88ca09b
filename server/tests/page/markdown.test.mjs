// Answers in Markdown: what is drawn, that nothing is lost, and that nothing else can come out.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { answerWith, ask, chunk, end, events, startBrowser, startServer, texts } from "./setup.mjs";

let server, browser, page;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
  page = await browser.open(server.url);
  await page.evaluate(async () => {
    const { Markdown } = await import("/page/markdown.js");
    window.drawn = (text, marks = [], pieces = [text.length]) => {
      const element = document.createElement("div");
      document.body.append(element);
      const markdown = new Markdown(element);
      const nodes = marks.map((at, number) => Object.assign(document.createElement("i"), { textContent: `<${number}>` }));
      for (const to of pieces) {
        markdown.draw(text.slice(0, to), marks.map((at, number) => ({ at, node: nodes[number] })).filter(({ at }) => at <= to));
      }
      element.remove();
      return { element, markdown, nodes };
    };
    // Elements with what of them can be seen, as short as it gets.
    window.shown = (node) => {
      if (node.nodeType === Node.TEXT_NODE) return node.data;
      const inside = [...node.childNodes].map(shown).join("");
      if (node.matches(".code-head")) return node.firstChild.textContent && `{${node.firstChild.textContent}}`;
      if (node.matches("div")) return inside;
      const name = node.localName + ["href", "start", "class"].flatMap((name) => (node.hasAttribute(name) ? [` ${node.getAttribute(name)}`] : [])).join("");
      return ["br", "hr"].includes(node.localName) ? `<${name}>` : `<${name}>${inside}</${node.localName}>`;
    };
  });
});
after(async () => {
  await browser?.stop();
  await server?.stop();
});

const draw = (text, marks) => page.evaluate(([text, marks]) => shown(drawn(text, marks).element), [text, marks]);

test("what people write in Markdown is drawn as what it means", async () => {
  const cases = [
    ["Lima.", "<p>Lima.</p>"],
    ["one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"],
    ["*a* **b** ***c*** ~~d~~ `e*f*`", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <del>d</del> <code>e*f*</code></p>"],
    ["# One\n### Two ###\n## Three", "<h3>One</h3><h4>Two</h4><h4>Three</h4>"],
    ["Title\n===", "<h3>Title</h3>"],
    ["- a\n- b\n  1. c\n  2. d", "<ul><li><p>a</p></li><li><p>b</p><ol><li><p>c</p></li><li><p>d</p></li></ol></li></ul>"],
    ["3) a\n4) b", "<ol 3><li><p>a</p></li><li><p>b</p></li></ol>"],
    ["- [x] done *now*\n- [ ] not", "<ul><li><p>\u2611 done <em>now</em></p></li><li><p>\u2610 not</p></li></ul>"],
    ["> a\n> b\n>\n> c", "<blockquote><p>a\n b</p><p>c</p></blockquote>"],
    ["```js\nf(1)\n\n  g\n```\nafter", "{js}<pre><code>f(1)\n\n  g</code></pre><p>after</p>"],
    ["- x\n\n  ```\n  a\n    b\n  ```", "<ul><li><p>x</p><pre><code>a\n  b</code></pre></li></ul>"],
    ["    a\n\n    b", "<pre><code>a\n\nb</code></pre>"],
    ["a  \nb\\\nc", "<p>a<br>b<br>c</p>"],
    ["a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"],
    ["| a | b |\n|:-:|--:|\n| *1* | |\n| 2 | 3 |", "<table><thead><tr><th center>a</th><th right>b</th></tr></thead><tbody><tr><td center><em>1</em></td><td right></td></tr><tr><td center>2</td><td right>3</td></tr></tbody></table>"],
    ["| a || b |\n|---|---|---|\n| 1 || 2 |", "<table><thead><tr><th>a</th><th></th><th>b</th></tr></thead><tbody><tr><td>1</td><td></td><td>2</td></tr></tbody></table>"],
    ["[Peru](https://x.org/a?b=1 'Title')", "<p><a https://x.org/a?b=1>Peru</a></p>"],
    ["[*Peru*](<http://x.org/a b>)", "<p><a http://x.org/a%20b><em>Peru</em></a></p>"],
    ["![a map](https://x.org/map.png)", "<p><a https://x.org/map.png>a map</a></p>"],
    ["see https://x.org/a_b_c and www.y.org.", "<p>see <a https://x.org/a_b_c>https://x.org/a_b_c</a> and <a https://www.y.org/>www.y.org</a>.</p>"],
    ["<https://x.org>", "<p><a https://x.org/>https://x.org</a></p>"],
    ["\\*a\\* &amp; &#65;&#x42; &unknown; 1 < 2", "<p>*a* & AB &unknown; 1 < 2</p>"],
    ["[1] and [x][y] and [^1]", "<p>[1] and [x][y] and [^1]</p>"],
    ["[a]: https://x.org", "<p raw>[a]: https://x.org</p>"],
    ["", ""],
  ];
  for (const [text, expected] of cases) assert.equal(await draw(text), expected, text);
});

test("hostile text stays text", async () => {
  const cases = [
    ["<script>alert(1)</script>", "<p raw><script>alert(1)</script></p>"],
    ["a <img src=x onerror=alert(1)> b", "<p>a <img src=x onerror=alert(1)> b</p>"],
    ["[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"],
    ["[x](JaVaScRiPt&#58;alert(1))", "<p>[x](JaVaScRiPt&#58;alert(1))</p>"],
    ["[x](data:text/html,<b>)", "<p>[x](data:text/html,<b>)</p>"],
    ["[x](//evil.org) [y](/v1/models) [z](ftp://x)", "<p>[x](//evil.org) [y](/v1/models) [z](ftp://x)</p>"],
    ["<javascript:alert(1)>", "<p>javascript:alert(1)</p>"],
    ["<style>*{display:none}</style>", "<p raw><style>*{display:none}</style></p>"],
  ];
  for (const [text, expected] of cases) {
    const got = await page.evaluate((text) => {
      const { element } = drawn(text);
      return { html: shown(element), others: element.querySelectorAll(":not(p)").length };
    }, text);
    assert.deepEqual(got, { html: expected, others: 0 });
  }
});

test("of any text no word is lost or doubled, no element is another than Markdown's, and pieces give what the whole gives", async () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  const told = await page.evaluate((seed) => {
    let state = seed;
    const random = (below) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const SYNTAX = [
      "\n", "\n", "\n\n", "\n\n", " ", " ", "  \n", "\t", "    ", "*", "**", "***", "_", "~~", "`", "``", "```", "\n```js\n", "~~~\n", "# ", "### ", "\n===\n", "\n---\n",
      "- ", "* ", "1. ", "2) ", "- [ ] ", "- [x] ", "> ", ">", "|", "| ", "\n|---|:-:|\n", "[", "]", "](", "](https://x.org/", ")", "![", "<", ">", "<b>", "</b>", "<div>\n", "<!-- ", " -->",
      "<script>", "https://", "www.", "javascript:", "\\", "\\\n", "&amp;", "&#65;", "&#0;", "&lt;", "\"", "'", "[a]: ", "é", "🇵🇪", "\u0000", "\r\n", "~", "=", "+", "$",
    ];
    const ELEMENTS = new Set("P H3 H4 H5 H6 UL OL LI BLOCKQUOTE EM STRONG DEL CODE PRE A BR HR TABLE THEAD TBODY TR TH TD DIV SPAN BUTTON I".split(" "));
    const ATTRIBUTES = new Set("class href target rel title start scope tabindex role aria-label type".split(" "));
    const faults = [];
    let marked = 0;
    for (let round = 0; round < 1500 && !faults.length; round += 1) {
      let text = "";
      let words = 0;
      for (let part = random(40) + 1; part > 0; part -= 1) text += random(3) ? SYNTAX[random(SYNTAX.length)] : `w${words++}w`;
      const marks = Array.from({ length: random(4) }, () => random(text.length + 1)).sort((a, b) => a - b);
      const pieces = [...Array.from({ length: random(6) }, () => random(text.length + 1)), text.length].sort((a, b) => a - b);
      const fault = (what) => faults.push(`${what}: ${JSON.stringify(text)} with marks at ${marks}`);
      const { element, markdown, nodes } = drawn(text, marks);
      for (const node of nodes) node.textContent = "";
      const all = [...element.querySelectorAll("*")];
      for (const one of all) {
        if (!ELEMENTS.has(one.tagName)) fault(`<${one.tagName}>`);
        for (const { name } of one.attributes) if (!ATTRIBUTES.has(name)) fault(`attribute ${name}`);
        if (one.tagName === "A" && !(/^https?:$/.test(one.protocol) && one.rel === "noopener noreferrer")) fault(`a link to ${one.href}`);
      }
      const attributes = all.flatMap((one) => [one.getAttribute("href") ?? "", one.getAttribute("title") ?? ""]).join("\n");
      for (let word = 0; word < words; word += 1) {
        const shown = element.textContent.split(`w${word}w`).length - 1;
        if (shown > 1) fault(`w${word}w is doubled`);
        if (shown === 0 && !attributes.includes(`w${word}w`)) fault(`w${word}w is lost`);
      }
      // Marks are there once, in their order, behind what was written before them and before the rest.
      if (nodes.some((node) => !element.contains(node))) fault("a mark is lost");
      const walk = document.createTreeWalker(element, NodeFilter.SHOW_ALL);
      let passed = 0;
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        if (node === nodes[passed]) passed += 1;
        const place = markdown.places.get(node);
        if (place === undefined) continue;
        if (passed < marks.length && place >= marks[passed]) fault(`mark ${passed} is late`);
        if (passed > 0 && place < marks[passed - 1] && place + node.length > marks[passed - 1] && text.slice(place, place + node.length) === node.data) fault(`mark ${passed - 1} is early`);
      }
      if (passed !== marks.length) fault("marks are out of order");
      marked += marks.length;
      const grown = drawn(text, marks, pieces).element;
      for (const node of grown.querySelectorAll("i")) node.textContent = "";
      if (grown.outerHTML !== element.outerHTML) fault(`pieces ${pieces} give something else`);
    }
    return { faults: faults.slice(0, 1), marked };
  }, seed);
  assert.deepEqual(told.faults, [], `SEED=${seed}`);
  assert.ok(told.marked > 1000);
});

test("long and deeply nested texts take no long time and no stack", async () => {
  const slowest = await page.evaluate(() => {
    const hostile = [">".repeat(20_000), "*a **b ".repeat(5_000), "[".repeat(20_000), "- ".repeat(5_000), "`".repeat(20_000), "|".repeat(20_000), "![](".repeat(5_000), "a\n".repeat(20_000)];
    return Math.max(...hostile.map((text) => {
      const began = performance.now();
      drawn(text);
      return performance.now() - began;
    }));
  });
  assert.ok(slowest < 3000, `${slowest} ms`);
});

test("marks stand where the model searched, and spans are what it wrote, whatever is drawn around them", async () => {
  const text = "Peru\u2019s capital is **Lima**.\n\n- \u{1f1f5}\u{1f1ea} *sol*\n\n```\ncode\n```\n";
  const at = (word) => text.indexOf(word);
  assert.equal(
    await draw(text, [0, at("Lima"), at("sol"), at("```"), text.length]),
    "<p><i><0></i>Peru\u2019s capital is <strong><i><1></i>Lima</strong>.</p><ul><li><p>\u{1f1f5}\u{1f1ea} <em><i><2></i>sol</em></p></li></ul><p><i><3></i></p><pre><code>code</code></pre><p><i><4></i></p>".replace(
      "<p><i><4></i></p>",
      "",
    ).replace("code</code>", "code<i><4></i></code>"),
  );
  const spans = await page.evaluate(([text, spans]) => {
    const { element, markdown } = drawn(text);
    document.body.append(element);
    const said = spans.map(([from, to]) => String(markdown.range(from, to)));
    element.remove();
    return said;
  }, [text, [[at("capital"), at("**.")], [at("Lima"), at("sol") + 3], [at("**.") , at("**.") + 2]]]);
  assert.deepEqual(spans, ["capital is Lima", "Lima.\u{1f1f5}\u{1f1ea} sol", "null"]);
});

test("what was written after a passage stands out while its search or its card is pointed at", async () => {
  const page = await browser.open(server.url);
  const passages = [{ id: "p", title: "P", url: null, score: 0.5 }];
  const receipt = (index) => ({ index, at_token: index, collection: "default", passages, query_tokens_reencoded: 0, search_ms: 0.1, splice_tokens: 3, splice_ms: 1 });
  const citation = (start_index, end_index) => ({ type: "url_citation", url_citation: { start_index, end_index, url: "onegen://passage/p", title: "P" } });
  await answerWith(page, events(
    chunk({}, { onegen: { retrieval: receipt(0) } }),
    chunk({ content: "\u{1f1f5}\u{1f1ea} **Li" }), chunk({ content: "ma**.\n\n" }),
    chunk({}, { onegen: { retrieval: receipt(1) } }),
    // The server counts characters: the flag is two of them, and four code units.
    chunk({ content: "Its *currency* is the sol." }), chunk({ annotations: [citation(0, 12), citation(14, 40)] }), end, "[DONE]",
  ));
  await ask(page, "And?");
  const lit = () => page.evaluate(() => [...(CSS.highlights.get("read") ?? [])].map(String).join());
  assert.equal(await lit(), "");
  await page.hover(".retrieval >> nth=0");
  assert.equal(await lit(), "\u{1f1f5}\u{1f1ea} Lima.");
  await page.hover(".card >> nth=1");
  assert.equal(await lit(), "Its currency is the sol.");
  await page.mouse.move(0, 0);
  assert.equal(await lit(), "");
  await page.focus(".retrieval >> nth=1");
  assert.equal(await lit(), "Its currency is the sol.");
  assert.equal(await page.locator("#status").innerText(), "\u{1f1f5}\u{1f1ea} Lima. Its currency is the sol. Read: P, P.");
});

test("code and answers are copied as they were written", async () => {
  const page = await browser.open(server.url);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  const text = "Run **this**:\n\n```sh\necho 1\n  echo 2\n```\n";
  await answerWith(page, events(chunk({ content: text }), end, "[DONE]"));
  await ask(page, "How?");
  const copied = () => page.evaluate(() => navigator.clipboard.readText());
  await page.click("[aria-label='Copy code']");
  await page.locator("[aria-label='Copy code']:text('Copied')").waitFor();
  assert.equal(await copied(), "echo 1\n  echo 2");
  await page.click("[aria-label='Copy answer']");
  await page.locator("[aria-label='Copy answer']:text('Copied')").waitFor();
  assert.equal(await copied(), text);
  assert.deepEqual(await texts(page, ".code-head span"), ["sh"]);
});
