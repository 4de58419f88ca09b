// Conversations as this browser keeps them, each under a key of its own, so that two tabs do not
// overwrite each other's.
//
// A conversation is `{id, title, collection, updated, deleted, server, kept, left, turns, others}`:
// `server` is the server's id of it, null before the first question, `kept` how many messages the
// server has of it, and `left` are the ids that it had before.
//
// A turn is `{question, asked, parts, state, error, ...}`: `asked` is what the request said beside the
// question, its parts are `{text}` and `{retrieval}` in the order in which they came, its state is
// `running`, `done`, `stopped` or `failed`. Only turns that are done are part of the conversation.
// `expects` is how many messages the server has once it has kept the turn, and `doubtful` says that
// nobody has asked it yet. `others` are other versions of the last turn, each with its `server`.

const PREFIX = "onegen.conversation.";
const TITLE_CHARACTERS = 60;
/** What a conversation is called that nothing has been said in. */
export const UNTITLED = "New conversation";

/** A conversation that nothing has been said in. */
export function fresh(collection) {
  const random = crypto.getRandomValues(new Uint32Array(3));
  const id = Array.from(random, (part) => part.toString(36)).join("");
  return { id, server: null, kept: 0, left: [], title: UNTITLED, collection, updated: Date.now(), turns: [], others: [] };
}

/** All that are kept, the one that was continued last first; deleted ones only where they are asked for. */
export function all(deleted = false) {
  const found = [];
  for (let at = 0; at < localStorage.length; at += 1) {
    const name = localStorage.key(at);
    const conversation = name.startsWith(PREFIX) && read(name.slice(PREFIX.length));
    if (conversation && Boolean(conversation.deleted) === deleted) found.push(conversation);
  }
  return found.sort((a, b) => b.updated - a.updated);
}

/** The conversation of this id, or null. */
export function read(id) {
  try {
    const conversation = JSON.parse(localStorage.getItem(PREFIX + id));
    return Array.isArray(conversation?.turns) ? { others: [], ...conversation } : null;
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

/** The id of the conversation that a change in another tab is of: null if it may be any, undefined if none. */
export function changed(name) {
  if (name === null) return null;
  return name.startsWith(PREFIX) ? name.slice(PREFIX.length) : undefined;
}

/** Goes on from what is shown, in another conversation of the server's. */
export function leave(conversation) {
  if (conversation.server) conversation.left.push(conversation.server);
  conversation.server = null;
  conversation.kept = 0;
}

/** All that the server has of a conversation, by its ids. */
export function servers({ server, left, others }) {
  return [server, ...left, ...others.map((other) => other.server)].filter(Boolean);
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

/** What was searched for an answer, in order. */
export const retrievals = (turn) => turn.parts.flatMap((part) => (part.retrieval ? [part.retrieval] : []));

/** What both sides have said, as messages. */
export function messages(conversation) {
  return conversation.turns
    .filter((turn) => turn.state === "done")
    .flatMap((turn) => [
      { role: "user", content: turn.question },
      { role: "assistant", content: text(turn) },
    ]);
}

/** Whether all words of a search stand somewhere in the conversation. */
export function matches(conversation, words) {
  const said = conversation.turns.flatMap((turn) => [turn.question, text(turn)]);
  const whole = [conversation.title, ...said].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => whole.includes(word));
}
