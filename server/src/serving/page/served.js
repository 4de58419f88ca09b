// Shows the served model and its collections.

import * as api from "./api.js";
import { button, byId, count, make } from "./dom.js";

/** Example questions, which only suit the model that comes with onegen. */
const EXAMPLES = {
  almanac: [
    "What is the capital of Peru?",
    "Which language do people speak in Chile, and what is its currency?",
    "What is the symbol of gold?",
    "What is the capital of the country of K2?",
  ],
};

/** The last response of `/readyz`. */
let served = null;

/** The model, as requests name it, once that is known. */
export const model = () => served?.model;

/** Whether there is a choice of collections. */
export const hasCollections = () => served?.collections.length > 1;

/** Asks the server and shows what it said, for a conversation; `ask(question)` asks an example. */
export async function meet(conversation, ask) {
  try {
    served = await api.readiness();
    const { model, passages, collections } = served;
    const named = collections.length > 1 ? ` in ${count(collections.length, "collection")}` : "";
    byId("served").textContent = passages
      ? `${model}, over ${count(passages, "passage")}${named}.`
      : `${model}, over no passages yet: searches find nothing, it answers from what it has learned.`;
    byId("collection").replaceChildren(...collections.map(({ name }) => make("option", { value: name }, name)));
    byId("collections").hidden = collections.length < 2;
    showCollection(conversation);
    if (!byId("examples").childElementCount) await offerExamples(ask);
  } catch (error) {
    byId("served").textContent = error instanceof api.AskError ? error.message : "The server's state cannot be read.";
  }
}

async function offerExamples(ask) {
  const card = await api.model().catch(() => null);
  const items = (EXAMPLES[card?.root] ?? []).map((example) => make("li", {}, button(example, {}, () => ask(example))));
  byId("examples").replaceChildren(...items);
}

/** Shows the collection that a conversation searches, else the default one. */
export function showCollection(conversation) {
  const select = byId("collection");
  const known = served?.collections.some(({ name }) => name === conversation?.collection);
  if (known) select.value = conversation.collection;
  else select.selectedIndex = 0;
}
