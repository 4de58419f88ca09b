//! Idempotency keys: a request that a client sends twice with the same key begins only one turn.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use onegen_engine::ConversationId;
use tokio::sync::watch;

use crate::admission::Owner;
use crate::wire::errors::ApiError;

/// An owner and the key that its client gave a request.
type Key = (Owner, String);

/// The conversation in which a request has begun its turn; `None` until the turn has begun.
type BegunConversation = watch::Receiver<Option<ConversationId>>;

/// The keys of requests that are beginning, or whose recordings still exist.
#[derive(Default)]
pub(super) struct IdempotencyKeys {
    keys: DashMap<Key, HeldKey>,
}

struct HeldKey {
    /// The digest of the request.
    request: blake3::Hash,
    begun: BegunConversation,
}

/// A key that one request holds. Dropping it frees the key.
pub(crate) struct KeyClaim {
    keys: Arc<IdempotencyKeys>,
    key: Key,
    begun: watch::Sender<Option<ConversationId>>,
}

impl IdempotencyKeys {
    /// Claims a key, or returns the conversation of the request that holds it. Waits while that request
    /// is beginning.
    ///
    /// # Errors
    /// [`ApiError::IdempotencyKeyReused`] if another request holds it.
    pub(super) async fn claim(
        self: &Arc<Self>,
        owner: &Owner,
        key: &str,
        request: blake3::Hash,
    ) -> Result<Result<KeyClaim, ConversationId>, ApiError> {
        let key = (owner.clone(), key.to_owned());
        loop {
            // The key is looked up and taken in one step, so that two requests cannot both find it
            // free.
            let mut begun = match self.keys.entry(key.clone()) {
                Entry::Vacant(vacant) => {
                    let (sender, begun) = watch::channel(None);
                    vacant.insert(HeldKey { request, begun });
                    return Ok(Ok(KeyClaim {
                        keys: self.clone(),
                        key,
                        begun: sender,
                    }));
                }
                Entry::Occupied(held) if held.get().request != request => {
                    return Err(ApiError::IdempotencyKeyReused);
                }
                Entry::Occupied(held) => held.get().begun.clone(),
            };
            // Waiting fails when the other request was refused; then the key is free again.
            if let Ok(conversation) = begun.wait_for(Option::is_some).await
                && let Some(conversation) = conversation.clone()
            {
                return Ok(Err(conversation));
            }
        }
    }
}

impl KeyClaim {
    /// Tells the requests that wait for this key in which conversation the turn has begun.
    pub(super) fn begun(&self, conversation: ConversationId) {
        self.begun.send_replace(Some(conversation));
    }

    /// Whether the claim is for this key.
    pub(super) fn is(&self, owner: &Owner, key: &str) -> bool {
        self.key.0 == *owner && self.key.1 == key
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        // The sender is dropped after this, so that requests that wait for it find the key free.
        self.keys.keys.remove(&self.key);
    }
}
