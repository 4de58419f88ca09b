// The user's settings in this browser: colours, and how questions are asked.

import * as api from "./api.js";
import { byId, say } from "./dom.js";

const K = "onegen.k";
const ALWAYS = "onegen.always";
const THEME = "onegen.theme";
const THEMES = { system: "light", light: "dark", dark: "system" };

/** How many passages a search lists. */
export const k = () => Number(localStorage.getItem(K) ?? 3);

/** Whether each answer begins with a search. */
export const always = () => localStorage.getItem(ALWAYS) !== null;

function showAlways() {
  byId("always").setAttribute("aria-pressed", String(always()));
}

function setTheme(chosen) {
  const root = document.documentElement;
  if (chosen === "system") {
    delete root.dataset.theme;
    localStorage.removeItem(THEME);
  } else {
    root.dataset.theme = chosen;
    localStorage.setItem(THEME, chosen);
  }
  byId("theme").textContent = `Colours: ${chosen}`;
}

/** Opens the dialog; `saved()` is called when something may have changed. */
export function open(saved) {
  const dialog = byId("settings");
  if (dialog.open) return;
  byId("key").value = api.key.get();
  byId("k").value = String(k());
  dialog.returnValue = "cancel";
  dialog.onclose = () => {
    if (dialog.returnValue !== "save") return;
    api.key.set(byId("key").value.trim());
    localStorage.setItem(K, byId("k").value);
    saved();
    say("Saved.");
  };
  dialog.showModal();
}

/** Makes the buttons work; `saved()` as in `open`. */
export function begin(saved) {
  const theme = () => document.documentElement.dataset.theme ?? "system";
  setTheme(theme());
  showAlways();
  byId("theme").addEventListener("click", () => setTheme(THEMES[theme()]));
  byId("always").addEventListener("click", () => {
    if (always()) localStorage.removeItem(ALWAYS);
    else localStorage.setItem(ALWAYS, "");
    showAlways();
  });
  byId("open-settings").addEventListener("click", () => open(saved));
  byId("cancel-settings").addEventListener("click", () => byId("settings").close("cancel"));
  byId("open-shortcuts").addEventListener("click", () => byId("shortcuts").showModal());
}
