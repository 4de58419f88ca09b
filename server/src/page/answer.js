// One question put to the server, and its answer put into the turn as it comes.

import * as api from "./api.js";
import * as store from "./store.js";

/** A turn that was just stopped may hold its conversation for another moment. */
const BUSY_RETRIES = 10;
const BUSY_WAIT_MS = 150;

/** Why a conversation cannot go on as the server has it. */
const GONE = {
  conversation_not_found: "The server had forgotten this conversation.",
  conversation_holds_deleted_document: "A document that this conversation had read was deleted.",
};

/**
 * Streams the answer of `run`, which is `{conversation, turn, view, stop}`, into its turn and its
 * view. `served` is what `/readyz` said, `k` how many passages a search lists. Throws where the answer
 * does not come to its end.
 */
export async function answer(run, served, k) {
  const { conversation, turn } = run;
  const started = performance.now();
  const times = { first: null, end: null };
  for await (const chunk of chunks(run, served, k)) {
    const [choice] = chunk.choices;
    if (chunk.onegen?.retrieval) add(run, { retrieval: chunk.onegen.retrieval });
    if (choice?.delta.content) {
      times.first ??= performance.now() - started;
      add(run, { text: choice.delta.content });
    }
    if (choice?.finish_reason) turn.finish = choice.finish_reason;
    if (chunk.onegen?.conversation) conversation.server = chunk.onegen.conversation;
    if (chunk.usage) turn.usage = chunk.usage;
  }
  times.end = performance.now() - started;
  times.first ??= times.end;
  turn.times = times;
}

/** The answer's chunks, of a conversation that the server may not have any more or may still be busy with. */
async function* chunks({ conversation, turn, stop }, served, k) {
  for (let tries = 0; ; tries += 1) {
    try {
      return yield* api.chat(request(conversation, turn, served, k), stop.signal);
    } catch (error) {
      if (GONE[error.code] && conversation.server) {
        store.leave(conversation);
        turn.notice = `${GONE[error.code]} It goes on from what is shown here, without the passages read before.`;
      } else if (error.code === "conversation_busy" && tries < BUSY_RETRIES) {
        await new Promise((resolve) => setTimeout(resolve, BUSY_WAIT_MS));
      } else {
        throw error;
      }
    }
  }
}

function request(conversation, turn, served, k) {
  const asked = { role: "user", content: turn.question };
  const retrieval = { k };
  if (served.collections.length > 1 && conversation.collection) retrieval.collection = conversation.collection;
  return conversation.server
    ? { model: served.model, conversation: conversation.server, messages: [asked], retrieval }
    : { model: served.model, messages: [...store.messages(conversation), asked], retrieval };
}

function add({ turn, view }, part) {
  const last = turn.parts.at(-1);
  if (part.text && last?.text) last.text += part.text;
  else turn.parts.push({ ...part });
  view.append(part);
}
