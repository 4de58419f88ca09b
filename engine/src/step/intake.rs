//! The commands that the step thread carries out between two steps.

use std::io;
use std::ops::ControlFlow;

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use super::StepLoop;
use crate::conversations::{Conversation, ConversationInfo, ConversationState};
use crate::error::{ConversationError, SubmitError};
use crate::ids::ConversationId;
use crate::ids::SequenceId;
use crate::model::{BLOCK, KvCache};
use crate::step::command::Command;
use crate::step::sequence::{Sequence, UnstoredTurn};
use crate::tokens::token_log::TokenLog;
use crate::turn::events::Turn;
use crate::turn::request::Task;
use crate::turn::retrieval::SearchOutcome;

impl StepLoop {
    /// Carries out every command that has come, after waiting for a first one if `wait` says so. Breaks when the
    /// last handle was dropped.
    pub(super) fn receive(&mut self, wait: bool) -> ControlFlow<()> {
        let mut next = if wait {
            self.inbox.recv().ok()
        } else {
            self.inbox.try_recv().ok()
        };
        while let Some(command) = next {
            match command {
                Command::Submit { task, reply } => {
                    let _ = reply.send(self.submit(task));
                }
                Command::Cancel(id) => self.cancel(id),
                Command::Retrieved(outcome) => self.on_search_outcome(outcome),
                Command::Restored { sequence, cache } => self.on_restored(sequence, cache),
                Command::Look { id, reply } => {
                    let _ = reply.send(self.look(&id));
                }
                Command::Delete { id, reply } => self.delete(id, |deleted| {
                    let _ = reply.send(deleted);
                }),
                Command::Fork {
                    from,
                    to,
                    len,
                    reply,
                } => self.fork(&from, to, len, |forked| {
                    let _ = reply.send(forked);
                }),
                Command::Rewind { id, len, reply } => {
                    let _ = reply.send(self.rewind(&id, len));
                }
                Command::Import { id, log, reply } => self.import(id, log, |imported| {
                    let _ = reply.send(imported);
                }),
                Command::NotStored(turn) => self.on_not_stored(turn),
                Command::List { reply } => {
                    let _ = reply.send(self.conversations.names().cloned().collect());
                }
                Command::Shutdown => return ControlFlow::Break(()),
            }
            next = self.inbox.try_recv().ok();
        }
        ControlFlow::Continue(())
    }

    fn submit(&mut self, mut task: Task) -> Result<Turn, SubmitError> {
        let log_len = self.check(&task)?;
        let context = self.rules.context;
        let needed = log_len + task.prompt().len() + 1;
        if needed > context {
            return Err(SubmitError::ContextLength {
                needed,
                available: context,
            });
        }
        let accepted = self.running.len() + self.waiting.len();
        if accepted >= self.options.max_sequences + self.options.max_waiting {
            return Err(SubmitError::Overloaded {
                waiting: self.waiting.len(),
            });
        }
        let id = SequenceId(self.sequences_so_far);
        self.sequences_so_far += 1;
        let name = task.conversation().clone();
        let copy = match task.copy_of() {
            Some(source) => Some(self.copy(&source.conversation, source.len)?),
            None => None,
        };
        let before = self.conversations.take(&name, id);
        let existed = before.is_some();
        let mut conversation = before
            .or(copy)
            .unwrap_or_else(|| self.new_conversation(&task));
        conversation.cache_salt = task.cache_salt().cloned();
        let (events, stream) = unbounded_channel();
        if let Task::Write(request) = &mut task
            && request.retriever.is_none()
        {
            request.retriever = self.workers.retriever();
        }
        let sequence = Sequence::new(id, task, conversation, existed, &self.rules, events);
        let timeline = sequence.timeline();
        self.waiting.push_back(sequence);
        let commands = self.commands.clone();
        let cancel = move || {
            // A step thread that is gone has nothing left to cancel.
            let _ = commands.send(Command::Cancel(id));
        };
        Ok(Turn::new(name, stream, timeline, cancel))
    }

