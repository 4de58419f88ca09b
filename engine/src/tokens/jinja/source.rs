//! A template's source, rewritten where minijinja lacks a tag or would not know contents in disguise.

/// The functions that comparisons become. They are what [`super::texts`] adds to the environment.
pub(super) const SAME: &str = "is_same_text";
pub(super) const WITHIN: &str = "is_text_within";

/// The template with the tags and comparisons that minijinja has.
///
/// transformers has the tag `generation`, which encloses what the assistant writes and changes nothing of the
/// text. `==`, `!=`, `in` and `not in` become calls of functions that know a content in disguise.
pub(crate) fn prepared(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => expression(tag, "}}", &mut out),
            Some(b'%') => statement(tag, &mut out),
            _ => 1,
        };
        if !matches!(tag.as_bytes().get(1), Some(b'{' | b'%')) {
            out.push_str(&tag[..len]);
        }
        rest = &tag[len..];
    }
    out.push_str(rest);
    out
}

/// Rewrites `{% … %}`, and copies a raw block as a whole. Returns how many bytes it took.
fn statement(tag: &str, out: &mut String) -> usize {
    let name = tag[2..].trim_start_matches(['-', '+']).trim_start();
    if name.starts_with("raw") {
        let end = tag
            .find("endraw")
            .and_then(|at| Some(at + tag[at..].find("%}")? + 2));
        let len = end.unwrap_or(tag.len());
        out.push_str(&tag[..len]);
        return len;
    }
    expression(tag, "%}", out)
}

/// Rewrites what stands between two brackets. Returns how many bytes it took.
fn expression(tag: &str, close: &str, out: &mut String) -> usize {
    let Some((tokens, len)) = tokens(tag, close) else {
        // What has no end is named by the compiler.
        out.push_str(tag);
        return tag.len();
    };
    out.push_str(&tag[..2]);
    let mut tokens = tokens.as_slice();
    let mut end = "";
    if let [
        Token {
            text: mark @ ("-" | "+"),
            ..
        },
        rest @ ..,
    ] = tokens
    {
        out.push_str(mark);
        tokens = rest;
    }
    if let [
        rest @ ..,
        Token {
            text: mark @ ("-" | "+"),
            ..
        },
    ] = tokens
    {
        end = mark;
        tokens = rest;
    }
    if close == "%}" {
        tokens = tag_name(tokens, out);
    }
    out.push_str(&compared(tokens));
    out.push_str(end);
    out.push_str(close);
    len
}

/// Writes a tag's name, and the variables of a loop up to its `in`.
fn tag_name<'t, 's>(tokens: &'t [Token<'s>], out: &mut String) -> &'t [Token<'s>] {
    let Some(at) = tokens.iter().position(|token| token.kind == Kind::Word) else {
        return tokens;
    };
    let (before, rest) = tokens.split_at(at + 1);
    for token in before {
        out.push_str(match token.text {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        });
    }
    if tokens[at].text != "for" {
        return rest;
    }
    let in_at = rest.iter().position(|token| token.text == "in");
    let (variables, rest) = rest.split_at(in_at.map_or(rest.len(), |at| at + 1));
    variables.iter().for_each(|token| out.push_str(token.text));
    rest
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Word,
    Literal,
    Open,
    Close,
    Mark,
}

#[derive(Debug, Clone, Copy)]
struct Token<'s> {
    kind: Kind,
    text: &'s str,
}

