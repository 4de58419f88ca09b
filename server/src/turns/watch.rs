//! Watching a turn of the engine until its end, and remembering what it has said.

use std::sync::Arc;

use onegen_engine::{
    ChatMessage, ConversationId, EngineError, Event, Request, RetrievalReceipt, Role, SchemaCheck,
    SchemaReport, Text, TokenLogprob, Turn, TurnSummary,
};
use onegen_proto::UrlCitation;

use crate::app::App;
use crate::conversations::past_retrievals::PastRetrieval;
use crate::conversations::{ConversationHold, KeepError, Transcript, TurnEnd};
use crate::metrics::Observation;
use crate::traces::TurnTrace;
use crate::turns::cutoff::Cutoff;
use crate::turns::request::TurnOptions;
use crate::turns::retrieval::RequestedRetrieval;
use crate::wire::blocking::blocking;
use crate::wire::citations::citations_of;
use crate::wire::errors::ApiError;

/// An accepted turn. Dropped before its end, it is cancelled, and the conversation is as it was.
pub(crate) struct LiveTurn {
    app: Arc<App>,
    /// `None` once the turn was given up.
    turn: Option<Turn>,
    /// Declared behind `turn`, so that the conversation is held until its turn is cancelled.
    watched: WatchedConversation,
    cutoff: Cutoff,
    conversation: ConversationId,
    observation: Observation,
    /// `None` for a turn that is not traced.
    trace: Option<TurnTrace>,
    retrieval: RequestedRetrieval,
    text: String,
}

/// What happens during a turn, in order. The last is `Finished` or `Failed`.
pub(crate) enum TurnEvent {
    Text(Text),
    Retrieval(RetrievalReceipt),
    Finished(Finished),
    Failed(ApiError),
}

/// How a turn ended, with its whole text.
pub(crate) struct Finished {
    pub(crate) text: String,
    /// One for each passage that was read.
    pub(crate) citations: Vec<UrlCitation>,
    pub(crate) summary: TurnSummary,
    /// What is known of the text if a JSON schema constrained it.
    pub(crate) schema: Option<SchemaReport>,
}

/// What a turn of a conversation is watched for beside its events. By default it belongs to none.
#[derive(Default)]
pub(super) struct WatchedConversation {
    /// Held until the turn's end is stored; `None` if the conversation begins with this turn.
    pub(super) hold: Option<ConversationHold>,
    /// Visible messages up to the answer.
    pub(super) messages: usize,
    /// How many of them were there before the request.
    pub(super) messages_before: usize,
    /// The number of the answer's message.
    pub(super) answer: usize,
    /// The transcript up to the answer; none of a turn that is not kept.
    pub(super) transcript: Option<Transcript>,
    /// The field that constrains the text.
    pub(super) constrained_by: Option<&'static str>,
    /// What holds the text against its schema.
    pub(super) schema: Option<Arc<SchemaCheck>>,
}

impl LiveTurn {
    /// Hands a request to the engine with these options: a turn that belongs to no conversation yet.
    ///
    /// # Errors
    /// The engine refuses it; the error names the field at fault.
    pub(super) async fn submit(
        app: &Arc<App>,
        options: &TurnOptions,
        request: Request,
    ) -> Result<Self, ApiError> {
        let TurnOptions {
            caller,
            sampling,
            retrieval,
            drafting,
            received,
            fields,
        } = options;
        let turn = app.engine.submit(Request {
            sampling: sampling.clone(),
            drafting: *drafting,
            retrieval: retrieval.params.clone(),
            retriever: Some(retrieval.retriever.clone()),
            cache_salt: caller.owner.name().cloned(),
            ..request
        });
        let turn = turn.await.map_err(|error| fields.submit_error(error))?;
        let collection = retrieval.collection().name();
        Ok(Self {
            app: app.clone(),
            conversation: turn.conversation().clone(),
            watched: WatchedConversation::default(),
            cutoff: Cutoff::new(app, caller, *received),
            observation: Observation::new(app.metrics.clone(), *received),
            trace: TurnTrace::begin(turn.timeline(), collection, sampling),
            turn: Some(turn),
            retrieval: retrieval.clone(),
            text: String::new(),
        })
    }

    /// Watches the turn as one of a conversation, which is remembered at its end.
    pub(super) fn in_conversation(self, watched: WatchedConversation) -> Self {
        Self { watched, ..self }
    }

    /// The trace, if the turn is traced.
    pub(super) fn trace(&self) -> Option<&TurnTrace> {
        self.trace.as_ref()
    }

    /// The conversation that it is a turn of.
    pub(crate) fn conversation(&self) -> &ConversationId {
        &self.conversation
    }

    /// Visible messages up to the answer.
    pub(crate) fn messages(&self) -> usize {
        self.watched.messages
    }

    /// How many of them were there before the request.
    pub(crate) fn messages_before(&self) -> usize {
        self.watched.messages_before
    }

    /// The number of the answer's message, by which its item is called.
    pub(crate) fn answer(&self) -> usize {
        self.watched.answer
    }

