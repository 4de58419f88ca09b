//! The handle: what callers hold, and how it talks to the step thread.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::conversation::{ConversationId, ConversationInfo};
use crate::counters::Counters;
use crate::error::{ConversationError, StartError, SubmitError};
use crate::model::{KvCache, Model};
use crate::request::Request;
use crate::retrieval::{Found, RetrievalWorkers, Retriever};
use crate::sequence::SequenceId;
use crate::step::StepLoop;
use crate::store::{Store, StoreOptions};
use crate::turn::Turn;

/// The engine's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Positions forwarded in one step at most, at least 1. Fewer make tokens of other turns come
    /// more evenly while a long prompt is read, more make reading it faster. Default 512.
    pub max_step_tokens: usize,
    /// Turns in the batch at most, parked ones included, at least 1. Default 64.
    pub max_sequences: usize,
    /// Turns that may wait for a place before requests are refused. Default 256.
    pub max_waiting: usize,
    /// Conversations kept; beyond, the least recently used is forgotten. Default 4096.
    pub max_conversations: usize,
    /// Bytes that KV-caches may hold; beyond, idle ones are dropped and rebuilt from their token
    /// logs when needed. Default 1 GiB.
    pub kv_bytes: usize,
    /// Threads that call retrievers, at least 1. Default 2.
    pub retrieval_workers: usize,
    /// Where conversations outlive the process. `None`, the default, keeps them in memory only.
    pub store: Option<StoreOptions>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_step_tokens: 512,
            max_sequences: 64,
            max_waiting: 256,
            max_conversations: 4096,
            kv_bytes: 1 << 30,
            retrieval_workers: 2,
            store: None,
        }
    }
}

/// What the step thread is told. Answers go back through `reply`; one that nobody waits for any
/// more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    Submit {
        /// Boxed: it is many times as large as other commands.
        request: Box<Request>,
        reply: oneshot::Sender<Result<Turn, SubmitError>>,
    },
    Cancel(SequenceId),
    Retrieved(Found),
    /// What the store has read for a sequence.
    Restored {
        sequence: SequenceId,
        cache: KvCache,
    },
    Look {
        id: ConversationId,
        reply: oneshot::Sender<Option<ConversationInfo>>,
    },
    Delete {
        id: ConversationId,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    Fork {
        from: ConversationId,
        to: ConversationId,
        len: Option<usize>,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    Rewind {
        id: ConversationId,
        len: usize,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    Shutdown,
}

/// A running engine. Clones share it; when the last one is dropped, turns under way fail with
/// [`crate::EngineError::Stopped`] and its thread ends.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: Sender<Command>,
    counters: Arc<Counters>,
    model: Arc<Model>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the step thread and the threads that call retrievers. `retriever` serves the requests
    /// that bring none; without either, a turn never emits `[RQ]`.
    ///
    /// # Errors
    /// An option is 0, the KV budget holds no block of positions, the store's directory cannot be used,
    /// or a thread could not be started.
    pub fn start(
        model: Arc<Model>,
        retriever: Option<Arc<dyn Retriever>>,
        options: EngineOptions,
    ) -> Result<Self, StartError> {
        options.check(&model)?;
        let (commands, inbox) = channel();
        let counters = Arc::new(Counters::default());
        let workers = RetrievalWorkers::start(retriever, options.retrieval_workers, &commands)
            .map_err(StartError::Thread)?;
        let store = options
            .store
            .as_ref()
            .map(|store| Store::open(store, &model, commands.clone()))
            .transpose()?;
        let step_loop = StepLoop::new(
            model.clone(),
            workers,
            store,
            options,
            counters.clone(),
            inbox,
            commands.clone(),
        );
        let thread = thread::Builder::new()
            .name("onegen-step".into())
            .spawn(move || step_loop.run())
            .map_err(StartError::Thread)?;
        Ok(Self {
            shared: Arc::new(Shared {
                commands,
                counters,
                model,
                thread: Some(thread),
            }),
        })
    }

    /// The model that the engine runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.shared.model
    }

    /// What the engine counts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Hands in a request. The answer comes between two steps; nothing is forwarded for a request
    /// that is refused. Needs no particular async runtime.
    ///
    /// # Errors
    /// [`SubmitError`] says why the request was refused.
    pub async fn submit(&self, request: Request) -> Result<Turn, SubmitError> {
        request.sampling.validate()?;
        request.retrieval.validate()?;
        let request = Box::new(request);
        let ask = |reply| Command::Submit { request, reply };
        self.ask(ask).await.unwrap_or(Err(SubmitError::Stopped))
    }

    /// A look at a conversation, or `None` when the engine does not hold it.
    pub async fn conversation(&self, id: &ConversationId) -> Option<ConversationInfo> {
        let id = id.clone();
        self.ask(|reply| Command::Look { id, reply })
            .await
            .flatten()
    }

    /// Forgets a conversation and frees its memory.
    ///
    /// # Errors
    /// There is none of that name, or a turn of it is under way.
    pub async fn delete(&self, id: &ConversationId) -> Result<(), ConversationError> {
        let id = id.clone();
        self.ask(|reply| Command::Delete { id, reply })
            .await
            .unwrap_or(Err(ConversationError::Stopped))
    }

    /// Starts the conversation `to` as a copy of `from`'s first `len` tokens, all of them by default.
    /// KV is shared as far as both agree.
    ///
    /// # Errors
    /// There is no `from`, a turn of it is under way, there is a `to` already, or `len` is not a place
    /// where a log can be cut.
    pub async fn fork(
        &self,
        from: &ConversationId,
        to: &ConversationId,
        len: Option<usize>,
    ) -> Result<(), ConversationError> {
        let (from, to) = (from.clone(), to.clone());
        let ask = |reply| Command::Fork {
            from,
            to,
            len,
            reply,
        };
        self.ask(ask)
            .await
            .unwrap_or(Err(ConversationError::Stopped))
    }

    /// Cuts a conversation back to its first `len` tokens: [`crate::TurnSummary::log_len`] of an
    /// earlier turn takes back all later ones.
    ///
    /// # Errors
    /// There is none of that name, a turn of it is under way, or `len` is not a place where a log can
    /// be cut.
    pub async fn rewind(&self, id: &ConversationId, len: usize) -> Result<(), ConversationError> {
        let id = id.clone();
        self.ask(|reply| Command::Rewind { id, len, reply })
            .await
            .unwrap_or(Err(ConversationError::Stopped))
    }

    /// Sends a command and waits for its answer; None when the step thread is gone.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }
}

impl EngineOptions {
    fn check(&self, model: &Model) -> Result<(), StartError> {
        let sizes = [
            ("max_step_tokens", self.max_step_tokens),
            ("max_sequences", self.max_sequences),
            ("max_conversations", self.max_conversations),
            ("retrieval_workers", self.retrieval_workers),
        ];
        if let Some((option, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(StartError::Zero { option });
        }
        let least = model.least_kv_bytes();
        if self.kv_bytes < least {
            return Err(StartError::KvBudget {
                bytes: self.kv_bytes,
                least,
            });
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails only when the thread is gone already.
        let _ = self.commands.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            // A panic of the step thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