/// The tokens between a tag's brackets, and the length of the whole tag; `None` for a tag without an end.
fn tokens<'s>(tag: &'s str, close: &str) -> Option<(Vec<Token<'s>>, usize)> {
    let (mut tokens, mut at, mut open) = (Vec::new(), 2, 0usize);
    loop {
        let rest = &tag[at..];
        if open == 0 && rest.starts_with(close) {
            return Some((tokens, at + close.len()));
        }
        let first = rest.chars().next()?;
        let while_all = |all: fn(char) -> bool| rest.find(|c| !all(c)).unwrap_or(rest.len());
        let (kind, len) = match first {
            '\'' | '"' => (Kind::Literal, literal_len(rest, first)?),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            _ if first.is_whitespace() => (Kind::Space, while_all(char::is_whitespace)),
            _ if is_word(first) => (Kind::Word, while_all(is_word)),
            _ if ["==", "!=", "<=", ">="]
                .iter()
                .any(|mark| rest.starts_with(mark)) =>
            {
                (Kind::Mark, 2)
            }
            _ => (Kind::Mark, first.len_utf8()),
        };
        match kind {
            Kind::Open => open += 1,
            Kind::Close => open = open.saturating_sub(1),
            Kind::Space | Kind::Word | Kind::Literal | Kind::Mark => {}
        }
        tokens.push(Token {
            kind,
            text: &rest[..len],
        });
        at += len;
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn literal_len(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}

/// Operands and the comparisons between them, up to the next word or mark that binds more loosely.
#[derive(Default)]
struct Chain<'s> {
    done: String,
    operands: Vec<String>,
    operators: Vec<&'s str>,
    operand: String,
}

impl<'s> Chain<'s> {
    fn compare(&mut self, operator: &'s str) {
        self.operands.push(std::mem::take(&mut self.operand));
        self.operators.push(operator);
    }

    /// Ends the chain before something that binds more loosely.
    fn end(&mut self) {
        let last = std::mem::take(&mut self.operand);
        let operands = std::mem::take(&mut self.operands);
        let call = |not: &str, function: &str| format!(" {not}{function}({},{last})", operands[0]);
        let text = match std::mem::take(&mut self.operators).as_slice() {
            ["=="] => call("", SAME),
            ["!="] => call("not ", SAME),
            ["in"] => call("", WITHIN),
            ["not in"] => call("not ", WITHIN),
            several => {
                let pairs = operands.iter().zip(several);
                pairs
                    .map(|(operand, operator)| format!("{operand} {operator} "))
                    .collect::<String>()
                    + &last
            }
        };
        self.done.push_str(&text);
    }
}

/// The tokens of an expression, with functions in place of comparisons. The recursion is as deep as the
/// template's brackets.
fn compared(tokens: &[Token<'_>]) -> String {
    let mut chain = Chain::default();
    let mut at = 0;
    // The word before the current one, since `is not in` names a test.
    let mut word_before = "";
    while let Some(token) = tokens.get(at) {
        at += 1;
        let before = std::mem::take(&mut word_before);
        let next = tokens[at..].iter().find(|token| token.kind != Kind::Space);
        match (token.kind, token.text) {
            (Kind::Space, text) => {
                chain.operand.push_str(text);
                word_before = before;
            }
            (Kind::Open, text) => {
                let len = closing(&tokens[at..]);
                chain.operand.push_str(text);
                chain.operand.push_str(&compared(&tokens[at..at + len]));
                at += len;
            }
            (Kind::Word, "not") if before == "is" => {
                chain.operand.push_str("not");
                word_before = "is";
            }
            (Kind::Word, "in") if before != "is" => chain.compare("in"),
            (Kind::Word, "not")
                if next.is_some_and(|next| next.text == "in")
                    && !chain.operand.trim().is_empty() =>
            {
                at += tokens[at..]
                    .iter()
                    .take_while(|token| token.text != "in")
                    .count()
                    + 1;
                chain.compare("not in");
            }
            (Kind::Mark, operator @ ("==" | "!=" | "<" | ">" | "<=" | ">=")) => {
                chain.compare(operator)
            }
            (Kind::Word, word @ ("and" | "or" | "not" | "if" | "else" | "recursive"))
            | (Kind::Mark, word @ ("," | ":" | "=")) => {
                chain.end();
                chain.done.push_str(word);
            }
            (Kind::Word, word) => {
                chain.operand.push_str(word);
                word_before = word;
            }
            (_, text) => chain.operand.push_str(text),
        }
    }
    chain.end();
    chain.done
}

/// How many tokens stand before the bracket that closes the one before them.
fn closing(tokens: &[Token<'_>]) -> usize {
    let mut open = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => open += 1,
            Kind::Close if open == 0 => return at,
            Kind::Close => open -= 1,
            Kind::Space | Kind::Word | Kind::Literal | Kind::Mark => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_spaces(text: &str) -> String {
        text.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("( ", "(")
            .replace(" ,", ",")
    }

    #[test]
    fn comparisons_become_calls_and_all_else_stays() {
        for (template, wanted) in [
            ("{{ a == 'b' }}", "{{ is_same_text(a, 'b' )}}"),
            (
                "{%- if a.b['c'] != d and e -%}",
                "{%- if not is_same_text(a.b['c'], d )and e -%}",
            ),
            (
                "{% if '</t>' in m.content|trim %}",
                "{% if is_text_within('</t>', m.content|trim )%}",
            ),
            (
                "{% if not ('a' not in b) %}",
                "{% if not (not is_text_within('a', b)) %}",
            ),
            (
                "{% for m in x if m == 'in' %}",
                "{% for m in x if is_same_text(m, 'in' )%}",
            ),
            ("{% if a is not in b %}", "{% if a is not in b %}"),
            ("{% if a < 2 == b %}", "{% if a < 2 == b %}"),
            (
                "{{ f(x == 1, y=2 == z) }}",
                "{{ f(is_same_text(x, 1), y= is_same_text(2, z)) }}",
            ),
            ("{{ {'a': {'b': 1}}['a'] }}", "{{ {'a': {'b': 1}}['a'] }}"),
            ("{# a == b #}{ a == b }", "{# a == b #}{ a == b }"),
            (
                "{% raw %}{{ a == b }}{% endraw %}{{ 'a == b' }}",
                "{% raw %}{{ a == b }}{% endraw %}{{ 'a == b' }}",
            ),
            (
                "{% generation %}x{%- endgeneration %}",
                "{% with %}x{%- endwith %}",
            ),
            ("{{ 'a\\'}} == ' + b }}", "{{ 'a\\'}} == ' + b }}"),
            ("a {% if b == ", "a {% if b == "),
        ] {
            assert_eq!(
                without_spaces(&prepared(template)),
                without_spaces(wanted),
                "{template}"
            );
        }
    }
}
