//! A collection in PostgreSQL, searched and changed as an index in a directory is.

use std::time::Duration;

use pgvector::Vector;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::address::PostgresAddress;
use super::conditions::{Parameters, condition, parameter};
use super::link::Link;
use super::schema::query;
use super::statements::{self, PASSAGE, SESSION, passage};
use crate::error::IndexError;
use crate::live::change::{ChangeCounts, CheckedChange};
use crate::live::hit::{Hit, SearchOptions};
use crate::remote::calls::{RemoteOptions, RemoteStats, fault};
use crate::remote::description::{Description, made_by_a_push};
use crate::remote::nearest::{VectorHit, best_passages};
use crate::remote::verification::RemoteVerification;
use crate::segment::passages::Passage;
use crate::segment::vectors::normalised;

/// How long counting and reading whole collections may take.
const LONG: Duration = Duration::from_secs(600);
/// Passages that are read at once when all are.
const BATCH: i64 = 500;

/// A collection in PostgreSQL; see [`crate::RemoteCollection`].
pub(in crate::remote) struct PostgresCollection {
    link: Link,
    description: Description,
}

impl PostgresCollection {
    /// See [`crate::RemoteCollection::open`].
    pub(in crate::remote) fn open(
        address: &PostgresAddress,
        options: RemoteOptions,
    ) -> Result<Self, IndexError> {
        let link = Link::new(address, options, SESSION)?;
        let description = made_by_a_push(address, describe(&link)?)?;
        Ok(Self { link, description })
    }

    pub(in crate::remote) fn address(&self) -> &PostgresAddress {
        self.link.address()
    }

    pub(in crate::remote) fn description(&self) -> &Description {
        &self.description
    }

    pub(in crate::remote) fn bytes(&self) -> Result<Option<u64>, IndexError> {
        let table = &self.address().table;
        let size = format!(
            "SELECT (pg_total_relation_size('{table}') + pg_total_relation_size('{table}_vectors'))::bigint"
        );
        self.number(&size).map(Some)
    }

    /// Fails for a passage that PostgreSQL cannot store.
    pub(in crate::remote) fn check(passage: &Passage) -> Result<(), IndexError> {
        statements::check(passage)
    }

    pub(in crate::remote) fn count_passages(&self) -> Result<u64, IndexError> {
        self.count("")
    }

    pub(in crate::remote) fn remote_stats(&self) -> RemoteStats {
        self.link.stats()
    }

    /// See [`crate::RemoteCollection::search`].
    pub(in crate::remote) fn search(
        &self,
        embedding: &[f32],
        options: &SearchOptions,
    ) -> Result<Vec<Hit>, IndexError> {
        let unit = normalised(embedding, self.description.dimension as usize)?;
        best_passages(options, self.description.documents.vectors, |limit| {
            let rows = self.nearest(&unit, options, limit as i64)?;
            rows.iter().map(|row| self.hit(row)).collect()
        })
    }

