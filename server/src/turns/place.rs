//! Finding the place of a turn in a conversation, and handing the turn to the engine there.

use std::sync::Arc;

use onegen_engine::{ChatMessage, ConversationId, Request, Role, Tokens, TokensError};
use uuid::Uuid;

use crate::app::App;
use crate::conversations::{Transcript, new_id};
use crate::turns::fork::Fork;
use crate::turns::request::{TextRequest, TurnRequest};
use crate::turns::watch::{LiveTurn, WatchedConversation};
use crate::wire::errors::{ApiError, FieldNames};

/// The conversation that a turn's tokens are appended to.
struct TurnTarget {
    conversation: ConversationId,
    /// The copy that the conversation is, if it is one.
    fork: Option<Fork>,
    /// The whole visible transcript, new messages included.
    transcript: Transcript,
    /// How many of its messages were there before the request.
    messages_before: usize,
}

impl TurnTarget {
    /// In a conversation that goes on.
    fn new(conversation: ConversationId, transcript: Transcript) -> Self {
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
        let fork = Fork::new(app, id, &mut transcript).await?;
        let copy = Self::new(fork.id().clone(), transcript);
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
        let sampling = &mut self.options.sampling;
        let max_tokens = self.options.fields.max_tokens;
        sampling.max_tokens = app.bounds.max_tokens(sampling.max_tokens, max_tokens)?;
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
        let Some(mut transcript) = app.conversations.get(&id, &self.options.caller.owner) else {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        };
        let all = transcript.messages.len();
        transcript.cut(self.after.unwrap_or(all));
        transcript.named = true;
        app.deleted_documents
            .refuse(&id, &transcript.retrievals)
            .await?;
        let mut target = if self.kept && transcript.messages.len() == all {
            TurnTarget::new(id, transcript)
        } else {
            TurnTarget::in_copy(app, &id, transcript).await?
        };
        let messages = self.messages.iter().cloned();
        target.transcript.messages.extend(messages);
        self.go_on(app, target).await
    }

    async fn continue_recognised_or_begin(self, app: &Arc<App>) -> Result<LiveTurn, ApiError> {
        for (id, transcript) in app
            .conversations
            .recognise(&self.messages, &self.options.caller.owner)
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
            owner: self.options.caller.owner.clone(),
            named: false,
            retrievals: Vec::new(),
        };
        let target = TurnTarget {
            messages_before: 0,
            ..TurnTarget::new(new_id(), transcript)
        };
        self.begin(app, target).await
    }

    async fn continue_recognised(
        &self,
        app: &Arc<App>,
        id: ConversationId,
        mut transcript: Transcript,
    ) -> Result<LiveTurn, ApiError> {
        // Nobody has asked for this very conversation, and a new one holds nothing that is gone.
        if transcript.turns.is_empty()
            || !app
                .deleted_documents
                .among(&transcript.retrievals)
                .await?
                .is_empty()
        {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        }
        transcript.messages.clone_from(&self.messages);
        let target = if self.kept {
            TurnTarget::new(id, transcript)
        } else {
            TurnTarget::in_copy(app, &id, transcript).await?
        };
        let target = TurnTarget {
            messages_before: 0,
            ..target
        };
        self.go_on(app, target).await
    }

    /// Goes on with the engine's log, as far as the transcript knows of it.
    async fn go_on(&self, app: &Arc<App>, target: TurnTarget) -> Result<LiveTurn, ApiError> {
        let id = &target.conversation;
        let busy = || Err(ApiError::ConversationBusy(id.to_string()));
        let known = target.transcript.log_end().log_len;
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
                self.append(app, target, log_end).await
            }
            // The engine has forgotten the log: begin again from what the client has seen.
            stale => {
                if stale.is_some() {
                    // Fails only when another request got here first, which submitting notices.
                    let _ = app.engine.delete(id).await;
                }
                self.begin(app, target).await
            }
        }
    }

    /// Begins a log with all messages of the transcript. It holds no passage then.
    async fn begin(&self, app: &Arc<App>, mut target: TurnTarget) -> Result<LiveTurn, ApiError> {
        target.transcript.begin_again();
        let messages = target.transcript.messages.clone();
        let bytes = bytes(&messages);
        let prompt = encode(app, self.options.fields, bytes, move |tokens| {
            tokens.encode_chat(&messages)
        })
        .await?;
        self.submit(app, target, prompt).await
    }

    /// Appends the messages that the log does not hold yet.
    async fn append(
        &self,
        app: &Arc<App>,
        target: TurnTarget,
        log_end: Option<u32>,
    ) -> Result<LiveTurn, ApiError> {
        let messages = target.transcript.messages.clone();
        let last_assistant = target.transcript.log_end().messages.saturating_sub(1);
        let bytes = bytes(messages.get(last_assistant..).unwrap_or_default());
        let prompt = encode(app, self.options.fields, bytes, move |tokens| {
            tokens.encode_turn(&messages, last_assistant, log_end)
        })
        .await?;
        self.submit(app, target, prompt).await
    }

    async fn submit(
        &self,
        app: &Arc<App>,
        target: TurnTarget,
        prompt: Vec<u32>,
    ) -> Result<LiveTurn, ApiError> {
        let grammar = match &self.constraint {
            Some(constraint) => Some(constraint.compile(app).await?),
            None => None,
        };
        let request = Request {
            // **Invariant:** nothing is appended to a log that somebody else has continued.
            expected_log_len: Some(target.transcript.log_end().log_len),
            grammar,
            ..Request::new(target.conversation, prompt)
        };
        let turn = LiveTurn::submit(app, &self.options, request).await?;
        if let Some(trace) = turn.trace() {
            trace.converses(turn.conversation());
            for message in &target.transcript.messages {
                trace.reads(message.role, &message.content);
            }
        }
        Ok(turn.in_conversation(WatchedConversation {
            fork: target.fork,
            messages: target.transcript.messages.len(),
            messages_before: target.messages_before,
            transcript: self.kept.then_some(target.transcript),
            constrained_by: self.constraint.as_ref().map(|constraint| constraint.field),
        }))
    }
}

impl TextRequest {
    /// Hands the text to the engine, as a conversation that nobody can continue.
    ///
    /// # Errors
    /// The text does not fit the context, or the request is one too many.
    pub(crate) async fn start(self, app: &Arc<App>) -> Result<LiveTurn, ApiError> {
        let text = self.prompt.clone();
        let prompt = encode(app, self.options.fields, text.len(), move |tokens| {
            tokens.encode_text(&text)
        })
        .await?;
        let name = format!("text_{}", Uuid::new_v4().simple());
        let request = Request {
            // A text that goes on after a word begins with a space.
            trims_text: false,
            expected_log_len: Some(0),
            ..Request::new(name, prompt)
        };
        let turn = LiveTurn::submit(app, &self.options, request).await?;
        if let Some(trace) = turn.trace() {
            trace.reads(Role::User, &self.prompt);
        }
        Ok(turn)
    }
}

/// Bytes of the contents of messages.
fn bytes(messages: &[ChatMessage]) -> usize {
    messages.iter().map(|message| message.content.len()).sum()
}

/// Encodes so many bytes, off the async threads.
async fn encode(
    app: &Arc<App>,
    fields: FieldNames,
    bytes: usize,
    encode: impl FnOnce(&Tokens) -> Result<Vec<u32>, TokensError> + Send + 'static,
) -> Result<Vec<u32>, ApiError> {
    let encoded = app.encoding.run(bytes, encode).await?;
    encoded.map_err(|error| fields.tokens_error(error))
}
