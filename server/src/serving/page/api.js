// The page's requests to the server.

const KEY = "onegen.key";
/** The statuses of a proxy whose server is down. */
const AWAY = [502, 503, 504];
/** The error code of a server that is stopping and will usually be restarted. */
const LEAVING = "shutting_down";

/** Why an answer did not come, in words for people. */
export class AskError extends Error {
  /** `code` is the server's error code; `lost` means that it is unknown what the server has done. */
  constructor(message, { status = 0, code = null, lost = false } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.lost = lost;
  }
}

/** The API key, kept as long as the tab is open. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

function headers(more = {}) {
  return key.get() ? { ...more, authorization: `Bearer ${key.get()}` } : more;
}

async function ask(path, options = {}) {
  try {
    return await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new AskError("The server cannot be reached. Is it running?", { lost: true });
  }
}

async function answered(path, options) {
  const response = await ask(path, options);
  if (!response.ok) throw await refusal(response);
  return response;
}

const json = (method, body, signal, more) => ({
  method,
  headers: { "content-type": "application/json", ...more },
  body: JSON.stringify(body),
  signal,
});

const at = (conversation, rest = "") => `v1/conversations/${encodeURIComponent(conversation)}${rest}`;
const stream = (conversation, rest = "") => `v1/stream?conv_id=${encodeURIComponent(conversation)}${rest}`;

/** The state of the server from `/readyz`, also if it does not accept requests now. */
export async function readiness() {
  const response = await ask("readyz");
  // A server that shuts down answers with another status and the same body.
  if (!response.ok && response.status !== 503) throw await refusal(response);
  return response.json();
}

/** The served model's card. */
export async function model() {
  return (await (await answered("v1/models")).json()).data[0];
}

const documents = new Map();
/** Texts are fetched one after another, so that a page with many cards does not flood the server. */
let queue = Promise.resolve();

/** The text of a passage, which is fetched once: `{text}`, or `{why}` if the server does not return it. */
export function passageText(id, collection) {
  const path = `v1/documents/${encodeURIComponent(id)}?collection=${encodeURIComponent(collection)}`;
  if (!documents.has(path)) {
    const answer = queue.then(() => document(path)).catch(() => ({ why: "The passage's text did not arrive." }));
    queue = answer;
    documents.set(path, answer);
    // A text that is missing now may exist the next time.
    answer.then(({ why }) => why && documents.delete(path));
  }
  return documents.get(path);
}

async function document(path) {
  const response = await ask(path);
  if (response.ok) return { text: (await response.json()).text };
  if (response.status === 401 || response.status === 403) return { why: "This API key may not read passages." };
  if (response.status === 404) return { why: "The server does not have this passage any more." };
  return { why: "The server does not give this passage's text." };
}

/** Begins a conversation at the server and gives its id. */
export async function begin(signal) {
  return (await (await answered("v1/conversations", json("POST", {}, signal))).json()).id;
}

/** A copy of a conversation without its last question and answer, `{id, messages}`; null where nothing is left of it. */
export async function withoutLast(conversation, signal) {
  const items = await (await answered(at(conversation, "/items?limit=100"), { signal })).json();
  const last = items.data.filter((item) => item.type === "message")[2];
  if (!last) return null;
  const copy = await answered(at(conversation, "/fork"), json("POST", { after: last.id }, signal));
  const { id, onegen } = await copy.json();
  return { id, messages: onegen.messages };
}

/** How many messages the server's conversation holds. */
export async function messages(conversation, signal) {
  return (await (await answered(at(conversation), { signal })).json()).onegen.messages;
}

/** The last answer that the server's conversation holds: its text, and what was read for it. */
export async function lastAnswer(conversation, signal) {
  const items = await (await answered(at(conversation, "/items?limit=100"), { signal })).json();
  const [message, ...before] = items.data;
  const until = before.findIndex((item) => item.type === "message");
  const [{ text, annotations }] = message.content;
  const retrievals = before.slice(0, until < 0 ? before.length : until).map((item) => item.receipt);
  return { text, annotations, retrievals: retrievals.reverse() };
}

/** Deletes a conversation on the server. A failure is not an error. */
export async function forget(conversation) {
  await ask(at(conversation), { method: "DELETE" }).catch(() => {});
}

/**
 * Asks. Gives the response that streams the answer, which goes on whoever listens. Browsers send a
 * request again by themselves where a connection that was used before turns out to be closed: the key
 * has the server answer it once.
 */
export function chat(body, key, signal) {
  const all = { ...body, stream: true, resumable: true, stream_options: { include_usage: true } };
  return answered("v1/chat/completions", json("POST", all, signal, { "idempotency-key": key }));
}

/** The stream of the conversation's running or last turn from an event on; null where there is none. */
export async function resume(conversation, from, signal) {
  const response = await ask(stream(conversation, `&from=${from}`), { signal });
  if (response.status === 404) return null;
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Ends the conversation's running turn, if there is one. */
export async function stop(conversation, signal) {
  await ask(stream(conversation), { method: "DELETE", signal });
}

/** The content of an event of an answer; null at the end. An error event is thrown. */
export function chunk(data) {
  if (data === "[DONE]") return null;
  const { error, ...rest } = JSON.parse(data);
  if (error) throw new AskError(sentence(error.message), { code: error.code, lost: error.code === LEAVING });
  return rest;
}

async function refusal(response) {
  const { status } = response;
  const error = await response.json().then((body) => body.error, () => null);
  let message = error?.message ? sentence(error.message) : `The server answered with status ${status}.`;
  if (status === 401) message = `This server asks for an API key. ${message}`;
  if (status === 429) {
    const seconds = Number(response.headers.get("retry-after"));
    if (seconds > 0) message += ` It asks to wait ${seconds}\u00a0s.`;
  }
  const code = error?.code ?? null;
  return new AskError(message, { status, code, lost: code ? code === LEAVING : AWAY.includes(status) });
}

/** With a capital at the start and a stop at the end. */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
