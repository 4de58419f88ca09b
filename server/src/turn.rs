//! From a validated request to a turn of the engine, and what happens when that ends.

use std::sync::Arc;
use std::time::Instant;

use onegen_engine::{
    ChatMessage, ConversationId, EngineError, Event, Request, RetrievalReceipt, Role,
    SamplingParams, Text, TokenLogprob, Tokens, TokensError, Turn, TurnSummary,
};
use tokio::time::sleep_until;
use uuid::Uuid;

use crate::access::{Caller, Validity};
use crate::app::App;
use crate::blocking::blocking;
use crate::collections::Collection;
use crate::constraint::AskedConstraint;
use crate::conversations::{Transcript, TurnEnd, new_id};
use crate::errors::ApiError;
use crate::fork::Fork;
use crate::metrics::Observation;
use crate::past_retrievals::PastRetrieval;
use crate::retrieval::AskedRetrieval;
use crate::traces::TurnTrace;

/// What a client asks, validated.
#[derive(Debug, Clone)]
pub(crate) struct TurnRequest {
    /// Whose conversations it may continue, and whose the new one is.
    pub(crate) caller: Caller,
    /// The conversation that the client names.
    pub(crate) conversation: Option<ConversationId>,
    /// How many of that conversation's messages it goes on after; all, where nothing is said. After
    /// fewer, the turn is a copy's.
    pub(crate) after: Option<usize>,
    /// Whether the conversation is there afterwards. A turn that is not kept goes on with a copy.
    pub(crate) kept: bool,
    /// With a named conversation the new messages, else all. The last is the user's.
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) sampling: SamplingParams,
    pub(crate) constraint: Option<AskedConstraint>,
    /// Of this turn only: the conversation's next one may retrieve from another collection.
    pub(crate) retrieval: AskedRetrieval,
    /// When the request came.
    pub(crate) received: Instant,
}

/// A text to go on with, validated: no messages, and no conversation afterwards.
#[derive(Debug, Clone)]
pub(crate) struct TextRequest {
    /// Whose KV-caches it may share.
    pub(crate) caller: Caller,
    pub(crate) prompt: String,
    pub(crate) sampling: SamplingParams,
    pub(crate) retrieval: AskedRetrieval,
    /// When the request came.
    pub(crate) received: Instant,
}

/// An accepted turn. Dropped before its end, it is cancelled, and the conversation is as it was.
pub(crate) struct LiveTurn {
    app: Arc<App>,
    /// None once it was given up.
    turn: Option<Turn>,
    /// The copy that was made for this turn. Behind `turn`: dropped before the end, it goes once that
    /// is cancelled.
    fork: Option<Fork>,
    /// Of the key that asked.
    validity: Validity,
    conversation: ConversationId,
    /// Visible messages up to the answer.
    messages: usize,
    /// How many of them were there before the request.
    messages_before: usize,
    received: Instant,
    observation: Observation,
    /// None of a turn that is not traced.
    trace: Option<TurnTrace>,
    /// The transcript up to the answer; none of a turn that belongs to no conversation.
    transcript: Option<Transcript>,
    collection: Arc<Collection>,
    /// The field that constrains the text.
    constrained_by: Option<&'static str>,
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
    pub(crate) summary: TurnSummary,
}

/// Where a turn's tokens go.
struct Place {
    conversation: ConversationId,
    /// Where that is a copy.
    fork: Option<Fork>,
    /// The whole visible transcript, new messages included.
    transcript: Transcript,
    /// How many of its messages were there before the request.
    messages_before: usize,
}

impl Place {
    /// In a conversation that goes on.
    fn of(conversation: ConversationId, transcript: Transcript) -> Self {
        Self {
            conversation,
            fork: None,
            messages_before: transcript.messages.len(),
            transcript,
        }
    }

    /// In a copy of a conversation as far as `transcript` goes.
    ///
    /// # Errors
    /// A turn of it is under way.
    async fn in_copy(
        app: &Arc<App>,
        id: &ConversationId,
        mut transcript: Transcript,
    ) -> Result<Self, ApiError> {
        let fork = Fork::of(app, id, &mut transcript).await?;
        let copy = Self::of(fork.id().clone(), transcript);
        Ok(Self {
            fork: Some(fork),
            ..copy
        })
    }
}

