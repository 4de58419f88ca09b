//! Holds a finished text against the schema that constrained it.
//!
//! A grammar enforces less than a schema says: some keywords only a finished text can be held against
//! ([`super::relax`]), names of open objects may repeat, and the 29th of February is in every year.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationOptions, Validator};
use serde_json::{Value, json};

use super::compile::{Cancellation, on_large_stack};
use super::relax::formats_not_enforced;
use crate::error::ConstraintError;

/// Steps back that a regular expression may take at one text.
const MOST_BACKTRACKS: usize = 100_000;
/// Bytes of a compiled regular expression.
const MOST_REGEX_MEMORY: usize = 1 << 20;
/// Characters of an error that are passed on. It may repeat the schema.
const MOST_ERROR_CHARS: usize = 400;

/// What a schema says of a text, whole and not only as far as it was enforced.
#[derive(Debug)]
pub struct SchemaCheck {
    /// Or why texts cannot be held against the schema.
    validator: Result<Validator, String>,
    not_enforced: Vec<String>,
    not_checked: Vec<String>,
}

/// What is known of a text whose schema was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReport {
    /// Whether the text is JSON that the schema allows; `None` if that could not be found out.
    pub valid: Option<bool>,
    /// What the text does not meet and where, or why it is not known whether it does.
    pub error: Option<String>,
    /// Keywords that were not enforced while the text was written, each behind the JSON pointer of its schema.
    pub not_enforced: Vec<String>,
    /// Formats that were neither enforced nor checked, written in the same way.
    pub not_checked: Vec<String>,
}

/// Documents that a schema refers to are not fetched.
struct NoDocuments;

impl Retrieve for NoDocuments {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} is another document, and none is fetched").into())
    }
}

impl SchemaCheck {
    /// A check of the whole `schema`, of which `not_enforced` names what its grammar lacks.
    ///
    /// # Errors
    /// Some of it can neither be enforced nor checked.
    pub(super) fn new(schema: &Value, not_enforced: Vec<String>) -> Result<Self, ConstraintError> {
        let named = schema.get("$schema").is_some();
        let build = |draft: Option<Draft>| {
            let options = match draft {
                Some(draft) => options().with_draft(draft),
                None => options(),
            };
            let built = options.build(schema);
            built.map_err(|error| shortened(&error.to_string()))
        };
        // Many schemas are written in an older draft without saying so.
        let older = [Draft::Draft7, Draft::Draft4]
            .into_iter()
            .filter(|_| !named);
        let validator = older.fold(build(None), |built, draft| {
            built.or_else(|error| build(Some(draft)).map_err(|_| error))
        });
        match validator {
            Err(reason) if !not_enforced.is_empty() => Err(ConstraintError::Compile(format!(
                "{} cannot be enforced, and the finished text cannot be checked: {reason}",
                not_enforced.join(", ")
            ))),
            validator => Ok(Self {
                not_checked: match &validator {
                    Ok(validator) => formats_not_checked(schema, validator.draft()),
                    Err(_) => Vec::new(),
                },
                validator,
                not_enforced,
            }),
        }
    }

    /// Holds a finished text against the schema. This may take a moment: not for an async thread.
    pub fn report(self: &std::sync::Arc<Self>, text: &str) -> SchemaReport {
        let (check, text) = (self.clone(), text.to_owned());
        let checked = on_large_stack(&Cancellation::default(), (), move || Ok(check.check(&text)));
        let (valid, error) = match checked {
            Ok(Ok(())) => (Some(true), None),
            Ok(Err(Mismatch { known, reason })) => (known.then_some(false), Some(reason)),
            Err(error) => (None, Some(error.to_string())),
        };
        SchemaReport {
            valid,
            error,
            not_enforced: self.not_enforced.clone(),
            not_checked: self.not_checked.clone(),
        }
    }

    fn check(&self, text: &str) -> Result<(), Mismatch> {
        let mismatch = |known, reason| Mismatch { known, reason };
        let value: Value = serde_json::from_str(text)
            .map_err(|error| mismatch(true, format!("the text is no whole JSON: {error}")))?;
        let validator = self.validator.as_ref();
        let validator = validator.map_err(|reason| mismatch(false, reason.clone()))?;
        validator.validate(&value).map_err(|error| {
            let unknown = matches!(
                error.kind(),
                ValidationErrorKind::BacktrackLimitExceeded { .. }
                    | ValidationErrorKind::RegexEngineFailure { .. }
            );
            let at = error.instance_path().as_str();
            let at = if at.is_empty() { "the whole" } else { at };
            mismatch(!unknown, shortened(&format!("{at}: {}", error.masked())))
        })
    }
}

fn options() -> ValidationOptions<'static> {
    jsonschema::options()
        .with_retriever(NoDocuments)
        .should_validate_formats(true)
        .with_pattern_options(
            PatternOptions::fancy_regex()
                .backtrack_limit(MOST_BACKTRACKS)
                .size_limit(MOST_REGEX_MEMORY)
                .dfa_size_limit(MOST_REGEX_MEMORY),
        )
}

/// The places of formats that the grammar does not enforce and that this draft does not know.
fn formats_not_checked(schema: &Value, draft: Draft) -> Vec<String> {
    let is_checked = |format: &str| {
        let options = options()
            .with_draft(draft)
            .should_ignore_unknown_formats(false);
        options.build(&json!({"format": format})).is_ok()
    };
    let formats = formats_not_enforced(schema).into_iter();
    formats
        .filter(|(format, _)| !is_checked(format))
        .map(|(_, place)| place)
        .collect()
}

