//! The examinee: a model in this process or a server, with the same interface.

use std::sync::Arc;

use anyhow::Result;

use super::asking::{Answer, TurnRequest};
use super::data::Set;
use super::local::{LocalModel, LocalSession};
use super::remote::{RemoteServer, RemoteSession};

/// The model or server that is measured.
pub enum Examinee {
    /// A model in this process.
    Local(LocalModel),
    /// A running server.
    Remote(RemoteServer),
}

/// One conversation after another, whose histories may continue each other.
pub enum Session<'a> {
    /// With a model in this process.
    Local(LocalSession<'a>),
    /// With a server.
    Remote(RemoteSession<'a>),
}

impl Examinee {
    /// Gives it the passages of a set to search, and calls `on_progress` with the number done. Returns how
    /// many are too long to be found.
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
    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The engine or the server failed; a conversation that is too long is no error.
    pub async fn ask(&mut self, ask: &TurnRequest<'_>) -> Result<Answer> {
        match self {
            Self::Local(session) => session.ask(ask).await,
            Self::Remote(session) => session.ask(ask).await,
        }
    }

    /// Ends the session and drops its conversations.
    pub async fn close(self) {
        match self {
            Self::Local(session) => session.close().await,
            Self::Remote(session) => session.close().await,
        }
    }
}
