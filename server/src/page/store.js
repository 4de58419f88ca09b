// Conversations as this browser keeps them, each under a key of its own, so that two tabs do not
// overwrite each other's.
//
// A conversation is `{id, server, left, title, collection, updated, turns}`: `server` is the server's id
// of it, null before the first answer, and `left` those that it had before. A turn is `{question, parts, state, error, usage, times}`: its
// parts are `{text}` and `{retrieval}` in the order in which they came, its state is `running`, `done`,
// `stopped` or `failed`. Only turns that are done are part of the conversation at the server.

const PREFIX = "onegen.conversation.";
const TITLE_CHARACTERS = 60;

/** A conversation that nothing has been said in. */
export function fresh(collection) {
  const random = crypto.getRandomValues(new Uint32Array(3));
  const id = Array.from(random, (part) => part.toString(36)).join("");
  return { id, server: null, left: [], title: "New conversation", collection, updated: Date.now(), turns: [] };
}

/** All that are kept, the one that was continued last first. */
export function all() {
  const found = [];
  for (let at = 0; at < localStorage.length; at += 1) {
    const name = localStorage.key(at);
    const conversation = name.startsWith(PREFIX) && read(name.slice(PREFIX.length));
    if (conversation) found.push(conversation);
  }
  return found.sort((a, b) => b.updated - a.updated);
}

/** The conversation of this id, or null. */
export function read(id) {
  try {
    const conversation = JSON.parse(localStorage.getItem(PREFIX + id));
    if (!Array.isArray(conversation?.turns)) return null;
    // The page was closed during its last answer.
    for (const turn of conversation.turns) if (turn.state === "running") turn.state = "stopped";
    return conversation;
  } catch {
    return null;
  }
}

/** Keeps a conversation. False where the browser has no room for it. */
export function write(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

/** Forgets a conversation. */
export function remove(id) {
  localStorage.removeItem(PREFIX + id);
}

/** Whether a change in another tab is one of conversations. */
export const isConversation = (name) => name === null || name.startsWith(PREFIX);

/** Goes on from what is shown, in another conversation of the server's. */
export function leave(conversation) {
  if (conversation.server) conversation.left.push(conversation.server);
  conversation.server = null;
}

/** What a conversation is called: its first question, in one line. */
export function titled(question) {
  const line = question.trim().replace(/\s+/g, " ");
  const characters = Array.from(line);
  if (characters.length <= TITLE_CHARACTERS) return line;
  return `${characters.slice(0, TITLE_CHARACTERS - 1).join("").trimEnd()}…`;
}

/** The text of an answer. */
export const text = (turn) => turn.parts.map((part) => part.text ?? "").join("");

/** What both sides have said, as messages. */
export function messages(conversation) {
  return conversation.turns
    .filter((turn) => turn.state === "done")
    .flatMap((turn) => [
      { role: "user", content: turn.question },
      { role: "assistant", content: text(turn) },
    ]);
}
