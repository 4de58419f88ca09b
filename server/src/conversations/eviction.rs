//! Chooses the conversation that is evicted to make room for a new one.

use std::collections::HashMap;

use onegen_engine::ConversationId;

use crate::admission::{Owner, first_to_go};

/// One in so many of an owner's conversations may be of one turn, and one in any case.
const SINGLE_TURNS: usize = 4;

/// A conversation that can be evicted.
#[derive(Clone, Copy)]
pub(super) struct EvictionCandidate<'c> {
    pub(super) id: &'c ConversationId,
    pub(super) owner: &'c Owner,
    /// Larger the later it was used.
    pub(super) last_used: u64,
    /// Whether its client has named it or continued it.
    pub(super) goes_on: bool,
}

/// The least recently used conversation of the owner with the most conversations. If several owners have equally
/// many, it is the least recently used of all theirs.
///
/// Front ends send requests that nobody ever continues, for titles and tags of a chat. So conversations that
/// have had one turn, and that no client names, have a share of their owner's: beyond it they make room for each
/// other, and within it the others do. Thus neither pushes out the other, and what has just begun can be continued.
pub(super) fn one_too_many<'c>(
    candidates: impl Iterator<Item = EvictionCandidate<'c>> + Clone,
) -> Option<ConversationId> {
    // All and those of one turn.
    let mut counts: HashMap<&Owner, (usize, usize)> = HashMap::new();
    for candidate in candidates.clone() {
        let (all, single) = counts.entry(candidate.owner).or_default();
        *all += 1;
        *single += usize::from(!candidate.goes_on);
    }
    let makes_room = |candidate: &EvictionCandidate<'_>| {
        counts.get(candidate.owner).is_some_and(|(all, single)| {
            let too_many_single = *single > (all / SINGLE_TURNS).max(1) || single == all;
            candidate.goes_on != too_many_single
        })
    };
    let candidates = candidates.map(|candidate| {
        let age = makes_room(&candidate).then_some(candidate.last_used);
        (candidate.owner, age, candidate.id)
    });
    first_to_go(candidates).cloned()
}
