// Draws Markdown in an element while the text grows.
//
// The parser reports the position of every node in the text, so that marks (where the model searched) and
// spans (what it wrote after a passage) can be put at their exact places.

import { Drawing, children } from "./drawing.js";
import { GFM, parser } from "./lezer-markdown.js";

const MARKDOWN = parser.configure([GFM]);

/** Markdown in `element`, drawn anew as its text grows; blocks that have not changed stay. */
export class Markdown {
  constructor(element) {
    this.element = element;
    /** What is drawn, from the top: `{key, nodes, levels}`. */
    this.blocks = [];
    /** Text nodes to their places in the text. */
    this.places = new WeakMap();
  }

  /** Shows `text` with `marks`, `{at, node}` in their order: nodes that stand before character `at`. */
  draw(text, marks = []) {
    const focused = this.element.contains(document.activeElement) ? document.activeElement : null;
    const tops = children(MARKDOWN.parse(text).topNode);
    // A text that is nothing but marks, or nothing yet.
    if (!tops.length && marks.length) tops.push({ name: "Paragraph", from: 0, to: 0, firstChild: null });
    const blocks = tops.map((node, at) => {
      const next = tops[at + 1];
      const here = marks.filter((mark) => (at === 0 || mark.at >= tops[at - 1].to) && (!next || mark.at < node.to));
      const key = [node.name, node.from, text.slice(node.from, node.to), ...here.map((mark) => mark.at)].join("\n");
      return { key, node, marks: here };
    });
    let same = 0;
    while (same < blocks.length && this.blocks[same]?.key === blocks[same].key) same += 1;
    for (const { nodes } of this.blocks.splice(same)) for (const node of nodes) node.remove();
    for (const { key, node, marks } of blocks.slice(same)) {
      const levels = [...(this.blocks.at(-1)?.levels ?? [])];
      const nodes = new Drawing(text, [...marks], this.places, levels).top(node);
      this.element.append(...nodes);
      this.blocks.push({ key, nodes, levels });
    }
    if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }

  /** What is shown of the text, without marks, block by block. */
  plain() {
    return this.blocks.map(({ nodes }) => nodes.map((node) => this.own(node).join("")).join(" ")).join(" ");
  }

  own(node) {
    if (node.nodeType === Node.TEXT_NODE) return this.places.has(node) ? [node.data] : [];
    return [...node.childNodes].flatMap((child) => this.own(child));
  }

  /** What is shown of the text between two of its places, or null. */
  range(from, to) {
    const range = document.createRange();
    let begun = false;
    const walk = document.createTreeWalker(this.element, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
      const place = this.places.get(node);
      if (place === undefined || place >= to || place + node.length <= from) continue;
      if (!begun) range.setStart(node, Math.max(0, from - place));
      begun = true;
      range.setEnd(node, Math.min(node.length, to - place));
    }
    return begun ? range : null;
  }
}