impl TurnRequest {
    /// Finds the conversation that the request continues and hands it to the engine.
    ///
    /// # Errors
    /// The request names a conversation that is not there, busy, or has read what is gone; it does not
    /// fit the context, or is one too many.
    pub(crate) async fn start(mut self, app: &Arc<App>) -> Result<LiveTurn, ApiError> {
        self.sampling.max_tokens = app.limits.max_tokens(self.sampling.max_tokens)?;
        match self.conversation.clone() {
            Some(id) => self.continue_named(app, id).await,
            None => self.continue_recognised_or_begin(app).await,
        }
    }

    async fn continue_named(
        self,
        app: &Arc<App>,
        id: ConversationId,
    ) -> Result<LiveTurn, ApiError> {
        let Some(mut transcript) = app.conversations.get(&id, &self.caller.owner) else {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        };
        let all = transcript.messages.len();
        transcript.cut(self.after.unwrap_or(all));
        transcript.named = true;
        app.refuse_if_gone(&id, &transcript.retrievals).await?;
        let mut place = match self.kept && transcript.messages.len() == all {
            true => Place::of(id, transcript),
            false => Place::in_copy(app, &id, transcript).await?,
        };
        let messages = self.messages.iter().cloned();
        place.transcript.messages.extend(messages);
        self.go_on(app, place).await
    }

    async fn continue_recognised_or_begin(self, app: &Arc<App>) -> Result<LiveTurn, ApiError> {
        for (id, transcript) in app
            .conversations
            .recognise(&self.messages, &self.caller.owner)
        {
            match self.continue_recognised(app, id, transcript).await {
                // Nobody has asked for this very conversation: another or a new one does as well,
                // and without its earlier passages a new one is shorter.
                Err(
                    ApiError::ConversationBusy(_)
                    | ApiError::ConversationNotFound(_)
                    | ApiError::ContextLength { .. },
                ) => {}
                other => return other,
            }
        }
        let transcript = Transcript {
            messages: self.messages.clone(),
            turns: Vec::new(),
            owner: self.caller.owner.clone(),
            named: false,
            retrievals: Vec::new(),
        };
        let place = Place {
            messages_before: 0,
            ..Place::of(new_id(), transcript)
        };
        self.begin(app, place).await
    }

    async fn continue_recognised(
        &self,
        app: &Arc<App>,
        id: ConversationId,
        mut transcript: Transcript,
    ) -> Result<LiveTurn, ApiError> {
        // Nobody has asked for this very conversation, and a new one holds nothing that is gone.
        if transcript.turns.is_empty() || !app.gone(&transcript.retrievals).await?.is_empty() {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        }
        transcript.messages.clone_from(&self.messages);
        let place = match self.kept {
            true => Place::of(id, transcript),
            false => Place::in_copy(app, &id, transcript).await?,
        };
        let place = Place {
            messages_before: 0,
            ..place
        };
        self.go_on(app, place).await
    }

    /// Goes on with the engine's log, as far as the transcript knows of it.
    async fn go_on(&self, app: &Arc<App>, place: Place) -> Result<LiveTurn, ApiError> {
        let id = &place.conversation;
        let busy = || Err(ApiError::ConversationBusy(id.to_string()));
        let known = place.transcript.log_end().log_len;
        match app.engine.conversation(id).await {
            Some(info) if info.busy => busy(),
            Some(info) if known > 0 && info.log.len() >= known => {
                // It may hold the end of a turn whose client went away before it came, or whose server
                // was killed. What the client has seen is the truth.
                let ahead = info.log.len() > known;
                if ahead && app.engine.rewind(id, known).await.is_err() {
                    return busy();
                }
                let log_end = info.log.ids()[..known].last().copied();
                self.append(app, place, log_end).await
            }
            // The engine has forgotten the log: begin again from what the client has seen.
            stale => {
                if stale.is_some() {
                    // Fails only when another request got here first, which submitting notices.
                    let _ = app.engine.delete(id).await;
                }
                self.begin(app, place).await
            }
        }
    }

