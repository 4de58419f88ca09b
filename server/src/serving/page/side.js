// The conversations at the side: listed, searched, deleted and brought back.

import * as api from "./api.js";
import { button, byId, count, icon, make, say } from "./dom.js";
import * as store from "./store.js";

const CROSS = "M7 7l10 10M17 7L7 17";
/** How long a deleted conversation can be brought back. */
const UNDO_MS = 8_000;
/** A list with at most this many conversations needs no search. */
const SHORT_LIST = 1;

const narrow = matchMedia("(max-width: 52rem)");
const search = byId("search");
/** What is done with conversations, by the page: `open(conversation)`, `removed(conversation)`, `shown()`. */
let page = null;
let undo = null;

/** Lists the conversations that are searched for, or all. */
export function list() {
  const all = store.all();
  const words = search.value.trim();
  const found = words ? all.filter((conversation) => store.matches(conversation, words)) : all;
  byId("conversations").replaceChildren(...found.map(item));
  search.hidden = all.length <= SHORT_LIST && !words;
  const none = byId("no-conversations");
  none.hidden = found.length > 0;
  none.textContent = words ? "No conversation has these words." : "What you ask is kept here, in this browser.";
  return found.length;
}

function item(conversation) {
  const { id, title } = conversation;
  const shown = id === page.shown().id;
  const open = button(make("span", {}, title), { class: "open", "aria-current": shown && "page" }, () => {
    show(false);
    page.open(store.read(id) ?? conversation);
  });
  const running = conversation.turns.at(-1)?.state === "running";
  if (running) open.append(make("span", { class: "hidden" }, " (being answered)"));
  const away = button(icon(CROSS), { class: "quiet icon", "aria-label": `Delete “${title}”` }, () => remove(conversation));
  return make("li", { class: running && "running" }, open, away);
}

/** Deletes a conversation, which can be brought back for a while. */
export function remove({ id }) {
  const conversation = page.removed(id);
  conversation.deleted = Date.now();
  store.write(conversation);
  undo = conversation;
  byId("toast-text").textContent = `Deleted “${conversation.title}”.`;
  byId("toast").hidden = false;
  list();
  say(`Deleted “${conversation.title}”. The last button of the page brings it back.`);
  setTimeout(sweep, UNDO_MS);
  byId("new").focus();
}

/** Deletes conversations finally, here and on the server, if they were not brought back in time. */
function sweep() {
  const old = store.all(true).filter(({ deleted }) => Date.now() - deleted >= UNDO_MS);
  for (const conversation of old) {
    store.remove(conversation.id);
    store.servers(conversation).forEach((id) => api.forget(id));
    if (conversation.id === undo?.id) closeToast();
  }
}

function closeToast() {
  undo = null;
  if (byId("toast").contains(document.activeElement)) byId("message").focus();
  byId("toast").hidden = true;
}

function bringBack() {
  const conversation = undo;
  closeToast();
  if (!conversation) return;
  delete conversation.deleted;
  store.write(conversation);
  page.open(conversation);
  say(`“${conversation.title}” is back.`);
}

/** Shows the list where it lies behind a button. */
export function show(shown) {
  const was = document.body.classList.toggle("side-open", shown);
  byId("open-side").setAttribute("aria-expanded", String(was));
  byId("page").inert = was && narrow.matches;
}

/** Whether the list lies over the page. */
export const isOpen = () => document.body.classList.contains("side-open");

/** Closes the list where it lies over the page. */
export function close() {
  show(false);
  byId("open-side").focus();
}

/** Goes to the search. */
export function goToSearch() {
  if (narrow.matches) show(true);
  search.hidden = false;
  search.focus();
  search.select();
}

/** Makes the side work for a page. */
export function begin(of) {
  page = of;
  search.addEventListener("input", () => {
    const found = list();
    say(search.value.trim() ? count(found, "conversation") : "");
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !search.value) return;
    event.stopPropagation();
    search.value = "";
    list();
  });
  byId("undo").addEventListener("click", bringBack);
  byId("open-side").addEventListener("click", () => {
    show(true);
    byId("close-side").focus();
  });
  byId("close-side").addEventListener("click", close);
  byId("shade").addEventListener("click", () => show(false));
  narrow.addEventListener("change", () => show(false));
  sweep();
  // These were deleted in a page that was closed before their time was over.
  if (store.all(true).length) setTimeout(sweep, UNDO_MS);
}
