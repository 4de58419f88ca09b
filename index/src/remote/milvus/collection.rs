//! A collection in Milvus, searched and changed as an index in a directory is.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prost::Message;

use super::address::{Consistency, MilvusAddress};
use super::expressions::expression;
use super::link::Link;
use super::messages::{
    ConsistencyLevel, DataType, DeleteRequest, DescribeCollectionRequest, GetLoadStateRequest,
    KeyValuePair, LoadCollectionRequest, LoadState, PlaceholderGroup, PlaceholderValue,
    QueryRequest, SearchRequest, UpsertRequest,
};
use super::rows::{self, NewRows, Rows, key};
use super::schema::{DOCUMENT_KEY, EMBEDDING, ID, KEY, PART, PROPERTY, ROW, SEQUENCE};
use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::DocumentRules;
use crate::live::change::{Change, ChangeCounts, CheckedChange, DeltaPassage};
use crate::live::hit::{Hit, SearchOptions};
use crate::remote::calls::{RemoteOptions, RemoteStats, fault};
use crate::remote::collection::{RemoteVerification, made_by_a_push};
use crate::remote::description::Description;
use crate::remote::nearest::{VectorHit, best_passages, near_enough};
use crate::segment::passages::Passage;
use crate::segment::vectors::normalised;

/// How long counting and reading whole collections, and loading one, may take.
const LONG: Duration = Duration::from_secs(600);
/// How long a call that writes may take: Milvus slows writers down while it has much to do.
const WRITE: Duration = Duration::from_secs(60);
/// The most vectors that a search finds.
const MOST_FOUND: usize = 16_384;
/// The fewest candidates of a walk through the graph, and the most that Milvus takes.
const CANDIDATES: (usize, usize) = (100, 32_768);
/// Rows that are read at once when all are.
const BATCH: i64 = 1_000;
/// Bytes of rows that are written with one call, and row keys that are deleted with one.
const CALL_BYTES: usize = 8 << 20;
const CALL_ROWS: usize = 5_000;
/// Between two looks whether Milvus is done with something.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A collection in Milvus; see [`crate::RemoteCollection`].
pub(in crate::remote) struct MilvusCollection {
    link: Link,
    description: Description,
    passages: AtomicI64,
    /// The place of the passage that was put in last. Changes are made one after another: each looks at what there is
    /// first.
    last_sequence: Mutex<i64>,
    /// When the last change from here was written, by Milvus's own clock.
    last_write: AtomicU64,
}

/// A passage that is in the collection.
struct Stored {
    document_key: String,
    rows: Vec<String>,
}

impl MilvusCollection {
    /// See [`crate::RemoteCollection::open`]. A collection that Milvus does not hold in its memory is loaded.
    pub(in crate::remote) fn open(
        address: &MilvusAddress,
        options: RemoteOptions,
    ) -> Result<Self, IndexError> {
        let link = Link::new(address, options)?;
        let description = made_by_a_push(address, describe(&link)?)?;
        load(&link)?;
        let collection = Self {
            link,
            description,
            passages: AtomicI64::new(0),
            last_sequence: Mutex::new(0),
            // Nothing was written from here; 0 would ask for all there is.
            last_write: AtomicU64::new(1),
        };
        let passages = collection.count(&format!("{PART} == 0"))?;
        collection.passages.store(passages, Ordering::Relaxed);
        Ok(collection)
    }

    pub(in crate::remote) fn address(&self) -> &MilvusAddress {
        self.link.address()
    }

    pub(in crate::remote) fn dimension(&self) -> usize {
        self.description.dimension as usize
    }

    pub(in crate::remote) fn fingerprints(&self) -> &Fingerprints {
        &self.description.fingerprints
    }

    pub(in crate::remote) fn document_rules(&self) -> DocumentRules {
        self.description.documents
    }

    pub(in crate::remote) fn created_unix_seconds(&self) -> u64 {
        self.description.created_unix_seconds
    }

    /// Milvus does not tell.
    pub(in crate::remote) fn bytes(&self) -> Result<Option<u64>, IndexError> {
        Ok(None)
    }

    pub(in crate::remote) fn passages(&self) -> u64 {
        self.passages.load(Ordering::Relaxed).unsigned_abs()
    }

