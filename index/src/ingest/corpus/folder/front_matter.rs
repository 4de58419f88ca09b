//! Front matter: what stands about a text at its beginning, as YAML, TOML or JSON.
//!
//! | first line | until | language |
//! |---|---|---|
//! | `---`, `---yaml` | `---` or `...` | YAML |
//! | `+++`, `---toml` | the same sign | TOML |
//! | `;;;`, `---json` | the same sign | JSON |
//! | `{` | its `}` | JSON |

use serde_json::{Map, Value};
use serde_saphyr::Budget;

/// The longest block that is parsed.
const LONGEST: usize = 256 << 10;

/// The deepest nesting in YAML. TOML's parser stops at 80 levels and JSON's at 128.
const DEEPEST: usize = 64;

/// The most nodes of a YAML block, those that its aliases repeat included.
const MOST_NODES: usize = 20_000;

/// YAML's tag of a time.
const TIMESTAMP_TAG: &str = "!!timestamp ";

/// The beginning of a text.
#[derive(Debug, PartialEq)]
pub(super) struct FrontMatter<'a> {
    pub(super) fields: Map<String, Value>,
    /// The text after it. Without front matter, and if that cannot be read, it is the whole.
    pub(super) rest: &'a str,
    /// Where a heading may be: the text after it, also if it cannot be read.
    pub(super) headings: &'a str,
    /// Why there is front matter that cannot be read.
    pub(super) damage: Option<String>,
}

#[derive(Clone, Copy)]
enum Language {
    Yaml,
    Toml,
    Json,
}

/// Reads the front matter of a text, if it has any.
pub(super) fn read(content: &str) -> FrontMatter<'_> {
    let with = |fields, rest| FrontMatter {
        fields,
        rest,
        headings: rest,
        damage: None,
    };
    let without = with(Map::new(), content);
    let damaged = |damage, headings| FrontMatter {
        damage: Some(damage),
        headings,
        ..with(Map::new(), content)
    };
    if content.starts_with('{') {
        return match json_block(content) {
            Ok(Some((fields, rest))) => with(fields, rest),
            Ok(None) => without,
            Err(damage) => damaged(damage, content),
        };
    }
    let Some((fence, language, first_line)) = opening(content) else {
        return without;
    };
    let body = &content[first_line..];
    let Some((block, rest)) = block(body, fence) else {
        // A lone `---` is a rule of Markdown, unless what follows is clearly meant as a field.
        if body.lines().next().is_some_and(is_field) {
            return damaged(format!("line 1: {fence} is never closed"), content);
        }
        return without;
    };
    if block.len() > LONGEST {
        return damaged(format!("it is longer than {LONGEST} bytes"), rest);
    }
    match parse(block, language) {
        Ok(Some(fields)) => with(fields, rest),
        Ok(None) => without,
        Err(damage) => damaged(damage, rest),
    }
}

/// Which front matter the first line opens, and the length of that line.
fn opening(content: &str) -> Option<(&'static str, Language, usize)> {
    let line = content.split_inclusive('\n').next()?;
    let (fence, language) = match line.trim_end() {
        "---" | "---yaml" | "--- yaml" => ("---", Language::Yaml),
        "---toml" | "--- toml" => ("---", Language::Toml),
        "---json" | "--- json" => ("---", Language::Json),
        "+++" => ("+++", Language::Toml),
        ";;;" => (";;;", Language::Json),
        _ => return None,
    };
    Some((fence, language, line.len()))
}

/// The text before the line that closes a block, and what comes after that line.
fn block<'a>(body: &'a str, fence: &str) -> Option<(&'a str, &'a str)> {
    let mut end = 0;
    for line in body.split_inclusive('\n') {
        let closing = line.trim_end();
        if closing == fence || (fence == "---" && closing == "...") {
            return Some((&body[..end], &body[end + line.len()..]));
        }
        end += line.len();
    }
    None
}

