//! What a caller asks for.

use std::fmt;
use std::sync::Arc;

use crate::decoding::constraint::Grammar;
use crate::decoding::linking::MarkedCopy;
use crate::decoding::sampling::SamplingParams;
use crate::error::{SubmitError, TokensError};
use crate::ids::ConversationId;
use crate::tokens::Tokens;
use crate::tokens::chat_template::{ChatMessage, Role};
use crate::turn::retrieval::Retriever;

/// What a turn is to do.
#[derive(Debug, Clone)]
pub enum Task {
    /// To write an answer in a conversation. Boxed for its size.
    Write(Box<Request>),
    /// To copy a text and mark the mentions in it.
    Link(LinkRequest),
}

impl Task {
    /// The conversation that the turn's tokens are appended to.
    pub(crate) fn conversation(&self) -> &ConversationId {
        match self {
            Self::Write(request) => &request.conversation,
            Self::Link(request) => &request.name,
        }
    }

    /// The ids to append.
    pub(crate) fn prompt(&self) -> &[u32] {
        match self {
            Self::Write(request) => &request.prompt,
            Self::Link(request) => &request.prompt,
        }
    }

    /// The conversation whose beginning the turn's conversation starts with, if it is a copy.
    pub(crate) fn copy_of(&self) -> Option<&CopySource> {
        match self {
            Self::Write(request) => request.copy_of.as_ref(),
            Self::Link(_) => None,
        }
    }

    /// Whether the conversation stays when the turn has ended.
    pub(crate) fn is_kept(&self) -> bool {
        match self {
            Self::Write(request) => request.kept,
            Self::Link(_) => false,
        }
    }

    /// How many tokens the log must hold before, if that matters.
    pub(crate) fn expected_log_len(&self) -> Option<usize> {
        match self {
            Self::Write(request) => request.expected_log_len,
            Self::Link(_) => Some(0),
        }
    }

    /// The salt that conversations must have in common to share KV-caches.
    pub(crate) fn cache_salt(&self) -> Option<&Arc<str>> {
        match self {
            Self::Write(request) => request.cache_salt.as_ref(),
            Self::Link(request) => request.cache_salt.as_ref(),
        }
    }
}

impl From<Request> for Task {
    fn from(request: Request) -> Self {
        Self::Write(Box::new(request))
    }
}

impl From<LinkRequest> for Task {
    fn from(request: LinkRequest) -> Self {
        Self::Link(request)
    }
}

/// One turn to be written.
#[derive(Debug, Clone)]
pub struct Request {
    /// The conversation to start or to continue.
    pub conversation: ConversationId,
    /// Whether the conversation stays when the turn has ended. Default true. One that is not kept is forgotten
    /// at the turn's end and never written to the store. If the turn fails, a conversation that was there before
    /// it stays as it was.
    pub kept: bool,
    /// The conversation starts as a copy of another's beginning, and no other of its name may be there. Default
    /// `None`.
    pub copy_of: Option<CopySource>,
    /// Ids to append to the conversation's token log, from [`crate::Tokens::encode_chat`] for a new
    /// conversation and [`crate::Tokens::encode_turn`] for one that goes on.
    pub prompt: Vec<u32>,
    /// Whether white space at the start of the turn's text is taken off; a grammar wants it kept
    /// anyway. Default true.
    pub trims_text: bool,
    /// How many tokens the caller believes the log to hold. `Some(0)` asks for a new conversation,
    /// `Some(n)` for one that nobody has continued meanwhile, `None` for whichever there is.
    pub expected_log_len: Option<usize>,
    /// How the next token is chosen, and when the turn ends.
    pub sampling: SamplingParams,
    /// Whether and how the model may retrieve.
    pub retrieval: RetrievalParams,
    /// What answers this turn's searches. Default `None`: the engine's own retriever, if it has one.
    /// Nothing of it outlives the turn: the next one may bring another.
    pub retriever: Option<Arc<dyn Retriever>>,
    /// What the turn's text must be, compiled with the tokens of the engine's model. Default `None`:
    /// whatever the model writes.
    pub grammar: Option<Grammar>,
    /// Whether tokens that are likely to come next are forwarded together with the last one: `[RQ]` behind the prompt,
    /// and later what followed where the same tokens came before. The turn writes the same text with it, in fewer
    /// steps. Default true.
    pub drafting: bool,
    /// Conversations share KV-caches only if their salts are equal, so that the time to the first token does
    /// not show a client what others have asked (vLLM's `cache_salt`). The default, `None`, is a salt like any
    /// other. When memory runs short, the salt whose idle conversations hold most loses a KV-cache first.
    pub cache_salt: Option<Arc<str>>,
}

