//! What a model is asked, and what came of it: the same for a model in this process and for a server.

use std::sync::Arc;

use anyhow::Result;

use super::data::{Exchange, Set};
use super::local::{Local, LocalSession};
use super::remote::{Remote, RemoteSession};

/// Where the passages of a turn come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The model decides whether to retrieve, from the whole pool.
    Own,
    /// The same, but the turn begins with a retrieval.
    OwnForced,
    /// The turn begins with a retrieval, and its searches give these passages, one after another.
    Given(Vec<usize>),
    /// Nothing may be retrieved.
    Nothing,
}

/// One turn to be answered.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// A message of the system's before the conversation.
    pub system: Option<&'a str>,
    /// Earlier turns, taken as they are written: each of them retrieved `history_reads`.
    pub history: &'a [Exchange],
    /// What each earlier turn read.
    pub history_reads: &'a [usize],
    /// The last message.
    pub message: &'a str,
    /// Where its passages come from.
    pub source: Source,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// Retrievals of the turn at most.
    pub max_retrievals: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text after the last retrieval, which is the whole text where the turn began with the only one.
    pub text: String,
    /// Whether the turn began with a retrieval.
    pub began_with_retrieval: bool,
    /// How many searches there were.
    pub searches: usize,
    /// The pool's passages nearest to the first search, if the source searched it.
    pub ranking: Vec<usize>,
    /// The passages that were read, in order.
    pub read: Vec<usize>,
    /// Whether the conversation with its passages did not fit the context; the text is then cut or empty.
    pub too_long: bool,
}

/// Who is examined over a set.
pub enum Examinee {
    /// A model in this process.
    Local(Local),
    /// A server that runs.
    Remote(Remote),
}

/// One conversation after another, whose histories may continue each other.
pub enum Session<'a> {
    /// With a model in this process.
    Local(LocalSession<'a>),
    /// With a server.
    Remote(RemoteSession<'a>),
}

impl Examinee {
    /// Gives it the passages of a set to search; tells `on_progress` how many are in. Returns how many are
    /// too long to be found.
    ///
    /// # Errors
    /// The passages cannot be embedded, or the server refused them.
    pub async fn learn(&mut self, set: &Arc<Set>, on_progress: impl FnMut(usize)) -> Result<usize> {
        match self {
            Self::Local(local) => local.learn(set, on_progress),
            Self::Remote(remote) => remote.learn(set, on_progress).await,
        }
    }

    /// Whether passages can be given to it.
    pub fn takes_passages(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Remote(remote) => remote.takes_passages(),
        }
    }

    /// Begins a session.
    pub fn session(&self) -> Session<'_> {
        match self {
            Self::Local(local) => Session::Local(local.session()),
            Self::Remote(remote) => Session::Remote(remote.session()),
        }
    }
}

impl Session<'_> {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The engine or the server failed; a conversation that is too long is no error.
    pub async fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer> {
        match self {
            Self::Local(session) => session.ask(ask).await,
            Self::Remote(session) => session.ask(ask).await,
        }
    }

    /// Ends the session; what the engine or the server keeps of it is dropped.
    pub async fn close(self) {
        match self {
            Self::Local(session) => session.close().await,
            Self::Remote(session) => session.close().await,
        }
    }
}
