// Draws a block of Markdown as elements. Only the kinds of elements that are created here can occur.
//
// No text is lost: text without its own drawing, such as HTML, is shown unchanged.

import { button, make } from "./dom.js";
import { webAddress } from "./links.js";

/** Elements of nodes that hold text and others of their kind. */
const ELEMENTS = {
  Paragraph: "p",
  Task: "p",
  Blockquote: "blockquote",
  BulletList: "ul",
  ListItem: "li",
  Emphasis: "em",
  StrongEmphasis: "strong",
  Strikethrough: "del",
};
/** Syntax that is not shown. */
const SILENT = new Set(["EmphasisMark", "StrikethroughMark", "HeaderMark", "QuoteMark", "ListMark", "CodeMark"]);
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: "\"", apos: "'", nbsp: "\u00a0" };
const COPIED_MS = 1500;
/** Text that is nested more deeply is shown unchanged. */
const DEEPEST = 40;

/** One block while it is drawn. */
export class Drawing {
  constructor(text, marks, places, levels) {
    this.text = text;
    this.marks = marks;
    this.places = places;
    /** Of the headings that the text stands under. */
    this.levels = levels;
    /** Where text was put last. */
    this.last = null;
    this.depth = 0;
  }

  /** The elements of a node at the top: itself, and marks that found no text to stand in. */
  top(node) {
    const root = document.createDocumentFragment();
    this.block(node, root);
    if (this.marks.length) {
      const place = this.last?.isConnected || root.contains(this.last) ? this.last : null;
      const end = place ?? root.appendChild(make("p"));
      end.append(...this.marks.map((mark) => mark.node));
    }
    return [...root.childNodes];
  }

  block(node, parent) {
    const { name } = node;
    if (this.depth > DEEPEST) return this.raw(node, parent);
    this.depth += 1;
    if (/Heading/.test(name)) {
      this.inline(node, parent.appendChild(make(this.heading(Number(name.at(-1))))), true);
    } else if (name === "Paragraph" || name === "Task") {
      this.inline(node, parent.appendChild(make("p")));
    } else if (name === "OrderedList") {
      const start = parseInt(this.text.slice(node.from), 10);
      this.blocks(node, parent.appendChild(make("ol", { start: start === 1 ? null : start })));
    } else if (ELEMENTS[name]) {
      this.blocks(node, parent.appendChild(make(ELEMENTS[name])));
    } else if (name === "FencedCode" || name === "CodeBlock") {
      this.code(node, parent);
    } else if (name === "Table") {
      this.table(node, parent);
    } else if (name === "HorizontalRule") {
      parent.append(make("hr"));
    } else if (!SILENT.has(name)) {
      // HTML, and addresses that others refer to.
      this.raw(node, parent);
    }
    this.depth -= 1;
  }

  raw(node, parent) {
    this.put(parent.appendChild(make("p", { class: "raw" })), node.from, node.to);
  }

  /** Below the page's own headings, and never two levels deeper than the one before. */
  heading(level) {
    while (this.levels.at(-1) >= level) this.levels.pop();
    this.levels.push(level);
    return `h${Math.min(6, this.levels.length + 2)}`;
  }

  blocks(node, parent) {
    for (const child of children(node)) this.block(child, parent);
  }

  code(node, parent) {
    const parts = children(node);
    const info = parts.find(({ name }) => name === "CodeInfo");
    const code = make("code");
    if (this.marks.some((mark) => mark.at <= node.from)) this.flush(parent.appendChild(make("p")), node.from);
    for (const part of parts) if (part.name === "CodeText") this.put(code, part.from, part.to);
    const language = info ? this.text.slice(info.from, info.to) : "";
    const head = make("div", { class: "code-head" }, make("span", {}, language));
    if (navigator.clipboard) head.append(copier("Copy code", () => code.textContent));
    const label = language ? `Code, ${language}` : "Code";
    parent.append(make("div", { class: "code" }, head, make("pre", { tabindex: "0", role: "region", "aria-label": label }, code)));
  }

