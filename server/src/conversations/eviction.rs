//! Chooses the conversation that is evicted to make room for a new one.

use std::collections::HashMap;

use onegen_engine::ConversationId;

use crate::admission::Owner;

/// The least recently continued conversation of the owner with the most conversations. If several
/// owners have equally many, it is the least recently continued of all theirs. Each conversation
/// comes with its owner and the time of its last use.
pub(super) fn one_too_many<'c>(
    conversations: impl Iterator<Item = (&'c ConversationId, &'c Owner, u64)> + Clone,
) -> Option<ConversationId> {
    let mut counts: HashMap<&Owner, usize> = HashMap::new();
    for (_, owner, _) in conversations.clone() {
        *counts.entry(owner).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    let candidates = conversations.filter(|(_, owner, _)| counts.get(owner) == Some(&most));
    let oldest = candidates.min_by_key(|(_, _, last_used)| *last_used);
    oldest.map(|(id, _, _)| id.clone())
}
