//! `/v1/documents`: reads and changes the documents of a collection.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

/// A document to put into a collection, in place of the one with the same id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "country-zembla", "title": "Zembla",
    "text": "Zembla is a country in Europe. Its capital is Onhava.",
    "url": "https://example.org/zembla", "metadata": {"kind": "country"}
}))]
pub struct Document {
    /// Its id in the collection, at most 512 bytes. It does not end in `#` and a number: so the
    /// passages of a long document are called.
    #[schema(min_length = 1, max_length = 512)]
    pub id: String,
    /// Its title. Default: none.
    #[serde(default)]
    pub title: String,
    /// Its text. A long one is split into passages where sentences end.
    #[schema(min_length = 1)]
    pub text: String,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Anything else that is known about it; filters of retrievals look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// Several documents for one collection, all of which are put in or none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentBatch {
    /// The collection, by name. Default: the server's default collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "default")]
    pub collection: Option<String>,
    /// The documents; no id twice.
    #[schema(min_items = 1, max_items = 1000)]
    pub documents: Vec<Document>,
}

/// One document for a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SingleDocument {
    /// The collection, by name. Default: the server's default collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "default")]
    pub collection: Option<String>,
    /// The document's own fields.
    #[serde(flatten)]
    pub document: Document,
}

/// One document, or several under `documents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum UpsertDocumentsRequest {
    /// Several.
    Batch(DocumentBatch),
    /// One.
    Single(SingleDocument),
}

/// What was put in. Retrievals that begin now find it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UpsertedDocuments {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The collection.
    #[schema(example = "default")]
    pub collection: String,
    /// The documents, in the order in which they came.
    pub data: Vec<UpsertedDocument>,
}

/// A document that was put in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpsertedDocument {
    /// Its id.
    #[schema(example = "country-zembla")]
    pub id: String,
    /// Always `document`.
    #[schema(example = "document")]
    pub object: String,
    /// How many passages it became.
    #[schema(example = 1)]
    pub passages: usize,
}

/// A document as it is retrieved, or one passage of a long one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredDocument {
    /// Its id.
    #[schema(example = "country-peru")]
    pub id: String,
    /// Always `document`.
    #[schema(example = "document")]
    pub object: String,
    /// The collection.
    #[schema(example = "default")]
    pub collection: String,
    /// Its title; may be empty.
    #[schema(example = "Peru")]
    pub title: String,
    /// Its text. That of a long document is put together from its passages, with spaces for white
    /// space between them.
    pub text: String,
    /// Where it comes from.
    pub url: Option<String>,
    /// Anything else that is known about it.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Of a passage that was cut from a long document: which part of it.
    pub part: Option<DocumentPart>,
    /// Of a long document: its passages, in order.
    pub passages: Option<Vec<StoredPassage>>,
}

/// Where a passage stands in the document that it was cut from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentPart {
    /// The document's id.
    #[schema(example = "history-of-peru")]
    pub document: String,
    /// Its first character in the document's text, from 0; characters are Unicode code points.
    #[schema(example = 0)]
    pub start: usize,
    /// The character after its last.
    #[schema(example = 811)]
    pub end: usize,
}

/// A passage of a long document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredPassage {
    /// Its id, as receipts name it.
    #[schema(example = "history-of-peru#0")]
    pub id: String,
    /// Its text.
    pub text: String,
    /// Which part of the document it is.
    pub part: DocumentPart,
}

/// A document was taken out. No answer that begins now reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedDocument {
    /// Its id.
    #[schema(example = "country-zembla")]
    pub id: String,
    /// Always `document.deleted`.
    #[schema(example = "document.deleted")]
    pub object: String,
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
    /// The collection.
    #[schema(example = "default")]
    pub collection: String,
    /// How many passages went with it.
    #[schema(example = 1)]
    pub passages: usize,
    /// How many conversations had read it. What they held of it is dropped; those whose clients name
    /// them are refused until they are rebuilt.
    #[schema(example = 0)]
    pub conversations: usize,
}

/// Which collection a document is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InCollection {
    /// The collection, by name. Default: the server's default collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "default")]
    pub collection: Option<String>,
}
