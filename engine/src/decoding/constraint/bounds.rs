//! What a constraint may ask of the compiler.
//!
//! llguidance and the parsers below it recurse over what they are given, and a stack that overflows ends
//! the process. So the size, the nesting and the number of named parts of a constraint are counted before
//! it is compiled; what stays within these bounds compiles within [`super::compile`]'s stack.

use serde_json::Value;

use super::Constraint;
use crate::error::ConstraintError;

/// Bytes of a grammar, and of all names and texts in a schema.
pub(crate) const MOST_BYTES: usize = 64 << 10;
/// Bytes of a regular expression. Compiling one can take time with the square of them: 60,000 took 8.5 s.
pub(crate) const MOST_REGEX_BYTES: usize = 16 << 10;
/// Brackets or schemas within one another.
pub(crate) const MOST_NESTED: usize = 64;
/// Rules of a grammar or references of a schema, each of which may lead to the next.
pub(crate) const MOST_NAMED: usize = 1_000;
/// Values in a schema: objects, arrays, texts, numbers.
pub(crate) const MOST_VALUES: usize = 20_000;
/// Texts to choose from.
pub(crate) const MOST_CHOICES: usize = 1_000;

impl Constraint {
    /// Counts what it asks for.
    ///
    /// # Errors
    /// [`ConstraintError::TooLarge`] names the bound that it exceeds.
    pub(super) fn check_size(&self) -> Result<(), ConstraintError> {
        match self {
            Self::JsonSchema(schema) => check_schema(schema),
            Self::Regex(regex) => check_regex(regex),
            Self::Choice(choices) => {
                at_most("texts", choices.len(), MOST_CHOICES)?;
                let bytes = choices.iter().map(String::len).sum();
                at_most("bytes", bytes, MOST_BYTES)
            }
            Self::Lark(lark) => {
                at_most("bytes", lark.len(), MOST_BYTES)?;
                let size = LarkSize::new(lark);
                at_most("brackets in one another", size.nested, MOST_NESTED)?;
                at_most("rules", size.rules, MOST_NAMED)
            }
        }
    }
}

fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), ConstraintError> {
    if found <= most {
        return Ok(());
    }
    Err(ConstraintError::TooLarge { what, found, most })
}

fn check_regex(regex: &str) -> Result<(), ConstraintError> {
    at_most(
        "bytes of a regular expression",
        regex.len(),
        MOST_REGEX_BYTES,
    )?;
    at_most("groups in one another", regex_nesting(regex), MOST_NESTED)
}

/// Walks a schema without recursion: it may be deeper than the stack.
fn check_schema(schema: &Value) -> Result<(), ConstraintError> {
    let (mut values, mut bytes, mut references) = (0, 0, 0);
    let mut rest = vec![(schema, 1)];
    while let Some((value, depth)) = rest.pop() {
        values += 1;
        at_most("values in one another", depth, MOST_NESTED)?;
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    bytes += name.len();
                    references += usize::from(name == "$ref" || name == "$dynamicRef");
                    match (name.as_str(), value) {
                        ("pattern", Value::String(pattern)) => check_regex(pattern)?,
                        ("patternProperties", Value::Object(patterns)) => {
                            patterns.keys().try_for_each(|key| check_regex(key))?;
                        }
                        _ => {}
                    }
                    rest.push((value, depth + 1));
                }
            }
            Value::Array(items) => rest.extend(items.iter().map(|item| (item, depth + 1))),
            Value::String(text) => bytes += text.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    at_most("values", values, MOST_VALUES)?;
    at_most("bytes of names and texts", bytes, MOST_BYTES)?;
    at_most("references", references, MOST_NAMED)
}

/// How many groups of a regular expression stand in one another.
fn regex_nesting(regex: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    let mut bytes = regex.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            // Classes can nest too: `[a[b]]`. Inside them parentheses are characters, which are counted
            // all the same: a bound that is met too early only refuses a strange pattern.
            b'(' | b'[' => {
                open += 1;
                most = most.max(open);
            }
            b')' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// What stands in a grammar outside of its strings.
struct LarkSize {
    nested: usize,
    rules: usize,
}

impl LarkSize {
    fn new(lark: &str) -> Self {
        let (mut open, mut size) = (
            0usize,
            Self {
                nested: 0,
                rules: 0,
            },
        );
        let mut bytes = lark.bytes().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' | b'/' => {
                    let quoted = quoted(byte, &mut bytes);
                    size.nested = size.nested.max(open + regex_nesting(&quoted));
                }
                b'(' | b'[' | b'{' => {
                    open += 1;
                    size.nested = size.nested.max(open);
                }
                b')' | b']' | b'}' => open = open.saturating_sub(1),
                b':' => size.rules += 1,
                _ => {}
            }
        }
        size
    }
}

