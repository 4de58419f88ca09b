//! The text of an HTML page, with headings, list items and table cells as Markdown marks them.
//!
//! The page is read as a stream of tokens, not as a tree: neither deep nesting nor elements that are never
//! closed cost anything.

use std::cell::RefCell;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

/// What a page says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    /// Its `<title>`, else its first heading.
    pub(super) title: Option<String>,
    pub(super) text: String,
}

/// Reads a page.
pub(super) fn read(html: &str) -> Page {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(html));
    let tokenizer = Tokenizer::new(Sink::default(), TokenizerOpts::default());
    // The sink never stops the tokenizer, so one call reads everything.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.writer.into_inner().page()
}

#[derive(Default)]
struct Sink {
    writer: RefCell<Writer>,
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut writer = self.writer.borrow_mut();
        match token {
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => {
                if let Some(raw) = writer.open(&tag) {
                    return TokenSinkResult::RawData(raw);
                }
            }
            Token::TagToken(tag) => writer.close(&tag.name),
            Token::CharacterTokens(text) => writer.write(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

/// Writes text as it is seen on a page.
#[derive(Default)]
struct Writer {
    text: String,
    title: Option<String>,
    heading: Option<String>,
    /// Line breaks before the next word, and whether there is a space before it.
    breaks: usize,
    space: bool,
    /// What stands before the next word: `# `.
    marker: String,
    /// Elements whose text is preformatted.
    preformatted: usize,
    place: Place,
}

/// Where the text goes that comes next.
#[derive(Default, PartialEq)]
enum Place {
    #[default]
    Body,
    Title,
    Heading,
    /// Nowhere, until an element of this name ends.
    Hidden(String),
}

impl Writer {
    /// Begins an element. Its content is no markup where a kind of raw text is returned.
    fn open(&mut self, tag: &Tag) -> Option<RawKind> {
        let name: &str = &tag.name;
        let raw = match name {
            "script" => Some(RawKind::ScriptData),
            "style" | "iframe" | "noembed" | "noframes" | "xmp" => Some(RawKind::Rawtext),
            "title" | "textarea" => Some(RawKind::Rcdata),
            _ => None,
        };
        if matches!(self.place, Place::Hidden(_)) {
            return raw;
        }
        match name {
            "script" | "style" | "iframe" | "noembed" | "noframes" => {
                self.place = Place::Hidden(name.to_owned());
            }
            "svg" | "template" if !tag.self_closing => self.place = Place::Hidden(name.to_owned()),
            "title" if self.title.is_none() => {
                self.title = Some(String::new());
                self.place = Place::Title;
            }
            "title" => self.place = Place::Hidden(name.to_owned()),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.block(2);
                let level = name[1..].parse().unwrap_or(1);
                self.marker = format!("{} ", "#".repeat(level));
                if self.heading.as_deref().is_none_or(str::is_empty) {
                    self.heading = Some(String::new());
                    self.place = Place::Heading;
                }
            }
            "li" => {
                self.block(1);
                self.marker = "- ".to_owned();
            }
            "td" | "th" => {
                if self.breaks == 0 && !self.text.is_empty() {
                    self.marker = " | ".to_owned();
                }
            }
            "pre" => {
                self.block(2);
                self.preformatted += 1;
            }
            "img" => {
                let alt = tag.attrs.iter().find(|one| &*one.name.local == "alt");
                if let Some(alt) = alt {
                    self.write(&alt.value);
                }
            }
            "br" => self.breaks = (self.breaks + 1).min(2),
            _ => self.block(breaks_around(name)),
        }
        raw
    }

    fn close(&mut self, name: &str) {
        match (&self.place, name) {
            (Place::Hidden(hidden), _) => {
                if hidden == name {
                    self.place = Place::Body;
                }
                return;
            }
            (Place::Title, "title") => self.place = Place::Body,
            (Place::Heading, "h1" | "h2" | "h3" | "h4" | "h5" | "h6") => self.place = Place::Body,
            _ => {}
        }
        match name {
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            "li" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.marker.clear(),
            _ => {}
        }
        self.block(breaks_around(name));
    }

    /// The next word stands after so many line breaks at least, unless it is the first of a list item or
    /// heading.
    fn block(&mut self, breaks: usize) {
        if self.marker.is_empty() {
            self.breaks = self.breaks.max(breaks);
        }
    }

    fn write(&mut self, text: &str) {
        match (&self.place, &mut self.title) {
            (Place::Hidden(_), _) => return,
            (Place::Title, Some(title)) => return title.push_str(text),
            (Place::Title | Place::Body | Place::Heading, _) => {}
        }
        if self.place == Place::Heading
            && let Some(heading) = &mut self.heading
        {
            heading.push_str(text);
        }
        for character in text.chars() {
            if self.preformatted > 0 && character == '\n' {
                self.breaks += usize::from(!self.text.is_empty());
            } else if character.is_whitespace() && self.preformatted == 0 {
                self.space = true;
            } else {
                self.write_character(character);
            }
        }
    }

    fn write_character(&mut self, character: char) {
        let breaks = std::mem::take(&mut self.breaks);
        let space = std::mem::take(&mut self.space);
        if breaks > 0 && !self.text.is_empty() {
            self.text.extend(std::iter::repeat_n('\n', breaks));
        } else if space && !self.text.is_empty() && self.marker.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(&std::mem::take(&mut self.marker));
        self.text.push(character);
    }

    fn page(self) -> Page {
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let title = self.title.map(words).filter(|title| !title.is_empty());
        let heading = self
            .heading
            .map(words)
            .filter(|heading| !heading.is_empty());
        Page {
            title: title.or(heading),
            text: self.text,
        }
    }
}

/// How many line breaks there are before and after an element.
fn breaks_around(name: &str) -> usize {
    match name {
        "tr" | "dt" | "dd" | "li" | "option" | "caption" | "figcaption" | "summary" => 1,
        "address" | "article" | "aside" | "blockquote" | "body" | "details" | "div" | "dl"
        | "fieldset" | "figure" | "footer" | "form" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6"
        | "head" | "header" | "hr" | "main" | "nav" | "ol" | "p" | "pre" | "section" | "table"
        | "ul" => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_is_its_text_as_it_is_seen() {
        let page = read(
            "<!doctype html><html><head><title>Peru &amp;\n more</title><style>p { x }</style>\
             <script>if (a < b) { document.write('<p>no</p>') }</script></head>\
             <body><!-- no --><h1>Lima</h1><p>The <b>capital</b>\n of&nbsp;Peru.<br>It is old.</p>\
             <ul><li>One</li><li><p>Two</p></ul><table><tr><th>a<th>b<tr><td>1<td>2</table>\
             <pre>x\n  y\n</pre><svg><title>no</title><text>no</text></svg><img alt=\"A map\"> \
             <textarea>typed <p></textarea>",
        );
        assert_eq!(page.title.as_deref(), Some("Peru & more"));
        assert_eq!(
            page.text,
            "# Lima\n\nThe capital of Peru.\nIt is old.\n\n- One\n- Two\n\na | b\n1 | 2\n\nx\n  y\n\nA map typed <p>"
        );
    }

    #[test]
    fn a_page_without_title_has_its_first_heading() {
        let title = |html| read(html).title;
        assert_eq!(
            title("<h2></h2><h2>Li<i>ma</i></h2><h1>x</h1>").as_deref(),
            Some("Lima")
        );
        assert_eq!(title("<title> </title><p>x").as_deref(), None);
    }

    #[test]
    fn deep_and_broken_pages_are_read() {
        let deep = format!("{}x", "<div>".repeat(100_000));
        assert_eq!(read(&deep).text, "x");
        assert_eq!(read("<p>a<p>b</b></p></p>c").text, "a\n\nb\n\nc");
    }

    proptest! {
        #[test]
        fn any_text_is_read(html in "([<>/!&;=\"' a-z\\-]|<script>|<title>|<h1>|</pre>|<pre>|é){0,60}") {
            read(&html);
        }
    }
}
