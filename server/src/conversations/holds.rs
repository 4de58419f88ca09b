//! Holding a conversation, so that nothing else changes it as a whole meanwhile.

use std::collections::HashSet;
use std::sync::Arc;

use onegen_engine::ConversationId;

use super::shared_store::LeaseNumber;
use super::{Conversations, Transcript};
use crate::admission::Owner;
use crate::wire::errors::ApiError;

/// Held from the moment when a turn, a deletion or an addition reads the transcript until what it made of it
/// is stored. So nothing is written back over what somebody else has stored meanwhile, and nothing that was
/// deleted comes back.
pub(crate) struct ConversationHold {
    conversations: Arc<Conversations>,
    id: ConversationId,
    /// The lease that goes with it, of a conversation that servers share.
    pub(super) lease: Option<LeaseNumber>,
}

/// The names of the conversations that are held.
pub(super) type HeldIds = HashSet<ConversationId>;

impl Conversations {
    /// Holds the owner's conversation on this server, and returns its transcript with the hold.
    ///
    /// # Errors
    /// [`ApiError::ConversationNotFound`], and [`ApiError::ConversationBusy`] if it is held already.
    pub(super) fn hold_here(
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
            lease: None,
        };
        Ok((transcript, hold))
    }
}

impl Drop for ConversationHold {
    fn drop(&mut self) {
        let conversations = &self.conversations;
        if let (Some(lease), Some(store)) = (self.lease, conversations.shared_store()) {
            store.release(&self.id, lease);
        }
        conversations.state.lock().held.remove(&self.id);
    }
}
