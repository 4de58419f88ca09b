//! The shapes of an answer: whole, or chunk by chunk.

use onegen_engine::{
    RetrievalReceipt, SchemaReport, Text, TokenLogprob as EngineLogprob, TurnSummary,
};
use onegen_proto::{
    Annotation, ChatCompletion, ChatCompletionChunk, ChatCompletionChunkObject,
    ChatCompletionObject, Choice, ChunkChoice, ChunkExtension, CompletionExtension, Delta,
    Logprobs, Receipt, ResponseMessage, Role, TokenLogprob, TopLogprob, UrlCitation,
};
use uuid::Uuid;

use crate::routes::usage::{finish_reason, schema_report, usage};
use crate::turns::Finished;
use crate::wire::citations::receipt;
use crate::wire::clock::unix_seconds;

/// What clients read for a probability of nought, which JSON has no logarithm of: OpenAI's number.
const LEAST_LOGPROB: f32 = -9999.0;

/// What all parts of one answer have in common.
pub(super) struct Answer {
    id: String,
    created: u64,
    model: String,
    /// Where its retrievals search.
    collection: String,
    /// Whether logprobs were asked for.
    logprobs: bool,
}

impl Answer {
    pub(super) fn new(model: String, collection: String, logprobs: bool) -> Self {
        Self {
            id: format!("chatcmpl-{}", Uuid::now_v7().simple()),
            created: unix_seconds(),
            model,
            collection,
            logprobs,
        }
    }

    /// The whole answer.
    pub(super) fn completion(
        &self,
        finished: Finished,
        logprobs: Vec<EngineLogprob>,
    ) -> ChatCompletion {
        let Finished {
            text,
            citations,
            summary,
            schema,
        } = finished;
        ChatCompletion {
            id: self.id.clone(),
            object: ChatCompletionObject::ChatCompletion,
            created: self.created,
            model: self.model.clone(),
            choices: vec![Choice {
                index: 0,
                message: ResponseMessage {
                    role: Role::Assistant,
                    annotations: citations.into_iter().map(Annotation::from).collect(),
                    content: text,
                    refusal: None,
                },
                logprobs: self.logprobs(logprobs),
                finish_reason: finish_reason(summary.finish_reason),
            }],
            usage: usage(&summary),
            onegen: CompletionExtension {
                conversation: summary.conversation.to_string(),
                retrievals: self.receipts(&summary),
                schema: schema.map(schema_report),
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
    pub(super) fn text(&self, text: Text) -> ChatCompletionChunk {
        self.chunk(ChunkChoice {
            delta: Delta {
                content: Some(text.text),
                ..Delta::default()
            },
            logprobs: self.logprobs(text.logprobs),
            ..ChunkChoice::default()
        })
    }

    /// A retrieval, where it happened.
    pub(super) fn retrieval(&self, of_engine: &RetrievalReceipt) -> ChatCompletionChunk {
        ChatCompletionChunk {
            onegen: Some(ChunkExtension {
                retrieval: Some(receipt(of_engine, &self.collection)),
                ..ChunkExtension::default()
            }),
            ..self.delta(Delta::default())
        }
    }

    /// All annotations, after the text.
    pub(super) fn annotations(&self, citations: Vec<UrlCitation>) -> ChatCompletionChunk {
        self.delta(Delta {
            annotations: Some(citations.into_iter().map(Annotation::from).collect()),
            ..Delta::default()
        })
    }

    /// Why the answer ended, how to go on, and all receipts.
    pub(super) fn finish(
        &self,
        summary: &TurnSummary,
        schema: Option<SchemaReport>,
    ) -> ChatCompletionChunk {
        let choice = ChunkChoice {
            finish_reason: Some(finish_reason(summary.finish_reason)),
            ..ChunkChoice::default()
        };
        ChatCompletionChunk {
            onegen: Some(ChunkExtension {
                retrieval: None,
                conversation: Some(summary.conversation.to_string()),
                retrievals: Some(self.receipts(summary)),
                schema: schema.map(schema_report).map(Box::new),
            }),
            ..self.chunk(choice)
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
        self.chunk(ChunkChoice {
            delta,
            ..ChunkChoice::default()
        })
    }

    fn logprobs(&self, logprobs: Vec<EngineLogprob>) -> Option<Logprobs> {
        self.logprobs.then(|| Logprobs {
            content: logprobs.into_iter().map(token_logprob).collect(),
            refusal: None,
        })
    }

    fn receipts(&self, summary: &TurnSummary) -> Vec<Receipt> {
        let of_engine = summary.retrievals.iter();
        of_engine.map(|r| receipt(r, &self.collection)).collect()
    }

    fn chunk(&self, choice: ChunkChoice) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.id.clone(),
            object: ChatCompletionChunkObject::ChatCompletionChunk,
            created: self.created,
            model: self.model.clone(),
            choices: vec![choice],
            usage: None,
            onegen: None,
        }
    }
}

fn token_logprob(of_engine: EngineLogprob) -> TokenLogprob {
    let EngineLogprob { sampled, top } = of_engine;
    TokenLogprob {
        token: sampled.text,
        logprob: sampled.logprob.max(LEAST_LOGPROB),
        bytes: sampled.bytes,
        top_logprobs: top
            .into_iter()
            .map(|top| TopLogprob {
                token: top.text,
                logprob: top.logprob.max(LEAST_LOGPROB),
                bytes: top.bytes,
            })
            .collect(),
    }
}
