//! `/v1/vector_stores`: collections as OpenAI shows its stores, and the search over one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

/// A search without a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "query": "What is the capital of Peru?", "max_num_results": 3,
    "filters": {"type": "eq", "key": "kind", "value": "country"},
    "ranking_options": {"score_threshold": 0.3}
}))]
pub struct VectorStoreSearchRequest {
    /// What is searched for.
    #[schema(schema_with = crate::texts::queries)]
    pub query: SearchQuery,
    /// What the metadata of passages must be, as in `retrieval.filter` of a chat completion. Default:
    /// every passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::MetadataFilter>)]
    pub filters: Option<Value>,
    /// How many passages come back at most. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 50)]
    pub max_num_results: Option<usize>,
    /// Which passages are good enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking_options: Option<RankingOptions>,
    /// False, or left out: the query is embedded as it is, and nothing rewrites it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::never)]
    pub rewrite_query: Option<bool>,
}

/// One query, or several whose results are put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum SearchQuery {
    /// One.
    One(String),
    /// Several, at most 32. A passage that several of them find has its best score.
    Many(Vec<String>),
}

impl SearchQuery {
    /// All queries, in either form.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// Which passages are good enough.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RankingOptions {
    /// `auto` or `none`, which are the same: passages are ranked by their cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::rankers)]
    pub ranker: Option<String>,
    /// The cosine that passages must have at least. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1, maximum = 1)]
    pub score_threshold: Option<f32>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VectorStoreSearchPage {
    /// Always `vector_store.search_results.page`.
    #[schema(example = "vector_store.search_results.page")]
    pub object: String,
    /// The queries, as they were searched for.
    #[schema(example = json!(["What is the capital of Peru?"]))]
    pub search_query: Vec<String>,
    /// Passages, best first.
    pub data: Vec<VectorStoreSearchResult>,
    /// Always false: there are no further pages; ask for more with `max_num_results`.
    #[schema(example = false)]
    pub has_more: bool,
    /// Always null.
    pub next_page: Option<String>,
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VectorStoreSearchResult {
    /// The id of the document that it is, or is a part of.
    #[schema(example = "country-peru")]
    pub file_id: String,
    /// The document's title, else its id.
    #[schema(example = "Peru")]
    pub filename: String,
    /// Cosine of the query's embedding and the passage's.
    #[schema(example = 0.87)]
    pub score: f32,
    /// The document's metadata, if it has any.
    #[schema(value_type = Option<Object>)]
    pub attributes: Option<Map<String, Value>>,
    /// The passage's text, in one piece.
    pub content: Vec<VectorStoreContent>,
    /// What OpenAI has no name for.
    pub onegen: SearchResultExtension,
}

/// A piece of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VectorStoreContent {
    /// Always `text`.
    #[serde(rename = "type")]
    #[schema(example = "text")]
    pub kind: String,
    /// The text.
    pub text: String,
}

/// What OpenAI has no name for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SearchResultExtension {
    /// The passage's own id, as receipts name it.
    #[schema(example = "country-peru")]
    pub passage: String,
    /// Where it comes from, if the corpus says.
    pub url: Option<String>,
}

/// A collection as OpenAI shows a vector store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VectorStore {
    /// The collection's name.
    #[schema(example = "default")]
    pub id: String,
    /// Always `vector_store`.
    #[schema(example = "vector_store")]
    pub object: String,
    /// When its index was built, in seconds since 1970.
    pub created_at: u64,
    /// The collection's name.
    #[schema(example = "default")]
    pub name: String,
    /// Bytes of its index on the disk.
    pub usage_bytes: u64,
    /// How many passages it holds.
    pub file_counts: FileCounts,
    /// Always `completed`: a collection is served once it is indexed.
    #[schema(example = "completed")]
    pub status: String,
    /// Always null: collections do not expire.
    #[schema(value_type = Option<Object>)]
    pub expires_after: Option<Value>,
    /// Always null.
    pub expires_at: Option<u64>,
    /// When its index was built, in seconds since 1970.
    pub last_active_at: Option<u64>,
    /// Always empty.
    pub metadata: BTreeMap<String, String>,
}

/// How many passages a collection holds; OpenAI counts files. All are searchable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileCounts {
    /// Always 0.
    pub in_progress: u64,
    /// The passages.
    pub completed: u64,
    /// Always 0.
    pub failed: u64,
    /// Always 0.
    pub cancelled: u64,
    /// The passages.
    pub total: u64,
}

/// Some of the collections that the caller may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VectorStoreList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The collections.
    pub data: Vec<VectorStore>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id: list on with it as `after`.
    pub last_id: Option<String>,
    /// Whether there are more behind it.
    pub has_more: bool,
}

/// Which collections are listed, in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListVectorStores {
    /// The id of the collection after which the list begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The id of the collection before which the list ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// How many at most. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// In which order. Default `desc`: the default collection last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub order: Option<crate::ItemOrder>,
}
