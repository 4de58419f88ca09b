//! `POST /v1/completions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{FinishReason, Receipt, RetrievalOptions, Stop, StreamOptions, Usage};

/// A text to go on with: no messages, no chat template, no conversation. Fields that nobody knows are
/// ignored; one of OpenAI's or vLLM's that is not listed here (`echo`, `suffix`, `best_of`,
/// `logprobs`, …) is refused with an error that names it, unless its value asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"model": "onegen", "prompt": "The capital of Peru is", "max_tokens": 8}))]
pub struct CompletionRequest {
    /// The model's served name, or the name of its directory.
    pub model: String,
    /// The text, or up to 16 of them, each of which is gone on with by itself. Control tokens that it
    /// spells are plain text. Token ids are refused.
    #[schema(schema_with = crate::texts::prompts)]
    pub prompt: Prompt,
    /// Whether and how the model may retrieve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalOptions>,
    /// Whether tokens that are likely to come next, because the same tokens were read or written before, are computed
    /// together with the last one. The text is the same with it, and comes sooner where it quotes. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafting: Option<bool>,
    /// Whether the text comes as server-sent events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Only with `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// How many tokens may be sampled for each prompt. Default 16, as OpenAI's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens whose probabilities reach this sum. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Keep this many of the likeliest tokens. 0 and -1 keep all, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the likeliest one. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Makes tokens of prompt and text less likely when above 1; passages are not counted. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0)]
    pub repetition_penalty: Option<f32>,
    /// Taken off the logits of tokens that the text holds already. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// The same, once for each time that the text holds the token. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// The same seed, parameters and prompt give the same text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// How many tokens must be sampled before one may end the text. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<usize>,
    /// Token ids that end the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Texts that end the text; the first that appears is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::stops)]
    pub stop: Option<Stop>,
    /// Added to the logits of these token ids, each in -100..=100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::biases)]
    pub logit_bias: Option<BTreeMap<u32, f32>>,
}

/// A text to go on with, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string or an array of strings; token ids are not taken"
)]
pub enum Prompt {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::One(String::new())
    }
}

impl Prompt {
    /// All texts, in either form.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// What the model wrote, or with `stream` a piece of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// Its name, the same in all events of a stream.
    #[schema(example = "cmpl-0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `text_completion`.
    #[schema(example = "text_completion")]
    pub object: String,
    /// When it was begun, in seconds since 1970.
    pub created: u64,
    /// The model's served name.
    #[schema(example = "onegen")]
    pub model: String,
    /// One for each prompt, in their order. In an event of a stream exactly one, but none in the last
    /// with the usage.
    pub choices: Vec<CompletionChoice>,
    /// What all took together, in tokens. Of a stream's events only the last has it, with
    /// `stream_options.include_usage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// The text after one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// Which prompt it is the text after, from 0.
    pub index: usize,
    /// The text, or what is new of it.
    #[schema(example = " Lima.")]
    pub text: String,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub logprobs: Option<()>,
    /// Why it ended; null before its end.
    pub finish_reason: Option<FinishReason>,
    /// Its retrievals, in order; in an event of a stream those that have just happened.
    pub onegen: CompletionRetrievals,
}

/// What OpenAI has no name for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionRetrievals {
    /// The retrievals.
    pub retrievals: Vec<Receipt>,
}
