//! What of a JSON schema can be enforced while a text is written.
//!
//! llguidance refuses a schema as a whole for one keyword that it does not know. Here such keywords are left out
//! of the schema that the grammar is made of, and named; [`super::check`] holds the finished text against the
//! whole schema.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

/// Keywords that only a finished text can be held against.
const NOT_ENFORCED: [&str; 19] = [
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "contentSchema",
];
/// Those of them that say nothing without another one.
const NEED_ANOTHER: [(&str, &str); 4] = [
    ("maxContains", "contains"),
    ("minContains", "contains"),
    ("then", "if"),
    ("else", "if"),
];
/// Formats that llguidance has a regular expression of.
const ENFORCED_FORMATS: [&str; 10] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "time",
    "uri",
    "uuid",
];
/// Keywords whose value is a schema, a list of schemas, or schemas by name.
const SCHEMAS: [&str; 11] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const LISTS: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const NAMED: [&str; 6] = [
    "$defs",
    "definitions",
    "dependencies",
    "dependentSchemas",
    "patternProperties",
    "properties",
];
/// Patterns of one schema that are tried on their own. Those behind them are left out untried.
const MOST_TRIED: usize = 100;

/// A schema without what cannot be enforced, and the places of that: `/properties/tags: uniqueItems`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Relaxed {
    pub(super) schema: Value,
    pub(super) not_enforced: Vec<String>,
}

impl Relaxed {
    /// Leaves out what llguidance never enforces.
    pub(super) fn new(schema: &Value) -> Self {
        let mut relaxed = Self {
            schema: schema.clone(),
            not_enforced: Vec::new(),
        };
        let not_enforced = &mut relaxed.not_enforced;
        walk(&mut relaxed.schema, "", &mut |fields, at| {
            leave_out_keywords(fields, at, not_enforced);
            write_references_plainly(fields);
        });
        relaxed
    }

    /// Leaves out the patterns that do not compile: `compiles` tries a schema.
    pub(super) fn without_patterns(&self, mut compiles: impl FnMut(Value) -> bool) -> Self {
        let mut relaxed = self.clone();
        let not_enforced = &mut relaxed.not_enforced;
        let mut tried = 0;
        let mut works = |schema: Value| {
            tried += 1;
            tried <= MOST_TRIED && compiles(schema)
        };
        walk(&mut relaxed.schema, "", &mut |fields, at| {
            if fields.contains_key("pattern") {
                let of_texts = ["pattern", "format", "minLength", "maxLength"];
                let alone = fields
                    .iter()
                    .filter(|(key, _)| of_texts.contains(&key.as_str()));
                let mut alone: Map<_, _> = alone.map(|(k, v)| (k.clone(), v.clone())).collect();
                alone.insert("type".into(), "string".into());
                if !works(alone.into()) {
                    fields.retain(|keyword, _| keyword != "pattern");
                    not_enforced.push(at_place(at, "pattern"));
                }
            }
            if let Some(Value::Object(patterns)) = fields.get("patternProperties") {
                let any: Map<_, _> = patterns
                    .keys()
                    .map(|key| (key.clone(), true.into()))
                    .collect();
                if !works(json!({"type": "object", "patternProperties": any})) {
                    fields.retain(|keyword, _| keyword != "patternProperties");
                    // What the patterns were for is allowed, too.
                    fields.insert("additionalProperties".into(), true.into());
                    not_enforced.push(at_place(at, "patternProperties"));
                }
            }
        });
        relaxed
    }

    /// The same with approximations: of cases that exclude one another several may be met, and optional properties
    /// are not counted.
    pub(super) fn approximated(&self) -> Self {
        let mut relaxed = self.clone();
        let not_enforced = &mut relaxed.not_enforced;
        walk(&mut relaxed.schema, "", &mut |fields, at| {
            if fields.contains_key("oneOf") {
                not_enforced.push(at_place(at, "oneOf"));
            }
            // Beside named properties, some of which may be left out, llguidance does not count.
            for keyword in ["minProperties", "maxProperties"] {
                if fields.contains_key("properties") && fields.contains_key(keyword) {
                    fields.retain(|name, _| name != keyword);
                    not_enforced.push(at_place(at, keyword));
                }
            }
        });
        if let Some(fields) = relaxed.schema.as_object_mut() {
            let options = fields.entry("x-guidance").or_insert_with(|| json!({}));
            if let Some(options) = options.as_object_mut() {
                options.insert("lenient".into(), true.into());
                options.insert("coerce_one_of".into(), true.into());
            }
        }
        relaxed
    }
}

