//! A collection in a database, searched and changed as an index in a directory is.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pgvector::Vector;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::address::RemoteAddress;
use super::link::{Link, RemoteOptions, RemoteStats};
use super::schema::{Description, VERSION, query};
use super::statements::{self, PASSAGE, SESSION, passage};
use super::terms::{Parameters, condition, parameter};
use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::{DocumentRules, VectorsPer};
use crate::live::change::{Change, ChangeCounts};
use crate::live::hit::{Hit, SearchOptions};
use crate::segment::passages::Passage;
use crate::segment::vectors::normalised;

/// How long counting and reading whole collections may take.
const LONG: Duration = Duration::from_secs(600);
/// Vectors that are asked for a passage at first, where passages have several.
const VECTORS_PER_PASSAGE: i64 = 4;
/// Passages that are read at once when all are.
const BATCH: i64 = 500;

/// A collection in PostgreSQL. Calls come from many threads at once and wait for the database; they must not come from
/// where async code runs.
pub struct RemoteCollection {
    link: Link,
    description: Description,
    passages: AtomicI64,
}

/// What [`RemoteCollection::verify`] has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteVerification {
    /// Passages, and vectors.
    pub counts: (u64, u64),
    /// Vectors that were looked at.
    pub sample: usize,
    /// The share of the ten nearest by an exact scan that a search through the graph finds for them.
    pub recall_at_10: f64,
    /// What is wrong.
    pub findings: Vec<String>,
}

impl fmt::Debug for RemoteCollection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut collection = f.debug_struct("RemoteCollection");
        collection.field("address", self.address());
        collection.finish_non_exhaustive()
    }
}

