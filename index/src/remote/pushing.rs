//! What every push is: batches of an index's passages, and how far it is.

use std::fmt;

use super::calls::fault;
use super::description::Description;
use crate::error::IndexError;
use crate::live::index::Index;
use crate::segment::passages::Passage;

/// Passages of a batch.
const BATCH: usize = 1_000;

/// What a push is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushProgress {
    /// So many passages are in the database, of so many.
    Passages(u64, u64),
    /// The passages are there and their graph is built.
    Graph,
}

/// A passage with its unit vectors.
pub(super) type WithVectors = (Passage, Vec<Vec<f32>>);

/// Where passages are pushed to.
pub(super) trait Target {
    /// Writes a batch, and with it or after it what the collection is then. The passages are those up to
    /// `description.pushed` in the order of the index. It may be written again after it has been written unseen.
    fn write(&self, batch: &[WithVectors], description: &Description) -> Result<(), IndexError>;
}

/// Fails unless the collection at an address is what a push of an index has left, or not there at all. Returns how far
/// that push was.
pub(super) fn begun_by(
    index: &Index,
    address: &impl fmt::Display,
    there: Option<Description>,
    remedy: &str,
) -> Result<Option<Description>, IndexError> {
    let reason = match there {
        None => return Ok(None),
        Some(there) if there.complete => "it holds a collection already",
        Some(there) if there.source == index.manifest().index_id => return Ok(Some(there)),
        Some(_) => "it holds a part of another index",
    };
    Err(fault(address, format!("{reason}; {remedy}")))
}

/// Puts the passages of an index that are not there yet into a collection. Returns what the collection is then.
pub(super) fn push_passages(
    index: &Index,
    target: &impl Target,
    address: &impl fmt::Display,
    description: Description,
    on_progress: &mut impl FnMut(PushProgress),
) -> Result<Description, IndexError> {
    let mut pushing = Pushing {
        target,
        description,
        batch: Vec::new(),
        read: 0,
    };
    let total = index.passages();
    index.for_each(|passage, vectors| {
        pushing.take(passage, vectors)?;
        if pushing.batch.is_empty() {
            on_progress(PushProgress::Passages(pushing.read, total));
        }
        Ok::<_, IndexError>(())
    })?;
    pushing.flush()?;
    let Pushing {
        read, description, ..
    } = pushing;
    if description.pushed != read {
        let reason = format!(
            "{} passages were pushed before, and the index has {read} now; drop the collection and push again",
            description.pushed
        );
        return Err(fault(address, reason));
    }
    on_progress(PushProgress::Passages(read, total));
    Ok(description)
}

/// A push on its way.
struct Pushing<'t, T> {
    target: &'t T,
    description: Description,
    batch: Vec<WithVectors>,
    /// Passages that were read, of which the last ones are in the batch.
    read: u64,
}

impl<T: Target> Pushing<'_, T> {
    fn take(&mut self, passage: &Passage, vectors: &[&[f32]]) -> Result<(), IndexError> {
        self.read += 1;
        // It was pushed before.
        if self.read <= self.description.pushed {
            return Ok(());
        }
        let vectors = vectors.iter().map(|vector| vector.to_vec()).collect();
        self.batch.push((passage.clone(), vectors));
        if self.batch.len() == BATCH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut description = self.description.clone();
        description.pushed = self.read;
        self.target.write(&self.batch, &description)?;
        self.description = description;
        self.batch.clear();
        Ok(())
    }
}
