// A conversation as a Markdown file.

import { make } from "./dom.js";
import { webAddress } from "./links.js";
import { retrievals } from "./store.js";

/** Saves a conversation as a file. */
export function save(conversation) {
  const href = URL.createObjectURL(new Blob([markdown(conversation)], { type: "text/markdown" }));
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  make("a", { href, download: `${name || "conversation"}.md` }).click();
  setTimeout(() => URL.revokeObjectURL(href));
}

/** A conversation as Markdown: what was read for an answer stands in its footnotes. */
export function markdown({ title, turns }) {
  const notes = [];
  const blocks = turns.flatMap((turn) => {
    const first = notes.length;
    notes.push(...retrievals(turn).map(note));
    const lines = [`## ${line(turn.question)}`];
    // What a heading cannot hold.
    if (turn.question.includes("\n")) lines.push(turn.question.replace(/^/gm, "> "));
    lines.push(answer(turn, first));
    if (turn.state !== "done") lines.push(`*${turn.state === "failed" ? turn.error : "Stopped."}*`);
    return lines.filter(Boolean);
  });
  const footnotes = notes.map((text, at) => `[^${at + 1}]: ${text}`);
  return `${[`# ${line(title)}`, ...blocks, ...footnotes].join("\n\n")}\n`;
}

/** The text, with a footnote's mark behind what was written after each search. */
function answer({ parts }, first) {
  let said = "";
  let open = 0;
  const close = () => {
    // A mark behind a block of code or a table would be a part of it.
    if (open) said = `${said.trimEnd()}${/[`~|]$/.test(said.trimEnd()) ? "\n\n" : ""}[^${first + open}]`;
  };
  for (const part of parts) {
    if (part.retrieval) {
      close();
      open += 1;
    } else {
      said += part.text;
    }
  }
  close();
  return said.trim();
}

function note({ collection, passages: [{ id, title, url, score }] }) {
  const name = line(title || id).replace(/[[\]]/g, "\\$&");
  const href = webAddress(url);
  const named = href ? `[${name}](<${href}>)` : name;
  return `${named}, passage ${id} of ${collection}, score ${score.toFixed(2)}`;
}

const line = (text) => text.trim().replace(/\s+/g, " ");