/// Whether a line is `name: …` or `name = …`.
fn is_field(line: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let after = line.trim_start_matches(is_name);
    let after_space = after.trim_start();
    after.len() < line.len()
        && (after_space.starts_with('=') || after == ":" || after.starts_with(": "))
}

/// The fields of a block; `None` if it holds something else, such as a paragraph between two rules.
fn parse(block: &str, language: Language) -> Result<Option<Map<String, Value>>, String> {
    let value = match language {
        Language::Yaml => yaml(block)?,
        Language::Toml => {
            let table: toml::Table = block.parse().map_err(|error: toml::de::Error| {
                let line = error.span().map(|span| 2 + newlines(block, span.start));
                at_line(line, error.message())
            })?;
            json_of_toml(toml::Value::Table(table))
        }
        Language::Json => serde_json::from_str(block).map_err(|error| json_damage(&error, 1))?,
    };
    Ok(match value {
        Value::Object(fields) => Some(fields),
        Value::Null => Some(Map::new()),
        _ => None,
    })
}

fn yaml(block: &str) -> Result<Value, String> {
    let mut value = parse_yaml(block).or_else(|damage| {
        // The parser refuses a text with this tag, which PyYAML writes before times.
        if block.contains(TIMESTAMP_TAG) {
            parse_yaml(&block.replace(TIMESTAMP_TAG, "")).map_err(|_| damage)
        } else {
            Err(damage)
        }
    })?;
    write_times_as_iso(&mut value);
    Ok(value)
}

fn parse_yaml(block: &str) -> Result<Value, String> {
    let mut budget = Budget::default();
    budget.max_depth = DEEPEST;
    budget.max_nodes = MOST_NODES;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = MOST_NODES;
    // As YAML 1.2 has it: `no` is a country, not a boolean.
    options.strict_booleans = true;
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    options.null_as_string = true;
    options.non_finite_float_policy = serde_saphyr::options::NonFiniteFloatPolicy::AsString;
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(block, options).map_err(|error| {
        let line = error
            .location()
            .map(|location| location.line() as usize + 1);
        let message = error.to_string();
        let message = message.lines().next().unwrap_or_default();
        at_line(line, message.split(" at line ").next().unwrap_or_default())
    })
}

/// A JSON object at the beginning of a text and the rest after its line; `None` if the text only looks as if
/// it began with one.
type JsonBlock<'a> = Option<(Map<String, Value>, &'a str)>;

fn json_block(content: &str) -> Result<JsonBlock<'_>, String> {
    let mut end = content.len().min(LONGEST);
    while !content.is_char_boundary(end) {
        end -= 1;
    }
    let mut objects = serde_json::Deserializer::from_str(&content[..end]).into_iter();
    match objects.next() {
        Some(Ok(fields)) => {
            let rest = &content[objects.byte_offset()..];
            let (line, rest) = rest.split_once('\n').unwrap_or((rest, ""));
            Ok(line.trim().is_empty().then_some((fields, rest)))
        }
        // A brace alone on a line, and another one: this was meant as a block.
        Some(Err(error)) => {
            let alone = |brace: &str| content.lines().any(|line| line.trim_end() == brace);
            if content.lines().next().map(str::trim_end) == Some("{") && alone("}") {
                return Err(json_damage(&error, 0));
            }
            Ok(None)
        }
        None => Ok(None),
    }
}

fn json_damage(error: &serde_json::Error, lines_before: usize) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    at_line(Some(error.line() + lines_before), message)
}

fn at_line(line: Option<usize>, message: &str) -> String {
    match line {
        Some(line) => format!("line {line}: {message}"),
        None => message.to_owned(),
    }
}

fn newlines(text: &str, until: usize) -> usize {
    text.bytes()
        .take(until)
        .filter(|&byte| byte == b'\n')
        .count()
}

fn json_of_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json_of_toml).collect(),
        toml::Value::Table(fields) => {
            let fields = fields.into_iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name, json_of_toml(value)))
                    .collect(),
            )
        }
    }
}

