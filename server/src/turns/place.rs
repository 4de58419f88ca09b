//! Finding the place of a turn in a conversation, and handing the turn to the engine there.

use std::sync::Arc;

use onegen_engine::{
    ChatMessage, ConversationId, ConversationInfo, CopySource, Request, Role, Tokens, TokensError,
};
use uuid::Uuid;

use crate::app::App;
use crate::conversations::{ConversationHold, Recognised, Transcript, new_id};
use crate::turns::request::{TextRequest, TurnOptions, TurnRequest};
use crate::turns::watch::{LiveTurn, WatchedConversation};
use crate::wire::errors::{ApiError, FieldNames};

/// The conversation that a turn's tokens are appended to.
struct TurnTarget {
    conversation: ConversationId,
    /// Set for a conversation that goes on.
    hold: Option<ConversationHold>,
    /// The conversation whose beginning this one starts with, if it is a copy.
    copy_of: Option<ConversationId>,
    /// The whole visible transcript, new messages included.
    transcript: Transcript,
    /// How many of its messages were there before the request.
    messages_before: usize,
}

impl TurnTarget {
    /// In a new conversation.
    fn new(transcript: Transcript) -> Self {
        Self {
            conversation: new_id(),
            hold: None,
            copy_of: None,
            messages_before: transcript.messages.len(),
            transcript,
        }
    }

    /// In a conversation that goes on.
    fn in_place(id: ConversationId, hold: ConversationHold, transcript: Transcript) -> Self {
        Self {
            conversation: id,
            hold: Some(hold),
            ..Self::new(transcript)
        }
    }

    /// In a copy of a conversation as far as `transcript` goes.
    fn in_copy(of: ConversationId, transcript: Transcript) -> Self {
        Self {
            copy_of: Some(of),
            ..Self::new(transcript)
        }
    }

    /// The conversation whose log the turn's tokens follow.
    fn source(&self) -> &ConversationId {
        self.copy_of.as_ref().unwrap_or(&self.conversation)
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
        let owner = &self.options.caller.owner;
        app.conversations.refresh(&id).await?;
        let Some(mut transcript) = app.conversations.get(&id, owner) else {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        };
        let all = transcript.messages.len();
        let after = self.after.unwrap_or(all);
        let hold = if self.kept && after >= all {
            let (held, hold) = app.conversations.hold(&id, owner).await?;
            transcript = held;
            Some(hold)
        } else {
            transcript.cut(after);
            None
        };
        // One that grew before it was held is not the one that the client names.
        if transcript.messages.len() != after.min(all) {
            return Err(ApiError::ConversationBusy(id.to_string()));
        }
        transcript.named = true;
        self.instructions.replace(&mut transcript);
        app.deleted_documents
            .refuse(&id, &transcript.retrievals, &self.options.caller)
            .await?;
        let holds_passages = transcript.retrievals.iter().any(|read| read.held);
        let mut target = match hold {
            Some(hold) => TurnTarget::in_place(id.clone(), hold, transcript),
            None => TurnTarget::in_copy(id.clone(), transcript),
        };
        let messages = self.messages.iter().cloned();
        target.transcript.messages.extend(messages);
        let turn = self.go_on(app, target).await;
        turn.map_err(|error| match holds_passages {
            true => error.with_rebuild(&id),
            false => error,
        })
    }

    /// How many tokens the model would read before it answers, those of the conversation so far included.
    ///
    /// # Errors
    /// As [`Self::start`], except that nothing is too long.
    pub(crate) async fn count_prompt(self, app: &Arc<App>) -> Result<usize, ApiError> {
        let TurnOptions {
            caller,
            sampling,
            fields,
            ..
        } = &self.options;
        let sampled = sampling.validate();
        sampled.map_err(|error| fields.submit_error(error))?;
        if let Some(constraint) = &self.constraint {
            constraint.compile(app).await?;
        }
        let mut transcript = Transcript::new(caller.owner.clone());
        let mut log_end = None;
        if let Some(id) = &self.conversation {
            app.conversations.refresh(id).await?;
            let Some(found) = app.conversations.get(id, &caller.owner) else {
                return Err(ApiError::ConversationNotFound(id.to_string()));
            };
            transcript = found;
            transcript.cut(self.after.unwrap_or(transcript.messages.len()));
        }
        self.instructions.replace(&mut transcript);
        if let Some(id) = &self.conversation {
            let refuse = app
                .deleted_documents
                .refuse(id, &transcript.retrievals, caller);
            refuse.await?;
            let known = transcript.log_end().log_len;
            let info = app.engine.conversation(id).await;
            let info = info.filter(|info| known > 0 && info.log.len() >= known);
            log_end = info.and_then(|info| info.log.ids()[..known].last().copied());
        }
        if log_end.is_none() {
            transcript.begin_again();
        }
        transcript.messages.extend(self.messages.iter().cloned());
        let held = transcript.log_end().log_len;
        let prompt = match held {
            0 => self.encode_all(app, &transcript).await?,
            _ => self.encode_rest(app, &transcript, log_end).await?,
        };
        Ok(held + prompt.len())
    }