/// The formats of which llguidance has no regular expression, each with its place.
pub(super) fn formats_not_enforced(schema: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&mut schema.clone(), "", &mut |fields, at| {
        if let Some(Value::String(format)) = fields.get("format")
            && !ENFORCED_FORMATS.contains(&format.as_str())
        {
            found.push((format.clone(), format_at(at, format)));
        }
    });
    found
}

/// Visits every schema within a schema, outer ones first, with its JSON pointer. Its depth is bounded by
/// [`super::bounds`].
fn walk(schema: &mut Value, at: &str, visit: &mut impl FnMut(&mut Map<String, Value>, &str)) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    visit(fields, at);
    for (key, value) in fields {
        let inner = format!("{at}/{key}");
        match value {
            Value::Object(named) if NAMED.contains(&key.as_str()) => {
                for (name, schema) in named {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    walk(schema, &format!("{inner}/{name}"), visit);
                }
            }
            Value::Array(schemas) if LISTS.contains(&key.as_str()) => {
                for (number, schema) in schemas.iter_mut().enumerate() {
                    walk(schema, &format!("{inner}/{number}"), visit);
                }
            }
            Value::Object(_) if SCHEMAS.contains(&key.as_str()) => walk(value, &inner, visit),
            _ => {}
        }
    }
}

/// A keyword behind the JSON pointer of its schema.
fn at_place(at: &str, keyword: &str) -> String {
    if at.is_empty() {
        keyword.to_owned()
    } else {
        format!("{at}: {keyword}")
    }
}

fn format_at(at: &str, format: &str) -> String {
    at_place(at, &format!("format {format:?}"))
}

/// llguidance reads the parts of a reference as they are written, so they are written without escapes.
fn write_references_plainly(fields: &mut Map<String, Value>) {
    if let Some(Value::String(reference)) = fields.get_mut("$ref")
        && let Some(pointer) = reference.strip_prefix("#/")
    {
        let parts: Vec<_> = pointer.split('/').map(plain_name).collect();
        *reference = format!("#/{}", parts.join("/"));
    }
    for definitions in ["$defs", "definitions"] {
        if let Some(Value::Object(named)) = fields.get_mut(definitions) {
            let all = std::mem::take(named).into_iter();
            named.extend(all.map(|(name, schema)| (without_slashes(&name), schema)));
        }
    }
}

/// A part of a reference without percent signs (RFC 3986) and tildes (RFC 6901) as escapes.
fn plain_name(part: &str) -> String {
    let decoded = percent_decode_str(part).decode_utf8_lossy();
    let name = decoded.replace("~1", "/").replace("~0", "~");
    without_slashes(&name)
}

/// A slash in a name would be read as the end of a part.
fn without_slashes(name: &str) -> String {
    name.replace('/', "\u{2215}")
}

fn leave_out_keywords(fields: &mut Map<String, Value>, at: &str, not_enforced: &mut Vec<String>) {
    for keyword in NOT_ENFORCED {
        if fields
            .get(keyword)
            .is_some_and(|value| says_something(keyword, value, fields))
        {
            not_enforced.push(at_place(at, keyword));
        }
    }
    fields.retain(|keyword, _| !NOT_ENFORCED.contains(&keyword.as_str()));
    let unknown = |format: &Value| {
        let name = format.as_str().unwrap_or_default();
        (!ENFORCED_FORMATS.contains(&name)).then(|| name.to_owned())
    };
    if let Some(format) = fields.get("format").and_then(unknown) {
        fields.retain(|keyword, _| keyword != "format");
        // Tools write the width of a number as its format.
        let of_number = matches!(fields.get("type"), Some(Value::String(kind)) if kind != "string");
        if !of_number {
            not_enforced.push(format_at(at, &format));
        }
    }
}

