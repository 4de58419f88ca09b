// One question and its answer, drawn while it comes.

import { icon, make } from "./dom.js";
import { alsoFound, passageCard } from "./passages.js";
import { receipt } from "./receipt.js";
import { text } from "./store.js";

const LENS = "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20 20";

/** The view of a turn: `element` shows what the turn holds, and the methods what happens to it. */
export class TurnView {
  /** `again(turn)` asks the turn's question once more. */
  constructor(turn, again) {
    this.turn = turn;
    this.again = again;
    this.retrievals = [];
    this.text = make("div", { class: "text" });
    this.after = make("div", { class: "after" });
    this.answer = make("article", { class: "answer" }, make("h2", { class: "hidden" }, "Answer"), this.text, this.after);
    this.element = make(
      "li",
      { class: "turn" },
      make(
        "article",
        { class: "question" },
        make("h2", { class: "hidden" }, "You"),
        make("p", { class: "text" }, turn.question),
      ),
      this.answer,
    );
    turn.parts.forEach((part) => this.append(part));
    if (turn.state === "running") this.answer.setAttribute("aria-busy", "true");
    else this.end();
  }

  /** More text, or a retrieval, where it happened. */
  append(part) {
    if (part.retrieval) {
      this.text.append(this.mark(part.retrieval));
    } else if (this.text.lastChild?.nodeType === Node.TEXT_NODE) {
      this.text.lastChild.appendData(part.text);
    } else {
      this.text.append(part.text);
    }
  }

  /** A retrieval in the text, which leads to its passage. */
  mark(retrieval) {
    const number = this.retrievals.push(retrieval);
    const [found] = retrieval.passages;
    const title = found.title || found.id;
    const button = make(
      "button",
      { type: "button", class: "retrieval", title: "Searched here. Shows the passage that was read" },
      icon(LENS),
      make("span", { class: "hidden" }, `Search ${number} found: `),
      make("span", { class: "found" }, title),
      make("sup", { "aria-hidden": "true" }, String(number)),
    );
    button.addEventListener("click", () => this.reveal(number - 1));
    return button;
  }

  reveal(at) {
    const card = this.after.querySelectorAll(".card")[at];
    card?.focus({ preventScroll: true });
    card?.scrollIntoView({ block: "nearest" });
  }

  /** Everything that is known at the end: sources, the receipt, or why there is none. */
  end() {
    const { turn } = this;
    this.answer.removeAttribute("aria-busy");
    this.answer.classList.add(turn.state);
    this.after.replaceChildren();
    if (turn.state !== "done") this.after.append(this.halt());
    if (turn.notice) this.after.append(make("p", { class: "notice" }, turn.notice));
    if (turn.finish === "length") {
      this.after.append(make("p", { class: "notice" }, "The answer was cut off: there is no room for more tokens."));
    }
    if (this.retrievals.length) this.after.append(this.sources());
    if (turn.usage) this.after.append(receipt(turn, this.retrievals));
  }

  halt() {
    const { turn } = this;
    const said = turn.state === "failed" ? turn.error : "Stopped. The conversation goes on without this turn.";
    const again = make("button", { type: "button", class: "quiet" }, "Ask again");
    again.addEventListener("click", () => this.again(turn));
    return make("div", { class: `halt ${turn.state}` }, make("p", {}, said), again);
  }

  sources() {
    const { question } = this.turn;
    const cards = this.retrievals.map((retrieval, at) => {
      const [read, ...others] = retrieval.passages;
      const card = passageCard(at + 1, read, retrieval.collection, this.textAfter(at), question);
      if (others.length) card.append(alsoFound(others));
      return card;
    });
    return make(
      "section",
      { class: "sources" },
      make("h3", {}, "What was read"),
      make("p", { class: "faint" }, "Marked is the sentence that shares most words with the answer."),
      make("ol", {}, ...cards),
    );
  }

  /** The text between a retrieval and the next one. */
  textAfter(at) {
    const places = this.turn.parts.flatMap((part, place) => (part.retrieval ? [place] : []));
    return text({ parts: this.turn.parts.slice(places[at], places[at + 1]) });
  }
}
