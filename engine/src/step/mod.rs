//! The step loop, owned by one thread: receive commands, schedule, forward, sample, emit.

pub(crate) mod command;
mod intake;
mod kept_passages;
mod memory;
pub(crate) mod options;
mod plan;
mod sequence;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use crate::conversations::store::{Store, StoredConversation};
use crate::conversations::{Conversation, Conversations};
use crate::counters::{Counters, EngineStats};
use crate::error::EngineError;
use crate::ids::ConversationId;
use crate::model::{Model, SequenceInput, SequenceOutput};
use crate::passages::PassageCache;
use crate::step::command::Command;
use crate::step::options::EngineOptions;
use crate::step::sequence::{FinishedSequence, Next, Rules, Sequence};
use crate::turn::retrieval::RetrievalWorkers;

/// Everything that happens to conversations happens here, one step after another.
pub(crate) struct StepLoop {
    model: Arc<Model>,
    workers: RetrievalWorkers,
    store: Option<Store>,
    passages: Option<Arc<PassageCache>>,
    options: EngineOptions,
    rules: Rules,
    counters: Arc<Counters>,
    inbox: Receiver<Command>,
    /// For turns, so that they can cancel themselves.
    commands: Sender<Command>,
    conversations: Conversations,
    /// In order of arrival.
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    sequences_so_far: u64,
    steps: u64,
    kv_dropped: u64,
    kv_restored: u64,
    /// Bytes of the KV-caches that the store is reading.
    kv_restoring_bytes: usize,
}

impl StepLoop {
    pub(crate) fn new(
        model: Arc<Model>,
        workers: RetrievalWorkers,
        store: Option<(Store, Vec<StoredConversation>)>,
        options: EngineOptions,
        counters: Arc<Counters>,
        inbox: Receiver<Command>,
        commands: Sender<Command>,
    ) -> Self {
        let budget_positions = model.positions_in(options.kv_bytes);
        let rules = Rules {
            tokens: model.tokens().clone(),
            never_sampled: model.tokens().never_sampled(model.config().vocab_size),
            // **Invariant:** one sequence alone always fits the KV budget, so somebody always goes on.
            context: model.max_positions().min(budget_positions),
        };
        let (store, stored) = store.unzip();
        let passages = workers.passages();
        let mut conversations = Conversations::default();
        for StoredConversation {
            id,
            log,
            kv_positions,
        } in stored.unwrap_or_default()
        {
            let mut conversation = Conversation::new(log, model.new_cache());
            conversation.stored = kv_positions;
            conversations.put_back(id, conversation);
        }
        Self {
            model,
            workers,
            store,
            passages,
            options,
            rules,
            counters,
            inbox,
            commands,
            conversations,
            running: Vec::new(),
            waiting: VecDeque::new(),
            sequences_so_far: 0,
            steps: 0,
            kv_dropped: 0,
            kv_restored: 0,
            kv_restoring_bytes: 0,
        }
    }

