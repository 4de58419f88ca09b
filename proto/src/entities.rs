//! `POST /v1/entities/link`: mentions of entities in texts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::usage::Usage;

/// Texts whose mentions of entities are wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "onegen", "input": "Lima is the capital of Peru.", "k": 3, "min_score": 0.5
}))]
pub struct LinkEntitiesRequest {
    /// The model: the served name, or the name of its directory.
    #[schema(example = "onegen")]
    pub model: String,
    /// A text, or up to 128 of them. Long ones are linked in parts that end where sentences do.
    #[schema(schema_with = crate::texts::linked)]
    pub input: LinkInput,
    /// The collection whose passages are the entities, by name. Default: the server's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// How many candidates each mention has at most. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub k: Option<usize>,
    /// What the metadata of candidates must be, as in `retrieval.filter` of a chat completion. Default:
    /// every entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::MetadataFilter>)]
    pub filter: Option<Value>,
    /// The score that candidates must have at least. A mention without any is a mention of nothing that
    /// is known: NIL. Default: none, so that there is always a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1, maximum = 1)]
    pub min_score: Option<f32>,
    /// What becomes of such mentions. Default `keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nil: Option<Nil>,
    /// In what offsets are counted. Default `characters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<OffsetUnit>,
    /// Whether mentions come as server-sent events, each as soon as it is found. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

/// A text whose entities are linked, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum LinkInput {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What becomes of mentions without a candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Nil {
    /// They are told, with no candidates.
    #[default]
    Keep,
    /// They are left out.
    Drop,
}

/// In what offsets are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OffsetUnit {
    /// Unicode code points, as Python's strings count.
    #[default]
    Characters,
    /// UTF-16 code units, as the strings of JavaScript, Java and C# count.
    Utf16,
    /// Bytes of UTF-8, as Rust's and Go's strings count.
    Bytes,
}

/// The mentions in all texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkedEntities {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// One for each text, in order.
    pub data: Vec<LinkedText>,
    /// The model's name.
    #[schema(example = "onegen")]
    pub model: String,
    /// Tokens read and written: each text is read once and written once.
    pub usage: Usage,
    /// What it took.
    pub onegen: LinkingReceipt,
}

/// The mentions in a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkedText {
    /// Always `entity.mentions`.
    #[schema(example = "entity.mentions")]
    pub object: String,
    /// Which of the texts, from 0.
    pub index: usize,
    /// Its mentions, in order. They do not overlap.
    pub mentions: Vec<EntityMention>,
}

/// A mention of an entity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntityMention {
    /// Where it starts in the text.
    #[schema(example = 23)]
    pub start_index: usize,
    /// Where it has ended.
    #[schema(example = 27)]
    pub end_index: usize,
    /// What stands there.
    #[schema(example = "Peru")]
    pub text: String,
    /// The entities that it may be, best first. None: NIL.
    pub candidates: Vec<EntityCandidate>,
    /// Milliseconds that the search took.
    pub search_ms: f64,
}

/// An entity that a mention may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntityCandidate {
    /// Its id in the collection.
    #[schema(example = "country-peru")]
    pub id: String,
    /// Its title; may be empty.
    #[schema(example = "Peru")]
    pub title: String,
    /// Where it is described, if the corpus says.
    pub url: Option<String>,
    /// Cosine of the mention's embedding and the entity's.
    #[schema(example = 0.87)]
    pub score: f32,
    /// What else is known about it, if anything is.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// What linking took. Everything is measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkingReceipt {
    /// The collection that was searched.
    #[schema(example = "default")]
    pub collection: String,
    /// Parts that the texts were linked in, side by side.
    #[schema(example = 1)]
    pub parts: usize,
    /// Positions that the model forwarded for it.
    pub forwarded: LinkingPositions,
    /// Milliseconds that all searches took together. They run beside the model.
    pub search_ms: f64,
    /// Milliseconds from the request to the last mention.
    pub total_ms: f64,
}

/// Positions that the model forwarded, by what stood there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkingPositions {
    /// Prompts, in which the texts stand.
    pub prompt: u64,
    /// Copies with their marks; and tokens of the texts that were forwarded before it was known whether a
    /// mark comes first, and taken back because it did.
    pub generated: u64,
    /// `[LK]`, one for each mention that was marked: its own forward gives the mention's embedding.
    pub retrieval: u64,
}

/// The `data` of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "object")]
pub enum LinkEntitiesEvent {
    /// A mention, in the order of texts and within them.
    #[serde(rename = "entity.mention")]
    Mention {
        /// Which of the texts, from 0.
        index: usize,
        /// The mention.
        #[serde(flatten)]
        mention: EntityMention,
    },
    /// The last event before `[DONE]`.
    #[serde(rename = "entity.usage")]
    Usage {
        /// The model's name.
        #[schema(example = "onegen")]
        model: String,
        /// Tokens read and written.
        usage: Usage,
        /// What it took.
        onegen: LinkingReceipt,
    },
}
