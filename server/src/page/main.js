// The page: which conversation is shown, and what is asked in it.

import * as api from "./api.js";
import { button, byId, count, make, say } from "./dom.js";
import { save } from "./export.js";
import { Run } from "./run.js";
import { follow } from "./scroll.js";
import * as settings from "./settings.js";
import * as side from "./side.js";
import * as store from "./store.js";
import { TurnView } from "./turn.js";

const CURRENT = "onegen.current";
/** A turn is kept so often while it grows. */
const KEEP_MS = 500;
/** Without one the same answer would come again. */
const AGAIN_TEMPERATURE = 0.7;
/** Only the model that comes with onegen is known to have read about these. */
const EXAMPLES = {
  almanac: [
    "What is the capital of Peru?",
    "Which language do people speak in Chile, and what is its currency?",
    "What is the symbol of gold?",
    "What is the capital of the country of K2?",
  ],
};

/** The conversation that is shown. */
let current = null;
/** What `/readyz` said last. */
let served = null;
/** Turns under way, by their conversations' ids. */
const running = new Map();
/** What shows a turn. */
const views = new WeakMap();

const message = byId("message");
const title = byId("title");
const turns = byId("turns");
const scroller = document.querySelector("main");
const followAgain = follow(scroller, turns, (away) => (byId("to-end").hidden = !away));
const actions = { again, edit, goOn, other, versions };

// What is served.

async function meet() {
  try {
    served = await api.readiness();
    const { model, passages, collections } = served;
    const named = collections.length > 1 ? ` in ${count(collections.length, "collection")}` : "";
    byId("served").textContent = passages
      ? `${model}, over ${count(passages, "passage")}${named}.`
      : `${model}, over no passages yet: searches find nothing, it answers from what it has learned.`;
    byId("collection").replaceChildren(...collections.map(({ name }) => make("option", { value: name }, name)));
    byId("collections").hidden = collections.length < 2;
    showCollection();
    if (!byId("examples").childElementCount) await offerExamples();
  } catch (error) {
    byId("served").textContent = error instanceof api.AskError ? error.message : "The server's state cannot be read.";
  }
}

async function offerExamples() {
  const card = await api.model().catch(() => null);
  const items = (EXAMPLES[card?.root] ?? []).map((example) => make("li", {}, button(example, {}, () => ask(example))));
  byId("examples").replaceChildren(...items);
}

function showCollection() {
  const select = byId("collection");
  const known = served?.collections.some(({ name }) => name === current?.collection);
  if (known) select.value = current.collection;
  else select.selectedIndex = 0;
}

// Which conversation is shown.

function open(conversation) {
  current = running.get(conversation.id)?.conversation ?? conversation;
  sessionStorage.setItem(CURRENT, current.id);
  turns.replaceChildren(...current.turns.map((turn) => drawn(turn).element));
  showTitle();
  showCollection();
  showRunning();
  followAgain();
  const last = current.turns.at(-1);
  // Asked before this page was loaded, or in another tab.
  if (last?.state === "running" && !running.has(current.id)) run(current, last, true);
  side.list();
}

function showTitle() {
  const begun = current.turns.length > 0;
  title.textContent = current.title;
  document.title = begun ? `${current.title} – onegen` : "onegen";
  byId("welcome").hidden = begun;
  byId("of-conversation").hidden = !begun;
}

function drawn(turn) {
  const view = new TurnView(turn, actions);
  views.set(turn, view);
  const under = running.get(current.id);
  if (under?.turn === turn) under.view = view;
  return view;
}

function begin() {
  side.show(false);
  open(store.fresh(byId("collection").value || null));
  message.focus();
}

/** A conversation is deleted: what is under way in it ends. Gives what is known of it. */
function removed(id) {
  const conversation = running.get(id)?.conversation ?? (id === current.id ? current : store.read(id));
  running.get(id)?.stop();
  if (id === current.id) open(store.fresh(current.collection));
  return conversation;
}

function rename() {
  const of = current;
  const input = make("input", { "aria-label": "Name of the conversation", maxlength: "120" });
  input.value = of.title;
  let open = true;
  const close = (keeps) => {
    // Taken away, it loses the focus, too.
    if (!open) return;
    open = false;
    const name = input.value.trim();
    input.replaceWith(title);
    if (keeps && name) {
      of.title = name;
      keep(of);
    }
    showTitle();
    side.list();
    byId("rename").focus();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.stopPropagation();
    // Else the button that gets the focus is pressed, too.
    event.preventDefault();
    close(event.key === "Enter");
  });
  input.addEventListener("blur", () => close(true));
  title.replaceWith(input);
  input.focus();
  input.select();
}

// What is asked.

/**
 * Asks in the conversation that is shown; `more` is said beside what is said with every question. In the
 * place of another turn it is a later `version`, `instead` of what the server has in `{server, kept}`;
 * `before` is a turn that the server may have kept or not.
 */
function ask(question, { more = {}, version = 0, instead = null, before = null } = {}) {
  const conversation = current;
  if (running.has(conversation.id) || !question.trim()) return;
  const retrieval = { k: settings.k() };
  if (served?.collections.length > 1 && conversation.collection) retrieval.collection = conversation.collection;
  if (settings.always()) retrieval.forced = true;
  const turn = { question, asked: { model: served?.model, retrieval, ...more }, parts: [], state: "running", version, instead };
  if (!conversation.turns.length && conversation.title === store.UNTITLED) conversation.title = store.titled(question);
  if (!version) {
    conversation.left.push(...conversation.others.map((other) => other.server).filter(Boolean));
    conversation.others = [];
    const last = conversation.turns.at(-1);
    if (last?.doubtful) before = last;
  }
  conversation.turns.push(turn);
  turns.append(drawn(turn).element);
  say("Answering.");
  run(conversation, turn, false, before);
}