    /// Waits for the end. Returns with it the logprobs of all tokens, if they were asked for.
    ///
    /// # Errors
    /// The turn failed.
    pub(crate) async fn end(mut self) -> Result<(Finished, Vec<TokenLogprob>), ApiError> {
        let mut logprobs = Vec::new();
        while let Some(event) = self.next().await {
            match event {
                TurnEvent::Text(text) => logprobs.extend(text.logprobs),
                TurnEvent::Retrieval(_) => {}
                TurnEvent::Finished(finished) => return Ok((finished, logprobs)),
                TurnEvent::Failed(error) => return Err(error),
            }
        }
        Err(ApiError::Internal(
            "the turn ended without an end".to_owned(),
        ))
    }

    /// The next event, or `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<TurnEvent> {
        let turn = self.turn.as_mut()?;
        let event = match self.cutoff.within(turn.next()).await {
            Ok(event) => event,
            Err(error) => {
                self.turn = None;
                return Some(self.failed(error));
            }
        };
        Some(match event? {
            Event::Text(text) => {
                self.observation.text();
                self.text.push_str(&text.text);
                TurnEvent::Text(text)
            }
            Event::Retrieval(receipt) => {
                self.observation.retrieval(&receipt);
                if let Some(trace) = &mut self.trace {
                    trace.retrieved(&receipt);
                }
                TurnEvent::Retrieval(receipt)
            }
            // Only of turns that link, which are not started here.
            Event::Mention(_) => {
                let what = "a mention in an answer".to_owned();
                TurnEvent::Failed(ApiError::Internal(what))
            }
            Event::Finished(summary) => {
                let text = std::mem::take(&mut self.text);
                let schema = match self.schema_report(&text).await {
                    Ok(schema) => schema,
                    Err(error) => return Some(self.failed(error)),
                };
                if let Some(mut transcript) = self.watched.transcript.take() {
                    let answer = ChatMessage::new(Role::Assistant, text.clone());
                    transcript.messages.push(answer);
                    transcript.turns.push(TurnEnd {
                        messages: transcript.messages.len(),
                        log_len: summary.log_len,
                    });
                    if let Err(error) = self.remember(transcript, &summary).await {
                        return Some(self.failed(error));
                    }
                }
                self.watched.hold = None;
                self.observation.finished(&summary);
                if let Some(trace) = &mut self.trace {
                    trace.finished(&summary, &text);
                }
                let unit = self.retrieval.offsets.unwrap_or_default();
                TurnEvent::Finished(Finished {
                    citations: citations_of(&text, &summary.retrievals, unit),
                    text,
                    summary,
                    schema,
                })
            }
            Event::Failed(error) => {
                let error = match (error, self.watched.constrained_by) {
                    (error @ EngineError::Constraint(_), Some(field)) => {
                        ApiError::invalid(field, error.to_string())
                    }
                    (error, _) => error.into(),
                };
                self.failed(error)
            }
        })
    }

    /// Holds a finished text against its schema.
    async fn schema_report(&self, text: &str) -> Result<Option<SchemaReport>, ApiError> {
        let Some(check) = self.watched.schema.clone() else {
            return Ok(None);
        };
        let text = text.to_owned();
        blocking(move || check.report(&text)).await.map(Some)
    }

    fn failed(&mut self, error: ApiError) -> TurnEvent {
        self.observation.failed();
        if let Some(trace) = &mut self.trace {
            trace.failed(error.code());
        }
        TurnEvent::Failed(error)
    }

    /// Before the client hears of the end: what it has seen, a restart must know.
    ///
    /// # Errors
    /// [`ApiError::NotStored`]; the conversation is then as it was before the turn.
    async fn remember(
        &self,
        mut transcript: Transcript,
        summary: &TurnSummary,
    ) -> Result<(), ApiError> {
        let (app, retrieval) = (self.app.clone(), self.retrieval.clone());
        let id = summary.conversation.clone();
        let receipts = summary.retrievals.clone();
        let write = move || {
            let answer = transcript.messages.len() - 1;
            let read = receipts.iter();
            let read = read.filter_map(|receipt| {
                let filter = retrieval.filter.as_ref();
                PastRetrieval::new(receipt, retrieval.collection(), filter, answer)
            });
            transcript.retrievals.extend(read);
            let retrievals = transcript.retrievals.clone();
            app.conversations.remember(id, transcript)?;
            Ok(retrievals)
        };
        let id = summary.conversation.clone();
        let remembered = blocking(write).await;
        match remembered.and_then(|written| written.map_err(|error: KeepError| error.into())) {
            // A document may have gone while it was read. Whoever deletes one looks at what is
            // remembered after it is gone, and here it is the other way round: one of both notices.
            Ok(retrievals) => {
                let holders = vec![(id, retrievals)];
                self.app.deleted_documents.forget_holders(holders).await;
                Ok(())
            }
            Err(error) => {
                // The log of a conversation that goes on is cut back by its next turn.
                if self.watched.hold.is_none() {
                    // Fails only when the engine has forgotten it already.
                    let _ = self.app.engine.delete(&id).await;
                }
                Err(error)
            }
        }
    }
}