/// What stands between two quotes, or the rest of a line that `//` begins.
fn quoted(quote: u8, bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> String {
    let is_comment = quote == b'/' && bytes.peek() == Some(&b'/');
    let mut quoted = Vec::new();
    while let Some(byte) = bytes.next_if(|&byte| byte != b'\n') {
        match byte {
            _ if is_comment => {}
            b'\\' => {
                quoted.push(byte);
                quoted.extend(bytes.next_if(|&byte| byte != b'\n'));
            }
            _ if byte == quote => break,
            _ => quoted.push(byte),
        }
    }
    String::from_utf8_lossy(&quoted).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(constraint: Constraint) -> Option<(&'static str, usize)> {
        match constraint.check_size() {
            Ok(()) => None,
            Err(ConstraintError::TooLarge { what, found, .. }) => Some((what, found)),
            Err(other) => panic!("{other}"),
        }
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!(true), |inner, _| json!([inner]))
    }

    #[test]
    fn what_is_just_within_a_bound_passes_and_what_is_just_over_it_is_refused() {
        let lark = |text: String| Constraint::Lark(text);
        let brackets = |n: usize| format!("start: {}\"a\"{}", "(".repeat(n), ")".repeat(n));
        assert_eq!(refused(lark(brackets(MOST_NESTED))), None);
        let found = refused(lark(brackets(MOST_NESTED + 1)));
        assert_eq!(found, Some(("brackets in one another", MOST_NESTED + 1)));
        let rules = |n: usize| (0..n).map(|n| format!("r{n}: \"a\"\n")).collect();
        assert_eq!(refused(lark(rules(MOST_NAMED))), None);
        assert_eq!(
            refused(lark(rules(MOST_NAMED + 1))),
            Some(("rules", MOST_NAMED + 1))
        );
        let regex = |n: usize| Constraint::Regex("(".repeat(n) + &")".repeat(n));
        assert_eq!(refused(regex(MOST_NESTED)), None);
        assert!(refused(regex(MOST_NESTED + 1)).is_some());
        let bytes = |n: usize| Constraint::Regex("a".repeat(n));
        assert_eq!(refused(bytes(MOST_REGEX_BYTES)), None);
        assert_eq!(
            refused(bytes(MOST_REGEX_BYTES + 1)),
            Some(("bytes of a regular expression", MOST_REGEX_BYTES + 1))
        );
        assert_eq!(refused(Constraint::JsonSchema(nested(MOST_NESTED))), None);
        assert!(refused(Constraint::JsonSchema(nested(MOST_NESTED + 1))).is_some());
        let references = |n: usize| json!({"allOf": vec![json!({"$ref": "#"}); n]});
        assert_eq!(
            refused(Constraint::JsonSchema(references(MOST_NAMED))),
            None
        );
        assert!(refused(Constraint::JsonSchema(references(MOST_NAMED + 1))).is_some());
        for (pattern, what) in [
            ("(".repeat(MOST_NESTED + 1), "groups in one another"),
            (
                "a".repeat(MOST_REGEX_BYTES + 1),
                "bytes of a regular expression",
            ),
        ] {
            for schema in [
                json!({"pattern": pattern}),
                json!({"patternProperties": {&pattern: true}}),
            ] {
                let refused = refused(Constraint::JsonSchema(schema)).map(|(what, _)| what);
                assert_eq!(refused, Some(what));
            }
        }
        let choices = |n| Constraint::Choice(vec![String::from("a"); n]);
        assert_eq!(refused(choices(MOST_CHOICES)), None);
        assert!(refused(choices(MOST_CHOICES + 1)).is_some());
    }

    #[test]
    fn brackets_and_colons_in_strings_and_comments_are_text() {
        let lark = format!(
            "start: {} // {}\nword: /[a-z]\\/:/ {}",
            r#""(\":" "#.repeat(MOST_NESTED + 1),
            "([{:".repeat(MOST_NESTED + 1),
            r#""{" "#.repeat(MOST_NESTED + 1),
        );
        let size = LarkSize::new(&lark);
        assert_eq!((size.rules, size.nested), (2, 1));
    }
}
