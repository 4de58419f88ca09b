// The conversation that is shown, and the questions in it.

import { byId, count, make, say } from "./dom.js";
import { Run } from "./run.js";
import { follow } from "./scroll.js";
import * as served from "./served.js";
import * as settings from "./settings.js";
import * as side from "./side.js";
import * as store from "./store.js";
import { TurnView } from "./turn.js";

const CURRENT = "onegen.current";
/** How often a growing turn is saved. */
const KEEP_MS = 500;
/** At temperature 0 the same answer would come again. */
const AGAIN_TEMPERATURE = 0.7;
/** The most words of an answer that are read out to a screen reader; a longer answer is only announced. */
const SPOKEN_WORDS = 150;

/** The conversation that is shown. */
let current = null;
/** Turns under way, by their conversations' ids. */
const running = new Map();
/** What shows a turn. */
const views = new WeakMap();

const title = byId("title");
const turns = byId("turns");
const followAgain = follow(document.querySelector("main"), turns, (away) => (byId("to-end").hidden = !away));
const actions = { again, edit, goOn, other, versions };

/** The conversation that is shown. */
export const shown = () => current;

/** Asks what is served, and shows it. */
export const meet = () => served.meet(current, ask);

/** Shows a conversation, and goes on with its last turn if that is under way. */
export function open(conversation) {
  current = running.get(conversation.id)?.conversation ?? conversation;
  sessionStorage.setItem(CURRENT, current.id);
  turns.replaceChildren(...current.turns.map((turn) => drawn(turn).element));
  showTitle();
  served.showCollection(current);
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

/** Shows a conversation that nothing has been said in, over the collection that is picked. */
export function begin() {
  open(store.fresh(byId("collection").value || null));
}

/** The collection was picked. */
export function pickCollection() {
  current.collection = byId("collection").value;
  if (current.turns.length) keep(current);
}

/** A conversation is deleted: what is under way in it ends. Gives what is known of it. */
export function removed(id) {
  const conversation = running.get(id)?.conversation ?? (id === current.id ? current : store.read(id));
  running.get(id)?.stop();
  if (id === current.id) open(store.fresh(current.collection));
  return conversation;
}

/** Has the title be edited in its place. */
export function rename() {
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
 * `before` is a turn that the server may have kept or not. False where that cannot be asked now.
 */
export function ask(question, { more = {}, version = 0, instead = null, before = null } = {}) {
  const conversation = current;
  if (running.has(conversation.id) || !question.trim()) return false;
  const retrieval = { k: settings.k() };
  if (served.hasCollections() && conversation.collection) retrieval.collection = conversation.collection;
  if (settings.always()) retrieval.forced = true;
  const turn = { question, asked: { model: served.model(), retrieval, ...more }, parts: [], state: "running", version, instead };
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
  return true;
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
  const text = view.markdown.plain().trim();
  const words = text.split(/\s+/).length;
  return [words > SPOKEN_WORDS ? `An answer of ${count(words, "word")}.` : text, read.length ? `Read: ${read.join(", ")}.` : ""].join(" ");
}

function showRunning() {
  const busy = running.has(current.id);
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
}

/** Stops the answer under way. */
export function stop() {
  running.get(current.id)?.stop();
}

/** Keeps what is under way, before the page goes. */
export function keepAll() {
  for (const { conversation } of running.values()) keep(conversation);
}

/** Another tab has changed what is stored under a name, or everything. */
export function changedElsewhere(name) {
  const id = store.changed(name);
  if (id === undefined) return;
  const there = store.read(current.id);
  const concerned = (id === null || id === current.id) && current.turns.length && !running.has(current.id);
  const [here, beyond] = [current.turns.at(-1), there?.turns.at(-1)];
  // The other tab has not asked yet, or does not know yet of an end that is known here.
  const behind = beyond?.state === "running" && (!beyond.expects || here?.key === beyond.key);
  if (concerned && !behind) open(there && !there.deleted ? there : store.fresh(current.collection));
  else side.list();
}

/** Shows the conversation that this tab has shown last. */
export function openLast() {
  const last = store.read(sessionStorage.getItem(CURRENT));
  open(last && !last.deleted ? last : store.fresh(null));
}
