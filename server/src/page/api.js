// What the server is asked, over HTTP.

const KEY = "onegen.key";

/** An answer that did not come, in words for people. */
export class AskError extends Error {
  /** `code` is the server's; `lost` tells that nobody knows what the server has done. */
  constructor(message, { status = 0, code = null, lost = false } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.lost = lost;
  }
}

/** The API key, for as long as the tab lives. */
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

/** What is served: `/readyz`, whether or not it takes requests just now. */
export async function readiness() {
  const response = await ask("readyz");
  // While it shuts down it says so with another status and the same body.
  if (!response.ok && response.status !== 503) throw await refusal(response);
  return response.json();
}

/** The served model's card. */
export async function model() {
  const response = await ask("v1/models");
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data[0];
}

const documents = new Map();
/** One after another: a page full of cards is to be no storm of requests. */
let queue = Promise.resolve();

/** The text of a passage, asked for once: `{text}`, or `{why}` where the server does not give it. */
export function passageText(id, collection) {
  const path = `v1/documents/${encodeURIComponent(id)}?collection=${encodeURIComponent(collection)}`;
  if (!documents.has(path)) {
    const answer = queue.then(() => document(path)).catch(() => ({ why: "The passage's text did not arrive." }));
    queue = answer;
    documents.set(path, answer);
    // What is missing now may be there the next time.
    answer.then(({ why }) => why && documents.delete(path));
  }
  return documents.get(path);
}

async function document(path) {
  const response = await ask(path);
  if (response.ok) return { text: (await response.json()).text };
  if (response.status === 401 || response.status === 403) return { why: "This API key may not read passages." };
  return { why: "The server does not give this passage's text." };
}

/** Has the server forget a conversation. One that cannot is no error. */
export async function forget(conversation) {
  await ask(`v1/conversations/${encodeURIComponent(conversation)}`, { method: "DELETE" }).catch(() => {});
}

/**
 * Streams an answer and gives its chunks. A stream that ends without its `[DONE]` is an error, and
 * so is an error event in it.
 */
export async function* chat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new AskError(sentence(chunk.error.message), { code: chunk.error.code });
    yield chunk;
  }
  throw lost();
}

const lost = () => new AskError("The connection was lost before the answer's end.", { lost: true });

/** The data of server-sent events. Comments, which keep the connection alive, are left out. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost();
  } finally {
    reader.cancel().catch(() => {});
  }
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
  return new AskError(message, { status, code: error?.code ?? null });
}

/** With a capital at the start and a stop at the end. */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