/** Follows a turn to its end. */
async function run(conversation, turn, asked, before = null) {
  let keeping = null;
  const keepNow = () => {
    clearTimeout(keeping);
    keeping = null;
    if (running.get(conversation.id) === under) keep(conversation);
  };
  const grown = (now) => (now ? keepNow() : (keeping ??= setTimeout(keepNow, KEEP_MS)));
  const under = new Run(conversation, turn, views.get(turn), grown);
  if (before) under.before = new Run(conversation, before, views.get(before), () => {});
  running.set(conversation.id, under);
  keep(conversation);
  showTitle();
  side.list();
  showRunning();
  followAgain();
  await under.follow(asked);
  running.delete(conversation.id);
  clearTimeout(keeping);
  keep(conversation);
  under.view.end();
  if (conversation === current) showRunning();
  side.list();
  if (under.status === 401) settings.open(meet);
  say(spoken(turn, under.view));
}

/** Asks another question in the place of the last one. An answer that is done is kept as another version. */
function edit(turn, question, more) {
  if (running.has(current.id) || current.turns.at(-1) !== turn) return;
  current.turns.pop();
  turns.lastElementChild.remove();
  const { others, server, kept } = current;
  let { version, instead } = turn;
  if (turn.state === "done") {
    others.push({ turn, server, kept });
    instead = { server, kept };
    version = Math.max(...others.map((other) => other.turn.version)) + 1;
    Object.assign(current, { server: null, kept: 0 });
  }
  if (current.turns.length === 0 && current.title === store.titled(turn.question)) current.title = store.titled(question);
  ask(question, { more, version, instead, before: turn.doubtful ? turn : null });
}

function again(turn) {
  edit(turn, turn.question, { temperature: AGAIN_TEMPERATURE });
}

/** Looks for the end of an answer that was lost. */
function goOn(turn) {
  if (running.has(current.id)) return;
  turn.state = "running";
  open(current);
}

/** Shows another version of the last turn, and goes on from there. */
function other(turn, step) {
  if (running.has(current.id)) return;
  const { others, server, kept } = current;
  const at = others.findIndex((one) => one.turn.version === turn.version + step);
  if (at < 0) return;
  const [chosen] = others.splice(at, 1, { turn, server, kept });
  current.turns.splice(-1, 1, chosen.turn);
  Object.assign(current, { server: chosen.server, kept: chosen.kept });
  keep(current);
  turns.lastElementChild.replaceWith(drawn(chosen.turn).element);
  say(`Version ${chosen.turn.version + 1} of ${others.length + 1}.`);
}

function versions(turn) {
  return { at: turn.version ?? 0, of: current.turns.at(-1) === turn ? current.others.length + 1 : 1 };
}

function keep(conversation) {
  conversation.updated = Date.now();
  if (!store.write(conversation)) {
    say("This browser has no more room for conversations. Delete some to have this one kept.");
  }
}

/** What a screen reader says of a turn at its end. */
function spoken(turn, view) {
  if (turn.state === "failed") return turn.error;
  if (turn.state === "stopped") return "Stopped.";
  const read = store.retrievals(turn).map(({ passages: [passage] }) => passage.title || passage.id);
  return [view.markdown.plain().trim(), read.length ? `Read: ${read.join(", ")}.` : ""].join(" ");
}

// Around it.

function showRunning() {
  const busy = running.has(current.id);
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
}

function stop() {
  running.get(current.id)?.stop();
}

function fitMessage() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = message.value;
  if (!question.trim() || running.has(current.id)) return;
  message.value = "";
  fitMessage();
  ask(question);
});
message.addEventListener("input", fitMessage);
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !message.value) {
    event.preventDefault();
    turns.lastElementChild?.querySelector(".edit").click();
  }
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    if (side.isOpen()) side.close();
    else stop();
  } else if (command && event.key.toLowerCase() === "k") {
    event.preventDefault();
    side.goToSearch();
  } else if (command && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    begin();
  } else if (command && event.key === "/") {
    event.preventDefault();
    byId("shortcuts").showModal();
  }
});
byId("stop").addEventListener("click", () => {
  stop();
  message.focus();
});
byId("new").addEventListener("click", begin);
byId("rename").addEventListener("click", rename);
byId("export").addEventListener("click", () => save(current));
byId("delete").addEventListener("click", () => side.remove(current));
byId("to-end").addEventListener("click", () => (scroller.scrollTop = scroller.scrollHeight));
byId("collection").addEventListener("change", () => {
  current.collection = byId("collection").value;
  if (current.turns.length) keep(current);
});
addEventListener("pagehide", () => running.forEach(({ conversation }) => keep(conversation)));
addEventListener("storage", ({ key }) => {
  const id = store.changed(key);
  if (id === undefined) return;
  const there = store.read(current.id);
  const shown = id === null || id === current.id;
  // Another tab has gone on with what is shown here, or deleted it.
  if (shown && current.turns.length && !running.has(current.id)) {
    open(there && !there.deleted ? there : store.fresh(current.collection));
  } else {
    side.list();
  }
});

settings.begin(meet);
side.begin({
  open(conversation) {
    open(conversation);
    message.focus();
  },
  removed,
  shown: () => current,
});
const last = store.read(sessionStorage.getItem(CURRENT));
open(last && !last.deleted ? last : store.fresh(null));
meet();
api.hasDocs().then((has) => (byId("docs").hidden = !has)).catch(() => {});
