//! Changes of a collection in Milvus. They are made one after another: each looks at what there is first.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use super::collection::{ALL, MilvusCollection};
use super::link::Link;
use super::messages::{DeleteRequest, UpsertRequest};
use super::rows::{NewRows, key, row};
use super::schema::{DOCUMENT_KEY, KEY, ROW};
use crate::error::IndexError;
use crate::live::change::{ChangeCounts, CheckedChange, DeltaPassage};
use crate::segment::passages::Passage;

/// Bytes of rows that are written with one call.
const CALL_BYTES: usize = 8 << 20;
/// Rows that are asked for or deleted with one call.
const CALL_ROWS: usize = 5_000;

/// A passage that is in the collection.
struct Stored {
    document_key: String,
    rows: Vec<String>,
}

impl MilvusCollection {
    /// See [`crate::RemoteCollection::apply`]. Milvus has no transactions: what is new is written before what is old
    /// is deleted, and a batch that breaks off between the two is whole when it is made again.
    pub(in crate::remote) fn apply(
        &self,
        changes: &[CheckedChange],
    ) -> Result<ChangeCounts, IndexError> {
        let dimension = self.description.dimension as usize;
        if changes.is_empty() {
            return Ok(ChangeCounts::default());
        }
        let mut last_sequence = self.last_sequence.lock();
        let stored = self.stored(changes)?;
        let plan = Plan::of(changes, &stored);
        let mut kept = HashSet::new();
        let mut writer = RowWriter::new(&self.link, dimension);
        for change in &plan.upserts {
            *last_sequence = now_micros().max(*last_sequence + 1);
            let vectors = change.vectors.chunks_exact(dimension);
            let key = key(&change.passage.id);
            kept.extend((0..vectors.len()).map(|part| row(&key, part)));
            writer.push(&change.passage, *last_sequence, vectors)?;
        }
        self.wrote(writer.finish()?);
        let old = plan.gone.iter().flat_map(|stored| &stored.rows);
        let old: Vec<&String> = old.filter(|row| !kept.contains(*row)).collect();
        for some in old.chunks(CALL_ROWS) {
            self.delete(some)?;
        }
        Ok(plan.counts)
    }

    /// The passages that changes may replace or delete, by their keys.
    fn stored(&self, changes: &[CheckedChange]) -> Result<HashMap<String, Stored>, IndexError> {
        let (mut keys, mut documents) = (HashSet::new(), HashSet::new());
        for change in changes {
            match change {
                CheckedChange::Upsert(entry) => keys.insert(key(&entry.passage.id)),
                CheckedChange::Delete(id) => keys.insert(key(id)),
                CheckedChange::DeleteDocument(id) => {
                    documents.insert(key(id));
                    keys.insert(key(id))
                }
            };
        }
        let mut stored: HashMap<String, Stored> = HashMap::new();
        for (field, keys) in [(KEY, keys), (DOCUMENT_KEY, documents)] {
            let keys: Vec<String> = keys.into_iter().collect();
            for some in keys.chunks(CALL_ROWS) {
                let expression = format!("{field} in {some:?}");
                let rows = self.query(
                    &expression,
                    &[ROW, KEY, DOCUMENT_KEY],
                    Some(self.link.deadline_of(some.len())),
                    ALL,
                )?;
                let each = rows.texts(ROW).iter().zip(rows.texts(KEY));
                for ((row, key), document_key) in each.zip(rows.texts(DOCUMENT_KEY)) {
                    let stored = stored.entry(key.clone()).or_insert_with(|| Stored {
                        document_key: document_key.clone(),
                        rows: Vec::new(),
                    });
                    if !stored.rows.contains(row) {
                        stored.rows.push(row.clone());
                    }
                }
            }
        }
        Ok(stored)
    }

    fn delete(&self, rows: &[&String]) -> Result<(), IndexError> {
        let address = self.address();
        let request = DeleteRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
            expr: format!("{ROW} in {rows:?}"),
        };
        let deleted = self
            .link
            .call_within(self.link.deadline_of(rows.len()), &request)?;
        self.wrote(deleted.timestamp);
        Ok(())
    }
}

