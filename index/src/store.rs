//! Where a collection is kept: in a directory, or in a database.

use std::path::Path;

use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::DocumentRules;
use crate::live::change::{Change, ChangeCounts};
use crate::live::hit::{Hit, SearchOptions};
use crate::live::index::Index;
use crate::remote::{RemoteCollection, RemoteStats};
use crate::segment::passages::Passage;

/// A collection that is searched and changed in the same way wherever it is. Each method is that of [`Index`]; those
/// that ask a database wait for it, and must not be called where async code runs.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each collection of a server"
)]
pub enum Store {
    /// An index in a directory.
    Directory(Index),
    /// A collection in a database.
    Remote(RemoteCollection),
}

impl From<Index> for Store {
    fn from(index: Index) -> Self {
        Self::Directory(index)
    }
}

impl From<RemoteCollection> for Store {
    fn from(collection: RemoteCollection) -> Self {
        Self::Remote(collection)
    }
}

impl Store {
    /// The index, if it is one in a directory.
    pub fn directory(&self) -> Option<&Index> {
        match self {
            Self::Directory(index) => Some(index),
            Self::Remote(_) => None,
        }
    }

    /// The directory, if it is in one.
    pub fn dir(&self) -> Option<&Path> {
        self.directory().map(Index::dir)
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self {
            Self::Directory(index) => index.dir().display().to_string(),
            Self::Remote(collection) => collection.address().to_string(),
        }
    }

    /// How calls of its database went; `None` for a directory.
    pub fn remote_stats(&self) -> Option<RemoteStats> {
        match self {
            Self::Directory(_) => None,
            Self::Remote(collection) => Some(collection.remote_stats()),
        }
    }

    /// Whether it may only be searched.
    pub fn is_read_only(&self) -> bool {
        self.directory().is_some_and(Index::is_read_only)
    }

    /// Number of passages. Does not wait.
    pub fn passages(&self) -> u64 {
        match self {
            Self::Directory(index) => index.passages(),
            Self::Remote(collection) => collection.passages(),
        }
    }

    /// What made the vectors.
    pub fn fingerprints(&self) -> &Fingerprints {
        match self {
            Self::Directory(index) => index.fingerprints(),
            Self::Remote(collection) => collection.fingerprints(),
        }
    }

    /// Fails unless `model` made the vectors.
    ///
    /// # Errors
    /// [`IndexError::FingerprintMismatch`] names both.
    pub fn check_fingerprints(&self, model: &Fingerprints) -> Result<(), IndexError> {
        IndexError::unless_comparable(self.fingerprints(), model)
    }

    /// How documents become passages and vectors.
    pub fn document_rules(&self) -> DocumentRules {
        match self {
            Self::Directory(index) => index.document_rules(),
            Self::Remote(collection) => collection.document_rules(),
        }
    }

    /// See [`Index::search`].
    ///
    /// # Errors
    /// Those of [`Index::search`] and [`RemoteCollection::search`].
    pub fn search(&self, query: &[f32], options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        match self {
            Self::Directory(index) => index.search(query, options),
            Self::Remote(collection) => collection.search(query, options),
        }
    }

    /// See [`Index::get`].
    ///
    /// # Errors
    /// Those of [`Index::get`] and [`RemoteCollection::get`].
    pub fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        match self {
            Self::Directory(index) => index.get(id),
            Self::Remote(collection) => collection.get(id),
        }
    }

    /// See [`Index::document`].
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        match self {
            Self::Directory(index) => index.document(id),
            Self::Remote(collection) => collection.document(id),
        }
    }

    /// See [`Index::passage_kv`]. A database keeps none.
    ///
    /// # Errors
    /// As [`Index::passage_kv`].
    pub fn passage_kv(&self, id: &str) -> Result<Option<Vec<u8>>, IndexError> {
        self.directory()
            .map_or(Ok(None), |index| index.passage_kv(id))
    }

    /// See [`Index::apply`].
    ///
    /// # Errors
    /// Those of [`Index::apply`] and [`RemoteCollection::apply`].
    pub fn apply(&self, changes: Vec<Change>) -> Result<ChangeCounts, IndexError> {
        match self {
            Self::Directory(index) => index.apply(changes),
            Self::Remote(collection) => collection.apply(changes),
        }
    }

    /// See [`Index::settle`]. A database settles by itself.
    ///
    /// # Errors
    /// As [`Index::settle`].
    pub fn settle(&self) -> Result<(), IndexError> {
        self.directory().map_or(Ok(()), Index::settle)
    }

    /// See [`Index::for_each`].
    ///
    /// # Errors
    /// Those of [`Index::for_each`] and [`RemoteCollection::for_each`].
    pub fn for_each<E: From<IndexError>>(
        &self,
        each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Directory(index) => index.for_each(each),
            Self::Remote(collection) => collection.for_each(each),
        }
    }
}
