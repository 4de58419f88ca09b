//! `POST /v1/embeddings`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Texts to embed with the served model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "onegen", "input": ["What is the capital of Peru?"], "input_type": "query"
}))]
pub struct EmbeddingsRequest {
    /// The model's served name, or the name of its directory.
    pub model: String,
    /// A text or up to 2,048 of them, none empty. Token ids are refused.
    #[schema(schema_with = crate::texts::inputs)]
    pub input: Value,
    /// What the texts are. OpenAI has no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_type: Option<InputType>,
    /// How the numbers come back. Default `float`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<EncodingFormat>,
    /// Refused, unless it is the model's own width: its embeddings cannot be shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::nothing)]
    pub dimensions: Option<usize>,
}

/// What a text is: the model embeds questions and what answers them at different tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputType {
    /// Something that is found: embedded as passages without a title are, at `[RD]`. The default.
    #[default]
    Document,
    /// Something to find it by: embedded as a question is, at `[RQ]` after it.
    Query,
}

/// How an embedding's numbers come back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// As JSON numbers.
    #[default]
    Float,
    /// As f32 in little-endian order, in base64.
    Base64,
}

/// Embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// One for each text, in their order.
    pub data: Vec<Embedding>,
    /// The model's served name.
    #[schema(example = "onegen")]
    pub model: String,
    /// What they took.
    pub usage: EmbeddingUsage,
}

/// A text's embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    #[schema(example = "embedding")]
    pub object: String,
    /// Which text it is of, from 0.
    pub index: usize,
    /// The numbers, of length 1 as a vector: the cosine of two is their scalar product.
    pub embedding: EmbeddingVector,
}

/// An embedding's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// With `encoding_format: "float"`.
    Float(Vec<f32>),
    /// With `encoding_format: "base64"`.
    Base64(String),
}

/// What embeddings took, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens that were forwarded, control tokens included.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}
