//! A collection in a database, of whatever kind that is.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use super::address::RemoteAddress;
use super::calls::{RemoteOptions, RemoteStats};
use super::description::Description;
use super::milvus::MilvusCollection;
use super::postgres::PostgresCollection;
use super::verification::RemoteVerification;
use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::DocumentRules;
use crate::live::change::{Change, ChangeCounts, CheckedChange};
use crate::live::hit::{Hit, SearchOptions};
use crate::segment::passages::Passage;

/// A collection in a database. Calls come from many threads at once and wait for the database; they must not come from
/// where async code runs.
pub struct RemoteCollection {
    engine: Engine,
    address: RemoteAddress,
    /// How many there were when it was opened, and what was changed from here since.
    passages: AtomicI64,
}

/// A collection in one kind of database.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each collection of a server"
)]
pub(super) enum Engine {
    Postgres(PostgresCollection),
    Milvus(MilvusCollection),
}

impl fmt::Debug for RemoteCollection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut collection = f.debug_struct("RemoteCollection");
        collection.field("address", self.address());
        collection.finish_non_exhaustive()
    }
}

/// Calls a method of the engine, whichever it is.
macro_rules! of_engine {
    ($collection:ident.$method:ident($($argument:expr),*)) => {
        match &$collection.engine {
            Engine::Postgres(engine) => engine.$method($($argument),*),
            Engine::Milvus(engine) => engine.$method($($argument),*),
        }
    };
}

impl RemoteCollection {
    /// Connects, and reads what the collection is.
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], and [`IndexError::Remote`] if there is no collection, one of another version, or
    /// one that was not pushed to its end.
    pub fn open(address: &RemoteAddress, options: RemoteOptions) -> Result<Self, IndexError> {
        Self::new(match address {
            RemoteAddress::Postgres(address) => {
                Engine::Postgres(PostgresCollection::open(address, options)?)
            }
            RemoteAddress::Milvus(address) => {
                Engine::Milvus(MilvusCollection::open(address, options)?)
            }
        })
    }

    /// Counts the passages of a collection that was opened.
    pub(super) fn new(engine: Engine) -> Result<Self, IndexError> {
        let (address, passages) = match &engine {
            Engine::Postgres(engine) => {
                let address = RemoteAddress::Postgres(engine.address().clone());
                (address, engine.count_passages()?)
            }
            Engine::Milvus(engine) => {
                let address = RemoteAddress::Milvus(engine.address().clone());
                (address, engine.count_passages()?)
            }
        };
        Ok(Self {
            engine,
            address,
            passages: AtomicI64::new(passages as i64),
        })
    }

    fn description(&self) -> &Description {
        of_engine!(self.description())
    }

    /// Where it is.
    pub fn address(&self) -> &RemoteAddress {
        &self.address
    }

    /// Width of every vector.
    pub fn dimension(&self) -> usize {
        self.description().dimension as usize
    }

    /// What made the vectors.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.description().fingerprints
    }

    /// Fails unless `model` made this collection's vectors.
    ///
    /// # Errors
    /// [`IndexError::FingerprintMismatch`] names both.
    pub fn check_fingerprints(&self, model: &Fingerprints) -> Result<(), IndexError> {
        IndexError::unless_comparable(self.fingerprints(), model)
    }

    /// How documents become passages and vectors here.
    pub fn document_rules(&self) -> DocumentRules {
        self.description().documents
    }

    /// When it was made, in seconds since 1970.
    pub fn created_unix_seconds(&self) -> u64 {
        self.description().created_unix_seconds
    }

    /// Bytes of its tables and their indexes; `None` where the database does not tell.
    ///
    /// # Errors
    /// As [`RemoteCollection::get`].
    pub fn bytes(&self) -> Result<Option<u64>, IndexError> {
        of_engine!(self.bytes())
    }

    /// Number of passages when the collection was opened, and what was changed from here since. Does not wait.
    pub fn passages(&self) -> u64 {
        self.passages.load(Ordering::Relaxed).unsigned_abs()
    }

    /// How calls of the database went. Does not wait.
    pub fn remote_stats(&self) -> RemoteStats {
        of_engine!(self.remote_stats())
    }

    /// See [`crate::Index::search`]; scores are the same cosines. The filter means the same, too.
    ///
    /// # Errors
    /// [`IndexError::Dimension`], [`IndexError::NoDirection`], [`IndexError::Unreachable`], [`IndexError::Remote`].
    pub fn search(
        &self,
        embedding: &[f32],
        options: &SearchOptions,
    ) -> Result<Vec<Hit>, IndexError> {
        of_engine!(self.search(embedding, options))
    }

    /// See [`crate::Index::get`].
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], [`IndexError::Remote`].
    pub fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        of_engine!(self.get(id))
    }

    /// See [`crate::Index::document`].
    ///
    /// # Errors
    /// As [`RemoteCollection::get`].
    pub fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        let mut passages = of_engine!(self.document(id))?;
        // A passage that is a document of its own has no parts.
        if let Some(whole) = passages.iter().position(|passage| passage.part.is_none()) {
            return Ok(vec![passages.swap_remove(whole)]);
        }
        passages.sort_by_key(|passage| passage.part.as_ref().map(|part| part.start));
        Ok(passages)
    }

    /// See [`crate::Index::apply`]. When this returns the batch is stored, and searches that begin see it.
    ///
    /// # Errors
    /// Those of [`crate::Index::apply`] for a passage, [`IndexError::NotStorable`] for one that the database cannot store,
    /// and [`IndexError::Unreachable`], after which the batch may be there or not, in Milvus also a part of it; making
    /// it again does no harm.
    pub fn apply(&self, changes: Vec<Change>) -> Result<ChangeCounts, IndexError> {
        let changes = match &self.engine {
            Engine::Postgres(_) => checked(changes, self.dimension(), PostgresCollection::check),
            Engine::Milvus(_) => checked(changes, self.dimension(), MilvusCollection::check),
        }?;
        let counts: ChangeCounts = of_engine!(self.apply(&changes))?;
        let grown = counts.upserted as i64 - counts.replaced as i64 - counts.deleted as i64;
        self.passages.fetch_add(grown, Ordering::Relaxed);
        Ok(counts)
    }

    /// All passages with their unit vectors, in the order in which they were put in. What changes meanwhile may be
    /// there or not. Stops at the first error.
    ///
    /// # Errors
    /// Those of [`RemoteCollection::get`], and what `each` returns.
    pub fn for_each<E: From<IndexError>>(
        &self,
        each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        of_engine!(self.for_each(each))
    }

    /// Counts, looks at a sample of the vectors, and holds searches through the graph against exact scans for them.
    ///
    /// # Errors
    /// As [`RemoteCollection::get`].
    pub fn verify(&self, sample: usize) -> Result<RemoteVerification, IndexError> {
        of_engine!(self.verify(sample))
    }
}

/// Changes that the database can store, as `check` says of their passages.
fn checked(
    changes: Vec<Change>,
    dimension: usize,
    check: fn(&Passage) -> Result<(), IndexError>,
) -> Result<Vec<CheckedChange>, IndexError> {
    for change in &changes {
        if let Change::Upsert { passage, .. } = change {
            check(passage)?;
        }
    }
    let changes = changes.into_iter();
    changes.map(|change| change.prepare(dimension)).collect()
}
