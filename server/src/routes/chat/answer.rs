//! The shapes of an answer: whole, or chunk by chunk.

use onegen_engine::{
    Completion, FinishReason as EngineFinishReason, RetrievalReceipt, TurnSummary,
};
use onegen_proto::{
    Annotation, ChatCompletion, ChatCompletionChunk, ChatCompletionChunkObject,
    ChatCompletionObject, Choice, ChunkChoice, ChunkExtension, CompletionExtension, Delta,
    FinishReason, PromptTokensDetails, Receipt, ResponseMessage, Role, Usage,
};
use uuid::Uuid;

use crate::app::unix_seconds;
use crate::citations::{annotations, receipt};

/// What all parts of one answer have in common.
pub(super) struct Answer {
    id: String,
    created: u64,
    model: String,
}

impl Answer {
    pub(super) fn new(model: String) -> Self {
        Self {
            id: format!("chatcmpl-{}", Uuid::now_v7().simple()),
            created: unix_seconds(),
            model,
        }
    }

    /// The whole answer.
    pub(super) fn completion(&self, completion: &Completion) -> ChatCompletion {
        let Completion { text, summary } = completion;
        ChatCompletion {
            id: self.id.clone(),
            object: ChatCompletionObject::ChatCompletion,
            created: self.created,
            model: self.model.clone(),
            choices: vec![Choice {
                index: 0,
                message: ResponseMessage {
                    role: Role::Assistant,
                    content: text.clone(),
                    refusal: None,
                    annotations: annotations(text, &summary.retrievals),
                },
                logprobs: None,
                finish_reason: finish_reason(summary.finish_reason),
            }],
            usage: usage(summary),
            onegen: CompletionExtension {
                conversation: summary.conversation.to_string(),
                retrievals: receipts(summary),
            },
        }
    }

    /// The first chunk.
    pub(super) fn role(&self) -> ChatCompletionChunk {
        self.delta(Delta {
            role: Some(Role::Assistant),
            content: Some(String::new()),
            ..Delta::default()
        })
    }

    /// More text.
    pub(super) fn text(&self, text: String) -> ChatCompletionChunk {
        self.delta(Delta {
            content: Some(text),
            ..Delta::default()
        })
    }

    /// A retrieval, where it happened.
    pub(super) fn retrieval(&self, of_engine: &RetrievalReceipt) -> ChatCompletionChunk {
        ChatCompletionChunk {
            onegen: Some(ChunkExtension {
                retrieval: Some(receipt(of_engine)),
                ..ChunkExtension::default()
            }),
            ..self.delta(Delta::default())
        }
    }

    /// All annotations, after the text.
    pub(super) fn annotations(&self, annotations: Vec<Annotation>) -> ChatCompletionChunk {
        self.delta(Delta {
            annotations: Some(annotations),
            ..Delta::default()
        })
    }

    /// Why the answer ended, how to go on, and all receipts.
    pub(super) fn finish(&self, summary: &TurnSummary) -> ChatCompletionChunk {
        ChatCompletionChunk {
            onegen: Some(ChunkExtension {
                retrieval: None,
                conversation: Some(summary.conversation.to_string()),
                retrievals: Some(receipts(summary)),
            }),
            ..self.chunk(Delta::default(), Some(finish_reason(summary.finish_reason)))
        }
    }

    /// The last chunk, for those who asked for it.
    pub(super) fn usage(&self, summary: &TurnSummary) -> ChatCompletionChunk {
        ChatCompletionChunk {
            choices: Vec::new(),
            usage: Some(Some(usage(summary))),
            ..self.delta(Delta::default())
        }
    }

    fn delta(&self, delta: Delta) -> ChatCompletionChunk {
        self.chunk(delta, None)
    }

    fn chunk(&self, delta: Delta, finish_reason: Option<FinishReason>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.id.clone(),
            object: ChatCompletionChunkObject::ChatCompletionChunk,
            created: self.created,
            model: self.model.clone(),
            choices: vec![ChunkChoice {
                index: 0,
                delta,
                logprobs: None,
                finish_reason,
            }],
            usage: None,
            onegen: None,
        }
    }
}

fn receipts(summary: &TurnSummary) -> Vec<Receipt> {
    summary.retrievals.iter().map(receipt).collect()
}

fn finish_reason(reason: EngineFinishReason) -> FinishReason {
    match reason {
        EngineFinishReason::Stop => FinishReason::Stop,
        EngineFinishReason::Length => FinishReason::Length,
    }
}

/// Passages count as prompt: see [`Usage`].
fn usage(summary: &TurnSummary) -> Usage {
    let of_engine = &summary.usage;
    let prompt_tokens = of_engine.prompt_tokens + of_engine.passage_tokens;
    Usage {
        prompt_tokens,
        completion_tokens: of_engine.completion_tokens,
        total_tokens: prompt_tokens + of_engine.completion_tokens,
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: of_engine.cached_tokens,
            passage_tokens: of_engine.passage_tokens,
        },
    }
}