    /// A conversation without a log. Its KV-cache starts with what another one holds of the same
    /// prompt, in whole blocks: a system prompt is neither forwarded nor held twice.
    fn new_conversation(&self, task: &Task) -> Conversation {
        let prompt = task.prompt();
        let running = self.running.iter().map(|s| &s.turn.conversation);
        let marks = self.rules.tokens.block_marks();
        let shared = |other: &Conversation| {
            // The last token is forwarded in any case: its logits are wanted.
            let most = other.cache.len().min(prompt.len().saturating_sub(1));
            let len = other.log.common_prefix(prompt).min(most) / BLOCK * BLOCK;
            // Equal ids stand in equal passage blocks. One is taken whole or not at all: its rest would
            // have to see keys that only a cache that is within the block holds.
            len - marks.map_or(0, |marks| marks.open_after(0, &prompt[..len]))
        };
        let candidates = running
            .chain(self.conversations.idle())
            .filter(|other| other.cache_salt.as_ref() == task.cache_salt());
        let best = candidates
            .map(|other| (shared(other), other))
            .max_by_key(|(len, _)| *len)
            .filter(|(len, other)| *len > 0 && self.has_room(other.cache.bytes_for(*len)));
        let cache = best.and_then(|(len, other)| other.cache.fork(len).ok());
        let cache = cache.unwrap_or_else(|| self.model.new_cache());
        Conversation::new(TokenLog::default(), cache)
    }

    /// Checks a task against its conversation; gives the length of that one's log.
    fn check(&self, task: &Task) -> Result<usize, SubmitError> {
        let stop_token_ids = match task {
            Task::Write(_) if self.rules.tokens.links_entities() => {
                return Err(SubmitError::OnlyLinks);
            }
            Task::Write(request) => request.sampling.stop_token_ids.as_slice(),
            Task::Link(_) => &[],
        };
        let (name, prompt) = (task.conversation(), task.prompt());
        let log_len = match self.conversations.find(name) {
            Some(ConversationState::Busy(_)) => return Err(SubmitError::Busy(name.clone())),
            Some(_) if task.copy_of().is_some() => {
                return Err(ConversationError::Exists(name.clone()).into());
            }
            Some(ConversationState::Idle(conversation)) => conversation.log.len(),
            None => match (task.copy_of(), task.expected_log_len()) {
                (Some(source), _) => cut(self.idle(&source.conversation)?, source.len)?,
                (None, Some(expected)) if expected > 0 => {
                    return Err(SubmitError::UnknownConversation(name.clone()));
                }
                (None, _) => 0,
            },
        };
        match task.expected_log_len() {
            Some(expected) if expected != log_len => {
                return Err(SubmitError::LogLength {
                    conversation: name.clone(),
                    expected,
                    got: log_len,
                });
            }
            _ => {}
        }
        match prompt.last() {
            None => return Err(SubmitError::EmptyPrompt),
            Some(&id) if id == self.rules.tokens.query_id() => {
                return Err(SubmitError::QueryAtEnd);
            }
            Some(_) => {}
        }
        if let Some(marks) = self.rules.tokens.block_marks() {
            marks.check(prompt).map_err(SubmitError::PassageBlock)?;
        }
        let vocabulary = self.rules.never_sampled.len();
        let mut named = prompt.iter().chain(stop_token_ids);
        match named.find(|&&id| id as usize >= vocabulary) {
            Some(&id) => Err(SubmitError::UnknownId { id, vocabulary }),
            None => Ok(log_len),
        }
    }

    /// Ends a turn that nobody listens to any more.
    fn cancel(&mut self, id: SequenceId) {
        if let Some(index) = self.running.iter().position(|s| s.turn.id == id) {
            let sequence = self.running.remove(index);
            self.abandon(sequence, None);
        } else if let Some(index) = self.waiting.iter().position(|s| s.turn.id == id)
            && let Some(sequence) = self.waiting.remove(index)
        {
            self.abandon(sequence, None);
        }
    }

    /// Hands an answer to the sequence that is parked for it; one that was cancelled waits no more.
    fn on_search_outcome(&mut self, outcome: SearchOutcome) {
        let asked = |s: &Sequence| s.turn.id == outcome.sequence;
        if let Some(index) = self.running.iter().position(asked)
            && let Some(next) = self.running[index].on_search_outcome(outcome, &self.rules)
        {
            self.conclude(index, next);
        }
    }

    /// Gives a sequence the KV-cache that the store has read for it.
    fn on_restored(&mut self, id: SequenceId, cache: KvCache) {
        self.kv_restoring_bytes -= cache.bytes();
        let Some(sequence) = self.running.iter_mut().find(|s| s.turn.id == id) else {
            return;
        };
        self.kv_restored += u64::from(!cache.is_empty());
        let conversation = &mut sequence.turn.conversation;
        // What could not be read is written again.
        conversation.stored = conversation.stored.min(cache.len());
        conversation.cache = cache;
        sequence.admit();
    }

    fn look(&self, id: &ConversationId) -> Option<ConversationInfo> {
        match self.conversations.find(id)? {
            ConversationState::Idle(conversation) => Some(conversation.info(false)),
            ConversationState::Busy(sequence) => self
                .running
                .iter()
                .chain(&self.waiting)
                .find(|s| s.turn.id == sequence)
                .map(|s| s.turn.conversation.info(true)),
        }
    }