  table(node, parent) {
    const table = make("table");
    let aligned = [];
    let body = null;
    for (const row of children(node)) {
      if (row.name === "TableDelimiter") {
        const columns = this.text.slice(row.from, row.to).replace(/^\s*\||\|\s*$/g, "").split("|");
        aligned = columns.map((column) => alignment(column.trim()));
        [...table.querySelectorAll("th")].forEach((cell, at) => aligned[at] && cell.classList.add(aligned[at]));
      } else {
        const head = row.name === "TableHeader";
        const tr = make("tr");
        for (const [at, cell] of this.cells(row).entries()) {
          const element = tr.appendChild(make(head ? "th" : "td", { scope: head && "col", class: aligned[at] }));
          if (cell) this.inline(cell, element);
        }
        if (head) table.append(make("thead", {}, tr));
        else (body ??= table.appendChild(make("tbody"))).append(tr);
      }
    }
    parent.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, table));
  }

  /** The cells of a row, null for one that is empty. */
  cells(row) {
    const cells = [];
    let cell = null;
    let begun = false;
    for (const part of children(row)) {
      if (part.name !== "TableDelimiter") {
        cell = part;
      } else {
        // A row may begin with a line or without one.
        if (begun || cell) cells.push(cell);
        cell = null;
      }
      begun = true;
    }
    if (cell) cells.push(cell);
    return cells;
  }

  /** The text of a node with what is marked up in it; `trims` the space around it. */
  inline(node, parent, trims = false) {
    let from = node.from;
    let to = node.to;
    const parts = children(node);
    const [first] = parts;
    const last = parts.at(-1);
    if (trims) {
      if (first?.name === "HeaderMark" && first.from === from) {
        from = parts.shift().to;
        from += this.text.slice(from, to).match(/^\s*/)[0].length;
      }
      if (last?.name === "HeaderMark" && parts.includes(last)) {
        parts.pop();
        to = from + this.text.slice(from, last.from).trimEnd().length;
      }
    }
    this.between(parts, from, to, parent);
  }

  between(parts, from, to, parent) {
    let at = from;
    for (const part of parts) {
      this.put(parent, at, part.from);
      this.part(part, parent);
      at = part.to;
    }
    this.put(parent, at, to);
  }

  part(part, parent) {
    const { name, from, to } = part;
    const source = this.text.slice(from, to);
    if (SILENT.has(name)) return;
    if (this.depth > DEEPEST) return this.put(parent, from, to);
    this.depth += 1;
    if (name === "InlineCode") {
      const code = parent.appendChild(make("code"));
      this.between(children(part), from, to, code);
    } else if (name === "HardBreak") {
      parent.append(make("br"));
    } else if (name === "Escape") {
      this.put(parent, from + 1, to);
    } else if (name === "Entity") {
      this.put(parent, from, to, entity(source));
    } else if (name === "TaskMarker") {
      this.put(parent, from, to, /x/i.test(source) ? "\u2611" : "\u2610");
    } else if (name === "Link" || name === "Image") {
      this.link(part, parent);
    } else if (name === "URL") {
      this.address(source, parent, from, to);
    } else if (name === "Autolink") {
      this.address(source.slice(1, -1), parent, from + 1, to - 1);
    } else if (ELEMENTS[name]) {
      this.between(children(part), from, to, parent.appendChild(make(ELEMENTS[name])));
    } else {
      this.put(parent, from, to);
    }
    this.depth -= 1;
  }

  /** `[text](address)`, an image too: nothing is loaded from elsewhere. Without an address of the web it is text. */
  link(part, parent) {
    const parts = children(part);
    const url = parts.find(({ name }) => name === "URL");
    const href = url && webAddress(unescaped(this.text.slice(url.from, url.to)));
    const end = parts.findIndex(({ name, from }) => name === "LinkMark" && this.text[from] === "]");
    if (!href || end < 1) return this.put(parent, part.from, part.to);
    const title = parts.find(({ name }) => name === "LinkTitle");
    const link = anchor(href);
    if (title) link.title = this.text.slice(title.from + 1, title.to - 1);
    if (parts[0].to === parts[end].from) this.put(link, url.from, url.to);
    else this.between(parts.slice(1, end), parts[0].to, parts[end].from, link);
    parent.append(link);
  }

  address(address, parent, from, to) {
    const href = webAddress(/^www\./i.test(address) ? `https://${address}` : address);
    this.put(href ? parent.appendChild(anchor(href)) : parent, from, to);
  }

  /** Text from one place to another, and the marks that stand in it. */
  put(parent, from, to, shown = null) {
    if (from >= to) return;
    this.flush(parent, from);
    this.last = parent;
    if (shown !== null) return this.node(parent, shown, from);
    let at = from;
    while (this.marks.length && this.marks[0].at < to) {
      this.node(parent, this.text.slice(at, this.marks[0].at), at);
      at = this.marks[0].at;
      this.flush(parent, at);
    }
    this.node(parent, this.text.slice(at, to), at);
  }

  node(parent, shown, place) {
    if (!shown) return;
    const node = document.createTextNode(shown);
    this.places.set(node, place);
    parent.append(node);
  }

  /** The marks up to a place. */
  flush(parent, to) {
    while (this.marks.length && this.marks[0].at <= to) parent.append(this.marks.shift().node);
  }
}

/** The nodes directly below one. */
export function children(node) {
  const all = [];
  for (let child = node.firstChild; child; child = child.nextSibling) all.push(child);
  return all;
}

function alignment(column) {
  if (!column.endsWith(":")) return null;
  return column.startsWith(":") ? "center" : "right";
}

/** A character reference as what it means, where that is known without a browser's help. */
function entity(source) {
  const code = source.match(/^&#(?:x([0-9a-f]{1,6})|(\d{1,7}));$/i);
  if (!code) return ENTITIES[source.slice(1, -1)] ?? source;
  const point = parseInt(code[1] ?? code[2], code[1] ? 16 : 10);
  const fits = point > 0 && point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff);
  return fits ? String.fromCodePoint(point) : "\ufffd";
}

const unescaped = (address) => address.replace(/^<|>$/g, "").replace(/\\([!-/:-@[-`{-~])/g, "$1");

function anchor(href) {
  return make("a", { href, target: "_blank", rel: "noopener noreferrer" });
}

/** A button that copies what `text` gives. */
export function copier(label, text) {
  const copy = button("Copy", { class: "quiet copy", "aria-label": label }, async () => {
    const copied = await navigator.clipboard.writeText(text()).then(() => true, () => false);
    copy.textContent = copied ? "Copied" : "Not allowed";
    setTimeout(() => (copy.textContent = "Copy"), COPIED_MS);
  });
  return copy;
}
