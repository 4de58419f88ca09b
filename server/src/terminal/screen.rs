//! What the terminal shows, and what a pipe gets of it.

use std::io::{self, IsTerminal, Write, stderr, stdout};

use onegen_proto::{Receipt, ReceiptPassage};

/// How a line stands out where there are colours.
#[derive(Clone, Copy)]
enum Style {
    Dim,
    Red,
    Bold,
}

/// The standard output, and the standard error for what went wrong.
pub(super) struct Screen {
    styled: bool,
    /// Whether the cursor stands behind text.
    in_line: bool,
}

impl Screen {
    pub(super) const PROMPT: &str = "> ";

    /// Without colours where the output is no terminal or `NO_COLOR` is set.
    pub(super) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            styled: stdout().is_terminal() && !unwanted,
            in_line: false,
        }
    }

    /// The prompt as it stands before what is typed.
    pub(super) fn styled_prompt(&self) -> String {
        self.dressed(Self::PROMPT, Style::Bold)
    }

    pub(super) fn print_prompt(&mut self) -> io::Result<()> {
        self.print(&self.styled_prompt())
    }

    /// More of the answer.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        let text = if self.in_line {
            text
        } else {
            text.trim_start()
        };
        self.in_line |= !text.is_empty();
        self.print(&harmless(text))
    }

    /// A retrieval, where it happened: the last of these.
    pub(super) fn retrieval(&mut self, receipts: &[Receipt]) -> io::Result<()> {
        self.cite(receipts.len().saturating_sub(1))?;
        let Some(passage) = receipts.last().and_then(|receipt| receipt.passages.first()) else {
            return Ok(());
        };
        let line = format!("  found {} {:.2}", titled(passage), passage.score);
        self.aside(&line)
    }

    /// Ends the answer and lists what was read for it.
    pub(super) fn footnotes(&mut self, receipts: &[Receipt]) -> io::Result<()> {
        self.cite(receipts.len())?;
        for (at, receipt) in receipts.iter().enumerate() {
            if let Some(passage) = receipt.passages.first() {
                let place = passage.url.as_deref().unwrap_or(&passage.id);
                let line = format!("  [{}] {}, {place}", at + 1, titled(passage));
                self.aside(&line)?;
            }
        }
        Ok(())
    }

    /// Ends the text that stands in a line with the number of what it was read from, if there is any.
    fn cite(&mut self, number: usize) -> io::Result<()> {
        if self.in_line && number > 0 {
            self.print(&self.dressed(&format!(" [{number}]"), Style::Dim))?;
        }
        self.break_off()
    }

    /// Ends a line that was begun.
    pub(super) fn break_off(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.in_line) {
            self.line("")
        } else {
            Ok(())
        }
    }

    /// A passage with its text, if the server gives that.
    pub(super) fn source(
        &mut self,
        number: usize,
        passage: &ReceiptPassage,
        text: Option<&str>,
    ) -> io::Result<()> {
        let head = format!("[{number}] {} {:.2}", titled(passage), passage.score);
        self.line(&self.dressed(&harmless(&head), Style::Bold))?;
        if let Some(url) = &passage.url {
            self.aside(&format!("    {url}"))?;
        }
        let text = text.unwrap_or("the server does not give this passage's text");
        self.line(&format!("    {}", harmless(text)))
    }

    /// A line beside the conversation.
    pub(super) fn aside(&mut self, text: &str) -> io::Result<()> {
        self.line(&self.dressed(&harmless(text), Style::Dim))
    }

    /// What went wrong, to the standard error.
    pub(super) fn error(&mut self, text: &str) -> io::Result<()> {
        let styled = self.styled && stderr().is_terminal();
        let line = dressed(&format!("error: {}", harmless(text)), Style::Red, styled);
        writeln!(stderr(), "{line}")
    }

    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        self.print(&format!("{line}\n"))
    }

    fn print(&self, text: &str) -> io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn dressed(&self, text: &str, style: Style) -> String {
        dressed(text, style, self.styled)
    }
}

fn dressed(text: &str, style: Style, styled: bool) -> String {
    let code = match style {
        Style::Bold => 1,
        Style::Dim => 2,
        Style::Red => 31,
    };
    if styled {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn titled(passage: &ReceiptPassage) -> &str {
    if passage.title.is_empty() {
        &passage.id
    } else {
        &passage.title
    }
}

/// Text whose control characters cannot command the terminal.
fn harmless(text: &str) -> String {
    let seen = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let hostile = "a\x1b]0;owned\x07b\r\u{9b}2Jc\x7f\td\n";
        let shown = harmless(hostile);
        assert!(!shown.chars().any(|c| c.is_control() && !"\t\n".contains(c)));
        assert_eq!(shown.replace('\u{fffd}', ""), "a]0;ownedb2Jc\td\n");
    }

    #[test]
    fn nothing_is_dressed_without_a_terminal() {
        assert_eq!(dressed("x", Style::Dim, false), "x");
        assert_eq!(dressed("x", Style::Dim, true), "\x1b[2mx\x1b[0m");
    }
}
