//! From a corpus to passages with vectors: read, split, embed. The caller provides the embedder.

pub(crate) mod corpus;
pub(crate) mod sentences;
pub(crate) mod split;

use std::fmt::{Debug, Display};
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::build::builder::{BuildOptions, IndexBuilder};
use crate::build::ingested::Ingested;
use crate::error::IndexError;
use crate::format::document_rules::DocumentRules;
use crate::format::manifest::Manifest;
use crate::ingest::corpus::{Corpus, CorpusError, LeftOut, Position, RecordError, RecordReason};
use crate::ingest::split::SplitPassage;
use crate::live::change::{Change, ChangeCounts};
use crate::segment::passages::Passage;

/// Embeds passages and counts tokens: a model.
pub trait Embedder {
    /// Why nothing can be embedded any more.
    type Error: Debug + Display;

    /// Tokens of a text.
    fn count_tokens(&self, text: &str) -> usize;

    /// Embeds (title, text) pairs, one vector each. For a text that cannot be embedded, the reason
    /// takes the vector's place.
    ///
    /// # Errors
    /// Nothing can be embedded any more.
    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, Self::Error>;

    /// [`Embedder::embed`], each vector with the keys and values that were computed for it, if the embedder has
    /// any.
    ///
    /// # Errors
    /// Nothing can be embedded any more.
    fn embed_with_kv(
        &self,
        texts: &[(&str, &str)],
    ) -> Result<Vec<Result<EmbeddedText, String>>, Self::Error> {
        Ok(without_kv(self.embed(texts)?))
    }
}

fn without_kv(vectors: Vec<Result<Vec<f32>, String>>) -> Vec<Result<EmbeddedText, String>> {
    let vectors = vectors.into_iter();
    vectors.map(|vector| Ok((vector?, None))).collect()
}

/// A text's vector, and the keys and values that were computed for it.
pub type EmbeddedText = (Vec<f32>, Option<Vec<u8>>);

/// How a corpus is read and embedded.
#[derive(Debug, Clone, Copy)]
pub struct IngestOptions {
    /// Stop at the first bad record.
    pub strict: bool,
    /// How its documents become passages and vectors.
    pub rules: DocumentRules,
    /// Keep the keys and values that are computed for a passage, if its one vector is of its whole text.
    pub keep_kv: bool,
    /// Texts that are embedded at once, at least.
    pub batch_texts: usize,
    /// How often a build syncs its work to the disk. A killed build loses at most the work of this
    /// time.
    pub save_every: Duration,
}

impl IngestOptions {
    /// The defaults: bad records are skipped, 64 texts at once, on the disk every 10 seconds.
    pub fn new(rules: DocumentRules) -> Self {
        Self {
            strict: false,
            rules,
            keep_kv: false,
            batch_texts: 64,
            save_every: Duration::from_secs(10),
        }
    }
}

