// Elements from names, attributes and children.
//
// Strings become text nodes, nothing is ever parsed as markup: what users, models and passages say
// stays text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Attributes that are null, undefined or false are left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(attribute, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(attribute, value);
  }
  element.append(...children);
  return element;
}

/** A button that does something. */
export function button(content, attributes, press) {
  const element = make("button", { type: "button", ...attributes }, content);
  element.addEventListener("click", press);
  return element;
}

/** A line drawing, 24 units wide and high. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** The element of this id. */
export const byId = (id) => document.getElementById(id);

/** `1 passage`, `2 passages`. */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Says something to those who hear the page. */
export function say(text) {
  byId("status").textContent = text;
}