impl RemoteCollection {
    /// Connects, and reads what the collection is.
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], and [`IndexError::Remote`] if there is no collection, one of another version, or
    /// one that was not pushed to its end.
    pub fn open(address: &RemoteAddress, options: RemoteOptions) -> Result<Self, IndexError> {
        let link = Link::new(address, options, SESSION)?;
        let fault = |reason: String| address.fault(reason);
        let push = format!("`onegen-index push DIR --to {address:?}`");
        let Some(description) = describe(&link)? else {
            return Err(fault(format!(
                "it holds no collection; make one with {push}"
            )));
        };
        if !description.complete {
            return Err(fault(format!(
                "not all of its passages are there; go on with {push}"
            )));
        }
        let collection = Self {
            link,
            description,
            passages: AtomicI64::new(0),
        };
        let passages = collection.count("")?;
        collection
            .passages
            .store(passages as i64, Ordering::Relaxed);
        Ok(collection)
    }

    /// Where it is.
    pub fn address(&self) -> &RemoteAddress {
        self.link.address()
    }

    /// Width of every vector.
    pub fn dimension(&self) -> usize {
        self.description.dimension as usize
    }

    /// What made the vectors.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.description.fingerprints
    }

    /// How documents become passages and vectors here.
    pub fn document_rules(&self) -> DocumentRules {
        self.description.documents
    }

    /// When it was made, in seconds since 1970.
    pub fn created_unix_seconds(&self) -> u64 {
        self.description.created_unix_seconds
    }

    /// Bytes of its tables and their indexes.
    ///
    /// # Errors
    /// As [`RemoteCollection::get`].
    pub fn bytes(&self) -> Result<u64, IndexError> {
        let table = &self.address().table;
        self.number(&format!(
            "SELECT (pg_total_relation_size('{table}') + pg_total_relation_size('{table}_vectors'))::bigint"
        ))
    }

    /// Number of passages when the collection was opened, and what was changed from here since. Does not wait.
    pub fn passages(&self) -> u64 {
        self.passages.load(Ordering::Relaxed).unsigned_abs()
    }

    /// How calls of the database went. Does not wait.
    pub fn remote_stats(&self) -> RemoteStats {
        self.link.stats()
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
        let unit = normalised(embedding, self.dimension())?;
        let mut limit = options.k as i64;
        if self.description.documents.vectors == VectorsPer::Sentence {
            limit *= VECTORS_PER_PASSAGE;
        }
        loop {
            let rows = self.nearest(&unit, options, limit)?;
            let found = rows.len() as i64;
            let hits = self.hits(&rows)?;
            // Several of the nearest vectors may be of one passage.
            if hits.len() >= options.k || found < limit {
                let is_near = |hit: &Hit| options.min_score.is_none_or(|least| hit.score >= least);
                return Ok(hits
                    .into_iter()
                    .take(options.k)
                    .take_while(is_near)
                    .collect());
            }
            limit *= 4;
        }
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

    /// The best hit of each passage, best first; of equal scores the one that was put in earlier first.
    fn hits(&self, rows: &[Row]) -> Result<Vec<Hit>, IndexError> {
        let mut hits = Vec::with_capacity(rows.len());
        for row in rows {
            let hit = self.read(|| {
                let (part, distance): (i32, f64) = (row.try_get(8)?, row.try_get(9)?);
                let sequence: i64 = row.try_get(10)?;
                let hit = Hit {
                    score: (1.0 - distance) as f32,
                    part: part.unsigned_abs(),
                    passage: passage(row)?,
                };
                Ok((hit, sequence))
            })?;
            // The distance of a vector without a direction, which others may have put in, is NaN.
            if !hit.0.score.is_nan() {
                hits.push(hit);
            }
        }
        hits.sort_by(|(a, one), (b, other)| b.score.total_cmp(&a.score).then(one.cmp(other)));
        let mut seen = std::collections::HashSet::new();
        let first = hits
            .into_iter()
            .filter(|(_, sequence)| seen.insert(*sequence));
        Ok(first.map(|(hit, _)| hit).collect())
    }

    /// See [`crate::Index::get`].
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], [`IndexError::Remote`].
    pub fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        let passages = self.passages_where("p.id = $1", id)?;
        Ok(passages.into_iter().next())
    }

    /// See [`crate::Index::document`].
    ///
    /// # Errors
    /// As [`RemoteCollection::get`].
    pub fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        let mut passages = self.passages_where("p.document = $1", id)?;
        // A passage that is a document of its own has no parts.
        if let Some(whole) = passages.iter().position(|passage| passage.part.is_none()) {
            return Ok(vec![passages.swap_remove(whole)]);
        }
        passages.sort_by_key(|passage| passage.part.as_ref().map(|part| part.start));
        Ok(passages)
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

    /// See [`crate::Index::apply`]. When this returns the batch is committed, and searches that begin see it.
    ///
    /// # Errors
    /// Those of [`crate::Index::apply`] for a passage, [`IndexError::NotStorable`] for one that the database cannot store,
    /// and [`IndexError::Unreachable`], after which the batch may be there or not; making it again does no harm.
    pub fn apply(&self, changes: Vec<Change>) -> Result<ChangeCounts, IndexError> {
        let dimension = self.dimension();
        for change in &changes {
            if let Change::Upsert { passage, .. } = change {
                statements::check(passage)?;
            }
        }
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| change.prepare(dimension))
            .collect::<Result<_, _>>()?;
        let table = &self.address().table;
        let counts = self.link.call(async |client| {
            let transaction = client.transaction().await?;
            let counts = statements::apply(&transaction, table, dimension, &changes).await?;
            transaction.commit().await?;
            Ok(counts)
        })?;
        let grown = counts.upserted as i64 - counts.replaced as i64 - counts.deleted as i64;
        self.passages.fetch_add(grown, Ordering::Relaxed);
        Ok(counts)
    }

    /// Fails unless `model` made this collection's vectors.
    ///
    /// # Errors
    /// [`IndexError::FingerprintMismatch`] names both.
    pub fn check_fingerprints(&self, model: &Fingerprints) -> Result<(), IndexError> {
        IndexError::unless_comparable(self.fingerprints(), model)
    }

    /// All passages with their unit vectors, in the order in which they were put in. What changes meanwhile may be
    /// there or not. Stops at the first error.
    ///
    /// # Errors
    /// Those of [`RemoteCollection::get`], and what `each` returns.
    pub fn for_each<E: From<IndexError>>(
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

    /// Counts, looks at a sample of the vectors, and holds searches through the graph against exact scans for them.
    ///
    /// # Errors
    /// As [`RemoteCollection::get`].
    pub fn verify(&self, sample: usize) -> Result<RemoteVerification, IndexError> {
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
            self.address()
                .fault(format!("its tables are not those of a collection: {error}"))
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
    let fault = |reason: String| link.address().fault(reason);
    let description: serde_json::Value =
        row.try_get(0).map_err(|error| fault(error.to_string()))?;
    let version = description["version"].as_u64();
    if version != Some(u64::from(VERSION)) {
        let version = version.unwrap_or_default();
        return Err(fault(format!(
            "its version is {version}, this program reads {VERSION}; push it again"
        )));
    }
    let description = serde_json::from_value(description);
    description
        .map(Some)
        .map_err(|error| fault(format!("its description cannot be read: {error}")))
}
