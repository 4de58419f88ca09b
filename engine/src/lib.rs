//! The engine of OneGen: one decoder that writes text and retrieves while it writes.
//!
//! When the model emits its query token `[RQ]`, the hidden state of that very token is the query
//! embedding. A [`Retriever`] answers with passages, the best one's tokens are appended to the same
//! KV-cache (the *splice*), and decoding goes on. The query is never forwarded a second time.
//!
//! The engine knows nothing of HTTP or of an index. It is used in three ways:
//!
//! * [`Model::load`] and [`Model::embed_passages`] embed a corpus, [`Model::embed_query`] a question;
//! * [`Engine::start`] owns the step loop: [`Engine::submit`] hands in a [`Request`] to write or a
//!   [`LinkRequest`] to link a text, and gives back a [`Turn`], a stream of [`Event`]s;
//! * [`Tokens`] turns messages and passages into token ids, control tokens by id only.

// The modules are in order of their layers: each imports only from those above it.
mod config;
mod conversations;
mod counters;
mod decoding;
mod engine;
mod error;
mod files;
mod ids;
mod model;
mod passages;
mod step;
mod tokens;
mod turn;

pub use config::{Activation, Architecture, ModelConfig, PROJECTIONS, RopeScaling, SlidingWindow};
pub use conversations::ConversationInfo;
pub use conversations::store::StoreOptions;
pub use counters::{Counters, EngineStats, ForwardedTokens};
pub use decoding::constraint::{Cancellation, Constraint, Grammar, SchemaCheck, SchemaReport};
pub use decoding::linking::Mention;
pub use decoding::logprobs::{Logprob, TokenLogprob};
pub use decoding::sampling::SamplingParams;
pub use decoding::visible_text::Text;
pub use engine::Engine;
pub use error::{
    ConstraintError, ConversationError, EngineError, ForwardError, LoadError, RetrieveError,
    StartError, SubmitError, TokensError, TooLong,
};
pub use ids::ConversationId;
pub use model::device::DeviceName;
pub use model::{
    EmbeddedText, Fingerprints, GgmlType, GgufEntry, GgufPreTokenizer, Kernels, KvCache, KvType,
    LoadOptions, Model, ModelFiles, PassageBlock, PassageKv, Q8Matrix, SequenceInput,
    SequenceOutput, TensorRows, Tensors, WeightType, gguf_pre_tokenizers, is_adapter,
};
pub use passages::{PassageCacheOptions, PassageKvSource};
pub use step::options::EngineOptions;
pub use tokens::Tokens;
pub use tokens::chat_template::{ChatMessage, Role};
pub use tokens::detokenise::Detokeniser;
pub use tokens::onegen_config::{BaseModel, LinkingConfig, OneGenConfig, PassageAttention};
pub use tokens::source::TokenizerText;
pub use tokens::splice::{Passage, SpliceIds, passage_digest};
pub use tokens::token_log::{Span, SpanKind, TokenLog};
pub use turn::events::{
    Completion, Event, FinishReason, RetrievalReceipt, Turn, TurnSummary, Usage,
};
pub use turn::request::{CopySource, LinkRequest, Request, RetrievalParams, Task};
pub use turn::retrieval::Retriever;
pub use turn::timeline::{PhaseTime, Timeline, TurnPhase};