    /// Begins a log with all messages of the transcript. It holds no passage then.
    async fn begin(&self, app: &Arc<App>, mut place: Place) -> Result<LiveTurn, ApiError> {
        place.transcript.begin_again();
        let messages = place.transcript.messages.clone();
        let prompt = encode(app, move |tokens| tokens.encode_chat(&messages)).await?;
        self.submit(app, place, prompt).await
    }

    /// Appends the messages that the log does not hold yet.
    async fn append(
        &self,
        app: &Arc<App>,
        place: Place,
        log_end: Option<u32>,
    ) -> Result<LiveTurn, ApiError> {
        let messages = place.transcript.messages.clone();
        let last_assistant = place.transcript.log_end().messages.saturating_sub(1);
        let prompt = encode(app, move |tokens| {
            tokens.encode_turn(&messages, last_assistant, log_end)
        })
        .await?;
        self.submit(app, place, prompt).await
    }

    async fn submit(
        &self,
        app: &Arc<App>,
        place: Place,
        prompt: Vec<u32>,
    ) -> Result<LiveTurn, ApiError> {
        let grammar = match &self.constraint {
            Some(asked) => Some(asked.compile(app).await?),
            None => None,
        };
        let request = Request {
            conversation: place.conversation,
            prompt,
            trims_text: true,
            // **Invariant:** nothing is appended to a log that somebody else has continued.
            expected_log_len: Some(place.transcript.log_end().log_len),
            sampling: self.sampling.clone(),
            retrieval: self.retrieval.params.clone(),
            retriever: Some(self.retrieval.retriever.clone()),
            grammar,
            linking: None,
            cache_salt: self.caller.owner.name().cloned(),
        };
        let turn =
            LiveTurn::submit(app, request, &self.retrieval, &self.caller, self.received).await?;
        if let Some(trace) = &turn.trace {
            trace.converses(&turn.conversation);
            for message in &place.transcript.messages {
                trace.reads(message.role, &message.content);
            }
        }
        Ok(LiveTurn {
            fork: place.fork,
            messages: place.transcript.messages.len(),
            messages_before: place.messages_before,
            transcript: self.kept.then_some(place.transcript),
            constrained_by: self.constraint.as_ref().map(|asked| asked.field),
            ..turn
        })
    }
}

impl TextRequest {
    /// Hands the text to the engine, as a conversation that nobody can continue.
    ///
    /// # Errors
    /// The text does not fit the context, or the request is one too many.
    pub(crate) async fn start(self, app: &Arc<App>) -> Result<LiveTurn, ApiError> {
        let text = self.prompt.clone();
        let prompt = encode(app, move |tokens| tokens.encode_text(&text)).await?;
        let request = Request {
            conversation: format!("text_{}", Uuid::new_v4().simple()).into(),
            prompt,
            // What goes on after a word begins with a space.
            trims_text: false,
            expected_log_len: Some(0),
            sampling: self.sampling,
            retrieval: self.retrieval.params.clone(),
            retriever: Some(self.retrieval.retriever.clone()),
            grammar: None,
            linking: None,
            cache_salt: self.caller.owner.name().cloned(),
        };
        let turn =
            LiveTurn::submit(app, request, &self.retrieval, &self.caller, self.received).await?;
        if let Some(trace) = &turn.trace {
            trace.reads(Role::User, &self.prompt);
        }
        Ok(turn)
    }
}

/// Encodes off the async threads: a long prompt takes its time.
async fn encode(
    app: &Arc<App>,
    encode: impl FnOnce(&Tokens) -> Result<Vec<u32>, TokensError> + Send + 'static,
) -> Result<Vec<u32>, ApiError> {
    let tokens = app.engine.model().tokens().clone();
    Ok(blocking(move || encode(&tokens)).await??)
}

