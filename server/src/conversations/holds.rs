//! Holding a conversation, so that nothing else changes it as a whole meanwhile.

use std::collections::HashSet;
use std::sync::Arc;

use onegen_engine::ConversationId;

use super::{Conversations, Transcript};
use crate::admission::Owner;
use crate::wire::errors::ApiError;

/// Held from the moment when a turn, a deletion or an addition reads the transcript until what it made of it
/// is stored. So nothing is written back over what somebody else has stored meanwhile, and nothing that was
/// deleted comes back.
pub(crate) struct ConversationHold {
    conversations: Arc<Conversations>,
    id: ConversationId,
}

/// The names of the conversations that are held.
pub(super) type HeldIds = HashSet<ConversationId>;

impl Conversations {
    /// Holds the owner's conversation, and returns its transcript with the hold.
    ///
    /// # Errors
    /// [`ApiError::ConversationNotFound`], and [`ApiError::ConversationBusy`] if it is held already.
    pub(crate) fn hold(
        self: &Arc<Self>,
        id: &ConversationId,
        owner: &Owner,
    ) -> Result<(Transcript, ConversationHold), ApiError> {
        let mut state = self.state.lock();
        let held = state.conversations.get(id);
        let transcript = held.map(|held| &held.stored.transcript);
        let Some(transcript) = transcript.filter(|found| found.owner == *owner).cloned() else {
            return Err(ApiError::ConversationNotFound(id.to_string()));
        };
        if !state.held.insert(id.clone()) {
            return Err(ApiError::ConversationBusy(id.to_string()));
        }
        let hold = ConversationHold {
            conversations: self.clone(),
            id: id.clone(),
        };
        Ok((transcript, hold))
    }
}

impl Drop for ConversationHold {
    fn drop(&mut self) {
        self.conversations.state.lock().held.remove(&self.id);
    }
}
