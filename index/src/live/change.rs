//! What can be changed in an index, and how a batch of changes is written to the log.

use std::path::Path;
use std::sync::Arc;

use crate::error::IndexError;
use crate::segment::passages::{IdDigest, Passage, digest};
use crate::segment::vectors::normalised;

/// One change of an index.
#[allow(
    clippy::large_enum_variant,
    reason = "most are the large one; how large depends on a feature of serde_json"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Puts a passage in, in place of one with the same id.
    Upsert {
        /// The passage.
        passage: Passage,
        /// Its vectors, at least one, of any length.
        vectors: Vec<Vec<f32>>,
    },
    /// Takes the passage with an id out; none is no error.
    Delete {
        /// The id.
        id: String,
    },
    /// Takes out the passage with an id and all passages that were cut from the document with that
    /// id; none is no error.
    DeleteDocument {
        /// The id.
        id: String,
    },
}

/// What a batch of changes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeCounts {
    /// Passages put in.
    pub upserted: usize,
    /// Those of them that took the place of another.
    pub replaced: usize,
    /// Passages taken out.
    pub deleted: usize,
}

/// A passage that is in no segment yet.
#[derive(Debug, PartialEq)]
pub(crate) struct DeltaPassage {
    pub(crate) digest: IdDigest,
    pub(crate) passage: Passage,
    /// Unit vectors: (vectors, dimension).
    pub(crate) vectors: Vec<f32>,
}

impl DeltaPassage {
    fn new(passage: Passage, vectors: Vec<f32>) -> Self {
        Self {
            digest: digest(&passage.id),
            passage,
            vectors,
        }
    }
}

/// A change that was checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CheckedChange {
    Upsert(Arc<DeltaPassage>),
    Delete(String),
    DeleteDocument(String),
}

impl Change {
    pub(crate) fn prepare(self, dimension: usize) -> Result<CheckedChange, IndexError> {
        match self {
            Self::Upsert { passage, vectors } => {
                if vectors.is_empty() {
                    return Err(IndexError::NoVector { id: passage.id });
                }
                let mut units = Vec::with_capacity(vectors.len() * dimension);
                for vector in &vectors {
                    units.extend(normalised(vector, dimension)?);
                }
                let passage = DeltaPassage::new(passage, units);
                Ok(CheckedChange::Upsert(Arc::new(passage)))
            }
            Self::Delete { id } => Ok(CheckedChange::Delete(id)),
            Self::DeleteDocument { id } => Ok(CheckedChange::DeleteDocument(id)),
        }
    }
}

const UPSERT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_DOCUMENT: u8 = 3;

/// A batch as the log keeps it: for each change its kind, then strings and rows of numbers, each
/// after its length in bytes (u32).
pub(crate) fn encode(changes: &[CheckedChange]) -> Result<Vec<u8>, IndexError> {
    let mut bytes = Vec::new();
    let mut put = |kind: Option<u8>, content: &[u8]| {
        let length = u32::try_from(content.len()).map_err(|_| IndexError::TooLarge {
            what: "bytes in one change",
            limit: u32::MAX.into(),
        })?;
        bytes.extend(kind);
        bytes.extend(length.to_le_bytes());
        bytes.extend(content);
        Ok(())
    };
    for change in changes {
        match change {
            CheckedChange::Upsert(entry) => {
                let passage = serde_json::to_vec(&entry.passage)
                    .map_err(|e| IndexError::io("write", Path::new("a change"))(e.into()))?;
                put(Some(UPSERT), &passage)?;
                put(None, bytemuck::cast_slice(&entry.vectors))?;
            }
            CheckedChange::Delete(id) => put(Some(DELETE), id.as_bytes())?,
            CheckedChange::DeleteDocument(id) => put(Some(DELETE_DOCUMENT), id.as_bytes())?,
        }
    }
    Ok(bytes)
}

/// The batch that [`encode`] wrote, or what is wrong with it.
pub(crate) fn decode(mut bytes: &[u8], dimension: usize) -> Result<Vec<CheckedChange>, String> {
    let mut changes = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        bytes = rest;
        let content = take(&mut bytes)?;
        let id = || String::from_utf8(content.to_vec()).map_err(|e| e.to_string());
        changes.push(match kind {
            UPSERT => {
                let passage: Passage =
                    serde_json::from_slice(content).map_err(|e| e.to_string())?;
                let numbers = take(&mut bytes)?;
                if numbers.is_empty() || numbers.len() % (dimension * size_of::<f32>()) != 0 {
                    return Err(format!(
                        "passage {:?} has {} bytes of numbers, which is no vector of {dimension}",
                        passage.id,
                        numbers.len()
                    ));
                }
                let (numbers, _) = numbers.as_chunks::<4>();
                let vectors = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
                let passage = DeltaPassage::new(passage, vectors);
                CheckedChange::Upsert(Arc::new(passage))
            }
            DELETE => CheckedChange::Delete(id()?),
            DELETE_DOCUMENT => CheckedChange::DeleteDocument(id()?),
            other => return Err(format!("there is no change of kind {other}")),
        });
    }
    Ok(changes)
}

fn take<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let taken = bytes.split_at_checked(4).and_then(|(length, rest)| {
        let length = u32::from_le_bytes(length.try_into().ok()?);
        rest.split_at_checked(length as usize)
    });
    let (content, rest) = taken.ok_or("it ends within a change")?;
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = Change> {
        let upsert = (
            ".{0,8}",
            prop::collection::vec([1f32..2.0, -1.0..1.0], 1..3),
        );
        let upsert = upsert.prop_map(|(id, vectors)| Change::Upsert {
            passage: Passage {
                title: id.clone(),
                text: id.clone(),
                id,
                url: None,
                metadata: None,
                part: None,
            },
            vectors: vectors.into_iter().map(Vec::from).collect(),
        });
        prop_oneof![
            upsert,
            ".{0,8}".prop_map(|id| Change::Delete { id }),
            ".{0,8}".prop_map(|id| Change::DeleteDocument { id }),
        ]
    }

    proptest! {
        #[test]
        fn batches_are_read_back(changes in prop::collection::vec(change(), 0..6)) {
            let prepared: Vec<_> = changes.into_iter().map(|c| c.prepare(2).unwrap()).collect();
            let bytes = encode(&prepared).unwrap();
            prop_assert_eq!(decode(&bytes, 2).unwrap(), prepared);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes, 2);
        }
    }
}
