//! What is read, and how it becomes passages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, ValueEnum};
use onegen_index::{Corpus, IngestOptions, Splitter, VectorsPer};

/// A corpus and how it is taken in.
#[derive(clap::Args)]
pub(crate) struct SourceArguments {
    /// The corpus: .jsonl or .jsonl.gz (on each line an object with id, title, text, and perhaps url
    /// and metadata; or OneGen's own documents), .parquet with such columns, or a directory of
    /// Markdown and text files
    corpus: PathBuf,

    /// Stop at the first bad record instead of reporting it and going on
    #[arg(long, env = "ONEGEN_STRICT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    strict: bool,

    /// What gets a vector: each passage, or each beginning of one that ends where a sentence does
    #[arg(
        long,
        env = "ONEGEN_VECTORS",
        value_name = "WHAT",
        default_value = "passage"
    )]
    vectors: Vectors,

    /// Tokens of a passage at most; a longer document is split where sentences end
    #[arg(long, env = "ONEGEN_MAX_TOKENS", default_value_t = 256)]
    max_tokens: usize,

    /// Tokens at the end of a passage that the next one begins with, at most
    #[arg(long, env = "ONEGEN_OVERLAP_TOKENS", default_value_t = 32)]
    overlap_tokens: usize,
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

    pub(crate) fn options(&self) -> Result<IngestOptions> {
        let split = Splitter::new(self.max_tokens, self.overlap_tokens)?;
        Ok(IngestOptions {
            strict: self.strict,
            vectors: match self.vectors {
                Vectors::Passage => VectorsPer::Passage,
                Vectors::Sentence => VectorsPer::Sentence,
            },
            ..IngestOptions::new(split)
        })
    }
}
