//! A text file's title, text and metadata.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde_json::{Map, Value};

use super::front_matter;
use super::html;
use super::kind::TextKind;

/// Where a first heading is looked for, in bytes.
const HEADING_WITHIN: usize = 1 << 20;

/// What a text file says.
#[derive(Debug, PartialEq)]
pub(super) struct Text {
    /// The front matter's title, else the first heading, which stays in the text.
    pub(super) title: Option<String>,
    pub(super) text: String,
    pub(super) url: Option<String>,
    /// The other fields of the front matter.
    pub(super) metadata: Option<Map<String, Value>>,
    /// Why its front matter cannot be read. That is then a part of the text.
    pub(super) front_matter_damage: Option<String>,
}

/// Reads a text that is written in some way.
pub(super) fn read(content: &str, kind: TextKind) -> Text {
    if kind == TextKind::Plain {
        return Text {
            title: None,
            text: content.to_owned(),
            url: None,
            metadata: None,
            front_matter_damage: None,
        };
    }
    let front_matter = front_matter::read(content);
    let (heading, text) = match kind {
        TextKind::Html => {
            let page = html::read(front_matter.rest);
            (page.title, page.text)
        }
        _ => {
            let heading = first_heading(beginning(front_matter.headings), kind);
            (heading, front_matter.rest.to_owned())
        }
    };
    let mut fields = front_matter.fields;
    fields.retain(|_, value| !value.is_null());
    let title = take_text(&mut fields, "title");
    let url = take_text(&mut fields, "url");
    Text {
        title: title.or(heading),
        text,
        url,
        metadata: (!fields.is_empty()).then_some(fields),
        front_matter_damage: front_matter.damage,
    }
}

/// Takes a field that is a text, or a number or boolean that was meant as one. A list stays.
fn take_text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    let text = match fields.get(name)? {
        Value::String(text) => text.trim().to_owned(),
        value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    fields.remove(name);
    (!text.is_empty()).then_some(text)
}

