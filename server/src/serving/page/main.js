// What presses and keys do, and how the page begins.

import * as chat from "./chat.js";
import { byId } from "./dom.js";
import { save } from "./export.js";
import * as settings from "./settings.js";
import * as side from "./side.js";

const message = byId("message");
const scroller = document.querySelector("main");

function begin() {
  side.show(false);
  chat.begin();
  message.focus();
}

function fitMessage() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chat.ask(message.value)) return;
  message.value = "";
  fitMessage();
});
message.addEventListener("input", fitMessage);
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !message.value) {
    event.preventDefault();
    byId("turns").lastElementChild?.querySelector(".edit").click();
  }
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    if (side.isOpen()) side.close();
    else chat.stop();
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
  chat.stop();
  message.focus();
});
byId("new").addEventListener("click", begin);
byId("rename").addEventListener("click", chat.rename);
byId("export").addEventListener("click", () => save(chat.shown()));
byId("delete").addEventListener("click", () => side.remove(chat.shown()));
byId("to-end").addEventListener("click", () => (scroller.scrollTop = scroller.scrollHeight));
byId("collection").addEventListener("change", chat.pickCollection);
addEventListener("pagehide", chat.keepAll);
addEventListener("storage", ({ key }) => chat.changedElsewhere(key));

settings.begin(chat.meet);
side.begin({
  open(conversation) {
    chat.open(conversation);
    message.focus();
  },
  removed: chat.removed,
  shown: chat.shown,
});
chat.openLast();
chat.meet();
