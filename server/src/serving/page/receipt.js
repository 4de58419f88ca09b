// The receipt of an answer: its tokens and times, as the server measured them.

import { count, make } from "./dom.js";

/** The receipt of a turn that is done. */
export function receipt(turn, retrievals) {
  const again = retrievals.reduce((sum, retrieval) => sum + retrieval.query_tokens_reencoded, 0);
  const searched = retrievals.length === 1 ? "1 search" : `${retrievals.length} searches`;
  const said = retrievals.length
    ? `${searched}, query tokens forwarded again: ${again}`
    : "no search";
  const details = make("details", { class: "receipt" }, make("summary", {}, `Receipt: ${said}`));
  if (retrievals.length) details.append(searches(retrievals));
  details.append(turn.usage ? usage(turn) : make("p", {}, "The stream was lost: how many tokens were read and written is not known."));
  return details;
}

/** How many tokens were spliced, and how many of them needed no forward. */
function spliced(retrieval) {
  const kept = retrieval.splice_tokens - retrieval.splice_forwarded;
  const from = { memory: "kept in memory", disk: "kept on the disk" }[retrieval.passage_kv];
  return from ? `${retrieval.splice_tokens}, ${kept} ${from}` : String(retrieval.splice_tokens);
}

function searches(retrievals) {
  const heads = ["Search", "Query tokens forwarded again", "Search time", "Tokens spliced in", "Splice time"];
  const rows = retrievals.map((retrieval, at) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, retrieval.collection === "default" ? String(at + 1) : `${at + 1} in ${retrieval.collection}`),
      ...[
        String(retrieval.query_tokens_reencoded),
        milliseconds(retrieval.search_ms),
        spliced(retrieval),
        milliseconds(retrieval.splice_ms),
      ].map((value) => make("td", {}, value)),
    ),
  );
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Searches of this answer" },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows),
    ),
  );
}

function usage({ usage, times }) {
  const details = usage.prompt_tokens_details;
  const facts = [
    ["Tokens read", `${usage.prompt_tokens}, of them ${details.passage_tokens} of passages and ${details.cached_tokens} from the KV-cache`],
    ["Tokens written", String(usage.completion_tokens)],
    ["Conversation", `${count(usage.total_tokens, "token")} long`],
  ];
  if (times) facts.push(["As this browser saw it", `first text after ${milliseconds(times.first)}, end after ${milliseconds(times.end)}`]);
  return make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value >= 100 ? Math.round(value) : value.toFixed(value >= 10 ? 1 : 2)} ms`;
}