fn beginning(text: &str) -> &str {
    let mut end = text.len().min(HEADING_WITHIN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn first_heading(text: &str, kind: TextKind) -> Option<String> {
    match kind {
        TextKind::Markdown => markdown_heading(text),
        TextKind::Rst => rst_heading(text),
        TextKind::AsciiDoc => marked_heading(text, '='),
        TextKind::Org => org_title(text).or_else(|| marked_heading(text, '*')),
        TextKind::Html | TextKind::Plain => None,
    }
}

/// The first heading that is in no list and no quotation, without its markup.
fn markdown_heading(text: &str) -> Option<String> {
    let options = Options::ENABLE_HEADING_ATTRIBUTES | Options::ENABLE_TABLES;
    let mut open = 0u32;
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, options) {
        match event {
            Event::Start(Tag::Heading { .. }) if open == 0 => heading = Some(String::new()),
            Event::Start(Tag::BlockQuote(_) | Tag::List(_)) => open += 1,
            Event::End(TagEnd::BlockQuote(_) | TagEnd::List(_)) => open -= 1,
            Event::End(TagEnd::Heading(_)) => {
                let text = heading.take().map(|text| text.trim().to_owned());
                if text.as_deref().is_some_and(|text| !text.is_empty()) {
                    return text;
                }
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let Some(heading) = &mut heading {
                    heading.push(' ');
                }
            }
            _ => {}
        }
    }
    None
}

/// The first line that is underlined over its whole length.
fn rst_heading(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.windows(2).enumerate().find_map(|(number, pair)| {
        let (title, underline) = (pair[0], pair[1]);
        let overlined = number > 0 && lines[number - 1] == underline;
        let begins = number == 0 || overlined || lines[number - 1].is_empty();
        let is_title = begins
            && is_adornment(underline)
            && !is_adornment(title)
            && underline.len() >= title.trim().chars().count()
            && (overlined || !title.starts_with(char::is_whitespace))
            && !title.trim().is_empty();
        is_title.then(|| title.trim().to_owned())
    })
}

/// Whether a line is one sign again and again.
fn is_adornment(line: &str) -> bool {
    let sign = line.bytes().next();
    line.len() > 1
        && sign.is_some_and(|sign| sign.is_ascii_punctuation())
        && line.bytes().all(|byte| Some(byte) == sign)
}

/// The first line of one or more signs, a space and a text.
fn marked_heading(text: &str, sign: char) -> Option<String> {
    text.lines().find_map(|line| {
        let heading = line.trim_start_matches(sign);
        let is_marked = heading.len() < line.len() && heading.starts_with(' ');
        (is_marked && !heading.trim().is_empty()).then(|| heading.trim().to_owned())
    })
}

fn org_title(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (keyword, title) = line.split_at_checked("#+title:".len())?;
        let is_title = keyword.eq_ignore_ascii_case("#+title:") && !title.trim().is_empty();
        is_title.then(|| title.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title(content: &str, kind: TextKind) -> Option<String> {
        read(content, kind).title
    }

    #[test]
    fn a_markdown_heading_is_what_commonmark_says() {
        for (content, heading) in [
            ("# Lima", Some("Lima")),
            ("    # code\n\n# Real", Some("Real")),
            ("\t# code\n\n# Real", Some("Real")),
            ("```inline```\n# Real", Some("Real")),
            ("```\n# code\n~~~\n# code\n```\n# Real", Some("Real")),
            ("````\n```\n# code\n````\n# Real", Some("Real")),
            ("<!--\n# hidden\n-->\n\n# Real", Some("Real")),
            ("> # quoted\n\n- # listed\n\n# Real", Some("Real")),
            (
                "#hashtag\n#\n## **Bold** `x` [link](u) ##",
                Some("Bold x link"),
            ),
            ("# Docs {#docs .big}", Some("Docs")),
            ("Two\nlines\n---\n", Some("Two lines")),
            ("# &amp; \\# &copy;", Some("& # ©")),
            ("no heading\n\n***\n", None),
        ] {
            assert_eq!(
                title(content, TextKind::Markdown).as_deref(),
                heading,
                "{content}"
            );
        }
    }

    #[test]
    fn other_markup_has_its_own_headings() {
        for (kind, content, heading) in [
            (TextKind::Rst, "Lima\n====\n\nCity.", Some("Lima")),
            (TextKind::Rst, "=====\n Lima\n=====\n", Some("Lima")),
            (
                TextKind::Rst,
                ".. note:: x\n\n----\n\nOf Peru\n~~~~~~~\n",
                Some("Of Peru"),
            ),
            (TextKind::Rst, "A paragraph that is long\n--\n", None),
            (
                TextKind::AsciiDoc,
                "// comment\n= Lima\n:author: A\n",
                Some("Lima"),
            ),
            (TextKind::Org, "#+TITLE: Lima\n* Heading\n", Some("Lima")),
            (TextKind::Org, "* Heading\n", Some("Heading")),
            (TextKind::Plain, "# Not a heading", None),
        ] {
            assert_eq!(title(content, kind).as_deref(), heading, "{content}");
        }
    }

    #[test]
    fn front_matter_is_title_url_and_metadata() {
        let content = "---\ntitle: 1984\nurl: https://e.org\nyear: 1949\nnone: ~\n---\n# Other\n";
        let text = read(content, TextKind::Markdown);
        assert_eq!(text.title.as_deref(), Some("1984"));
        assert_eq!(text.url.as_deref(), Some("https://e.org"));
        assert_eq!(
            Value::from(text.metadata.unwrap()),
            serde_json::json!({"year": 1949})
        );
        assert_eq!(text.text, "# Other\n");
        let text = read(
            "---\ntitle: ''\nurl: [a]\n---\n# Other\n",
            TextKind::Markdown,
        );
        assert_eq!(text.title.as_deref(), Some("Other"));
        assert_eq!(
            Value::from(text.metadata.unwrap()),
            serde_json::json!({"url": ["a"]})
        );
    }
}