impl Request {
    /// A request with the default sampling and retrieval.
    pub fn new(conversation: impl Into<ConversationId>, prompt: Vec<u32>) -> Self {
        Self {
            conversation: conversation.into(),
            kept: true,
            copy_of: None,
            prompt,
            trims_text: true,
            expected_log_len: None,
            sampling: SamplingParams::default(),
            retrieval: RetrievalParams::default(),
            retriever: None,
            grammar: None,
            drafting: true,
            cache_salt: None,
        }
    }

    /// Checks every parameter against its range.
    pub(crate) fn validate(&self) -> Result<(), SubmitError> {
        self.sampling.validate()?;
        self.retrieval.validate()
    }
}

/// The beginning of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// Which conversation. No turn of it may be under way.
    pub conversation: ConversationId,
    /// How many tokens of its log: [`crate::TurnSummary::log_len`] of one of its turns.
    pub len: usize,
}

/// A text to be copied and linked. The turn writes nothing else, sends each [`crate::Mention`], and leaves no
/// conversation behind.
#[derive(Clone)]
pub struct LinkRequest {
    /// The name of the turn's conversation, which only tells this turn apart from others.
    pub name: ConversationId,
    /// Which KV-caches may be shared, as in [`Request::cache_salt`]. Default `None`.
    pub cache_salt: Option<Arc<str>>,
    prompt: Vec<u32>,
    pub(crate) copy: MarkedCopy,
}

impl LinkRequest {
    /// A request to link the entities of a text. The text's outer white space is no part of any mention. May
    /// take a millisecond.
    ///
    /// # Errors
    /// The model links nothing, its template refuses the text, or its tokenizer failed.
    pub fn new(
        name: impl Into<ConversationId>,
        text: &str,
        tokens: &Arc<Tokens>,
    ) -> Result<Self, TokensError> {
        let copy = MarkedCopy::new(text, tokens.clone())?;
        let prompt = tokens.encode_chat(&[ChatMessage::new(Role::User, text)])?;
        Ok(Self {
            name: name.into(),
            cache_salt: None,
            prompt,
            copy,
        })
    }
}

impl fmt::Debug for LinkRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkRequest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Whether and how the model may retrieve during a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrievalParams {
    /// When false, `[RQ]` is masked before sampling. Default true.
    pub enabled: bool,
    /// When true, `[RQ]` is the turn's first token, whatever the logits say; what comes after is up to
    /// the model. Masked like any `[RQ]` where there is no retriever or no second token to sample.
    /// Default false.
    pub forced: bool,
    /// How many passages the retriever returns, at least 1. All are reported, the first is spliced.
    /// Default 1.
    pub k: usize,
    /// How many searches one turn may do. `None` takes the model's own limit
    /// ([`crate::OneGenConfig::max_retrievals`]).
    pub max_retrievals: Option<usize>,
}

impl RetrievalParams {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`SubmitError::OutOfRange`] names the field that is outside.
    pub fn validate(&self) -> Result<(), SubmitError> {
        if self.k == 0 {
            return Err(SubmitError::OutOfRange {
                field: "k",
                value: "0".into(),
                range: "at least 1",
            });
        }
        if self.forced && (!self.enabled || self.max_retrievals == Some(0)) {
            return Err(SubmitError::OutOfRange {
                field: "forced",
                value: "true".into(),
                range: "false where nothing may be retrieved",
            });
        }
        Ok(())
    }
}

impl Default for RetrievalParams {
    fn default() -> Self {
        Self {
            enabled: true,
            forced: false,
            k: 1,
            max_retrievals: None,
        }
    }
}