/// Why a text does not pass.
struct Mismatch {
    /// Whether it is known not to meet the schema, and not only unknown.
    known: bool,
    reason: String,
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn report(schema: Value, text: &str) -> SchemaReport {
        Arc::new(SchemaCheck::new(&schema, Vec::new()).unwrap()).report(text)
    }

    #[test]
    fn a_text_is_held_against_the_whole_schema() {
        let tags = || json!({"type": "array", "uniqueItems": true});
        assert_eq!(report(tags(), "[1, 2]").valid, Some(true));
        let twice = report(tags(), "[1, 1]");
        assert_eq!(twice.valid, Some(false));
        assert!(twice.error.unwrap().contains("non-unique"));
        let within = report(
            json!({"properties": {"at": {"format": "date"}}}),
            r#"{"at": "2023-02-29"}"#,
        );
        assert_eq!(within.valid, Some(false));
        assert!(within.error.unwrap().starts_with("/at: "));
        let cut = report(tags(), "[1, ");
        assert_eq!(cut.valid, Some(false));
        assert!(cut.error.unwrap().contains("no whole JSON"));
    }

    #[test]
    fn formats_that_nobody_knows_are_named_and_the_others_checked() {
        let check = |schema| SchemaCheck::new(&schema, Vec::new()).unwrap();
        let invented = check(json!({
            "properties": {
                "a": {"format": "path"},
                "b": {"format": "uri-template"},
                "e": {"format": "idn-hostname"},
                "c": {"type": "integer", "format": "int32"},
                "d": {"not": {"format": "unknown"}},
            },
            "dependentSchemas": {"a": {"items": {"format": "ulid"}}},
            "enum": [{"format": "path"}],
        }));
        assert_eq!(
            invented.not_checked,
            [
                "/properties/a: format \"path\"",
                "/properties/e: format \"idn-hostname\"",
                "/properties/c: format \"int32\"",
                "/properties/d/not: format \"unknown\"",
                "/dependentSchemas/a/items: format \"ulid\"",
            ]
        );
        let of_draft_4 = "http://json-schema.org/draft-04/schema#";
        let older = check(json!({"$schema": of_draft_4, "format": "json-pointer"}));
        assert_eq!(older.not_checked, ["format \"json-pointer\""]);
        // The other formats of JSON Schema itself are held against the text.
        for (format, right, wrong) in [
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-02-29T10:00:00Z", "2024-02-29"),
            ("duration", "P3D", "3 days"),
            ("email", "a@example.org", "a"),
            ("hostname", "example.org", "-a-"),
            ("ipv4", "127.0.0.1", "127.0.0.256"),
            ("ipv6", "::1", ":::1"),
            ("iri", "http://ü.example/", "ü"),
            ("iri-reference", "/ü", "\\ü"),
            ("json-pointer", "/a", "a"),
            ("regex", "a+", "a("),
            ("relative-json-pointer", "1/a", "/a"),
            ("time", "10:00:00Z", "25:00:00Z"),
            ("uri", "http://a.example/", "//"),
            ("uri-reference", "/a", "\\a"),
            ("uri-template", "/{a}", "/{a"),
            ("uuid", "00000000-0000-0000-0000-000000000000", "0"),
        ] {
            let schema = json!({"format": format});
            for (text, valid) in [(right, true), (wrong, false)] {
                let report = report(schema.clone(), &json!(text).to_string());
                assert_eq!(report.valid, Some(valid), "{format}: {report:?}");
                assert!(report.not_checked.is_empty(), "{format}");
            }
        }
    }

    #[test]
    fn older_drafts_are_understood_without_their_name() {
        let pair = json!({"items": [{"type": "integer"}, {"type": "string"}]});
        assert_eq!(report(pair.clone(), r#"[1, "a"]"#).valid, Some(true));
        assert_eq!(report(pair, r#"["a", 1]"#).valid, Some(false));
        let above = json!({"minimum": 3, "exclusiveMinimum": true});
        assert_eq!(report(above.clone(), "3").valid, Some(false));
        assert_eq!(report(above, "4").valid, Some(true));
    }

    #[test]
    fn what_takes_too_much_to_find_out_is_not_known() {
        // Just over the bound, with a look-ahead so that it is searched by stepping back.
        let slow = json!({"pattern": r"^(?=a)(a|a)*b\1?$"});
        let unknown = report(slow, &json!("a".repeat(20)).to_string());
        assert_eq!(unknown.valid, None, "{unknown:?}");
        assert!(unknown.error.is_some());
    }

    #[test]
    fn references_in_a_circle_end_and_other_documents_are_not_fetched() {
        let circle = json!({
            "anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}],
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}},
        });
        assert!(report(circle, "1").valid.is_some());
        let nested = "[".repeat(100) + &"]".repeat(100);
        let twice = json!({"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"type": "null"}]}, "type": "array"});
        assert_eq!(report(twice, &nested).valid, Some(true));
        let elsewhere = json!({"$ref": "https://example.com/schema"});
        assert_eq!(report(elsewhere.clone(), "1").valid, None);
        assert!(SchemaCheck::new(&elsewhere, vec![": not".into()]).is_err());
    }
}