fn says_something(keyword: &str, value: &Value, fields: &Map<String, Value>) -> bool {
    if let Some((_, other)) = NEED_ANOTHER.iter().find(|(one, _)| *one == keyword) {
        return fields.contains_key(*other);
    }
    match (keyword, value) {
        ("if", _) => fields.contains_key("then") || fields.contains_key("else"),
        ("$dynamicAnchor" | "$recursiveAnchor" | "contentSchema", _) => false,
        // Every name is a text.
        ("propertyNames", Value::Object(names)) => !names
            .iter()
            .all(|(key, value)| key == "type" && value == "string"),
        ("not", _) => true,
        (_, Value::Bool(said)) => match keyword {
            "unevaluatedItems" | "unevaluatedProperties" | "propertyNames" => !said,
            _ => *said,
        },
        (_, Value::Object(map)) => !map.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enforced_is_left_out_everywhere_and_named() {
        let schema = json!({
            "type": "object",
            "propertyNames": {"pattern": "^[a-z]+$"},
            "properties": {
                "not": {"type": "array", "uniqueItems": true, "items": {"format": "path"}},
                "a/b": {"anyOf": [{"$ref": "#/$defs/x"}, {"not": {"type": "null"}}]},
            },
            "$defs": {"x": {"type": "string", "format": "starts_with", "pattern": "^a"}},
            "enum": [{"uniqueItems": true}],
        });
        let relaxed = Relaxed::new(&schema);
        assert_eq!(
            relaxed.schema,
            json!({
                "type": "object",
                "properties": {
                    "not": {"type": "array", "items": {}},
                    "a/b": {"anyOf": [{"$ref": "#/$defs/x"}, {}]},
                },
                "$defs": {"x": {"type": "string", "pattern": "^a"}},
                "enum": [{"uniqueItems": true}],
            })
        );
        assert_eq!(
            relaxed.not_enforced,
            [
                "propertyNames",
                "/properties/not: uniqueItems",
                "/properties/not/items: format \"path\"",
                "/properties/a~1b/anyOf/1: not",
                "/$defs/x: format \"starts_with\"",
            ]
        );
    }

    #[test]
    fn what_says_nothing_is_not_named() {
        let schema = json!({
            "propertyNames": {"type": "string"}, "uniqueItems": false, "minContains": 2, "then": {},
            "unevaluatedProperties": true, "type": "integer", "format": "int32",
        });
        let relaxed = Relaxed::new(&schema);
        assert_eq!(relaxed.schema, json!({"type": "integer"}));
        assert!(relaxed.not_enforced.is_empty());
    }

    #[test]
    fn patterns_that_do_not_compile_are_left_out_and_the_others_stay() {
        let schema = json!({
            "properties": {"a": {"pattern": "^(?=b)", "minLength": 1}, "b": {"pattern": "b"}},
            "patternProperties": {"(?!a)": {"type": "null"}}, "additionalProperties": false,
        });
        let compiles = |schema: Value| !schema.to_string().contains("(?");
        let relaxed = Relaxed::new(&schema).without_patterns(compiles);
        assert_eq!(
            relaxed.schema,
            json!({
                "properties": {"a": {"minLength": 1}, "b": {"pattern": "b"}},
                "additionalProperties": true,
            })
        );
        assert_eq!(
            relaxed.not_enforced,
            ["patternProperties", "/properties/a: pattern"]
        );
    }

    #[test]
    fn references_are_written_without_escapes() {
        let schema = json!({
            "items": {"$ref": "#/$defs/List%5Ba~1b%5D"}, "not": true,
            "$defs": {"List[a/b]": {"$ref": "#"}, "~": {"$ref": "#/definitions/~0"}},
        });
        let relaxed = Relaxed::new(&schema).schema;
        let name = "List[a\u{2215}b]";
        assert_eq!(relaxed["items"]["$ref"], format!("#/$defs/{name}"));
        assert_eq!(relaxed["$defs"][name], json!({"$ref": "#"}));
        assert_eq!(relaxed["$defs"]["~"]["$ref"], "#/definitions/~");
    }
}
