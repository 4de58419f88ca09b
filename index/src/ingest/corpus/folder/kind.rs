//! Which files of a folder are read, by the endings of their names.

use std::path::Path;

use crate::ingest::corpus::file::Format;

/// A kind of file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One document.
    Text(TextKind),
    /// Many records.
    Records(Format),
}

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    Plain,
    Markdown,
    /// reStructuredText.
    Rst,
    AsciiDoc,
    Org,
    Html,
}

impl Kind {
    /// The kind of a file; `None` if it is not read.
    pub(super) fn from_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_ascii_lowercase();
        let kind = match extension.to_str()? {
            "md" | "markdown" | "mdown" | "mkd" | "mdx" | "qmd" | "rmd" => TextKind::Markdown,
            "txt" | "text" => TextKind::Plain,
            "rst" | "rest" => TextKind::Rst,
            "adoc" | "asciidoc" => TextKind::AsciiDoc,
            "org" => TextKind::Org,
            "html" | "htm" | "xhtml" => TextKind::Html,
            "gz" | "zst" if Path::new(path.file_stem()?).extension().is_none() => return None,
            _ => return Format::from_path(path).ok().map(Self::Records),
        };
        Some(Self::Text(kind))
    }
}
