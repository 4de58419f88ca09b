//! A collection in Milvus, searched and changed as an index in a directory is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;

use super::address::{Consistency, MilvusAddress};
use super::expressions::expression;
use super::link::Link;
use super::messages::{
    ConsistencyLevel, DataType, DescribeCollectionRequest, GetLoadStateRequest, KeyValuePair,
    LoadCollectionRequest, LoadState, PlaceholderGroup, PlaceholderValue, QueryRequest,
    SearchRequest, SearchResultData,
};
use super::rows::{self, Rows, key};
use super::schema::{DOCUMENT_KEY, EMBEDDING, PART, PROPERTY, ROW, SEQUENCE};
use crate::error::IndexError;
use crate::live::hit::{Hit, SearchOptions};
use crate::remote::calls::{RemoteOptions, RemoteStats, fault};
use crate::remote::description::{Description, made_by_a_push};
use crate::remote::nearest::{VectorHit, best_passages, near_enough};
use crate::segment::passages::Passage;
use crate::segment::vectors::normalised;

/// How long loading a collection may take.
const LOAD: Duration = Duration::from_secs(600);
/// How long a query may take that reads much.
pub(super) const LONG: Option<Duration> = Some(LOAD);
/// As long as any call.
const QUICK: Option<Duration> = None;
/// The most vectors that a search finds.
const MOST_FOUND: usize = 16_384;
/// The fewest candidates of a walk through the graph, and the most that Milvus takes.
const CANDIDATES: (usize, usize) = (100, 32_768);
/// Vectors that are found without a filter for each that is wanted with one.
const UNFILTERED: usize = 100;
/// Between two looks whether Milvus is done with something.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a read sees: a level, and for `Customized` the time up to which it sees all writes, by Milvus's own clock.
pub(super) type Freshness = (ConsistencyLevel, u64);

/// All writes. Milvus waits for its next time tick.
pub(super) const ALL: Freshness = (ConsistencyLevel::Strong, 0);

/// What has arrived, and with it all that an earlier read has waited for. Milvus does not wait.
pub(super) const ARRIVED: Freshness = (ConsistencyLevel::Customized, 1);

