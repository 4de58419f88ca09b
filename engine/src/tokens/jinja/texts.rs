//! Python's methods, filters and comparisons of texts, where a text may be a content in disguise.
//!
//! A pattern is looked for in both forms. What is cut out of a text keeps its form, and a text that had to be
//! revealed to be computed is hidden again as a whole, so nothing here takes a content's disguise off.

use std::sync::Arc;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::source::{SAME, WITHIN};
use crate::tokens::disguise::Disguise;

/// Makes an environment know contents in this disguise.
pub(super) fn add_texts(environment: &mut Environment<'static>, disguise: &Arc<Disguise>) {
    let with = |texts: &Arc<Disguise>| Texts(texts.clone());
    let texts = with(disguise);
    environment.set_unknown_method_callback(move |state, value, method, args| {
        texts.method(state, value, method, args)
    });
    for name in [
        "trim",
        "replace",
        "lower",
        "upper",
        "title",
        "capitalize",
        "split",
    ] {
        let texts = with(disguise);
        environment.add_filter(
            name,
            move |state: &State, value: Value, args: Rest<Value>| {
                let method = if name == "trim" { "strip" } else { name };
                let value = if value.as_str().is_some() {
                    value
                } else {
                    Value::from(value.to_string())
                };
                texts.method(state, &value, method, &args)
            },
        );
    }
    let texts = with(disguise);
    environment.add_function(SAME, move |one: Value, other: Value| {
        match (one.as_str(), other.as_str()) {
            (Some(one), Some(other)) => texts.0.reveal(one) == texts.0.reveal(other),
            _ => one == other,
        }
    });
    let texts = with(disguise);
    environment.add_function(
        WITHIN,
        move |state: &State, part: Value, whole: Value| match (part.as_str(), whole.as_str()) {
            (Some(part), Some(whole)) => Ok(texts.0.reveal(whole).contains(&texts.0.reveal(part))),
            _ => minijinja::tests::is_in(state, &part, &whole),
        },
    );
}

struct Texts(Arc<Disguise>);

/// What Python calls white space: also the four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

impl Texts {
    fn method(
        &self,
        state: &State,
        value: &Value,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let Some(text) = value.as_str() else {
            return unknown_method_callback(state, value, method, args);
        };
        let first = args.first().and_then(Value::as_str);
        match (method, first) {
            ("strip" | "lstrip" | "rstrip", chars) => Ok(self.strip(text, method, chars)),
            ("find" | "rfind" | "index" | "rindex", Some(part)) => self.find(text, method, part),
            ("replace", Some(_)) => self.replace(state, value, args),
            ("split" | "rsplit", Some(separator)) => {
                let separator = self.form_within(text, separator);
                let most = args
                    .get(1)
                    .and_then(|most| usize::try_from(most.clone()).ok());
                Ok(split(text, method, &separator, most))
            }
            ("partition", Some(separator)) => {
                let separator = self.form_within(text, separator);
                let (before, after) = text.split_once(separator.as_str()).unwrap_or((text, ""));
                let found = &text[before.len()..text.len() - after.len()];
                Ok([before, found, after]
                    .map(Value::from)
                    .into_iter()
                    .collect())
            }
            ("removeprefix", Some(part)) => {
                Ok(self.without(text, part, |text, part| text.strip_prefix(part)))
            }
            ("removesuffix", Some(part)) => {
                Ok(self.without(text, part, |text, part| text.strip_suffix(part)))
            }
            // Contents keep their letters where they are joined.
            ("join" | "format" | "split" | "splitlines", _) => {
                unknown_method_callback(state, value, method, args)
            }
            _ => self.revealed(state, text, method, args),
        }
    }

    /// Calls a method of the revealed text, and hides what comes out of a hidden part.
    fn revealed(
        &self,
        state: &State,
        text: &str,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let plain = Value::from(self.0.reveal(text));
        let args: Vec<_> = args.iter().map(|arg| self.revealed_value(arg)).collect();
        let result = unknown_method_callback(state, &plain, method, &args)?;
        match result.as_str() {
            Some(result) => Ok(Value::from(self.hidden_as(text, result))),
            None => Ok(result),
        }
    }