    /// Runs until the last handle is dropped; turns under way then fail.
    pub(crate) fn run(mut self) {
        self.forget_beyond_limit();
        self.publish();
        let mut forwarded = false;
        // Only commands change what can be forwarded: after a step without any, wait for one.
        while self.receive(!forwarded).is_continue() {
            self.admit();
            let parts = self.schedule();
            forwarded = self.step(&parts);
            self.publish();
        }
        for sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            sequence.abandon(Some(EngineError::Stopped), |_, _| ());
        }
    }

    /// Gives free places in the batch to those that wait longest.
    fn admit(&mut self) {
        while self.running.len() < self.options.max_sequences {
            // One at a time: the KV-caches of those that wait count when one is read back.
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            if !self.restore(&mut sequence) {
                sequence.admit();
            }
            self.running.push(sequence);
        }
    }

    /// Forwards each sequence's part, samples, and sends the turns their events. False where there is nothing to forward.
    fn step(&mut self, parts: &[usize]) -> bool {
        let planned: Vec<_> = (0..parts.len()).filter(|&i| parts[i] > 0).collect();
        if planned.is_empty() {
            return false;
        }
        self.steps += 1;
        let nexts: Vec<_> = match self.forward(parts) {
            Ok(outputs) => planned
                .into_iter()
                .zip(outputs)
                .map(|(index, output)| (index, self.advance(index, output)))
                .collect(),
            Err(error) => planned
                .into_iter()
                .map(|index| (index, Next::Fail(error.clone())))
                .collect(),
        };
        // From the last to the first, so that removing one moves none that is still to come.
        for (index, next) in nexts.into_iter().rev() {
            self.conclude(index, next);
        }
        true
    }

    /// One forward over all parts.
    fn forward(&mut self, parts: &[usize]) -> Result<Vec<SequenceOutput>, EngineError> {
        let of_each = self.running.iter().zip(parts);
        let wanted: Vec<_> = of_each.map(|(s, &part)| s.wanted(part)).collect();
        let mut batch = Vec::new();
        let began = Instant::now();
        for ((sequence, &part), wanted) in self.running.iter_mut().zip(parts).zip(&wanted) {
            if part == 0 {
                continue;
            }
            sequence.on_step(began);
            let Conversation { log, cache, .. } = &mut sequence.turn.conversation;
            let new = cache.len()..cache.len() + part;
            batch.push(SequenceInput {
                ids: &log.ids()[new.clone()],
                kinds: &log.kinds()[new],
                cache,
                hidden_at: &wanted.hidden,
                logits_at: &wanted.logits,
            });
        }
        self.model
            .forward(&mut batch)
            .map_err(|error| EngineError::Forward(error.to_string()))
    }

    /// Takes in what the forward gave one sequence.
    fn advance(&mut self, index: usize, mut output: SequenceOutput) -> Next {
        self.keep_passage(index, output.passages.pop());
        let sequence = &mut self.running[index];
        // **Invariant:** positions are counted where they are forwarded, and nowhere else.
        sequence.count(output.forwarded);
        self.counters.add_forwarded(output.forwarded);
        sequence.on_output(output, &self.rules, &self.workers)
    }

    /// Ends a running sequence that is over.
    ///
    /// **Invariant:** every accepted request ends exactly once: a sequence is consumed by its end.
    fn conclude(&mut self, index: usize, next: Next) {
        match next {
            Next::GoOn => {}
            Next::Finish(reason) => {
                let sequence = self.running.remove(index);
                let FinishedSequence {
                    name,
                    kept,
                    last_event,
                } = sequence.finish(reason);
                match kept {
                    Some(conversation) => {
                        let commands = self.commands.clone();
                        self.keep(name, conversation, move |stored| match stored {
                            Ok(()) => last_event.send(),
                            Err(error) => {
                                let unstored = last_event.not_stored(error.to_string());
                                // Without a step thread the turn fails because its channel closes.
                                let _ = commands.send(Command::NotStored(unstored));
                            }
                        });
                    }
                    None => {
                        self.conversations.remove(&name);
                        last_event.send();
                    }
                }
            }
            Next::Fail(error) => {
                let sequence = self.running.remove(index);
                self.abandon(sequence, Some(error));
            }
        }
    }

    /// Takes a conversation in, and calls `then` when it is safe, or when it turns out that its log cannot be
    /// written.
    fn keep(
        &mut self,
        name: ConversationId,
        mut conversation: Conversation,
        then: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        match &self.store {
            Some(store) => store.save(&name, &mut conversation, then),
            None => then(Ok(())),
        }
        self.conversations.put_back(name, conversation);
        self.forget_beyond_limit();
    }

    fn forget_beyond_limit(&mut self) {
        let limit = self.options.max_conversations;
        while let Some(id) = self.conversations.one_beyond(limit) {
            self.forget(id, |_| ());
        }
    }

    /// Forgets a conversation, here and in the store, and calls `then` when its files are gone or cannot be
    /// deleted.
    fn forget(&mut self, id: ConversationId, then: impl FnOnce(io::Result<()>) + Send + 'static) {
        self.conversations.remove(&id);
        match &self.store {
            Some(store) => store.remove(id, then),
            None => then(Ok(())),
        }
    }

    /// **Invariant:** a cancelled or failed turn leaves its conversation as it was before the turn.
    fn abandon(&mut self, sequence: Sequence, error: Option<EngineError>) {
        sequence.abandon(error, |name, kept| match kept {
            Some(conversation) => self.conversations.put_back(name, conversation),
            // The store may hold it: a conversation can be cut back to nothing by a rewind.
            None => self.forget(name, |_| ()),
        });
    }

    /// Publishes how full the engine is.
    fn publish(&self) {
        let passages = self.passages.as_ref();
        let passages = passages.map_or_else(Default::default, |passages| passages.stats());
        self.counters.set_stats(EngineStats {
            passage_hits: passages.hits,
            passage_misses: passages.misses,
            passage_evictions: passages.evictions,
            passage_bytes: passages.bytes,
            passage_disk_bytes: passages.disk_bytes,
            running: self.running.len() as u64,
            waiting: self.waiting.len() as u64,
            retrieving: self.running.iter().filter(|s| s.is_retrieving()).count() as u64,
            conversations: self.conversations.len() as u64,
            kv_bytes: self.kv_bytes() as u64,
            kv_budget_bytes: self.options.kv_bytes as u64,
            steps: self.steps,
            kv_dropped: self.kv_dropped,
            kv_restored: self.kv_restored,
            kv_store_bytes: self.store.as_ref().map_or(0, Store::kv_bytes),
            store_failures: self.store.as_ref().map_or(0, Store::failures),
        });
    }
}