    /// Cuts a conversation back to what it was before a turn whose end could not be stored. If another turn has
    /// continued it meanwhile, that one has cut it back already.
    fn on_not_stored(&mut self, turn: UnstoredTurn) {
        let name = turn.name();
        if let Some(conversation) = self.conversations.idle_mut(name)
            && conversation.log.len() == turn.end()
        {
            match turn.start() {
                Some(start) if start > 0 => conversation.truncate(start),
                _ => self.forget(name.clone(), |_| ()),
            }
        }
        turn.fail();
    }

    /// Answers when the conversation's files are gone too.
    fn delete(
        &mut self,
        id: ConversationId,
        answer: impl FnOnce(Result<(), ConversationError>) + Send + 'static,
    ) {
        match self.idle(&id) {
            Ok(_) => self.forget(id, |gone| answer(gone.map_err(store_error))),
            Err(error) => answer(Err(error)),
        }
    }

    /// Answers when the copy's log is in its file.
    fn fork(
        &mut self,
        from: &ConversationId,
        to: ConversationId,
        len: Option<usize>,
        answer: impl FnOnce(Result<(), ConversationError>) + Send + 'static,
    ) {
        let copied = self.idle(from).and_then(|source| {
            if self.conversations.find(&to).is_some() {
                return Err(ConversationError::Exists(to.clone()));
            }
            self.copy(from, len.unwrap_or(source.log.len()))
        });
        match copied {
            Ok(copy) => {
                let (commands, name) = (self.commands.clone(), to.clone());
                self.keep(to, copy, move |kept| {
                    if kept.is_err() {
                        // Nobody will ask for a copy that there is not. A step thread that is gone holds none.
                        let (reply, _) = oneshot::channel();
                        let _ = commands.send(Command::Delete { id: name, reply });
                    }
                    answer(kept.map_err(store_error));
                });
            }
            Err(error) => answer(Err(error)),
        }
    }

    /// The first `len` tokens of a conversation, with the KV-cache that memory and store hold of them.
    fn copy(&self, from: &ConversationId, len: usize) -> Result<Conversation, ConversationError> {
        let source = self.idle(from)?;
        let len = cut(source, len)?;
        // Without room the copy's KV-cache is read or rebuilt when it is needed.
        let cached = if self.has_room(source.cache.bytes_for(len)) {
            source.cache.fork(len)
        } else {
            Ok(self.model.new_cache())
        };
        let cache = cached.map_err(|error| ConversationError::Copy(error.to_string()))?;
        Ok(source.copy(from, len, cache))
    }

    fn rewind(&mut self, id: &ConversationId, len: usize) -> Result<(), ConversationError> {
        let len = cut(self.idle(id)?, len)?;
        if let Some(conversation) = self.conversations.idle_mut(id) {
            conversation.truncate(len);
            if let Some(store) = &self.store {
                store.save(id, conversation, |_| ());
            }
        }
        Ok(())
    }

    /// Answers when the log is in its file.
    fn import(
        &mut self,
        id: ConversationId,
        log: TokenLog,
        answer: impl FnOnce(Result<(), ConversationError>) + Send + 'static,
    ) {
        match self.conversations.find(&id) {
            Some(ConversationState::Busy(_)) => answer(Err(ConversationError::Busy(id))),
            Some(ConversationState::Idle(_)) => {
                let Some(conversation) = self.conversations.idle_mut(&id) else {
                    return;
                };
                conversation.replace_log(log);
                match &self.store {
                    Some(store) => store.save(&id, conversation, |stored| {
                        answer(stored.map_err(store_error));
                    }),
                    None => answer(Ok(())),
                }
            }
            None => {
                let conversation = Conversation::new(log, self.model.new_cache());
                self.keep(id, conversation, |stored| {
                    answer(stored.map_err(store_error));
                });
            }
        }
    }

    fn idle(&self, id: &ConversationId) -> Result<&Conversation, ConversationError> {
        match self.conversations.find(id) {
            None => Err(ConversationError::Unknown(id.clone())),
            Some(ConversationState::Busy(_)) => Err(ConversationError::Busy(id.clone())),
            Some(ConversationState::Idle(conversation)) => Ok(conversation),
        }
    }
}

fn store_error(error: io::Error) -> ConversationError {
    ConversationError::Store(error.to_string())
}

/// Checks that a log can be cut at `len`.
fn cut(conversation: &Conversation, len: usize) -> Result<usize, ConversationError> {
    let log = &conversation.log;
    if log.can_be_cut(len) {
        return Ok(len);
    }
    Err(ConversationError::Cut {
        len,
        log_len: log.len(),
    })
}
