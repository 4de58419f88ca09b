//! From a corpus to an index: read, embed, build. The caller brings the function that embeds.

use std::fmt::{Debug, Display};
use std::path::Path;

use crate::builder::{BuildOptions, IndexBuilder};
use crate::corpus::{Corpus, Position, RecordError, RecordReason};
use crate::error::IndexError;
use crate::manifest::Manifest;
use crate::passages::Passage;

/// How a corpus is indexed.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// How the index is built.
    pub build: BuildOptions,
    /// Stop at the first bad line.
    pub strict: bool,
    /// Passages handed to the embedding function at once, which can then group them by length.
    pub batch_passages: usize,
}

impl IngestOptions {
    /// The defaults: bad lines are skipped, 64 passages at once.
    pub fn new(build: BuildOptions) -> Self {
        Self {
            build,
            strict: false,
            batch_passages: 64,
        }
    }
}

/// What happens while a corpus is indexed.
#[derive(Debug)]
pub enum BuildEvent<'a> {
    /// A line was skipped.
    BadLine(&'a RecordError),
    /// Passages were embedded and written.
    Embedded {
        /// Passages so far.
        passages: u32,
        /// Bytes of the corpus read so far.
        bytes_read: u64,
    },
    /// Vectors were linked into the graph; comes only for large collections, after all passages.
    Linked {
        /// Vectors so far.
        vectors: u32,
        /// Vectors in all.
        total: u32,
    },
}

/// What came of a corpus.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// The finished index.
    pub manifest: Manifest,
    /// Lines that were skipped.
    pub bad_lines: u64,
}

/// Why a corpus could not be indexed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum IngestError<E: Debug + Display> {
    /// The index could not be built.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A line is bad and [`IngestOptions::strict`] is set, or the corpus cannot be read any
    /// further.
    #[error("{0}")]
    Line(RecordError),
    /// No line holds a passage.
    #[error("the corpus holds no passage ({bad_lines} bad lines)")]
    NoPassages {
        /// Lines that were skipped.
        bad_lines: u64,
    },
    /// Passages could not be embedded.
    #[error("cannot embed the passages from {first_id:?} on: {error:#}")]
    Embed {
        /// The first of them.
        first_id: String,
        /// What the function said.
        error: E,
    },
    /// The embedding function did not return one entry a passage.
    #[error("{got} passages came back embedded of {expected}")]
    EmbedCount {
        /// Passages handed in.
        expected: usize,
        /// Entries returned.
        got: usize,
    },
}

/// What an embedding function says of one passage: its vectors, or why it cannot have any.
pub type Embedded = Result<Vec<Vec<f32>>, String>;

/// Indexes a corpus at `out`. `embed` returns one entry for each passage; a passage that it cannot
/// embed is a bad line, an error of its own ends the build. `on_event` hears of bad lines and of
/// progress.
///
/// # Errors
/// See [`IngestError`]. What stood at `out` then still stands there.
pub fn build_from_corpus<E>(
    mut corpus: Corpus,
    out: &Path,
    options: IngestOptions,
    mut embed: impl FnMut(&[Passage]) -> Result<Vec<Embedded>, E>,
    mut on_event: impl FnMut(BuildEvent<'_>),
) -> Result<BuildReport, IngestError<E>>
where
    E: Debug + Display,
{
    let mut builder = IndexBuilder::create(out, options.build)?;
    let mut bad_lines = 0;
    let mut bad_line = |error: RecordError, on_event: &mut dyn FnMut(BuildEvent<'_>)| {
        if options.strict || matches!(error.reason, RecordReason::Read(_)) {
            return Err(IngestError::Line(error));
        }
        bad_lines += 1;
        on_event(BuildEvent::BadLine(&error));
        Ok(())
    };
    let mut lines = Vec::new();
    let mut batch = Vec::new();
    loop {
        let item = corpus.next();
        let at_end = item.is_none();
        match item {
            None => {}
            Some(Ok(document)) => {
                lines.push(corpus.position().cloned().unwrap_or(Position::Line(0)));
                batch.push(Passage::from(document));
            }
            Some(Err(error)) => bad_line(error, &mut on_event)?,
        }
        if !batch.is_empty() && (at_end || batch.len() >= options.batch_passages) {
            let embedded = embed_batch(&batch, &mut embed)?;
            for ((passage, position), vectors) in batch.drain(..).zip(lines.drain(..)).zip(embedded)
            {
                match vectors {
                    Ok(vectors) => builder.add(&passage, &vectors)?,
                    Err(reason) => {
                        let reason = RecordReason::NotEmbeddable(reason);
                        bad_line(RecordError { position, reason }, &mut on_event)?;
                    }
                }
            }
            let (passages, bytes_read) = (builder.passages(), corpus.bytes_read());
            on_event(BuildEvent::Embedded {
                passages,
                bytes_read,
            });
        }
        if at_end {
            break;
        }
    }
    if builder.passages() == 0 {
        return Err(IngestError::NoPassages { bad_lines });
    }
    let total = builder.vectors();
    let manifest = builder.finish_with(|vectors| {
        on_event(BuildEvent::Linked {
            vectors: vectors as u32,
            total,
        })
    })?;
    Ok(BuildReport {
        manifest,
        bad_lines,
    })
}

fn embed_batch<E: Debug + Display>(
    batch: &[Passage],
    embed: &mut impl FnMut(&[Passage]) -> Result<Vec<Embedded>, E>,
) -> Result<Vec<Embedded>, IngestError<E>> {
    let embedded = embed(batch).map_err(|error| {
        let first_id = batch
            .first()
            .map(|passage| passage.id.clone())
            .unwrap_or_default();
        IngestError::Embed { first_id, error }
    })?;
    if embedded.len() != batch.len() {
        return Err(IngestError::EmbedCount {
            expected: batch.len(),
            got: embedded.len(),
        });
    }
    Ok(embedded)
}
