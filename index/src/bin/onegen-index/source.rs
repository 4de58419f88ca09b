//! The arguments that say which corpus is read and how its documents become passages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, ValueEnum};
use onegen_index::{Corpus, DocumentRules, IngestOptions, Splitter, VectorsPer};

/// A corpus and how it is indexed.
#[derive(clap::Args)]
pub(crate) struct SourceArguments {
    /// The corpus: .jsonl, also with .gz or .zst (on each line an object with id, title, text, and perhaps url
    /// and metadata; or OneGen's own documents), .parquet with such columns, or a directory of
    /// such files and of text: Markdown, plain, reStructuredText, AsciiDoc, Org, HTML
    corpus: PathBuf,

    /// Stop at the first bad record instead of reporting it and going on
    #[arg(long, env = "ONEGEN_STRICT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    strict: bool,

    /// What gets a vector: each passage, or each beginning of one that ends where a sentence does
    /// [default: passage; of an index that is there, what it has]
    #[arg(long, env = "ONEGEN_VECTORS", value_name = "WHAT")]
    vectors: Option<Vectors>,

    /// Tokens of a passage at most; a longer document is split where sentences end [default: 256, or
    /// as the index was built]
    #[arg(long, env = "ONEGEN_MAX_TOKENS")]
    max_tokens: Option<usize>,

    /// Tokens at the end of a passage that the next one begins with, at most [default: 32, or as the
    /// index was built]
    #[arg(long, env = "ONEGEN_OVERLAP_TOKENS")]
    overlap_tokens: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Vectors {
    Passage,
    Sentence,
}

impl SourceArguments {
    pub(crate) fn path(&self) -> &Path {
        &self.corpus
    }

    pub(crate) fn open(&self) -> Result<Corpus> {
        Corpus::open(&self.corpus)
            .with_context(|| format!("cannot read the corpus {}", self.corpus.display()))
    }

    /// Options that the user left out are taken from `default`.
    pub(crate) fn options(&self, default: DocumentRules) -> Result<IngestOptions> {
        let DocumentRules { vectors, split } = default;
        let rules = DocumentRules {
            vectors: match self.vectors {
                None => vectors,
                Some(Vectors::Passage) => VectorsPer::Passage,
                Some(Vectors::Sentence) => VectorsPer::Sentence,
            },
            split: Splitter::new(
                self.max_tokens.unwrap_or(split.max_tokens()),
                self.overlap_tokens.unwrap_or(split.overlap_tokens()),
            )?,
        };
        Ok(IngestOptions {
            strict: self.strict,
            ..IngestOptions::new(rules)
        })
    }
}
