// One question and its answer, drawn while it comes.

import { button, icon, make, say } from "./dom.js";
import { copier } from "./drawing.js";
import { Markdown } from "./markdown.js";
import { alsoFound, passageCard } from "./passages.js";
import { receipt } from "./receipt.js";
import { retrievals, text } from "./store.js";

const LENS = "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20 20";
const PENCIL = "M5 19l1-4L16.5 4.5l3 3L9 18l-4 1z";
/** The shortest time between two redraws of an answer. */
const DRAW_MS = 30;
const LOST = "The connection was lost. Trying again…";
/** The name of the highlight in the stylesheet. */
const READ = "read";

/** The view of a turn: `element` shows what the turn holds, and the methods what happens to it. */
export class TurnView {
  /**
   * `actions` has what can be done: `again(turn)` asks for another answer, `edit(turn, question)` asks
   * something else in its place, `goOn(turn)` looks for the end of an answer that was lost, and
   * `other(turn, step)` shows another version; `versions(turn)` is `{at, of}`.
   */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.text = make("div", { class: "text" });
    this.markdown = new Markdown(this.text);
    this.marks = [];
    this.waiting = make("p", { class: "waiting", hidden: true }, LOST);
    this.after = make("div", { class: "after" });
    this.answer = make("article", { class: "answer" }, make("h2", { class: "hidden" }, "Answer"), this.text, this.waiting, this.after);
    this.asked = make("p", { class: "text" }, turn.question);
    this.question = make("article", { class: "question" }, make("h2", { class: "hidden" }, "You"), this.asked);
    this.element = make("li", { class: "turn" }, make("div", { class: "asked" }, this.editor(), this.question), this.answer);
    if (turn.state === "running") {
      this.answer.setAttribute("aria-busy", "true");
      this.draw();
    } else {
      this.end();
    }
  }

  /** The turn has grown. */
  grow() {
    this.drawing ??= setTimeout(() => this.draw(), DRAW_MS);
  }

  /** The turn begins again, or is another one now. */
  reset() {
    this.marks = [];
    this.markdown.draw("");
    this.draw();
  }

  /** Whether the page is waiting for the server. */
  wait(waits) {
    if (waits && this.waiting.hidden && this.element.isConnected) say(LOST);
    this.waiting.hidden = !waits;
  }

  draw() {
    clearTimeout(this.drawing);
    this.drawing = null;
    let at = 0;
    let number = 0;
    const marks = [];
    for (const part of this.turn.parts) {
      if (part.text) {
        at += part.text.length;
      } else {
        this.marks[number] ??= this.mark(part.retrieval, number);
        marks.push({ at, node: this.marks[number] });
        number += 1;
      }
    }
    this.markdown.draw(text(this.turn), marks);
  }

  /** A retrieval in the text, which leads to its passage. */
  mark(retrieval, at) {
    const [found] = retrieval.passages;
    const mark = button(icon(LENS), { class: "retrieval", title: "Searched here. Shows the passage that was read" }, () => this.reveal(at));
    mark.append(
      make("span", { class: "hidden" }, `Search ${at + 1} found: `),
      make("span", { class: "found" }, found.title || found.id),
      make("sup", { "aria-hidden": "true" }, String(at + 1)),
    );
    this.showsWritten(mark, at);
    return mark;
  }

  reveal(at) {
    const card = this.after.querySelectorAll(".card")[at];
    card?.focus({ preventScroll: true });
    card?.scrollIntoView({ block: "nearest" });
  }

  /** Shows what is known only at the end: sources, the receipt, or the reason why there is none. */
  end() {
    const { turn } = this;
    const found = retrievals(turn);
    this.draw();
    this.wait(false);
    this.answer.removeAttribute("aria-busy");
    this.answer.className = `answer ${turn.state}`;
    this.after.replaceChildren();
    if (turn.state !== "done") this.after.append(this.halt());
    if (turn.notice) this.after.append(make("p", { class: "notice" }, turn.notice));
    if (turn.finish === "length") {
      this.after.append(make("p", { class: "notice" }, "The answer was cut off: there is no room for more tokens."));
    }
    if (found.length) this.after.append(this.sources(found));
    if (turn.state === "done") this.after.append(receipt(turn, found));
    this.after.append(this.tools());
  }

  /** What can be done with an answer. */
  tools() {
    const { turn, actions } = this;
    const tools = make("div", { class: "tools" });
    if (navigator.clipboard && text(turn)) tools.append(copier("Copy answer", () => text(turn)));
    if (turn.state === "done") {
      tools.append(button("Answer again", { class: "quiet of-last" }, () => actions.again(turn)));
    }
    const { at, of } = actions.versions(turn);
    if (of > 1) {
      const step = (label, sign, by) => button(sign, { class: "quiet icon", "aria-label": label, disabled: !(at + by in Array(of).fill()) }, () => actions.other(turn, by));
      tools.append(
        make(
          "div",
          { class: "versions of-last", role: "group", "aria-label": "Versions" },
          step("Version before", "‹", -1),
          make("span", {}, `${at + 1} of ${of}`),
          step("Version after", "›", 1),
        ),
      );
    }
    return tools;
  }

  halt() {
    const { turn, actions } = this;
    const said = turn.state === "failed" ? turn.error : "Stopped. The conversation goes on without this turn.";
    const halt = make("div", { class: `halt ${turn.state}` }, make("p", {}, said));
    if (turn.state === "failed" && turn.doubtful) {
      halt.append(button("Look for its end", { class: "quiet of-last" }, () => actions.goOn(turn)));
    }
    halt.append(button("Ask again", { class: "quiet of-last" }, () => actions.edit(turn, turn.question)));
    return halt;
  }

  /** A button that has the question edited in its place. */
  editor() {
    const { turn, actions } = this;
    const edit = button(icon(PENCIL), { class: "quiet icon of-last edit", "aria-label": "Edit the question", title: "Edit the question" }, () => {
      const box = make("textarea", { "aria-label": "The question", rows: "1" });
      box.value = turn.question;
      const close = () => {
        form.replaceWith(this.question);
        edit.hidden = false;
      };
      const cancel = button("Cancel", { class: "quiet" }, () => {
        close();
        edit.focus();
      });
      const form = make("form", { class: "editing" }, box, make("div", { class: "actions" }, cancel, make("button", { type: "submit" }, "Ask")));
      const fit = () => {
        box.style.height = "auto";
        box.style.height = `${box.scrollHeight}px`;
      };
      box.addEventListener("input", fit);
      box.addEventListener("keydown", (event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          cancel.click();
        } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          form.requestSubmit();
        }
      });
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!box.value.trim()) return;
        close();
        actions.edit(turn, box.value);
      });
      this.question.replaceWith(form);
      edit.hidden = true;
      fit();
      box.focus();
    });
    return edit;
  }

  sources(found) {
    const { question } = this.turn;
    const cards = found.map((retrieval, at) => {
      const [read, ...others] = retrieval.passages;
      const card = passageCard(at + 1, read, retrieval.collection, this.textAfter(at), question);
      if (others.length) card.append(alsoFound(others));
      this.showsWritten(card, at);
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

  /** While a search or its passage is pointed at, what the model wrote after reading it stands out. */
  showsWritten(element, at) {
    if (!globalThis.Highlight) return;
    const show = () => {
      const range = this.markdown.range(...this.written(at));
      if (range) CSS.highlights.set(READ, new Highlight(range));
    };
    const hide = () => CSS.highlights.delete(READ);
    for (const event of ["pointerenter", "focus"]) element.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) element.addEventListener(event, hide);
  }

  /** Where the text stands that a retrieval's passage was read for. The server counts characters, not code units. */
  written(at) {
    const citation = this.turn.citations?.[at];
    if (!citation) return [0, 0];
    const characters = Array.from(text(this.turn));
    const place = (index) => characters.slice(0, index).join("").length;
    return [place(citation.start_index), place(citation.end_index)];
  }

  /** The text between a retrieval and the next one. */
  textAfter(at) {
    const places = this.turn.parts.flatMap((part, place) => (part.retrieval ? [place] : []));
    return text({ parts: this.turn.parts.slice(places[at], places[at + 1]) });
  }
}
