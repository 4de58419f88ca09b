//! The handle: what callers hold, and how it talks to the step thread.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::conversations::store::Store;
use crate::conversations::{ConversationInfo, portable};
use crate::counters::Counters;
use crate::error::{ConversationError, StartError, SubmitError};
use crate::ids::ConversationId;
use crate::model::Model;
use crate::passages::PassageCache;
use crate::step::StepLoop;
use crate::step::command::Command;
use crate::step::options::EngineOptions;
use crate::turn::events::Turn;
use crate::turn::request::Task;
use crate::turn::retrieval::{RetrievalWorkers, Retriever};

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
    passages: Option<Arc<PassageCache>>,
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
        // Sending fails only when the engine stops, and then nobody waits for the answer.
        let answers = commands.clone();
        let answer = move |found| drop(answers.send(Command::Retrieved(found)));
        let passages = PassageCache::open(&options.passages, &model)?.map(Arc::new);
        let threads = options.retrieval_workers;
        let workers = RetrievalWorkers::start(retriever, passages.clone(), threads, answer)
            .map_err(StartError::Thread)?;
        let store = options
            .store
            .as_ref()
            .map(|store| {
                let commands = commands.clone();
                Store::open(store, &model, move |sequence, cache| {
                    drop(commands.send(Command::Restored { sequence, cache }));
                })
            })
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
                passages,
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

    /// Hands in a [`crate::Request`] or a [`crate::LinkRequest`]. The answer comes between two steps; nothing
    /// is forwarded for a request that is refused. Needs no particular async runtime.
    ///
    /// # Errors
    /// [`SubmitError`] says why the request was refused.
    pub async fn submit(&self, task: impl Into<Task>) -> Result<Turn, SubmitError> {
        let task = task.into();
        if let Task::Write(request) = &task {
            request.validate()?;
        }
        let ask = |reply| Command::Submit { task, reply };
        self.ask(ask).await.unwrap_or(Err(SubmitError::Stopped))
    }

    /// To be called after documents were changed or deleted: deletes the kept keys and values of their passages,
    /// in memory and on the disk, unless `holds` says of a passage's id and of the digest of its text
    /// ([`crate::passage_digest`]) that a collection holds it still. A passage that is computed meanwhile is not
    /// kept. Blocks.
    pub fn forget_passages(
        &self,
        documents: &[String],
        holds: impl Fn(&str, &blake3::Hash) -> bool,
    ) {
        if let Some(passages) = &self.shared.passages {
            passages.forget(documents, &holds);
        }
    }

    /// Deletes the kept keys and values of all passages for which `holds` is false, as
    /// [`Self::forget_passages`] does. Blocks.
    pub fn forget_passages_unless(&self, holds: impl Fn(&str, &blake3::Hash) -> bool) {
        if let Some(passages) = &self.shared.passages {
            passages.forget_unless(&holds);
        }
    }

    /// The names of all conversations that the engine holds.
    pub async fn conversations(&self) -> Vec<ConversationId> {
        let names = self.ask(|reply| Command::List { reply }).await;
        names.unwrap_or_default()
    }

    /// A look at a conversation, or `None` when the engine does not hold it.
    pub async fn conversation(&self, id: &ConversationId) -> Option<ConversationInfo> {
        let id = id.clone();
        self.ask(|reply| Command::Look { id, reply })
            .await
            .flatten()
    }

    /// Forgets a conversation and frees its memory. When this returns, its files are gone too.
    ///
    /// # Errors
    /// There is none of that name, a turn of it is under way, or its files cannot be deleted.
    pub async fn delete(&self, id: &ConversationId) -> Result<(), ConversationError> {
        let id = id.clone();
        self.ask(|reply| Command::Delete { id, reply })
            .await
            .unwrap_or(Err(ConversationError::Stopped))
    }

    /// Starts the conversation `to` as a copy of `from`'s first `len` tokens, all of them by default.
    /// KV is shared as far as both agree. When this returns, the copy's log is in the store.
    ///
    /// # Errors
    /// There is no `from`, a turn of it is under way, there is a `to` already, `len` is not a place
    /// where a log can be cut, or the store cannot write the log.
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

    /// A conversation's token log as bytes for [`Self::import`], or `None` when the engine does not hold it.
    ///
    /// # Errors
    /// The log cannot be written as bytes.
    pub async fn export(&self, id: &ConversationId) -> Result<Option<Vec<u8>>, ConversationError> {
        let Some(ConversationInfo { log, .. }) = self.conversation(id).await else {
            return Ok(None);
        };
        let bytes = portable::to_bytes(id.as_str(), &log, self.model());
        bytes.map(Some).map_err(ConversationError::Store)
    }

    /// Begins a conversation with the log that an engine with the same tokenizer has exported, or replaces its
    /// log by that one. Its next turn forwards what has no keys and values here. When this returns, the log is
    /// in the store.
    ///
    /// # Errors
    /// The bytes are damaged, another conversation's or another tokenizer's, a turn of the conversation is under
    /// way, or the store cannot write the log.
    pub async fn import(&self, id: &ConversationId, log: &[u8]) -> Result<(), ConversationError> {
        let log = portable::from_bytes(id.as_str(), log, self.model());
        let log = log.map_err(ConversationError::Import)?;
        let id = id.clone();
        self.ask(|reply| Command::Import { id, log, reply })
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

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails only when the thread is gone already.
        let _ = self.commands.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            // A panic of the step thread was reported when it happened.
            let _ = thread.join();
        }
        if let Some(passages) = &self.passages {
            passages.finish();
        }
    }
}
