// Shows JSON Schemas for people: a line for each field, with links to named types.

import { make } from "../page/dom.js";
import { said } from "./text.js";

const REFERENCE = "#/components/schemas/";
/** Bounds that add nothing to the type of a number. */
const WIDEST = [0, 2 ** 32 - 1, 2 ** 63, 2 ** 64, -(2 ** 63), -(2 ** 31), 2 ** 31 - 1];

/** The name of the type that a schema refers to, if it does. */
export const nameOf = (schema) => schema.$ref?.startsWith(REFERENCE) ? schema.$ref.slice(REFERENCE.length) : undefined;

/** A schema in a few words. */
export function typeOf(schema) {
  const name = nameOf(schema);
  if (name) return [make("a", { href: `#type-${name}` }, name)];
  if (schema.enum) return listed(schema.enum.map((value) => make("code", {}, JSON.stringify(value))));
  if (schema.const !== undefined) return [make("code", {}, JSON.stringify(schema.const))];
  const variants = schema.oneOf ?? schema.anyOf;
  if (variants) return listed(variants.map((variant) => make("span", {}, ...typeOf(variant))));
  if (schema.allOf) return schema.allOf.flatMap(typeOf);
  if (schema.type === undefined && schema.properties === undefined) return ["anything"];
  return listed([schema.type ?? "object"].flat().map((kind) => make("span", {}, ...ofKind(kind, schema))));
}

function ofKind(kind, schema) {
  if (kind === "array") return [`list of${counted(schema.minItems, schema.maxItems)} `, ...typeOf(schema.items ?? {})];
  if (kind === "object" && schema.additionalProperties?.type) return ["object of ", ...typeOf(schema.additionalProperties)];
  if (kind === "integer" || kind === "number") return [kind, range(schema)];
  if (kind === "string") return [kind, lengths(schema)];
  return [kind];
}

const listed = (parts) => parts.flatMap((part, at) => (at === 0 ? [part] : [at === parts.length - 1 ? " or " : ", ", part]));

function counted(least, most) {
  if (least === undefined && most === undefined) return "";
  return least === most ? ` ${least}` : ` ${[least !== undefined ? `at least ${least}` : "", most !== undefined ? `at most ${most}` : ""].filter(Boolean).join(", ")}`;
}

function range({ minimum, maximum, exclusiveMinimum }) {
  const tells = (bound) => bound !== undefined && !WIDEST.includes(bound);
  const parts = [];
  if (exclusiveMinimum !== undefined) parts.push(`> ${exclusiveMinimum}`);
  if (tells(minimum) || minimum === 0 && tells(maximum)) parts.push(`≥ ${minimum}`);
  if (tells(maximum)) parts.push(`≤ ${maximum}`);
  return parts.length ? ` ${parts.join(", ")}` : "";
}

function lengths({ minLength, maxLength, pattern, format }) {
  const parts = [minLength && `at least ${minLength} long`, maxLength && `at most ${maxLength} long`, pattern && `like ${pattern}`, format];
  const said = parts.filter(Boolean).join(", ");
  return said && ` (${said})`;
}

/** The fields of a schema, or of what it refers to. */
export function fieldsOf(schema, schemas) {
  const named = schemas[nameOf(schema)] ?? schema;
  const parts = [];
  const properties = Object.entries(named.properties ?? {});
  if (properties.length > 0) parts.push(make("dl", {}, ...properties.flatMap(([name, field]) => line(name, field, named.required ?? []))));
  // Rules about which fields go together have no types of their own; descriptions explain them.
  const isRule = (part) => part.anyOf !== undefined || part.type === undefined && nameOf(part) === undefined;
  const variants = (named.oneOf ?? named.anyOf ?? []).filter((part) => !isRule(part));
  if (variants.length > 0) {
    parts.push(make("p", { class: "faint" }, "One of these:"));
    parts.push(make("ul", { class: "variants" }, ...variants.map((variant) => make("li", {}, ...variantOf(variant, schemas)))));
  }
  for (const part of named.allOf ?? []) if (!isRule(part)) parts.push(fieldsOf(part, schemas));
  if (parts.length === 0) parts.push(make("p", {}, ...typeOf(named)));
  return make("div", { class: "fields" }, ...parts);
}

function variantOf(variant, schemas) {
  const description = variant.description ? [" ", ...said(variant.description)] : [];
  if (nameOf(variant) || !variant.properties) return [...typeOf(variant), ...description];
  return [...description, fieldsOf(variant, schemas)];
}

function line(name, schema, required) {
  const needed = required.includes(name) ? [make("span", { class: "needed" }, "required")] : [];
  const type = make("span", { class: "type" }, ...typeOf(schema));
  // In a field that may be null, the type beside null has the items.
  const description = schema.description ?? schema.oneOf?.map((variant) => variant.description).find(Boolean);
  return [make("dt", {}, make("code", {}, name), type, ...needed), make("dd", {}, ...(description ? said(description) : []))];
}