/// Writes YAML's times as ISO has them, `2026-11-29 9:30:00 +1` as `2026-11-29T09:30:00+01:00`, so that they
/// can be compared with others.
fn write_times_as_iso(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(iso) = iso_time(text) {
                *text = iso;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(write_times_as_iso),
        Value::Object(fields) => fields.values_mut().for_each(write_times_as_iso),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A date and a time of YAML in ISO's form; `None` if the text is anything else.
fn iso_time(text: &str) -> Option<String> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let is_date = year.len() == 4 && is_number(year) && date.next().is_none();
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let mut time = time.trim().split(':');
    let (hour, minute, second) = (time.next()?, time.next()?, time.next()?);
    let (whole_second, fraction) = second.split_once('.').unwrap_or((second, ""));
    let is_time = minute.len() == 2 && whole_second.len() == 2 && time.next().is_none();
    if !is_date || !is_time || !(fraction.is_empty() || is_number(fraction)) {
        return None;
    }
    let zone = match zone.split_at_checked(1) {
        None => String::new(),
        Some(("Z" | "z", "")) => "Z".to_owned(),
        Some((sign @ ("+" | "-"), offset)) => {
            let (hours, minutes) = match offset.split_once(':') {
                Some(parts) => parts,
                None => offset.split_at_checked(offset.len().min(2))?,
            };
            let minutes = if minutes.is_empty() { "00" } else { minutes };
            format!("{sign}{}:{}", two_digits(hours)?, two_digits(minutes)?)
        }
        Some(_) => return None,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    let (month, day, hour) = (two_digits(month)?, two_digits(day)?, two_digits(hour)?);
    let (minute, second) = (two_digits(minute)?, two_digits(whole_second)?);
    Some(format!(
        "{year}-{month}-{day}T{hour}:{minute}:{second}{point}{fraction}{zone}"
    ))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// One or two digits as two.
fn two_digits(digits: &str) -> Option<String> {
    (is_number(digits) && digits.len() <= 2).then(|| format!("{digits:0>2}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fields(content: &str) -> (Value, &str) {
        let read = read(content);
        assert_eq!(read.damage, None, "{content}");
        (Value::Object(read.fields), read.rest)
    }

    #[test]
    fn yaml_is_read_as_yaml_has_it() {
        let block = "---\n\
            title: >-\n  The\n  long title\n\
            quoted: 'It''s Quarn' # a comment\n\
            said: \"Say \\\"hi\\\"\"\n\
            tags: [a, 'b']\n\
            days:\n  - 1\n  - 2.5\n\
            draft: false\n\
            country: no\n\
            zip: 00123\n\
            nothing: ~\n\
            date: 2026-11-29\n\
            at: 2026-11-29 9:30:00 +1\n\
            author: {name: Ada}\n\
            big: 9007199254740993\n\
            1821: year\n\
            null: key\n\
            ---\r\nText";
        let expected = json!({
            "title": "The long title", "quoted": "It's Quarn", "said": "Say \"hi\"",
            "tags": ["a", "b"], "days": [1, 2.5], "draft": false, "country": "no", "zip": "00123",
            "nothing": null, "date": "2026-11-29", "at": "2026-11-29T09:30:00+01:00",
            "author": {"name": "Ada"}, "big": 9007199254740993u64, "1821": "year", "null": "key",
        });
        assert_eq!(fields(block), (expected, "Text"));
        let tagged = "---\nat: !!timestamp '2026-11-29 09:30:00'\nn: !!int '7'\nx: !own y\n---\nT";
        let expected = json!({"at": "2026-11-29T09:30:00", "n": 7, "x": "y"});
        assert_eq!(fields(tagged), (expected, "T"));
        assert_eq!(fields("---\n# only a comment\n---\nT"), (json!({}), "T"));
        assert_eq!(fields("---\na: 1\n...\nT"), (json!({"a": 1}), "T"));
    }

    #[test]
    fn toml_and_json_are_read_with_dates_as_text() {
        let toml = "+++\ntitle = 'It'\ndate = 1979-05-27T07:32:00Z\nday = 1979-05-27\nn = [1, 2]\n[params]\nx = 1.5\n+++\nT";
        let expected = json!({
            "title": "It", "date": "1979-05-27T07:32:00Z", "day": "1979-05-27", "n": [1, 2],
            "params": {"x": 1.5},
        });
        assert_eq!(fields(toml), (expected, "T"));
        for block in [
            "{\n \"title\": \"J\"\n}\nT",
            "{\"title\": \"J\"}  \r\nT",
            ";;;\n{\"title\": \"J\"}\n;;;\nT",
            "---json\n{\"title\": \"J\"}\n---\nT",
        ] {
            assert_eq!(fields(block), (json!({"title": "J"}), "T"), "{block}");
        }
    }

    #[test]
    fn what_is_no_front_matter_is_text() {
        for text in [
            "",
            "Text",
            "--- no\nText",
            "---\nProse between rules.\n---\nMore",
            "---\nA rule, never closed.",
            "{{< shortcode >}}\nText",
            "{\"a\": 1} and more\nText",
            "{never closed",
            " ---\na: 1\n---\n",
        ] {
            assert_eq!(fields(text), (json!({}), text));
        }
    }

    #[test]
    fn damage_is_told_with_its_line_and_nothing_is_lost() {
        let deep = format!("---\na: {}1{}\n---\nT", "[".repeat(100), "]".repeat(100));
        let many = format!(
            "---\na: &a [{}]\nb: [{}]\n---\nT",
            "1,".repeat(1000),
            "*a,".repeat(1000)
        );
        let long = format!("---\na: {}\n---\nT", "x".repeat(LONGEST));
        for (text, damage) in [
            ("---\na: 1\nb: [1\n---\nT", "line "),
            ("---\na: 1\na: 2\n---\nT", "line 3: "),
            ("---\ntitle: never closed\nT", "line 1: --- is never closed"),
            ("+++\na = 1\nb =\n+++\nT", "line 3: "),
            ("{\n\"a\": 1,\n}\nT", "line 3: trailing comma"),
            (&*deep, ""),
            (&*many, ""),
            (&*long, "it is longer than 262144 bytes"),
        ] {
            let read = read(text);
            let told = read.damage.unwrap();
            assert!(
                told.starts_with(damage) && told.lines().count() == 1,
                "{told}"
            );
            assert_eq!((read.rest, read.fields.len()), (text, 0));
        }
    }

    #[test]
    fn times_are_written_as_iso_and_other_texts_stay() {
        for (text, iso) in [
            (
                "2001-12-14t21:59:43.10-05:00",
                Some("2001-12-14T21:59:43.10-05:00"),
            ),
            (
                "2001-12-14 21:59:43.10 -5",
                Some("2001-12-14T21:59:43.10-05:00"),
            ),
            (
                "2026-11-29 10:00:00 +0130",
                Some("2026-11-29T10:00:00+01:30"),
            ),
            ("2026-1-9 1:00:00Z", Some("2026-01-09T01:00:00Z")),
            ("2026-11-29 10:00:00", Some("2026-11-29T10:00:00")),
            ("2026-11-29", None),
            ("2026-11-29 at noon", None),
            ("2026-11-29 10:00", None),
            ("the 10:00:00", None),
            ("2026-11-29 10:00:00 é", None),
            ("2026-11-29 10:00:00+é", None),
        ] {
            assert_eq!(iso_time(text).as_deref(), iso, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_kept(text in "(---|\\+\\+\\+|;;;|\\{)\n([a-c&*!>|\\-\\[\\]{}:=,'\"#\n 0-9é]{0,60})(\n(---|\\+\\+\\+|;;;|\\})\n)?[a-z\n]{0,9}") {
            let read = read(&text);
            prop_assert!(text.ends_with(read.rest));
            prop_assert!(read.damage.is_none() || read.rest == text);
        }
    }
}
