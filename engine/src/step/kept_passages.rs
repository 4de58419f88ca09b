//! Splices passages whose keys and values are kept, and keeps those that were computed.

use std::collections::HashSet;
use std::sync::Arc;

use super::StepLoop;
use crate::conversations::Conversation;
use crate::model::{BlockDigest, PassageBlock};
use crate::passages::PassageCache;
use crate::step::sequence::Sequence;

impl StepLoop {
    /// Splices every kept block that stands where a running sequence's KV-cache ends: at a retrieval, and where a
    /// log is forwarded again. Returns how many tokens each sequence may forward then. It stops before a kept block,
    /// and it waits where an earlier sequence computes the same block.
    pub(super) fn splice_kept(&mut self) -> Vec<usize> {
        let Some(passages) = self.passages.clone() else {
            return self.running.iter().map(Sequence::pending).collect();
        };
        let mut computing = HashSet::new();
        (0..self.running.len())
            .map(|index| self.splice_kept_of(index, &passages, &mut computing))
            .collect()
    }

    fn splice_kept_of(
        &mut self,
        index: usize,
        passages: &Arc<PassageCache>,
        computing: &mut HashSet<BlockDigest>,
    ) -> usize {
        loop {
            let sequence = &self.running[index];
            let pending = sequence.pending();
            let (Some(marks), true) = (self.rules.tokens.block_marks(), pending > 0) else {
                return pending;
            };
            let Conversation { log, cache, .. } = &sequence.turn.conversation;
            let begins = cache.landed();
            let ids = &log.ids()[begins..];
            let Some((before, len)) = marks.first_block(ids) else {
                return pending;
            };
            let block = BlockDigest::of(&ids[before..before + len]);
            if cache.open_len() > 0 {
                computing.insert(block);
                return pending;
            }
            // The last token of a log is forwarded in any case: its logits are wanted.
            if before + len == ids.len() {
                return pending;
            }
            if before > 0 {
                return if passages.contains(block) {
                    before
                } else {
                    pending
                };
            }
            let Some((kv, source)) = passages.get(block) else {
                return if computing.insert(block) { pending } else { 0 };
            };
            let growth = cache.bytes_for(begins + len).saturating_sub(cache.bytes());
            // Whoever loses its KV-cache here comes later, and nothing is planned for it yet.
            let mut unplanned = vec![0; self.running.len()];
            if !self.make_room(growth, index, &mut unplanned) {
                return pending;
            }
            let sequence = &mut self.running[index];
            let spliced = self
                .model
                .splice(&mut sequence.turn.conversation.cache, &kv);
            match spliced {
                Ok(()) => {
                    if sequence.on_kept_block(len, source) {
                        passages.count(true);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a kept passage cannot be spliced and is computed");
                    return pending;
                }
            }
        }
    }

    /// Keeps the block that a forward has completed last, if it is the one that the sequence has retrieved.
    pub(super) fn keep_passage(&mut self, index: usize, block: Option<PassageBlock>) {
        let (Some(passages), Some(block)) = (&self.passages, block) else {
            return;
        };
        let Some(spliced) = self.running[index].computed_splice() else {
            return;
        };
        passages.count(false);
        match block.to_kv() {
            Ok(kv) => passages.insert(spliced.block, spliced.name, kv, spliced.since),
            Err(error) => tracing::warn!(%error, "a passage cannot be kept"),
        }
    }
}
