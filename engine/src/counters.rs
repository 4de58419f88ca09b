//! What the engine counts: positions forwarded by kind, and how full it is.

use std::ops::{AddAssign, Index, IndexMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::tokens::token_log::SpanKind;

/// Positions forwarded, by the kind of their token.
///
/// A generated token is counted when it is forwarded, so the last sampled token of a turn is not
/// counted unless the conversation goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForwardedTokens {
    counts: [u64; 4],
}

impl ForwardedTokens {
    /// Positions of all kinds together.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (SpanKind, u64)> + '_ {
        SpanKind::ALL.into_iter().map(|kind| (kind, self[kind]))
    }

    /// Counts of the given kinds, one position each.
    pub fn from_kinds(kinds: &[SpanKind]) -> Self {
        let mut counted = Self::default();
        for &kind in kinds {
            counted[kind] += 1;
        }
        counted
    }
}

impl Index<SpanKind> for ForwardedTokens {
    type Output = u64;

    fn index(&self, kind: SpanKind) -> &u64 {
        &self.counts[kind as usize]
    }
}

impl IndexMut<SpanKind> for ForwardedTokens {
    fn index_mut(&mut self, kind: SpanKind) -> &mut u64 {
        &mut self.counts[kind as usize]
    }
}

impl AddAssign for ForwardedTokens {
    fn add_assign(&mut self, other: Self) {
        for kind in SpanKind::ALL {
            self[kind] += other[kind];
        }
    }
}

/// How full the engine is, at the end of its last step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Turns accepted that hold a place in the batch, retrieving ones included.
    pub running: u64,
    /// Turns accepted that wait for a place.
    pub waiting: u64,
    /// Turns parked until their retriever answers.
    pub retrieving: u64,
    /// Conversations held, busy ones included.
    pub conversations: u64,
    /// Bytes held by KV-caches.
    pub kv_bytes: u64,
    /// Bytes that KV-caches may hold.
    pub kv_budget_bytes: u64,
    /// Steps done since the start.
    pub steps: u64,
    /// KV-caches dropped to stay under the budget, to be read back or rebuilt from their token logs.
    pub kv_dropped: u64,
    /// KV-caches read back from the store.
    pub kv_restored: u64,
    /// Bytes that keys and values take in the store.
    pub kv_store_bytes: u64,
    /// How often the store could not write, read or delete something.
    pub store_failures: u64,
    /// Retrieved passages whose keys and values were kept.
    pub passage_hits: u64,
    /// Retrieved passages whose keys and values were computed, of a model whose passages can be kept.
    pub passage_misses: u64,
    /// Passages that others pushed out of memory.
    pub passage_evictions: u64,
    /// Bytes that kept passages take in memory.
    pub passage_bytes: u64,
    /// Bytes that kept passages take on the disk.
    pub passage_disk_bytes: u64,
}

macro_rules! counters {
    ($($field:ident),*) => {
        /// The engine's counters, written by the step thread and read by anyone.
        #[derive(Debug, Default)]
        pub struct Counters {
            forwarded: [AtomicU64; 4],
            $($field: AtomicU64,)*
        }

        impl Counters {
            /// How full the engine is.
            pub fn stats(&self) -> EngineStats {
                EngineStats { $($field: self.$field.load(Ordering::Relaxed),)* }
            }

            pub(crate) fn set_stats(&self, stats: EngineStats) {
                $(self.$field.store(stats.$field, Ordering::Relaxed);)*
            }
        }
    };
}

counters!(
    running,
    waiting,
    retrieving,
    conversations,
    kv_bytes,
    kv_budget_bytes,
    steps,
    kv_dropped,
    kv_restored,
    kv_store_bytes,
    store_failures,
    passage_hits,
    passage_misses,
    passage_evictions,
    passage_bytes,
    passage_disk_bytes
);

impl Counters {
    /// Positions forwarded since the start.
    pub fn forwarded(&self) -> ForwardedTokens {
        let mut forwarded = ForwardedTokens::default();
        for kind in SpanKind::ALL {
            forwarded[kind] = self.forwarded[kind as usize].load(Ordering::Relaxed);
        }
        forwarded
    }

    pub(crate) fn add_forwarded(&self, forwarded: ForwardedTokens) {
        for (kind, count) in forwarded.iter() {
            self.forwarded[kind as usize].fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_by_kind() {
        let counters = Counters::default();
        let step =
            ForwardedTokens::from_kinds(&[SpanKind::Prompt, SpanKind::Passage, SpanKind::Passage]);
        counters.add_forwarded(step);
        counters.add_forwarded(step);
        let sum = counters.forwarded();
        assert_eq!(sum.total(), 6);
        assert_eq!(sum[SpanKind::Passage], 4);
        assert_eq!(sum[SpanKind::Retrieval], 0);
    }
}