/// Waits for a deadline, if there is one.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl LiveTurn {
    /// Hands a request to the engine: a turn that belongs to no conversation yet.
    async fn submit(
        app: &Arc<App>,
        request: Request,
        retrieval: &AskedRetrieval,
        caller: &Caller,
        received: Instant,
    ) -> Result<Self, ApiError> {
        let sampling = request.sampling.clone();
        let turn = app.engine.submit(request).await?;
        let collection = retrieval.collection().clone();
        Ok(Self {
            app: app.clone(),
            conversation: turn.conversation().clone(),
            fork: None,
            messages: 0,
            messages_before: 0,
            received,
            observation: Observation::new(app.metrics.clone(), received),
            trace: TurnTrace::begin(turn.timeline(), collection.name(), &sampling),
            turn: Some(turn),
            validity: caller.validity(),
            transcript: None,
            collection,
            constrained_by: None,
            text: String::new(),
        })
    }

    /// The conversation that it is a turn of.
    pub(crate) fn conversation(&self) -> &ConversationId {
        &self.conversation
    }

    /// Visible messages up to the answer.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// How many of them were there before the request.
    pub(crate) fn messages_before(&self) -> usize {
        self.messages_before
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
        let deadline = self.app.limits.deadline(self.received);
        let event = tokio::select! {
            biased;
            () = self.app.is_cut_off() => Err(ApiError::ShuttingDown),
            () = self.validity.ended() => Err(ApiError::KeyWithdrawn),
            () = until(deadline) => Err(ApiError::TimedOut { after: self.received.elapsed() }),
            event = turn.next() => Ok(event),
        };
        let event = match event {
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
                self.observation.finished(&summary);
                let text = std::mem::take(&mut self.text);
                if let Some(trace) = &mut self.trace {
                    trace.finished(&summary, &text);
                }
                match self.transcript.take() {
                    Some(mut transcript) => {
                        let answer = ChatMessage::new(Role::Assistant, text.clone());
                        transcript.messages.push(answer);
                        transcript.turns.push(TurnEnd {
                            messages: transcript.messages.len(),
                            log_len: summary.log_len,
                        });
                        self.remember(transcript, &summary).await;
                    }
                    // Fails only when the engine has forgotten it already.
                    None => _ = self.app.engine.delete(&summary.conversation).await,
                }
                if let Some(fork) = self.fork.take() {
                    fork.keep();
                }
                TurnEvent::Finished(Finished { text, summary })
            }
            Event::Failed(error) => {
                let error = match (error, self.constrained_by) {
                    (error @ EngineError::Constraint(_), Some(field)) => {
                        ApiError::invalid(field, error.to_string())
                    }
                    (error, _) => error.into(),
                };
                self.failed(error)
            }
        })
    }

    fn failed(&mut self, error: ApiError) -> TurnEvent {
        self.observation.failed();
        if let Some(trace) = &mut self.trace {
            trace.failed(error.code());
        }
        TurnEvent::Failed(error)
    }

    /// Before the client hears of the end: what it has seen, a restart must know.
    async fn remember(&self, mut transcript: Transcript, summary: &TurnSummary) {
        let (app, collection) = (self.app.clone(), self.collection.clone());
        let id = summary.conversation.clone();
        let receipts = summary.retrievals.clone();
        let write = move || {
            let answer = transcript.messages.len() - 1;
            let read = receipts.iter();
            let read = read.filter_map(|receipt| PastRetrieval::new(receipt, &collection, answer));
            transcript.retrievals.extend(read);
            let retrievals = transcript.retrievals.clone();
            app.conversations.remember(id, transcript);
            retrievals
        };
        match tokio::task::spawn_blocking(write).await {
            // A document may have gone while it was read. Whoever deletes one looks at what is
            // remembered after it is gone, and here it is the other way round: one of both notices.
            Ok(retrievals) => {
                let id = summary.conversation.clone();
                self.app.drop_if_gone(vec![(id, retrievals)]).await;
            }
            Err(panicked) => tracing::error!(%panicked, "a transcript was not remembered"),
        }
    }
}