    /// The result of a method of the revealed text, such as its capital letters, with what came from a content in
    /// disguise again. Of a character whose origin is not known, only an unchanged one stays.
    fn hidden_as(&self, text: &str, result: &str) -> String {
        if text.chars().count() != result.chars().count() {
            return self.0.hide(result);
        }
        let letters = text.chars().zip(result.chars());
        let letters = letters.map(|(before, after)| {
            if before == after || self.0.is_letter(before) {
                after
            } else {
                self.0.stand_in(after)
            }
        });
        letters.collect()
    }

    /// A text, or a list of texts, that is only compared.
    fn revealed_value(&self, value: &Value) -> Value {
        match (value.as_str(), value.try_iter()) {
            (Some(text), _) => Value::from(self.0.reveal(text)),
            (None, Ok(items)) => items.map(|item| self.revealed_value(&item)).collect(),
            (None, Err(_)) => value.clone(),
        }
    }

    /// The form in which a pattern occurs in a text.
    fn form_within(&self, text: &str, pattern: &str) -> String {
        let hidden = self.0.hide(pattern);
        if text.contains(&hidden) {
            hidden
        } else {
            pattern.to_owned()
        }
    }

    /// The text without a part at one of its ends, if it is there in either form.
    fn without<'t>(
        &self,
        text: &'t str,
        part: &str,
        strip: impl Fn(&'t str, &str) -> Option<&'t str>,
    ) -> Value {
        let hidden = strip(text, &self.0.hide(part));
        Value::from(hidden.or_else(|| strip(text, part)).unwrap_or(text))
    }

    fn strip(&self, text: &str, method: &str, chars: Option<&str>) -> Value {
        let chars: Option<String> = chars.map(|chars| self.0.reveal(chars));
        let is_stripped = |c: char| {
            let c = self.0.letter(c);
            chars
                .as_ref()
                .map_or_else(|| is_python_space(c), |chars| chars.contains(c))
        };
        Value::from(match method {
            "lstrip" => text.trim_start_matches(is_stripped),
            "rstrip" => text.trim_end_matches(is_stripped),
            _ => text.trim_matches(is_stripped),
        })
    }

    /// The place of a part, in characters.
    fn find(&self, text: &str, method: &str, part: &str) -> Result<Value, Error> {
        let (text, part) = (self.0.reveal(text), self.0.reveal(part));
        let found = if method.starts_with('r') {
            text.rfind(&part)
        } else {
            text.find(&part)
        };
        match found.map(|at| text[..at].chars().count()) {
            Some(at) => Ok(Value::from(at)),
            None if method.ends_with("find") => Ok(Value::from(-1)),
            None => Err(Error::new(
                ErrorKind::InvalidOperation,
                "substring not found",
            )),
        }
    }

    /// Replaces what a content holds, and then what the template wrote.
    fn replace(&self, state: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
        let old = args.first().and_then(Value::as_str).unwrap_or_default();
        let hidden = self.0.hide(old);
        if hidden == old {
            return unknown_method_callback(state, value, "replace", args);
        }
        let mut hidden_args = args.to_vec();
        hidden_args[0] = Value::from(hidden);
        let value = unknown_method_callback(state, value, "replace", &hidden_args)?;
        unknown_method_callback(state, &value, "replace", args)
    }
}

