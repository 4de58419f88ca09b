//! What is said to the database about passages, and how its rows are read.

use pgvector::Vector;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Transaction};

use crate::error::IndexError;
use crate::live::change::{ChangeCounts, CheckedChange};
use crate::remote::terms::terms;
use crate::segment::passages::{Part, Passage};

/// What each connection is set to: a search through the graph goes on until a filter has left enough passages, in the
/// order of their scores, and looks at so many vectors at once.
pub(super) const SESSION: &str = "SET hnsw.iterative_scan = strict_order; SET hnsw.ef_search = 100; \
                       SET hnsw.max_scan_tuples = 200000; SET plan_cache_mode = force_custom_plan";

/// The columns of a passage, in the order in which [`passage`] reads them.
pub(super) const PASSAGE: &str =
    "p.id, p.document, p.part_start, p.part_end, p.title, p.text, p.url, p.metadata";

/// The columns that a passage is written to.
pub(super) const WRITTEN: &str =
    "id, document, part_start, part_end, title, text, url, metadata, terms";

/// A passage, from a row that begins with [`PASSAGE`].
pub(super) fn passage(row: &Row) -> Result<Passage, Error> {
    let document: String = row.try_get(1)?;
    let start: Option<i64> = row.try_get(2)?;
    let end: Option<i64> = row.try_get(3)?;
    let part = start.zip(end).map(|(start, end)| Part {
        document,
        start: start.unsigned_abs() as usize,
        end: end.unsigned_abs() as usize,
    });
    let metadata: Option<serde_json::Value> = row.try_get(7)?;
    let metadata = metadata.and_then(|metadata| match metadata {
        serde_json::Value::Object(fields) => Some(fields),
        _ => None,
    });
    Ok(Passage {
        id: row.try_get(0)?,
        title: row.try_get(4)?,
        text: row.try_get(5)?,
        url: row.try_get(6)?,
        metadata,
        part,
    })
}

/// A passage as [`WRITTEN`] has it.
pub(super) struct WrittenPassage<'p> {
    id: &'p str,
    document: &'p str,
    part_start: Option<i64>,
    part_end: Option<i64>,
    title: &'p str,
    text: &'p str,
    url: Option<&'p str>,
    metadata: Option<serde_json::Value>,
    terms: Vec<Vec<u8>>,
}

impl<'p> WrittenPassage<'p> {
    pub(super) fn new(passage: &'p Passage) -> Self {
        let bound = |of: fn(&Part) -> usize| passage.part.as_ref().map(|part| of(part) as i64);
        Self {
            id: &passage.id,
            document: passage.document_id(),
            part_start: bound(|part| part.start),
            part_end: bound(|part| part.end),
            title: &passage.title,
            text: &passage.text,
            url: passage.url.as_deref(),
            metadata: passage.metadata.clone().map(serde_json::Value::Object),
            terms: terms(passage.metadata.as_ref()),
        }
    }

    pub(super) fn columns(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.id,
            &self.document,
            &self.part_start,
            &self.part_end,
            &self.title,
            &self.text,
            &self.url,
            &self.metadata,
            &self.terms,
        ]
    }
}

/// Fails for a passage that the database cannot store.
pub(super) fn check(passage: &Passage) -> Result<(), IndexError> {
    let texts = [&passage.id, &passage.title, &passage.text];
    let mut texts = texts.into_iter().chain(&passage.url);
    if texts.any(|text| text.contains('\0')) {
        return Err(IndexError::NotStorable {
            id: passage.id.clone(),
            reason: "holds a NUL character, which PostgreSQL does not store",
        });
    }
    Ok(())
}

/// Makes changes in a transaction.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    table: &str,
    dimension: usize,
    changes: &[CheckedChange],
) -> Result<ChangeCounts, Error> {
    let delete = transaction
        .prepare(&format!("DELETE FROM {table} WHERE id = $1"))
        .await?;
    let delete_document = format!("DELETE FROM {table} WHERE document = $1 OR id = $1");
    let delete_document = transaction.prepare(&delete_document).await?;
    let insert =
        format!("INSERT INTO {table} ({WRITTEN}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    let insert = transaction.prepare(&insert).await?;
    let insert_vector = format!("INSERT INTO {table}_vectors VALUES ($1, $2, $3::vector)");
    let insert_vector = transaction.prepare(&insert_vector).await?;
    let mut counts = ChangeCounts::default();
    for change in changes {
        match change {
            CheckedChange::Upsert(entry) => {
                let passage = &entry.passage;
                counts.replaced += transaction.execute(&delete, &[&passage.id]).await? as usize;
                counts.upserted += 1;
                let written = WrittenPassage::new(passage);
                transaction.execute(&insert, &written.columns()).await?;
                for (part, vector) in (0i32..).zip(entry.vectors.chunks_exact(dimension)) {
                    let vector = Vector::from(vector.to_vec());
                    let columns: [&(dyn ToSql + Sync); 3] = [&passage.id, &part, &vector];
                    transaction.execute(&insert_vector, &columns).await?;
                }
            }
            CheckedChange::Delete(id) => {
                counts.deleted += transaction.execute(&delete, &[id]).await? as usize;
            }
            CheckedChange::DeleteDocument(id) => {
                counts.deleted += transaction.execute(&delete_document, &[id]).await? as usize;
            }
        }
    }
    Ok(counts)
}
