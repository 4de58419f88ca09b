// The page: which conversation is shown, and what is asked in it.

import * as api from "./api.js";
import { answer } from "./answer.js";
import { byId, count, icon, make } from "./dom.js";
import { follow } from "./scroll.js";
import * as store from "./store.js";
import { TurnView } from "./turn.js";

const CROSS = "M7 7l10 10M17 7L7 17";
const CURRENT = "onegen.current";
const K = "onegen.k";
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
/** Answers under way: the conversation's id to `{conversation, turn, view, stop}`. */
const running = new Map();

const message = byId("message");
const title = byId("title");
const turns = byId("turns");
const followAgain = follow(document.querySelector("main"), turns);
const narrow = matchMedia("(max-width: 52rem)");

// What is served.

async function meet() {
  try {
    served = await api.readiness();
    const { model, passages, collections } = served;
    const named = collections.length > 1 ? ` in ${count(collections.length, "collection")}` : "";
    byId("served").textContent = `${model}, over ${count(passages, "passage")}${named}.`;
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
  const items = (EXAMPLES[card?.root] ?? []).map((example) => {
    const button = make("button", { type: "button" }, example);
    button.addEventListener("click", () => ask(example));
    return make("li", {}, button);
  });
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
  list();
  showRunning();
  followAgain();
}

function showTitle() {
  const begun = current.turns.length > 0;
  title.textContent = current.title;
  document.title = begun ? `${current.title} – onegen` : "onegen";
  byId("welcome").hidden = begun;
}

function drawn(turn) {
  const view = new TurnView(turn, askAgain);
  const run = running.get(current.id);
  if (run?.turn === turn) run.view = view;
  return view;
}

function list() {
  const items = store.all().map((conversation) => {
    const shown = conversation.id === current.id;
    const button = make("button", { type: "button", class: "open", "aria-current": shown && "page" }, make("span", {}, conversation.title));
    button.addEventListener("click", () => {
      showSide(false);
      open(store.read(conversation.id) ?? conversation);
      message.focus();
    });
    const remove = make(
      "button",
      { type: "button", class: "quiet icon", "aria-label": `Delete “${conversation.title}”` },
      icon(CROSS),
    );
    remove.addEventListener("click", () => askToDelete(conversation));
    return make("li", {}, button, remove);
  });
  byId("conversations").replaceChildren(...items);
  byId("no-conversations").hidden = items.length > 0;
}

function begin() {
  showSide(false);
  open(store.fresh(byId("collection").value || null));
  message.focus();
}

function askToDelete(conversation) {
  const dialog = byId("delete");
  byId("delete-what").textContent = `“${conversation.title}” is deleted in this browser, and the server is asked to delete it too.`;
  dialog.returnValue = "cancel";
  dialog.onclose = () => {
    if (dialog.returnValue !== "delete") return;
    const { server, left } = store.read(conversation.id) ?? conversation;
    running.get(conversation.id)?.stop.abort("deleted");
    running.delete(conversation.id);
    store.remove(conversation.id);
    for (const id of [server, ...left]) if (id) api.forget(id);
    if (conversation.id === current.id) open(store.fresh(current.collection));
    else list();
    say("Deleted.");
    byId("new").focus();
  };
  dialog.showModal();
}

// What is asked.

async function ask(question) {
  const conversation = current;
  if (running.has(conversation.id) || !question.trim()) return;
  const turn = { question, parts: [], state: "running" };
  if (!conversation.turns.length) conversation.title = store.titled(question);
  conversation.turns.push(turn);
  const run = { conversation, turn, view: null, stop: new AbortController() };
  running.set(conversation.id, run);
  keep(conversation);
  turns.append(drawn(turn).element);
  showTitle();
  list();
  showRunning();
  followAgain();
  say("Answering.");
  try {
    served ??= await api.readiness();
    await answer(run, served, k());
    turn.state = "done";
  } catch (error) {
    const stopped = run.stop.signal.aborted;
    turn.state = stopped ? "stopped" : "failed";
    if (!stopped) turn.error = error instanceof api.AskError ? error.message : `This page failed: ${error.message}`;
    // The server may have come to the end of what did not arrive: go on from what was seen.
    if (stopped || error.lost) store.leave(conversation);
    if (error.status === 401) openSettings();
  }
  if (run.stop.signal.reason === "deleted") return;
  running.delete(conversation.id);
  if (conversation.turns.includes(turn)) keep(conversation);
  run.view.end();
  if (conversation === current) showRunning();
  list();
  say(spoken(turn));
}

function askAgain(turn) {
  if (running.has(current.id)) return;
  const at = current.turns.indexOf(turn);
  current.turns.splice(at, 1);
  turns.children[at].remove();
  ask(turn.question);
}

function keep(conversation) {
  conversation.updated = Date.now();
  if (!store.write(conversation)) {
    say("This browser has no more room for conversations. Delete some to have this one kept.");
  }
}

/** What a screen reader says of a turn at its end. */
function spoken(turn) {
  if (turn.state === "failed") return turn.error;
  if (turn.state === "stopped") return "Stopped.";
  const read = turn.parts.flatMap((part) => (part.retrieval ? [part.retrieval.passages[0]] : []));
  const titles = read.map((passage) => passage.title || passage.id);
  return [store.text(turn), titles.length ? `Read: ${titles.join(", ")}.` : ""].join(" ");
}

// Around it.

function say(text) {
  byId("status").textContent = text;
}

function showRunning() {
  const busy = running.has(current.id);
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
}

function stopAnswer() {
  running.get(current.id)?.stop.abort("stopped");
}

function fitMessage() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

function showSide(shown) {
  const was = document.body.classList.toggle("side-open", shown);
  byId("open-side").setAttribute("aria-expanded", String(was));
  byId("page").inert = was && narrow.matches;
}

function k() {
  return Number(localStorage.getItem(K) ?? 3);
}

function openSettings() {
  const dialog = byId("settings");
  if (dialog.open) return;
  byId("key").value = api.key.get();
  byId("k").value = String(k());
  dialog.returnValue = "cancel";
  dialog.onclose = () => {
    if (dialog.returnValue !== "save") return;
    api.key.set(byId("key").value.trim());
    localStorage.setItem(K, byId("k").value);
    meet();
    say("Saved.");
  };
  dialog.showModal();
}

const THEMES = { system: "light", light: "dark", dark: "system" };

function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

function setTheme(chosen) {
  const root = document.documentElement;
  if (chosen === "system") {
    delete root.dataset.theme;
    localStorage.removeItem("onegen.theme");
  } else {
    root.dataset.theme = chosen;
    localStorage.setItem("onegen.theme", chosen);
  }
  byId("theme").textContent = `Colours: ${chosen}`;
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
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("side-open")) {
    showSide(false);
    byId("open-side").focus();
  } else {
    stopAnswer();
  }
});
byId("stop").addEventListener("click", () => {
  stopAnswer();
  message.focus();
});
byId("new").addEventListener("click", begin);
byId("open-side").addEventListener("click", () => {
  showSide(true);
  byId("close-side").focus();
});
byId("close-side").addEventListener("click", () => {
  showSide(false);
  byId("open-side").focus();
});
byId("shade").addEventListener("click", () => showSide(false));
byId("theme").addEventListener("click", () => setTheme(THEMES[theme()]));
byId("open-settings").addEventListener("click", openSettings);
byId("cancel-settings").addEventListener("click", () => byId("settings").close("cancel"));
byId("collection").addEventListener("change", () => {
  current.collection = byId("collection").value;
  if (current.turns.length) keep(current);
});
narrow.addEventListener("change", () => showSide(false));
window.addEventListener("storage", (event) => {
  if (store.isConversation(event.key)) list();
});

setTheme(theme());
open(store.read(sessionStorage.getItem(CURRENT)) ?? store.fresh(null));
meet();