/// What changes come to.
struct Plan<'c> {
    /// The passages that are there at the end, in the order in which they were put in.
    upserts: Vec<&'c DeltaPassage>,
    /// Passages that were there before, and are not or in another form.
    gone: Vec<&'c Stored>,
    counts: ChangeCounts,
}

impl<'c> Plan<'c> {
    fn of(changes: &'c [CheckedChange], stored: &'c HashMap<String, Stored>) -> Self {
        let mut counts = ChangeCounts::default();
        // The passages at the end that were put in, by their keys, with their places among the changes.
        let mut new: HashMap<String, (usize, &'c DeltaPassage)> = HashMap::new();
        let mut gone: HashSet<&'c str> = HashSet::new();
        for (place, change) in changes.iter().enumerate() {
            match change {
                CheckedChange::Upsert(entry) => {
                    let key = key(&entry.passage.id);
                    counts.upserted += 1;
                    let before = stored.get_key_value(&key).map(|(key, _)| key);
                    let was_there = before.is_some_and(|key| gone.insert(key));
                    let was_new = new.insert(key, (place, entry)).is_some();
                    counts.replaced += usize::from(was_there || was_new);
                }
                CheckedChange::Delete(id) => {
                    let key = key(id);
                    let before = stored.get_key_value(&key).map(|(key, _)| key);
                    let was_there = before.is_some_and(|key| gone.insert(key));
                    let was_new = new.remove(&key).is_some();
                    counts.deleted += usize::from(was_there || was_new);
                }
                CheckedChange::DeleteDocument(id) => {
                    let wanted = key(id);
                    for (key, passage) in stored {
                        if (*key == wanted || passage.document_key == wanted) && gone.insert(key) {
                            counts.deleted += 1;
                        }
                    }
                    new.retain(|_, (_, entry)| {
                        let stays =
                            entry.passage.id != *id && entry.passage.document_id() != id.as_str();
                        counts.deleted += usize::from(!stays);
                        stays
                    });
                }
            }
        }
        let mut upserts: Vec<_> = new.into_values().collect();
        upserts.sort_by_key(|(place, _)| *place);
        Self {
            upserts: upserts.into_iter().map(|(_, entry)| entry).collect(),
            gone: gone.iter().filter_map(|key| stored.get(*key)).collect(),
            counts,
        }
    }
}

/// Writes rows, in place of those with the same keys, in calls of a size that Milvus takes. No two of the rows may have
/// one key: Milvus would keep both.
pub(super) struct RowWriter<'l> {
    link: &'l Link,
    rows: NewRows,
    dimension: usize,
    /// When rows were written last, by Milvus's own clock.
    written: u64,
}

impl<'l> RowWriter<'l> {
    pub(super) fn new(link: &'l Link, dimension: usize) -> Self {
        Self {
            link,
            rows: NewRows::new(dimension),
            dimension,
            written: 0,
        }
    }

    /// Appends a passage with its unit vectors; writes what there is where that is enough for a call.
    pub(super) fn push<'v>(
        &mut self,
        passage: &Passage,
        sequence: i64,
        vectors: impl IntoIterator<Item = &'v [f32]>,
    ) -> Result<(), IndexError> {
        self.rows.push(passage, sequence, vectors)?;
        if self.rows.bytes() > CALL_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Writes the rest; returns when the last rows were written, by Milvus's own clock, or 0 if there were none.
    pub(super) fn finish(mut self) -> Result<u64, IndexError> {
        self.write()?;
        Ok(self.written)
    }

    fn write(&mut self) -> Result<(), IndexError> {
        let rows = std::mem::replace(&mut self.rows, NewRows::new(self.dimension));
        if rows.len() == 0 {
            return Ok(());
        }
        let address = self.link.address();
        let deadline = self.link.deadline_of(rows.len());
        let request = UpsertRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
            num_rows: rows.len() as u32,
            fields_data: rows.into_fields(),
        };
        self.written = self.link.call_within(deadline, &request)?.timestamp;
        Ok(())
    }
}

/// The time in microseconds since 1970: places of passages that are put in after the push.
fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}
