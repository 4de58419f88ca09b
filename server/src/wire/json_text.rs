//! What can be told from the text of a JSON body, before it is parsed or where it does not parse.

use serde_json::Value;

/// How many values a JSON text has, objects, arrays and the names of fields included. A text that is no JSON gets
/// some number.
pub(crate) fn count_values(text: &[u8]) -> usize {
    let mut values = 1;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b',' | b':' | b'[' | b'{' => values += 1,
            _ => {}
        }
    }
    // An empty array or object has been counted as if it had one value.
    values
}

fn skip_string<'t>(bytes: &mut impl Iterator<Item = &'t u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => _ = bytes.next(),
            _ => {}
        }
    }
}

/// A surrogate without its other half in a JSON text: JavaScript writes one where a text was cut inside a
/// character.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LoneSurrogate {
    /// The string that holds it, as `messages[0].content`.
    pub(crate) path: String,
    /// As it is written.
    pub(crate) escape: String,
}

/// Stands for a lone surrogate while its place is looked for. No text has this character, by Unicode's rule.
const MARK: char = '\u{fdd0}';

/// The first lone surrogate of a text that is JSON otherwise.
pub(crate) fn lone_surrogate(text: &[u8]) -> Option<LoneSurrogate> {
    let mut marked = Vec::with_capacity(text.len());
    let mut found = None;
    let mut at = 0;
    while at < text.len() {
        let length = match (text[at], code_unit(&text[at..])) {
            (b'\\', Some(unit)) => {
                let next = text.get(at + ESCAPE..).and_then(code_unit);
                let is_pair = is_high(unit) && next.is_some_and(is_low);
                if !is_pair && (is_high(unit) || is_low(unit)) {
                    let escape = String::from_utf8_lossy(&text[at..at + ESCAPE]);
                    found.get_or_insert(escape.into_owned());
                    marked.extend_from_slice(MARK.to_string().as_bytes());
                    at += ESCAPE;
                    continue;
                }
                if is_pair { 2 * ESCAPE } else { ESCAPE }
            }
            // Another escape is two bytes; the second one begins none.
            (b'\\', None) => 2,
            _ => 1,
        };
        let end = text.len().min(at + length);
        marked.extend_from_slice(&text[at..end]);
        at = end;
    }
    let escape = found?;
    let value: Value = serde_json::from_slice(&marked).ok()?;
    let path = path_of_mark(&value, String::new())?;
    Some(LoneSurrogate { path, escape })
}

/// Bytes of an escape such as `\ud83d`.
const ESCAPE: usize = 6;

/// The UTF-16 code unit that a text begins with, written as an escape.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` takes a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u16::from_str_radix(digits, 16).ok())?
}

fn is_high(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_low(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

fn path_of_mark(value: &Value, path: String) -> Option<String> {
    match value {
        Value::String(text) => text.contains(MARK).then_some(path),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(at, item)| path_of_mark(item, format!("{path}[{at}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            if name.contains(MARK) {
                return Some(path.clone());
            }
            let dot = if path.is_empty() { "" } else { "." };
            path_of_mark(value, format!("{path}{dot}{name}"))
        }),
        _ => None,
    }
}