    async fn continue_recognised_or_begin(self, app: &Arc<App>) -> Result<LiveTurn, ApiError> {
        let (owner, instructions) = (&self.options.caller.owner, self.instructions.text());
        let conversations = &app.conversations;
        conversations
            .refresh_recognisable(&self.messages, owner, instructions)
            .await?;
        for recognised in conversations.recognise(&self.messages, owner, instructions) {
            match self.continue_recognised(app, recognised).await {
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
        let mut transcript = Transcript {
            messages: self.messages.clone(),
            ..Transcript::new(self.options.caller.owner.clone())
        };
        self.instructions.replace(&mut transcript);
        let target = TurnTarget {
            messages_before: 0,
            ..TurnTarget::new(transcript)
        };
        self.begin(app, target).await
    }

    async fn continue_recognised(
        &self,
        app: &Arc<App>,
        recognised: Recognised,
    ) -> Result<LiveTurn, ApiError> {
        let Recognised {
            id,
            mut transcript,
            part,
        } = recognised;
        let mut hold = None;
        match part {
            Some(messages) => transcript.cut(messages),
            None if self.kept => {
                let owner = &self.options.caller.owner;
                let (held, now) = app.conversations.hold(&id, owner).await?;
                if held != transcript {
                    return Err(ApiError::ConversationBusy(id.to_string()));
                }
                hold = Some(now);
            }
            None => {}
        }
        // Nobody has asked for this very conversation, and a new one holds nothing that is gone.
        if transcript.turns.is_empty()
            || !app
                .deleted_documents
                .among(&transcript.retrievals, &self.options.caller)
                .await?
                .is_empty()
        {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        }
        transcript.messages.clone_from(&self.messages);
        let target = match hold {
            Some(hold) => TurnTarget::in_place(id, hold, transcript),
            None => TurnTarget::in_copy(id, transcript),
        };
        let target = TurnTarget {
            messages_before: 0,
            ..target
        };
        self.go_on(app, target).await
    }

    /// Goes on with the engine's log, as far as the transcript knows of it.
    async fn go_on(&self, app: &Arc<App>, target: TurnTarget) -> Result<LiveTurn, ApiError> {
        let id = target.source();
        let busy = || Err(ApiError::ConversationBusy(id.to_string()));
        let known = target.transcript.log_end().log_len;
        let reaches = |info: &ConversationInfo| known > 0 && info.log.len() >= known;
        let is_copy = target.copy_of.is_some();
        match app.engine.conversation(id).await {
            Some(info) if info.busy && (reaches(&info) || !is_copy) => busy(),
            Some(info) if reaches(&info) => {
                // It may hold the end of a turn whose client went away before it came, or whose server
                // was killed. What the client has seen is the truth.
                let ahead = info.log.len() > known && !is_copy;
                if ahead && app.engine.rewind(id, known).await.is_err() {
                    return busy();
                }
                let log_end = info.log.ids()[..known].last().copied();
                self.append(app, target, log_end).await
            }
            // The engine has forgotten the log: begin again from what the client has seen.
            stale => {
                if stale.is_some() && !is_copy {
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
        let prompt = self.encode_all(app, &target.transcript).await?;
        self.submit(app, target, prompt).await
    }

    /// The tokens of a log that begins with all messages of the transcript.
    async fn encode_all(
        &self,
        app: &Arc<App>,
        transcript: &Transcript,
    ) -> Result<Vec<u32>, ApiError> {
        let messages = transcript.prompt();
        let bytes = bytes(&messages);
        encode(app, self.options.fields, bytes, move |tokens| {
            tokens.encode_chat(&messages)
        })
        .await
    }

    /// Appends the messages that the log does not hold yet.
    async fn append(
        &self,
        app: &Arc<App>,
        target: TurnTarget,
        log_end: Option<u32>,
    ) -> Result<LiveTurn, ApiError> {
        let prompt = self.encode_rest(app, &target.transcript, log_end).await?;
        self.submit(app, target, prompt).await
    }

    /// The tokens that follow the transcript's log, whose last one is given.
    async fn encode_rest(
        &self,
        app: &Arc<App>,
        transcript: &Transcript,
        log_end: Option<u32>,
    ) -> Result<Vec<u32>, ApiError> {
        let messages = transcript.prompt();
        let instructions = messages.len() - transcript.messages.len();
        let last_assistant = transcript.log_end().messages + instructions;
        let last_assistant = last_assistant.saturating_sub(1);
        let bytes = bytes(messages.get(last_assistant..).unwrap_or_default());
        encode(app, self.options.fields, bytes, move |tokens| {
            tokens.encode_turn(&messages, last_assistant, log_end)
        })
        .await
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
        let schema = grammar
            .as_ref()
            .and_then(|grammar| grammar.schema_check())
            .cloned();
        let known = target.transcript.log_end().log_len;
        let copy_of = target.copy_of.filter(|_| known > 0);
        let request = Request {
            kept: self.kept,
            copy_of: copy_of.map(|conversation| CopySource {
                conversation,
                len: known,
            }),
            // **Invariant:** nothing is appended to a log that somebody else has continued.
            expected_log_len: Some(known),
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
            hold: target.hold,
            messages: target.transcript.messages.len(),
            answer: target.transcript.number(target.transcript.messages.len()),
            messages_before: target.messages_before,
            transcript: self.kept.then_some(target.transcript),
            constrained_by: self.constraint.as_ref().map(|constraint| constraint.field),
            schema,
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
            kept: false,
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
