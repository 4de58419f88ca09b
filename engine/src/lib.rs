//! The engine of OneGen: one decoder that writes text and retrieves while it writes.
//!
//! When the model emits its query token `[RQ]`, the hidden state of that very token is the query
//! embedding. A [`Retriever`] answers with passages, the best one's tokens are appended to the same
//! KV-cache (the *splice*), and decoding goes on. The query is never forwarded a second time.
//!
//! The engine knows nothing of HTTP or of an index. It is used in three ways:
//!
//! * [`Model::load`] and [`Model::embed_passages`] embed a corpus, [`Model::embed_query`] a question;
//! * [`Engine::start`] owns the step loop: [`Engine::submit`] hands in a [`Request`] and gives back a
//!   [`Turn`], a stream of [`Event`]s;
//! * [`Tokens`] turns messages and passages into token ids, control tokens by id only.

mod chat_template;
mod config;
mod constraint;
mod control_tokens;
mod conversation;
mod counters;
mod detokenise;
mod device;
mod embed;
mod engine;
mod error;
mod files;
mod linking;
mod logprobs;
mod model;
mod onegen_config;
mod passage_block;
mod request;
mod retrieval;
mod sampling;
mod scheduler;
mod sequence;
mod step;
mod store;
mod template;
mod timeline;
mod token_bytes;
mod token_log;
mod tokenizer_file;
mod tokens;
mod turn;
mod visible_text;

pub use candle_core::{DType, Device};
pub use chat_template::{ChatMessage, Role};
pub use config::{Architecture, ModelConfig, PROJECTIONS, RopeScaling, SlidingWindow};
pub use constraint::{Constraint, Grammar};
pub use conversation::{ConversationId, ConversationInfo};
pub use counters::{Counters, EngineStats, ForwardedTokens};
pub use detokenise::Detokeniser;
pub use device::DeviceName;
pub use engine::{Engine, EngineOptions};
pub use error::{
    ConstraintError, ConversationError, EngineError, ForwardError, LoadError, RetrieveError,
    StartError, SubmitError, TokensError,
};
pub use linking::{Linking, Mention};
pub use logprobs::{Logprob, TokenLogprob};
pub use model::{
    Fingerprints, GgufEntry, GgufPreTokenizer, Kernels, KvCache, LoadOptions, Model, ModelFiles,
    PassageKv, SequenceInput, SequenceOutput, TensorRows, Tensors, WeightType, gguf_pre_tokenizers,
    is_adapter,
};
pub use onegen_config::{BaseModel, LinkingConfig, OneGenConfig, PassageAttention};
pub use request::{Request, RetrievalParams};
pub use retrieval::{Passage, Retriever};
pub use sampling::SamplingParams;
pub use store::StoreOptions;
pub use timeline::{PhaseTime, Timeline, TurnPhase};
pub use token_log::{Span, SpanKind, TokenLog};
pub use tokenizer_file::TokenizerText;
pub use tokens::{SpliceIds, Tokens};
pub use turn::{Completion, Event, FinishReason, RetrievalReceipt, Text, Turn, TurnSummary, Usage};
