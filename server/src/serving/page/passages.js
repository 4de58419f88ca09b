// Passages that were found: cards with their text, and the sentence that answers marked in it.

import { passageText } from "./api.js";
import { make } from "./dom.js";
import { webAddress } from "./links.js";
import { likeliest, sentences } from "./sentences.js";

/** A longer passage is shown around its marked sentence at first. */
const SHORT_CHARACTERS = 420;

/** The card of a passage that the model has read; its text is fetched. */
export function passageCard(number, passage, collection, answer, question) {
  const body = make("div", { class: "passage", "aria-live": "off" });
  const card = make(
    "li",
    { class: "card", tabindex: "-1" },
    make(
      "div",
      { class: "card-head" },
      make("span", { class: "number", "aria-hidden": "true" }, String(number)),
      make("h4", {}, ...titled(passage)),
      scored(passage.score),
    ),
    body,
  );
  passageText(passage.id, collection).then(({ text, why }) => {
    body.append(...(why ? [make("p", { class: "faint" }, why)] : marked(text, answer, question)));
  });
  return card;
}

/** The other passages that the search found. The model has not read them. */
export function alsoFound(passages) {
  const items = passages.map((passage) => make("li", {}, ...titled(passage), " ", scored(passage.score, false)));
  return make("div", { class: "also" }, make("span", { class: "faint" }, "Also found, not read:"), make("ul", {}, ...items));
}

/** A title, as a link where the passage has an address in the web. */
function titled(passage) {
  const title = passage.title || passage.id;
  const href = webAddress(passage.url);
  if (!href) return [title];
  return [
    make(
      "a",
      { href, target: "_blank", rel: "noopener noreferrer" },
      title,
      make("span", { class: "hidden" }, " (opens in a new tab)"),
    ),
  ];
}

function scored(score, bar = true) {
  const said = score.toFixed(2);
  const number = make("span", { class: "score", title: "Cosine of the query embedding and the passage's" });
  if (bar) {
    const filled = make("span");
    filled.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
    number.append(make("span", { class: "bar", "aria-hidden": "true" }, filled));
  }
  number.append(make("span", { class: "hidden" }, "score "), said);
  return number;
}

/** The text with the likeliest sentence marked, whole or around it. */
function marked(text, answer, question) {
  const parts = sentences(text);
  const at = likeliest(parts, answer, question);
  const shown = make("p", {});
  const draw = (from, to) => {
    const pieces = parts.map((part, index) => (index === at ? sentence(part) : part)).slice(from, to);
    if (from > 0) pieces.unshift("… ");
    if (to < parts.length) pieces.push("…");
    shown.replaceChildren(...pieces);
  };
  draw(0, parts.length);
  if (text.length <= SHORT_CHARACTERS) return [shown];

  const middle = Math.max(at, 1);
  draw(middle - 1, middle + 2);
  const more = make("button", { type: "button", class: "quiet more", "aria-expanded": "false" }, "Show all of it");
  more.addEventListener("click", () => {
    const all = more.getAttribute("aria-expanded") === "false";
    more.setAttribute("aria-expanded", String(all));
    more.textContent = all ? "Show less" : "Show all of it";
    if (all) draw(0, parts.length);
    else draw(middle - 1, middle + 2);
  });
  return [shown, more];
}

/** A marked sentence; the space after it is not part of the mark. */
function sentence(part) {
  const trimmed = part.trimEnd();
  const both = document.createDocumentFragment();
  both.append(make("mark", {}, trimmed), part.slice(trimmed.length));
  return both;
}