/// A collection in Milvus; see [`crate::RemoteCollection`].
pub(in crate::remote) struct MilvusCollection {
    pub(super) link: Link,
    pub(super) description: Description,
    /// The place of the passage that was put in last. Changes are made one after another: each looks at what there is
    /// first.
    pub(super) last_sequence: Mutex<i64>,
    /// When the last change from here was written, by Milvus's own clock.
    last_write: AtomicU64,
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
        Ok(Self {
            link,
            last_sequence: Mutex::new(description.pushed as i64),
            description,
            // Nothing was written from here; 0 would ask for all there is.
            last_write: AtomicU64::new(1),
        })
    }

    pub(in crate::remote) fn address(&self) -> &MilvusAddress {
        self.link.address()
    }

    pub(in crate::remote) fn description(&self) -> &Description {
        &self.description
    }

    /// Milvus does not tell.
    pub(in crate::remote) fn bytes(&self) -> Result<Option<u64>, IndexError> {
        Ok(None)
    }

    /// Fails for a passage that Milvus cannot store.
    pub(in crate::remote) fn check(passage: &Passage) -> Result<(), IndexError> {
        rows::check(passage)
    }

    pub(in crate::remote) fn count_passages(&self) -> Result<u64, IndexError> {
        let passages = self.count(&format!("{PART} == 0"), ALL)?;
        Ok(passages.unsigned_abs())
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
        let unit = normalised(embedding, self.description.dimension as usize)?;
        // Milvus refuses to find nothing.
        if options.k == 0 {
            return Ok(Vec::new());
        }
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
    pub(super) fn nearest(
        &self,
        unit: &[f32],
        filter: &str,
        limit: usize,
    ) -> Result<Vec<VectorHit>, IndexError> {
        let limit = limit.min(MOST_FOUND);
        let found = self.link.call(&SearchRequest {
            dsl: filter.to_owned(),
            output_fields: names(&rows::PASSAGE),
            ..self.search_request(unit, limit, self.freshness())
        })?;
        let SearchResultData {
            scores,
            fields_data,
            ..
        } = found.results.unwrap_or_default();
        if scores.is_empty() && !filter.is_empty() {
            return self.nearest_unfiltered(unit, filter, limit);
        }
        let rows = Rows(fields_data);
        let scores = scores.into_iter().enumerate();
        scores
            .map(|(row, score)| self.hit(&rows, row, score))
            .collect()
    }

    /// As [`Self::nearest`]: filters what is found without the filter. Of some ten thousand walks through a graph
    /// under a filter that many vectors meet, Milvus 2.3 has one come back with nothing, and each time the same;
    /// where few vectors meet it, there is no walk.
    pub(super) fn nearest_unfiltered(
        &self,
        unit: &[f32],
        filter: &str,
        limit: usize,
    ) -> Result<Vec<VectorHit>, IndexError> {
        let request = self.search_request(unit, (limit * UNFILTERED).min(MOST_FOUND), ARRIVED);
        let found = self.link.call(&request)?;
        let SearchResultData { scores, ids, .. } = found.results.unwrap_or_default();
        let ids = ids.and_then(|ids| ids.str_id).unwrap_or_default().data;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let fields = [rows::PASSAGE.as_slice(), &[ROW]].concat();
        let under_filter = format!("{filter} && {ROW} in {ids:?}");
        let rows = self.query(&under_filter, &fields, QUICK, ARRIVED)?;
        let places: HashMap<&String, usize> = rows.texts(ROW).iter().zip(0..).collect();
        let near = ids.iter().zip(scores);
        near.filter_map(|(id, score)| Some((*places.get(id)?, score)))
            .take(limit)
            .map(|(row, score)| self.hit(&rows, row, score))
            .collect()
    }

    /// A search for the nearest vectors, without a filter and without fields.
    fn search_request(
        &self,
        unit: &[f32],
        limit: usize,
        (consistency, guarantee_timestamp): Freshness,
    ) -> SearchRequest {
        let vector = unit.iter().flat_map(|number| number.to_le_bytes());
        let placeholders = PlaceholderGroup {
            placeholders: vec![PlaceholderValue {
                tag: "$0".into(),
                r#type: DataType::FloatVector.into(),
                values: vec![vector.collect()],
            }],
        };
        let candidates = limit.clamp(CANDIDATES.0, CANDIDATES.1);
        let address = self.address();
        SearchRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
            dsl: String::new(),
            placeholder_group: placeholders.encode_to_vec(),
            dsl_type: 1,
            output_fields: Vec::new(),
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
        }
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
        let rows = self.query(expression, &rows::PASSAGE, QUICK, self.freshness())?;
        let passages = (0..rows.len()).map(|row| self.read(|| rows.passage(row)));
        passages.collect()
    }

    /// Notes when a change was written.
    pub(super) fn wrote(&self, timestamp: u64) {
        self.last_write.fetch_max(timestamp, Ordering::Relaxed);
    }

    /// What a search is to see.
    fn freshness(&self) -> Freshness {
        match self.address().consistency {
            Consistency::Strong => ALL,
            Consistency::Session => {
                let last_write = self.last_write.load(Ordering::Relaxed);
                (ConsistencyLevel::Customized, last_write)
            }
        }
    }

    pub(super) fn count(&self, expression: &str, sees: Freshness) -> Result<i64, IndexError> {
        let rows = self.query(expression, &["count(*)"], LONG, sees)?;
        let count = rows.numbers("count(*)").first().copied();
        count.ok_or_else(|| self.fault("it does not count its rows"))
    }

    pub(super) fn query(
        &self,
        expression: &str,
        fields: &[&str],
        deadline: Option<Duration>,
        (consistency, guarantee_timestamp): Freshness,
    ) -> Result<Rows, IndexError> {
        let address = self.address();
        let request = QueryRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
            expr: expression.to_owned(),
            output_fields: names(fields),
            guarantee_timestamp,
            consistency_level: consistency.into(),
        };
        let answer = match deadline {
            Some(deadline) => self.link.call_within(deadline, &request)?,
            None => self.link.call(&request)?,
        };
        Ok(Rows(answer.fields_data))
    }

    pub(super) fn fault(&self, reason: impl Into<String>) -> IndexError {
        fault(self.address(), reason)
    }

    /// A row that cannot be read was not written by this program.
    pub(super) fn read<T>(&self, row: impl FnOnce() -> Result<T, String>) -> Result<T, IndexError> {
        row().map_err(|reason| {
            self.fault(format!("its rows are not those of a collection: {reason}"))
        })
    }
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
    let end = Instant::now() + LOAD;
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
                link.call(&request)?;
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