/// What happens while a corpus is read.
#[derive(Debug)]
pub enum IngestEvent<'a> {
    /// An interrupted build is continued.
    Resumed {
        /// Passages that are there already.
        passages: u64,
        /// Records that they came from.
        records: u64,
    },
    /// A record was skipped.
    BadRecord(&'a RecordError),
    /// Passages were embedded and written.
    Embedded {
        /// Passages so far.
        passages: u64,
        /// Bytes of the corpus read so far.
        bytes_read: u64,
    },
    /// The corpus is read: what of it is in no document, bad records included. It comes once, unless nothing
    /// is left out.
    LeftOut(&'a LeftOut),
    /// Vectors were linked into the graph; comes only for large collections, after all passages.
    Linked {
        /// Vectors so far.
        vectors: u32,
        /// Vectors in all.
        total: u32,
    },
}

/// Why a corpus could not be indexed.
#[derive(Debug, thiserror::Error)]
pub enum IngestError<E: Debug + Display> {
    /// The index could not be built or changed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The corpus is not the one that the interrupted build read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A record is bad and [`IngestOptions::strict`] is set, or the corpus cannot be read any
    /// further.
    #[error("{0}")]
    Record(RecordError),
    /// No record holds a passage.
    #[error("the corpus holds no passage ({bad_records} bad records)")]
    NoPassages {
        /// Records that were skipped.
        bad_records: u64,
    },
    /// Passages could not be embedded.
    #[error("cannot embed the passages from {first_id:?} on: {error:#}")]
    Embed {
        /// The first of them.
        first_id: String,
        /// What the embedder said.
        error: E,
    },
    /// The embedder did not return one entry a text.
    #[error("{got} texts came back embedded of {expected}")]
    EmbedCount {
        /// Texts handed in.
        expected: usize,
        /// Entries returned.
        got: usize,
    },
}

/// Builds an index of a corpus, or of the part of it that is read, at `out`. If a build of the same corpus with the
/// same options was interrupted, it is continued. A part may be empty, a corpus may not.
///
/// # Errors
/// See [`IngestError`]. An index that was at `out` before is then unchanged.
pub fn build_from_corpus<M: Embedder>(
    mut corpus: Corpus,
    out: &Path,
    mut build: BuildOptions,
    options: IngestOptions,
    embedder: &M,
    mut on_event: impl FnMut(IngestEvent<'_>),
) -> Result<(Manifest, Ingested), IngestError<M::Error>> {
    build.documents = Some(options.rules);
    build.shard = corpus.shard();
    let job = format!("{} {build:?} {options:?}", corpus.identity());
    let (mut builder, mut ingested) = match corpus.identity() {
        "" => (IndexBuilder::create(out, build)?, Ingested::default()),
        _ => IndexBuilder::resume(out, build, &job)?,
    };
    if ingested.records > 0 {
        corpus.skip_records(ingested.records)?;
        on_event(IngestEvent::Resumed {
            passages: ingested.passages,
            records: ingested.records,
        });
    }
    let mut saved = Instant::now();
    let mut ingest = Ingest {
        options,
        embedder,
        on_event: &mut on_event,
        so_far: &mut ingested,
        not_embedded: LeftOut::default(),
    };
    let read = ingest.run(&mut corpus, |documents, so_far| {
        for embedded in documents.iter().flatten() {
            let EmbeddedPassage {
                passage,
                vectors,
                kv,
            } = embedded;
            match builder.add_with_kv(passage, vectors, kv.as_deref()) {
                // A document may have the id that a part of another document gets.
                Err(error @ IndexError::DuplicateId { .. }) => {
                    tracing::warn!(%error, "a passage is left out");
                }
                added => added?,
            }
        }
        if saved.elapsed() >= options.save_every {
            builder.save_progress(so_far)?;
            saved = Instant::now();
        }
        Ok(())
    });
    if let Err(error) = read {
        // A bad record stays bad, and a corrected file counts as another corpus, so the build
        // cannot be continued.
        if let IngestError::Record(record) = &error
            && !matches!(record.reason, RecordReason::Read(_))
        {
            builder.discard();
        }
        return Err(error);
    }
    if builder.passages() == 0 && corpus.shard().is_none() {
        builder.discard();
        return Err(IngestError::NoPassages {
            bad_records: ingested.bad_records,
        });
    }
    builder.save_progress(&ingested)?;
    let total = builder.vectors();
    let manifest = builder.finish_with(|vectors| {
        on_event(IngestEvent::Linked {
            vectors: vectors as u32,
            total,
        });
    })?;
    Ok((manifest, ingested))
}

/// Puts the documents of a corpus into a collection that `apply` changes. A document replaces all
/// passages of an earlier document with the same id. Documents that were added before an error
/// stay.
///
/// # Errors
/// See [`IngestError`].
pub fn add_from_corpus<M: Embedder>(
    mut corpus: Corpus,
    apply: impl Fn(Vec<Change>) -> Result<ChangeCounts, IndexError>,
    options: IngestOptions,
    embedder: &M,
    mut on_event: impl FnMut(IngestEvent<'_>),
) -> Result<Ingested, IngestError<M::Error>> {
    let mut ingested = Ingested::default();
    let mut ingest = Ingest {
        options,
        embedder,
        on_event: &mut on_event,
        so_far: &mut ingested,
        not_embedded: LeftOut::default(),
    };
    ingest.run(&mut corpus, |documents, _| {
        let mut changes = Vec::new();
        for passages in documents {
            let first = passages.first();
            let document = first.map(|embedded| embedded.passage.document_id());
            changes.extend(document.map(|id| Change::DeleteDocument { id: id.into() }));
            let upserts = mem::take(passages).into_iter();
            changes.extend(upserts.map(|embedded| Change::Upsert {
                passage: embedded.passage,
                vectors: embedded.vectors,
            }));
        }
        apply(changes).map(|_| ())
    })?;
    match ingested.passages {
        0 => Err(IngestError::NoPassages {
            bad_records: ingested.bad_records,
        }),
        _ => Ok(ingested),
    }
}

/// The passages of a document.
type EmbeddedPassages = Vec<EmbeddedPassage>;

/// A passage, its vectors, and the keys and values that are kept with it.
struct EmbeddedPassage {
    passage: Passage,
    vectors: Vec<Vec<f32>>,
    kv: Option<Vec<u8>>,
}

/// One reading of a corpus.
struct Ingest<'i, M, F> {
    options: IngestOptions,
    embedder: &'i M,
    on_event: &'i mut F,
    so_far: &'i mut Ingested,
    /// Documents that the corpus holds and the embedder refused.
    not_embedded: LeftOut,
}

impl<M: Embedder, F: FnMut(IngestEvent<'_>)> Ingest<'_, M, F> {
    /// Passes every document's passages to `take`, some documents at a time, together with the
    /// progress so far.
    fn run(
        &mut self,
        corpus: &mut Corpus,
        mut take: impl FnMut(&mut [EmbeddedPassages], &Ingested) -> Result<(), IndexError>,
    ) -> Result<(), IngestError<M::Error>> {
        let mut batch: Vec<(Position, Vec<SplitPassage>)> = Vec::new();
        let mut texts = 0;
        loop {
            let record = corpus.next();
            let at_end = record.is_none();
            match record {
                None => {}
                Some(Ok(document)) => {
                    let position = corpus.last_position().cloned().unwrap_or(Position::Line(0));
                    let count = |text: &str| self.embedder.count_tokens(text);
                    let passages = self.options.rules.split.split(document, count);
                    texts += passages.iter().map(|p| self.texts(p).len()).sum::<usize>();
                    batch.push((position, passages));
                }
                Some(Err(error)) => self.bad_record(error)?,
            }
            if !batch.is_empty() && (at_end || texts >= self.options.batch_texts) {
                texts = 0;
                let mut embedded = self.embed(mem::take(&mut batch))?;
                self.so_far.records = corpus.records();
                self.so_far.documents += embedded.len() as u64;
                self.so_far.passages += embedded.iter().map(|e| e.len() as u64).sum::<u64>();
                take(&mut embedded, self.so_far)?;
                (self.on_event)(IngestEvent::Embedded {
                    passages: self.so_far.passages,
                    bytes_read: corpus.bytes_read(),
                });
            }
            if at_end {
                self.so_far.records = corpus.records();
                self.report_left_out(corpus);
                return Ok(());
            }
        }
    }

    fn report_left_out(&mut self, corpus: &Corpus) {
        let mut left_out = corpus.left_out().clone();
        left_out.append(&self.not_embedded);
        if !left_out.is_empty() {
            (self.on_event)(IngestEvent::LeftOut(&left_out));
        }
    }

    fn bad_record(&mut self, error: RecordError) -> Result<(), IngestError<M::Error>> {
        if self.options.strict || matches!(error.reason, RecordReason::Read(_)) {
            return Err(IngestError::Record(error));
        }
        self.so_far.bad_records += 1;
        (self.on_event)(IngestEvent::BadRecord(&error));
        Ok(())
    }

    fn texts<'p>(&self, passage: &'p SplitPassage) -> Vec<&'p str> {
        self.options.rules.texts(passage)
    }

    /// Embeds documents. A document with a text that cannot be embedded is a bad record.
    fn embed(
        &mut self,
        documents: Vec<(Position, Vec<SplitPassage>)>,
    ) -> Result<Vec<EmbeddedPassages>, IngestError<M::Error>> {
        let passages = documents.iter().flat_map(|(_, passages)| passages);
        let texts: Vec<(&str, &str)> = passages
            .flat_map(|p| {
                let titled = |text| (p.passage.title.as_str(), text);
                self.texts(p).into_iter().map(titled)
            })
            .collect();
        let expected = texts.len();
        let embedded = if self.options.keep_kv {
            self.embedder.embed_with_kv(&texts)
        } else {
            self.embedder.embed(&texts).map(without_kv)
        };
        let vectors = embedded.map_err(|error| {
            let first = documents.iter().flat_map(|(_, passages)| passages).next();
            IngestError::Embed {
                first_id: first.map(|p| p.passage.id.clone()).unwrap_or_default(),
                error,
            }
        })?;
        if vectors.len() != expected {
            let got = vectors.len();
            return Err(IngestError::EmbedCount { expected, got });
        }
        let mut vectors = vectors.into_iter();
        let mut embedded = Vec::with_capacity(documents.len());
        for (position, passages) in documents {
            // All vectors of the document are consumed, even after an error, so that the next
            // document gets its own.
            let passages: Vec<Result<_, String>> = passages
                .into_iter()
                .map(|passage| {
                    let texts = self.texts(&passage);
                    let is_whole = texts == [passage.passage.text.as_str()];
                    let own: Vec<_> = vectors.by_ref().take(texts.len()).collect();
                    let own = own.into_iter().collect::<Result<Vec<EmbeddedText>, _>>()?;
                    let (vectors, mut kv): (Vec<_>, Vec<_>) = own.into_iter().unzip();
                    Ok(EmbeddedPassage {
                        passage: passage.passage,
                        vectors,
                        kv: kv.pop().flatten().filter(|_| is_whole),
                    })
                })
                .collect();
            match passages.into_iter().collect() {
                Ok(passages) => embedded.push(passages),
                Err(reason) => {
                    let reason = RecordReason::NotEmbeddable(reason);
                    self.not_embedded.add(reason.short(), position.short());
                    self.bad_record(RecordError { position, reason })?;
                }
            }
        }
        Ok(embedded)
    }
}
