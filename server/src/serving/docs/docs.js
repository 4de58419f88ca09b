// The API's documentation, made from the server's OpenAPI document.

import { make } from "../page/dom.js";
import { fieldsOf, nameOf, typeOf } from "./schema.js";
import { paragraph, said } from "./text.js";

const METHODS = ["get", "put", "post", "delete"];
const byId = (id) => document.getElementById(id);

/** All operations of a document, those of a tag together, in the order of the tags. */
function operationsOf(api) {
  const all = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ method, path, ...item[method] })),
  );
  return api.tags.map((tag) => ({ tag, operations: all.filter(({ tags }) => tags.includes(tag.name)) }));
}

const anchor = ({ operationId }) => `operation-${operationId}`;

function contents(groups) {
  const list = ({ tag, operations }) => [
    make("h2", {}, tag.name),
    make("ul", {}, ...operations.map((operation) =>
      make("li", { "data-find": `${operation.method} ${operation.path} ${operation.summary}`.toLowerCase() },
        make("a", { href: `#${anchor(operation)}` }, method(operation), make("span", {}, operation.path))))),
  ];
  return groups.flatMap(list);
}

const method = (operation) => make("span", { class: `method ${operation.method}` }, operation.method.toUpperCase());

function section(operation, api) {
  const { path, parameters = [], requestBody, responses } = operation;
  const id = anchor(operation);
  return make("section", { id, "aria-labelledby": `${id}-title` },
    make("h3", { id: `${id}-title` }, method(operation), make("code", {}, path)),
    paragraph(operation.summary),
    ...(operation.description ?? "").split("\n\n").filter(Boolean).map(paragraph),
    ...(parameters.length ? [make("h4", {}, "Parameters"), table(parameters)] : []),
    ...(requestBody ? [make("h4", {}, requestBody.required ? "Body" : "Body, which may be left out"), body(requestBody, api)] : []),
    make("h4", {}, "For example"),
    make("pre", { tabindex: "0" }, make("code", {}, command(operation, api))),
    make("h4", {}, "Answers"),
    make("ul", { class: "answers" }, ...Object.entries(responses).map(([status, response]) => answer(status, response))),
  );
}

function table(parameters) {
  const row = (parameter) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, parameter.name)),
    make("td", {}, parameter.in),
    make("td", {}, ...typeOf(parameter.schema), parameter.required ? make("span", { class: "needed" }, "required") : ""),
    make("td", {}, ...said(parameter.description ?? "")),
  );
  const head = ["Name", "In", "Type", "What it is"].map((text) => make("th", { scope: "col" }, text));
  return make("div", { class: "wide", tabindex: "0" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...parameters.map(row))));
}

function body(requestBody, api) {
  const { schema } = requestBody.content["application/json"];
  return fieldsOf(schema, api.components.schemas);
}

function answer(status, { description, content = {} }) {
  const types = Object.entries(content).flatMap(([type, { schema }]) =>
    schema ? [make("span", { class: "type" }, `${type}: `, ...typeOf(schema))] : []);
  return make("li", {}, make("code", { class: status < 400 ? "good" : "bad" }, status), " ", ...said(description), ...types);
}

/** A command that asks, with what the document gives as examples. */
function command({ method, path, parameters = [], requestBody }, api) {
  const examples = parameters.filter(({ in: place }) => place === "path");
  const filled = examples.reduce((path, { name, example }) => path.replace(`{${name}}`, encodeURIComponent(example ?? name)), path);
  const lines = [`curl ${method === "get" || method === "post" && requestBody ? "" : `-X ${method.toUpperCase()} `}'${location.origin}${filled}'`];
  const example = requestBody && exampleOf(requestBody.content["application/json"], api.components.schemas);
  if (example) {
    lines.push("-H 'content-type: application/json'", `-d '${JSON.stringify(example, null, 2).replaceAll("'", "'\\''")}'`);
  }
  return lines.join(" \\\n  ");
}

function exampleOf({ example, schema }, schemas) {
  if (example) return example;
  const named = schemas[nameOf(schema)] ?? schema;
  if (named.example) return named.example;
  const parts = named.allOf ?? named.oneOf ?? named.anyOf ?? [];
  return parts.map((part) => exampleOf({ schema: part }, schemas)).find(Boolean);
}

/** Every type of the document, for all that refers to it. */
function types(schemas) {
  return Object.entries(schemas).map(([name, schema]) =>
    make("section", { id: `type-${name}`, "aria-labelledby": `type-${name}-title` },
      make("h3", { id: `type-${name}-title` }, make("code", {}, name)),
      schema.description ? paragraph(schema.description) : "",
      fieldsOf(schema, schemas)));
}

function filter() {
  const wanted = byId("filter").value.trim().toLowerCase();
  for (const item of document.querySelectorAll("#contents li")) item.hidden = !item.dataset.find.includes(wanted);
  for (const list of document.querySelectorAll("#contents ul")) {
    list.previousElementSibling.hidden = list.querySelector("li:not([hidden])") === null;
  }
}

async function show() {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const api = await response.json();
  const groups = operationsOf(api);
  byId("title").textContent = `The API of onegen ${api.info.version}`;
  byId("about").append(...said(api.info.description));
  byId("contents").append(...contents(groups));
  byId("operations").append(...groups.flatMap(({ tag, operations }) => [
    make("h2", {}, tag.name),
    paragraph(`${tag.description}.`),
    ...operations.map((operation) => section(operation, api)),
  ]));
  byId("schemas").append(...types(api.components.schemas));
  byId("schemas").hidden = false;
  byId("filter").addEventListener("input", filter);
  // The element that the address names did not exist yet when the browser looked for it.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

show().catch((error) => {
  byId("problem").textContent = `The document cannot be shown: ${error.message}.`;
  byId("problem").hidden = false;
});
