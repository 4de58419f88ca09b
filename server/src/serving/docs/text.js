// Descriptions from the document: plain text, except for code between backticks.

import { make } from "../page/dom.js";

/** The nodes of a text. */
export const said = (text) => text.split("`").map((part, at) => (at % 2 === 1 ? make("code", {}, part) : part));

/** A text as a paragraph. */
export const paragraph = (text) => make("p", {}, ...said(text));
