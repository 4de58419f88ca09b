//! How many tokens each sequence forwards in a step, and the memory for them.

use super::StepLoop;
use crate::conversations::Conversation;
use crate::step::plan::{Pending, plan};
use crate::step::sequence::Sequence;

impl StepLoop {
    /// How many tokens each running sequence forwards in this step.
    ///
    /// **Invariant:** KV-caches grow only as far as it was found here that they stay under the
    /// budget.
    pub(super) fn schedule(&mut self) -> Vec<usize> {
        let pending = self.splice_kept().into_iter().zip(&self.running);
        let pending: Vec<_> = pending
            .map(|(tokens, sequence)| Pending {
                tokens,
                drafted: sequence.drafted().min(tokens),
            })
            .collect();
        let mut parts = plan(&pending, self.options.max_step_tokens);
        let mut promised = 0;
        for index in 0..parts.len() {
            if parts[index] == 0 {
                continue;
            }
            let Conversation { log, cache, .. } = &self.running[index].turn.conversation;
            let new = &log.ids()[cache.len()..][..parts[index]];
            let needed = self.model.bytes_after(cache, new);
            let growth = needed.saturating_sub(cache.bytes());
            if self.make_room(promised + growth, index, &mut parts) {
                promised += growth;
            } else {
                parts[index] = 0;
            }
        }
        parts
    }

    /// Has the store read what it holds of the sequence's KV-cache and memory does not; false where
    /// there is nothing to read or no room for it.
    pub(super) fn restore(&mut self, sequence: &mut Sequence) -> bool {
        let conversation = &mut sequence.turn.conversation;
        // Nothing of a later turn of the source is written before this is read, since turns are admitted in order. Later
        // its file may hold something else.
        let (source, positions) = match conversation.kv_source.take() {
            Some(source) => (source.conversation, source.positions),
            None => (sequence.name.clone(), conversation.stored),
        };
        if positions <= conversation.cache.len() {
            return false;
        }
        conversation.cache.clear();
        let needed = conversation.cache.bytes_for(positions);
        while !self.has_room(needed) {
            if !self.conversations.drop_least_recent_kv() {
                return false;
            }
            self.kv_dropped += 1;
        }
        let mut cache = self.model.new_cache();
        let Some(store) = &self.store else {
            return false;
        };
        if cache.reserve(positions).is_err() {
            return false;
        }
        self.kv_restoring_bytes += cache.bytes();
        store.load(source, sequence.turn.id, positions, cache);
        sequence.restore();
        true
    }

    /// Drops KV-caches until `growth` more bytes fit: idle ones first, then those of sequences that
    /// came after `index`, the last first. All are read back or rebuilt from their logs when their turn
    /// comes. False when that is not enough.
    pub(super) fn make_room(&mut self, growth: usize, index: usize, parts: &mut [usize]) -> bool {
        while growth > 0 && self.kv_bytes() + growth > self.options.kv_bytes {
            if !self.conversations.drop_least_recent_kv()
                && !self.drop_waiting_kv()
                && !self.drop_later_kv(index, parts)
            {
                return false;
            }
            self.kv_dropped += 1;
        }
        true
    }

    /// Drops the KV-cache of the last waiting sequence that brought one along.
    fn drop_waiting_kv(&mut self) -> bool {
        let mut caches = (self.waiting.iter_mut()).map(|s| &mut s.turn.conversation.cache);
        match caches.rfind(|cache| cache.bytes() > 0) {
            Some(cache) => {
                cache.clear();
                true
            }
            None => false,
        }
    }

    /// Drops the KV-cache of the last running sequence after `index` that is not parked: a parked
    /// one would have to forward its query again.
    fn drop_later_kv(&mut self, index: usize, parts: &mut [usize]) -> bool {
        let later = (index + 1..self.running.len()).rev().find(|&later| {
            let sequence = &self.running[later];
            sequence.turn.conversation.cache.bytes() > 0 && !sequence.is_retrieving()
        });
        let Some(later) = later else { return false };
        self.running[later].turn.conversation.cache.clear();
        parts[later] = 0;
        true
    }

    /// Whether so many bytes fit as it is.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.kv_bytes() + bytes <= self.options.kv_bytes
    }

    /// Bytes held by all KV-caches; a block that several share counts for each.
    pub(super) fn kv_bytes(&self) -> usize {
        let held = |s: &Sequence| s.turn.conversation.cache.bytes();
        self.kv_restoring_bytes
            + self.conversations.idle_kv_bytes()
            + self
                .running
                .iter()
                .chain(&self.waiting)
                .map(held)
                .sum::<usize>()
    }
}
