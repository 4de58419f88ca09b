//! How a client wants the model to retrieve, and where engine and index meet.

use std::sync::Arc;

use onegen_engine::{Passage, RetrievalParams, RetrieveError, Retriever};
use onegen_index::{Filter, SearchOptions};
use onegen_proto::{OffsetUnit, OnRetrievalError, RetrievalOptions};
use serde_json::Value;

use crate::admission::Caller;
use crate::collections::search::SearchFields;
use crate::collections::{Collection, Collections};
use crate::wire::citations::linkable;
use crate::wire::errors::ApiError;

/// What a request says about retrieval, validated.
#[derive(Debug, Clone)]
pub(crate) struct RequestedRetrieval {
    pub(crate) params: RetrievalParams,
    pub(crate) retriever: Arc<CollectionRetriever>,
    /// The filter as the client wrote it.
    pub(crate) filter: Option<Value>,
    /// In what the client counts the offsets of citations, if it says.
    pub(crate) offsets: Option<OffsetUnit>,
}

impl RequestedRetrieval {
    /// # Errors
    /// [`ApiError::Invalid`] names the field at fault, [`ApiError::CollectionNotFound`] the
    /// collections that there are.
    pub(crate) fn new(
        options: RetrievalOptions,
        collections: &Collections,
        caller: &Caller,
    ) -> Result<Self, ApiError> {
        let collection = options.collection.as_deref();
        let collection = collections.get(collection, caller, "retrieval.collection")?;
        let params = params(&options)?;
        let search = SearchFields::RETRIEVAL.options(
            params.k,
            options.filter.as_ref(),
            options.min_score,
        )?;
        Ok(Self {
            params,
            retriever: Arc::new(CollectionRetriever {
                collection: collection.clone(),
                filter: search.filter,
                min_score: search.min_score,
                on_error: options.on_error.unwrap_or_default(),
            }),
            filter: options.filter,
            offsets: options.offsets,
        })
    }

    /// The collection that is searched.
    pub(crate) fn collection(&self) -> &Arc<Collection> {
        &self.retriever.collection
    }
}

fn params(options: &RetrievalOptions) -> Result<RetrievalParams, ApiError> {
    let default = RetrievalParams::default();
    let k = options.k.unwrap_or(default.k);
    let enabled = options.enabled.unwrap_or(default.enabled);
    let forced = options.forced.unwrap_or(default.forced);
    if forced && (!enabled || options.max_retrievals == Some(0)) {
        return Err(ApiError::invalid(
            "retrieval.forced",
            "is true where nothing may be retrieved; leave it out, or allow a retrieval",
        ));
    }
    Ok(RetrievalParams {
        enabled,
        forced,
        k,
        max_retrievals: options.max_retrievals,
    })
}

/// Answers one request's query embeddings from a collection.
#[derive(Debug)]
pub(crate) struct CollectionRetriever {
    collection: Arc<Collection>,
    filter: Option<Filter>,
    min_score: Option<f32>,
    on_error: OnRetrievalError,
}

impl Retriever for CollectionRetriever {
    fn retrieve(&self, query_embedding: &[f32], k: usize) -> Result<Vec<Passage>, RetrieveError> {
        let options = SearchOptions {
            filter: self.filter.clone(),
            min_score: self.min_score,
            ..SearchOptions::new(k)
        };
        let hits = match self.collection.store().search(query_embedding, &options) {
            Ok(hits) => hits,
            Err(error) if self.on_error == OnRetrievalError::Continue => {
                let collection = self.collection.name();
                tracing::warn!(%error, collection, "a turn goes on without a passage");
                Vec::new()
            }
            Err(error) => return Err(RetrieveError::new(error)),
        };
        Ok(hits
            .into_iter()
            .map(|hit| Passage {
                id: hit.passage.id,
                title: hit.passage.title,
                text: hit.passage.text,
                url: linkable(hit.passage.url),
                score: hit.score,
            })
            .collect())
    }

    fn passage_kv(&self, passage: &Passage) -> Option<Vec<u8>> {
        let kept = self.collection.store().passage_kv(&passage.id);
        kept.unwrap_or_else(|error| {
            tracing::warn!(%error, passage = passage.id, "what is kept with a passage cannot be read");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::collections::tests::collections;

    fn asked(options: Value) -> Result<RequestedRetrieval, ApiError> {
        let options = serde_json::from_value(options).unwrap();
        let collections = collections(&["default", "elements"]);
        RequestedRetrieval::new(options, &collections, &Caller::anybody())
    }

    fn fault(options: Value) -> (String, String) {
        match asked(options) {
            Err(ApiError::Invalid { param, message }) => (param, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_said_is_the_engines_default_over_the_default_collection() {
        let nothing = asked(json!({})).unwrap();
        assert_eq!(nothing.params, RetrievalParams::default());
        assert_eq!(nothing.collection().name(), "default");
        assert_eq!(nothing.retriever.filter, None);
        assert_eq!(nothing.retriever.min_score, None);
    }

    #[test]
    fn what_is_said_arrives() {
        let filter = json!({"type": "eq", "key": "kind", "value": "country"});
        let all = asked(json!({
            "enabled": true, "forced": true, "k": 3, "max_retrievals": 2, "collection": "elements",
            "filter": filter, "min_score": -0.5,
        }))
        .unwrap();
        let expected = RetrievalParams {
            enabled: true,
            forced: true,
            k: 3,
            max_retrievals: Some(2),
        };
        assert_eq!(all.params, expected);
        assert_eq!(all.collection().name(), "elements");
        let expected = Filter::from_json(&filter).unwrap();
        assert_eq!(all.retriever.filter, Some(expected));
        assert_eq!(all.retriever.min_score, Some(-0.5));
        let never = asked(json!({"enabled": false, "max_retrievals": 0})).unwrap();
        assert!(!never.params.enabled);
        assert_eq!(never.params.max_retrievals, Some(0));
    }

    #[test]
    fn what_makes_no_sense_is_named_by_its_path() {
        for (options, param) in [
            (json!({"k": 0}), "retrieval.k"),
            (json!({"k": 101}), "retrieval.k"),
            (json!({"min_score": 1.5}), "retrieval.min_score"),
            (
                json!({"forced": true, "enabled": false}),
                "retrieval.forced",
            ),
            (
                json!({"forced": true, "max_retrievals": 0}),
                "retrieval.forced",
            ),
            (json!({"filter": {}}), "retrieval.filter"),
            (json!({"filter": "kind=country"}), "retrieval.filter"),
            (json!({"filter": {"type": "like"}}), "retrieval.filter.type"),
            (
                json!({"filter": {"type": "and", "filters": [{"type": "eq", "key": 7, "value": 1}]}}),
                "retrieval.filter.filters[0].key",
            ),
        ] {
            assert_eq!(fault(options).0, param);
        }
    }

    #[test]
    fn an_unknown_collection_is_told_which_there_are() {
        let error = asked(json!({"collection": "countries"})).unwrap_err();
        let said = error.to_string();
        for name in ["countries", "default", "elements"] {
            assert!(said.contains(&format!("{name:?}")), "{said}");
        }
    }
}