/// The parts of a text between separators: at most `most` cuts, from the side that the method names.
fn split(text: &str, method: &str, separator: &str, most: Option<usize>) -> Value {
    match (method, most.map(|most| most + 1)) {
        (_, None) => text.split(separator).map(Value::from).collect(),
        ("rsplit", Some(parts)) => {
            let parts: Vec<_> = text.rsplitn(parts, separator).collect();
            parts.into_iter().rev().map(Value::from).collect()
        }
        (_, Some(parts)) => text.splitn(parts, separator).map(Value::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;
    use crate::tokens::jinja::prepared;

    /// A template's output for a content in disguise, revealed, and whether nothing of the content was
    /// revealed before.
    fn rendered(template: &str, content: &str) -> (String, bool) {
        let letters = "<|>/_abcdefghijklmnopqrstuvwxyz[] ".chars().collect();
        let disguise = Arc::new(Disguise::new(&letters, &Default::default()).unwrap());
        let mut environment = Environment::new();
        add_texts(&mut environment, &disguise);
        let source = prepared(template);
        let template = environment.template_from_str(&source).unwrap();
        let text = template
            .render(context! { content => disguise.hide(content) })
            .unwrap();
        let hidden = !text.chars().any(|c| letters.contains(&c));
        (disguise.reveal(&text), hidden)
    }

    #[test]
    fn methods_filters_and_comparisons_see_contents_and_leave_them_in_disguise() {
        let thought = "<think>\nWell.\n</think>\n\n Lima </think>";
        for (expression, wanted) in [
            ("content.split('</think>')[0]", "<think>\nWell.\n"),
            (
                "content.split('</think>')[0].split('<think>')[-1].strip('\\n')",
                "Well.",
            ),
            (
                "content.split('</think>', 1)[-1].lstrip('\\n').rstrip('</think>')",
                " Lima ",
            ),
            (
                "content.rsplit('</think>', 1)[0].strip()",
                "<think>\nWell.\n</think>\n\n Lima",
            ),
            ("(content.split('</think>')[1] | trim)", "Lima"),
            (
                "content.replace('</think>', '').replace('<think>', '')",
                "\nWell.\n\n\n Lima ",
            ),
            (
                "content | replace('\\n', '')",
                "<think>Well.</think> Lima </think>",
            ),
            (
                "content.removeprefix('<think>').removesuffix('</think>')",
                "\nWell.\n</think>\n\n Lima ",
            ),
            ("content[:7]", "<think>"),
            ("content.partition('</think>')[2] | trim", "Lima </think>"),
            ("content.upper()[:7]", "<THINK>"),
            ("content.splitlines()[1]", "Well."),
        ] {
            let (text, hidden) = rendered(&format!("{{{{ {expression} }}}}"), thought);
            assert_eq!(text, wanted, "{expression}");
            assert!(hidden, "{expression}");
        }
        for (condition, wanted) in [
            ("'</think>' in content", true),
            ("'</tool>' not in content", true),
            ("content.startswith('<think>')", true),
            ("content.startswith(['no', '<think>'])", true),
            ("content.endswith('<think>')", false),
            ("content == 'Lima'", false),
            ("content != 'Lima'", true),
            ("content[:7] == '<think>'", true),
            ("'<think>' == content[:7]", true),
            ("content.find('</think>') == 14", true),
            ("content.count('think') == 3", true),
            ("content.isdigit()", false),
            ("content is string and content | length == 38", true),
            (
                "'a' in ['a', 'b'] and 'a' in {'a': 1} and 'c' not in ['a']",
                true,
            ),
            ("missing == 'a' or 'a' in missing", false),
        ] {
            let template = format!("{{% if {condition} %}}1{{% else %}}0{{% endif %}}");
            let (text, _) = rendered(&template, thought);
            assert_eq!(text == "1", wanted, "{condition}");
        }
    }

    #[test]
    fn a_pattern_of_the_template_is_found_in_what_the_template_wrote() {
        let template = "{% set all = '<a> ' + content + ' <b>' %}{{ all.split('<b>')[0].strip() }}";
        assert_eq!(rendered(template, "<b!>").0, "<a> <b!>");
        let template = "{{ ('<a>' + content + '</a>').upper().lower() }}";
        let (text, hidden) = rendered(template, "<B>\u{212A}");
        assert_eq!((text.as_str(), hidden), ("<a><b>k</a>", false));
        // A character of a content that becomes a letter of a control token is not one that the template wrote.
        assert!(rendered("{{ content.lower() }}", "\u{212A}").1);
        let template = "{{ ('<a>' + content).replace('<a>', '-') }}";
        assert_eq!(rendered(template, "<a>").0, "--");
    }
}