    /// The rows of the nearest vectors, with their passages.
    fn nearest(
        &self,
        unit: &[f32],
        options: &SearchOptions,
        limit: i64,
    ) -> Result<Vec<Row>, IndexError> {
        let table = &self.address().table;
        let query = query(self.description.dimension);
        let mut parameters: Parameters = vec![Box::new(Vector::from(unit.to_vec()))];
        let limit = parameter(limit, &mut parameters);
        let nearest = format!(
            "SELECT v.passage, v.part, v.embedding <=> {query} AS distance FROM {table}_vectors v"
        );
        let statement = match &options.filter {
            None => format!(
                "SELECT {PASSAGE}, v.part, v.distance, p.sequence FROM \
                 ({nearest} ORDER BY v.embedding <=> {query} LIMIT {limit}) v JOIN {table} p ON p.id = v.passage"
            ),
            Some(filter) => {
                let condition = condition(filter, &mut parameters);
                format!(
                    "SELECT {PASSAGE}, v.part, v.embedding <=> {query}, p.sequence \
                     FROM {table}_vectors v JOIN {table} p ON p.id = v.passage WHERE {condition} \
                     ORDER BY v.embedding <=> {query} LIMIT {limit}"
                )
            }
        };
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|p| p.as_ref() as _).collect();
        self.link.call(async |client| {
            if !options.exact {
                return client.query(&statement, &parameters).await;
            }
            let transaction = client.transaction().await?;
            let off = "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off";
            transaction.batch_execute(off).await?;
            let rows = transaction.query(&statement, &parameters).await?;
            transaction.commit().await?;
            Ok(rows)
        })
    }

    fn hit(&self, row: &Row) -> Result<VectorHit, IndexError> {
        self.read(|| {
            let (part, distance): (i32, f64) = (row.try_get(8)?, row.try_get(9)?);
            let hit = Hit {
                score: (1.0 - distance) as f32,
                part: part.unsigned_abs(),
                passage: passage(row)?,
            };
            Ok((hit, row.try_get(10)?))
        })
    }

    /// See [`crate::RemoteCollection::get`].
    pub(in crate::remote) fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        let passages = self.passages_where("p.id = $1", id)?;
        Ok(passages.into_iter().next())
    }

    /// The passages of a document, in any order.
    pub(in crate::remote) fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        self.passages_where("p.document = $1", id)
    }

    fn passages_where(&self, condition: &str, id: &str) -> Result<Vec<Passage>, IndexError> {
        // No passage has such an id, and the database would refuse the text.
        if id.contains('\0') {
            return Ok(Vec::new());
        }
        let table = &self.address().table;
        let statement = format!("SELECT {PASSAGE} FROM {table} p WHERE {condition}");
        let rows = self
            .link
            .call(async |client| client.query(&statement, &[&id]).await)?;
        let passages = rows.iter().map(|row| self.read(|| passage(row)));
        passages.collect()
    }

    /// See [`crate::RemoteCollection::apply`].
    pub(in crate::remote) fn apply(
        &self,
        changes: &[CheckedChange],
    ) -> Result<ChangeCounts, IndexError> {
        let dimension = self.description.dimension as usize;
        let table = &self.address().table;
        self.link.call(async |client| {
            let transaction = client.transaction().await?;
            let counts = statements::apply(&transaction, table, dimension, changes).await?;
            transaction.commit().await?;
            Ok(counts)
        })
    }

    /// See [`crate::RemoteCollection::for_each`].
    pub(in crate::remote) fn for_each<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = &self.address().table;
        let statement = format!(
            "SELECT {PASSAGE}, p.sequence, ARRAY(SELECT v.embedding::vector FROM {table}_vectors v \
             WHERE v.passage = p.id ORDER BY v.part) FROM {table} p WHERE p.sequence > $1 ORDER BY p.sequence LIMIT $2"
        );
        let mut after = i64::MIN;
        loop {
            let rows = self.link.call_within(LONG, async |client| {
                client.query(&statement, &[&after, &BATCH]).await
            })?;
            for row in &rows {
                let (passage, sequence, vectors) = self.read(|| {
                    let vectors: Vec<Vector> = row.try_get(9)?;
                    Ok((passage(row)?, row.try_get(8)?, vectors))
                })?;
                let vectors: Vec<&[f32]> = vectors.iter().map(Vector::as_slice).collect();
                each(&passage, &vectors)?;
                after = sequence;
            }
            if (rows.len() as i64) < BATCH {
                return Ok(());
            }
        }
    }

    /// See [`crate::RemoteCollection::verify`].
    pub(in crate::remote) fn verify(
        &self,
        sample: usize,
    ) -> Result<RemoteVerification, IndexError> {
        let table = &self.address().table;
        let passages = self.count("")?;
        let vectors = self.count("_vectors")?;
        let mut findings = Vec::new();
        let bare = format!(
            "SELECT count(*) FROM {table} p WHERE NOT EXISTS (SELECT FROM {table}_vectors v WHERE v.passage = p.id)"
        );
        let bare = self.number(&bare)?;
        if bare > 0 {
            findings.push(format!(
                "{bare} passages have no vector, so no search finds them"
            ));
        }
        let chosen = format!(
            "SELECT embedding::vector FROM {table}_vectors ORDER BY md5(passage), part LIMIT $1"
        );
        let rows = self.link.call_within(LONG, async |client| {
            client.query(&chosen, &[&(sample as i64)]).await
        })?;
        let (mut found, mut wanted) = (0, 0);
        for row in &rows {
            let vector: Vector = self.read(|| row.try_get(0))?;
            let length = vector.as_slice().iter().map(|x| x * x).sum::<f32>().sqrt();
            // Of halfvec each number is rounded to 11 bits.
            if (length - 1.0).abs() > 1e-2 {
                findings.push(format!("a vector has the length {length}, not 1"));
                continue;
            }
            let options = SearchOptions::new(10);
            let exact = SearchOptions {
                exact: true,
                ..options.clone()
            };
            let ids = |hits: Vec<Hit>| -> Vec<String> {
                hits.into_iter().map(|hit| hit.passage.id).collect()
            };
            let through_graph = ids(self.search(vector.as_slice(), &options)?);
            let nearest = ids(self.search(vector.as_slice(), &exact)?);
            wanted += nearest.len();
            found += nearest
                .iter()
                .filter(|id| through_graph.contains(id))
                .count();
        }
        Ok(RemoteVerification {
            counts: (passages, vectors),
            sample: rows.len(),
            recall_at_10: found as f64 / wanted.max(1) as f64,
            findings,
        })
    }

    fn count(&self, of: &str) -> Result<u64, IndexError> {
        self.number(&format!(
            "SELECT count(*) FROM {}{of}",
            self.address().table
        ))
    }

    fn number(&self, statement: &str) -> Result<u64, IndexError> {
        let row = self
            .link
            .call_within(LONG, async |client| client.query_one(statement, &[]).await)?;
        let number: i64 = self.read(|| row.try_get(0))?;
        Ok(number.unsigned_abs())
    }

    /// A row that cannot be read was not written by this program.
    fn read<T>(
        &self,
        row: impl FnOnce() -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, IndexError> {
        row().map_err(|error| {
            let reason = format!("its tables are not those of a collection: {error}");
            fault(self.address(), reason)
        })
    }
}

/// What the collection of a link is, if there is one.
pub(super) fn describe(link: &Link) -> Result<Option<Description>, IndexError> {
    let table = &link.address().table;
    let row = link.call(async |client| {
        let statement = "SELECT description FROM onegen_collections WHERE name = $1";
        match client.query_opt(statement, &[table]).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
            row => row,
        }
    })?;
    let Some(row) = row else { return Ok(None) };
    let description = row.try_get(0).map_err(|error| error.to_string());
    let description = description.and_then(Description::from_json);
    description
        .map(Some)
        .map_err(|reason| fault(link.address(), reason))
}