    pub(in crate::remote) fn remote_stats(&self) -> RemoteStats {
        self.link.stats()
    }

    /// See [`crate::RemoteCollection::search`]. Milvus has no exact search over a graph, so for one all vectors are
    /// read.
    pub(in crate::remote) fn search(
        &self,
        embedding: &[f32],
        options: &SearchOptions,
    ) -> Result<Vec<Hit>, IndexError> {
        let unit = normalised(embedding, self.dimension())?;
        let filter = options.filter.as_ref().map(expression).transpose();
        let filter = filter.map_err(|reason| self.fault(reason))?;
        if options.exact {
            let filter = filter.unwrap_or_default();
            let nearest = self.nearest_exactly(&[unit], options.k, &filter)?;
            let hits = nearest.into_iter().flatten().map(|(hit, _)| hit);
            return Ok(near_enough(hits, options));
        }
        if options.k > MOST_FOUND {
            let reason = format!(
                "{} passages are wanted, Milvus finds up to {MOST_FOUND}",
                options.k
            );
            return Err(self.fault(reason));
        }
        best_passages(options, self.description.documents.vectors, |limit| {
            self.nearest(&unit, filter.as_deref().unwrap_or_default(), limit)
        })
    }

    /// The nearest vectors with their passages.
    fn nearest(
        &self,
        unit: &[f32],
        filter: &str,
        limit: usize,
    ) -> Result<Vec<VectorHit>, IndexError> {
        let limit = limit.min(MOST_FOUND);
        let vector = unit.iter().flat_map(|number| number.to_le_bytes());
        let placeholders = PlaceholderGroup {
            placeholders: vec![PlaceholderValue {
                tag: "$0".into(),
                r#type: DataType::FloatVector.into(),
                values: vec![vector.collect()],
            }],
        };
        let candidates = limit.clamp(CANDIDATES.0, CANDIDATES.1);
        let (consistency, guarantee_timestamp) = self.consistency();
        let address = self.address();
        let found = self.link.call(&SearchRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
            dsl: filter.to_owned(),
            placeholder_group: placeholders.encode_to_vec(),
            dsl_type: 1,
            output_fields: names(&rows::PASSAGE),
            search_params: vec![
                KeyValuePair::new("anns_field", EMBEDDING),
                KeyValuePair::new("topk", limit),
                KeyValuePair::new("metric_type", "COSINE"),
                KeyValuePair::new("round_decimal", -1),
                KeyValuePair::new("params", serde_json::json!({"ef": candidates})),
            ],
            nq: 1,
            guarantee_timestamp,
            consistency_level: consistency.into(),
        })?;
        let results = found.results.unwrap_or_default();
        let rows = Rows(results.fields_data);
        let scores = results.scores.iter().enumerate();
        scores
            .map(|(row, score)| self.hit(&rows, row, *score))
            .collect()
    }

    fn hit(&self, rows: &Rows, row: usize, score: f32) -> Result<VectorHit, IndexError> {
        let number = |name: &str| {
            let number = rows.numbers(name).get(row).copied();
            number.ok_or_else(|| format!("a row has no {name}"))
        };
        let read = || {
            let hit = Hit {
                score,
                part: number(PART)?.unsigned_abs() as u32,
                passage: rows.passage(row)?,
            };
            Ok((hit, number(SEQUENCE)?))
        };
        self.read(read)
    }

    /// For each query the vectors of the `k` nearest passages, by reading all vectors of the passages that meet a
    /// filter.
    fn nearest_exactly(
        &self,
        queries: &[Vec<f32>],
        k: usize,
        filter: &str,
    ) -> Result<Vec<Vec<VectorHit>>, IndexError> {
        let mut nearest: Vec<Vec<VectorHit>> = vec![Vec::new(); queries.len()];
        self.each_passage(filter, |passage, sequence, vectors| {
            for (query, best) in queries.iter().zip(&mut nearest) {
                let scores = vectors.iter().map(|vector| dot(query, vector)).zip(0..);
                let Some((score, part)) = scores.max_by(|(a, _), (b, _)| a.total_cmp(b)) else {
                    continue;
                };
                // Passages come in order, so of equal ones the earlier stays before the later.
                let at = best.partition_point(|(hit, _)| hit.score >= score);
                if at < k {
                    let passage = passage.clone();
                    let hit = Hit {
                        score,
                        part,
                        passage,
                    };
                    best.insert(at, (hit, sequence));
                    best.truncate(k);
                }
            }
            Ok(())
        })?;
        Ok(nearest)
    }

    /// See [`crate::RemoteCollection::get`].
    pub(in crate::remote) fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        let row = rows::row(&key(id), 0);
        let passages = self.passages_where(&format!("{ROW} == \"{row}\""))?;
        Ok(passages.into_iter().next())
    }

    /// The passages of a document, in any order.
    pub(in crate::remote) fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        let key = key(id);
        self.passages_where(&format!("{DOCUMENT_KEY} == \"{key}\" && {PART} == 0"))
    }

    fn passages_where(&self, expression: &str) -> Result<Vec<Passage>, IndexError> {
        let (consistency, guarantee_timestamp) = self.consistency();
        let answer = self.link.call(&QueryRequest {
            guarantee_timestamp,
            consistency_level: consistency.into(),
            ..self.query_request(expression, &rows::PASSAGE)
        })?;
        let rows = Rows(answer.fields_data);
        let passages = (0..rows.len()).map(|row| self.read(|| rows.passage(row)));
        passages.collect()
    }

    /// See [`crate::RemoteCollection::apply`]. Milvus has no transactions: what is new is written before what is old
    /// is deleted, and a batch that breaks off between the two is whole when it is made again.
    pub(in crate::remote) fn apply(
        &self,
        changes: Vec<Change>,
    ) -> Result<ChangeCounts, IndexError> {
        let dimension = self.dimension();
        for change in &changes {
            if let Change::Upsert { passage, .. } = change {
                rows::check(passage)?;
            }
        }
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| change.prepare(dimension))
            .collect::<Result<_, _>>()?;
        if changes.is_empty() {
            return Ok(ChangeCounts::default());
        }
        let mut last_sequence = self.last_sequence.lock();
        let stored = self.stored(&changes)?;
        let plan = Plan::of(&changes, &stored);
        let mut kept = HashSet::new();
        let mut new = NewRows::new(dimension);
        for change in &plan.upserts {
            *last_sequence = now_micros().max(*last_sequence + 1);
            let vectors = change.vectors.chunks_exact(dimension);
            new.push(&change.passage, *last_sequence, vectors)?;
            if new.bytes() > CALL_BYTES {
                kept.extend(new.names().iter().cloned());
                let full = std::mem::replace(&mut new, NewRows::new(dimension));
                self.wrote(write(&self.link, full)?);
            }
        }
        kept.extend(new.names().iter().cloned());
        self.wrote(write(&self.link, new)?);
        let old = plan.gone.iter().flat_map(|stored| &stored.rows);
        let old: Vec<&String> = old.filter(|row| !kept.contains(*row)).collect();
        for some in old.chunks(CALL_ROWS) {
            self.delete(some)?;
        }
        let counts = plan.counts;
        let grown = counts.upserted as i64 - counts.replaced as i64 - counts.deleted as i64;
        self.passages.fetch_add(grown, Ordering::Relaxed);
        Ok(counts)
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
                let rows = self.query(&expression, &[ROW, KEY, DOCUMENT_KEY], WRITE)?;
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
        let deleted = self.link.call_within(WRITE, &request)?;
        self.wrote(deleted.timestamp);
        Ok(())
    }

    /// Notes when a change was written.
    fn wrote(&self, timestamp: u64) {
        self.last_write.fetch_max(timestamp, Ordering::Relaxed);
    }

    /// What a search is to see, and up to when.
    fn consistency(&self) -> (ConsistencyLevel, u64) {
        match self.address().consistency {
            Consistency::Strong => (ConsistencyLevel::Strong, 0),
            Consistency::Session => {
                let last_write = self.last_write.load(Ordering::Relaxed);
                (ConsistencyLevel::Customized, last_write)
            }
        }
    }

    /// See [`crate::RemoteCollection::for_each`].
    pub(in crate::remote) fn for_each<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_passage("", |passage, _, vectors| each(passage, vectors))
    }

    /// All passages that meet a filter, with their places and their vectors, in the order of their places.
    fn each_passage<E: From<IndexError>>(
        &self,
        filter: &str,
        mut each: impl FnMut(&Passage, i64, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Milvus has no order of rows, so ranges of places are read that hold few enough. The index that was pushed
        // has one passage at each place; those that came later have the times of their changes as places.
        let pushed = self.description.pushed as i64;
        let now = now_micros().max(*self.last_sequence.lock()) + 1;
        let dense = (0..pushed).step_by(BATCH as usize);
        let mut ranges: Vec<_> = dense
            .map(|from| (from, (from + BATCH).min(pushed)))
            .collect();
        ranges.push((pushed, now));
        ranges.reverse();
        while let Some((from, to)) = ranges.pop() {
            let mut range = format!("{SEQUENCE} >= {from} && {SEQUENCE} < {to}");
            if !filter.is_empty() {
                range = format!("{range} && {filter}");
            }
            if to - from > BATCH {
                match self.count(&range)? {
                    0 => continue,
                    ..=BATCH => {}
                    _ => {
                        let middle = from + (to - from) / 2;
                        ranges.extend([(middle, to), (from, middle)]);
                        continue;
                    }
                }
            }
            self.each_passage_of(&range, &mut each)?;
        }
        Ok(())
    }

    fn each_passage_of<E: From<IndexError>>(
        &self,
        range: &str,
        each: &mut impl FnMut(&Passage, i64, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        let fields = [rows::PASSAGE.as_slice(), &[EMBEDDING]].concat();
        let rows = self.query(range, &fields, LONG)?;
        let (sequences, parts) = (rows.numbers(SEQUENCE), rows.numbers(PART));
        let vectors: Vec<&[f32]> = rows.vectors(self.dimension()).collect();
        let ids = rows.texts(ID);
        let whole = [parts.len(), vectors.len(), ids.len()];
        if whole.iter().any(|length| *length != sequences.len()) {
            return Err(self.fault("some of its rows lack a field").into());
        }
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&row| (sequences[row], &ids[row], parts[row]));
        for rows_of_one in order.chunk_by(|&a, &b| ids[a] == ids[b]) {
            let first = rows_of_one[0];
            let passage = self.read(|| rows.passage(first))?;
            let vectors: Vec<&[f32]> = rows_of_one.iter().map(|&row| vectors[row]).collect();
            each(&passage, sequences[first], &vectors)?;
        }
        Ok(())
    }

    /// See [`crate::RemoteCollection::verify`].
    pub(in crate::remote) fn verify(
        &self,
        sample: usize,
    ) -> Result<RemoteVerification, IndexError> {
        let passages = self.count(&format!("{PART} == 0"))?;
        let vectors = self.count(&format!("{PART} >= 0"))?;
        let mut findings = Vec::new();
        let mut chosen: Vec<Vec<f32>> = Vec::new();
        // Each of so many is looked at; the first that many are left over at the end.
        let step = (passages / sample.max(1) as i64).max(1);
        let mut number = 0;
        self.each_passage("", |passage, _, vectors| {
            if number % step == 0 && chosen.len() < sample {
                for vector in vectors {
                    let length = dot(vector, vector).sqrt();
                    if (length - 1.0).abs() > 1e-3 {
                        let id = &passage.id;
                        findings.push(format!("a vector of {id:?} has the length {length}, not 1"));
                    }
                }
                chosen.extend(vectors.first().map(|vector| vector.to_vec()));
            }
            number += 1;
            Ok::<_, IndexError>(())
        })?;
        if number != passages {
            findings.push(format!(
                "{passages} passages are counted and {number} were read"
            ));
        }
        let options = SearchOptions::new(10);
        let nearest = self.nearest_exactly(&chosen, options.k, "")?;
        let (mut found, mut wanted) = (0, 0);
        for (query, nearest) in chosen.iter().zip(&nearest) {
            let through_graph = self.search(query, &options)?;
            wanted += nearest.len();
            let is_found = |(near, _): &&VectorHit| {
                let mut hits = through_graph.iter();
                hits.any(|hit| hit.passage.id == near.passage.id)
            };
            found += nearest.iter().filter(is_found).count();
        }
        Ok(RemoteVerification {
            counts: (passages.unsigned_abs(), vectors.unsigned_abs()),
            sample: chosen.len(),
            recall_at_10: found as f64 / wanted.max(1) as f64,
            findings,
        })
    }

    fn count(&self, expression: &str) -> Result<i64, IndexError> {
        let rows = self.query(expression, &["count(*)"], LONG)?;
        let count = rows.numbers("count(*)").first().copied();
        count.ok_or_else(|| self.fault("it does not count its rows"))
    }

    fn query(
        &self,
        expression: &str,
        fields: &[&str],
        deadline: Duration,
    ) -> Result<Rows, IndexError> {
        let answer = self
            .link
            .call_within(deadline, &self.query_request(expression, fields))?;
        Ok(Rows(answer.fields_data))
    }

    /// A query that sees all there is.
    fn query_request(&self, expression: &str, fields: &[&str]) -> QueryRequest {
        let address = self.address();
        QueryRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
            expr: expression.to_owned(),
            output_fields: names(fields),
            guarantee_timestamp: 0,
            consistency_level: ConsistencyLevel::Strong.into(),
        }
    }

    fn fault(&self, reason: impl Into<String>) -> IndexError {
        fault(self.address(), reason)
    }

    /// A row that cannot be read was not written by this program.
    fn read<T>(&self, row: impl FnOnce() -> Result<T, String>) -> Result<T, IndexError> {
        row().map_err(|reason| {
            self.fault(format!("its rows are not those of a collection: {reason}"))
        })
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

/// Writes rows, in place of those with the same keys; returns when that was, by Milvus's own clock. No two of the rows
/// may have one key: Milvus would keep both.
pub(super) fn write(link: &Link, rows: NewRows) -> Result<u64, IndexError> {
    if rows.len() == 0 {
        return Ok(0);
    }
    let address = link.address();
    let num_rows = rows.len() as u32;
    let request = UpsertRequest {
        db_name: address.database.clone(),
        collection_name: address.collection.clone(),
        fields_data: rows.into_fields(),
        num_rows,
    };
    Ok(link.call_within(WRITE, &request)?.timestamp)
}

/// What the collection of a link is, if there is one.
pub(super) fn describe(link: &Link) -> Result<Option<Description>, IndexError> {
    let address = link.address();
    let request = DescribeCollectionRequest {
        db_name: address.database.clone(),
        collection_name: address.collection.clone(),
    };
    let Some(described) = link.call_if_there(&request)? else {
        return Ok(None);
    };
    let mut properties = described.properties.into_iter();
    let foreign = || {
        fault(
            address,
            "this collection of Milvus was not made by onegen-index push; choose another name",
        )
    };
    let property = properties.find(|property| property.key == PROPERTY);
    let property = property.ok_or_else(foreign)?;
    let json = serde_json::from_str(&property.value).map_err(|error| error.to_string());
    let description = json.and_then(Description::from_json);
    description
        .map(Some)
        .map_err(|reason| fault(address, reason))
}

/// Has Milvus hold a collection in its memory, and waits until it does. After a restart Milvus does so by itself.
pub(super) fn load(link: &Link) -> Result<(), IndexError> {
    let address = link.address();
    let end = Instant::now() + LONG;
    let mut asked = false;
    loop {
        let state = link.call(&GetLoadStateRequest {
            collection_name: address.collection.clone(),
            db_name: address.database.clone(),
        })?;
        match LoadState::try_from(state.state) {
            Ok(LoadState::Loaded) => return Ok(()),
            Ok(LoadState::NotLoad) if !asked => {
                let request = LoadCollectionRequest {
                    db_name: address.database.clone(),
                    collection_name: address.collection.clone(),
                    replica_number: 1,
                };
                link.call_within(WRITE, &request)?;
                asked = true;
            }
            _ if Instant::now() > end => {
                return Err(fault(address, "Milvus does not load it into its memory"));
            }
            _ => thread::sleep(LOOK_EVERY),
        }
    }
}

fn names(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|name| (*name).to_owned()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The time in microseconds since 1970: places of passages that are put in after the push.
fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}
