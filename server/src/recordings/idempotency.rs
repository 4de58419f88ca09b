//! Requests that their client names, so that one that comes twice is answered once.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use onegen_engine::ConversationId;
use tokio::sync::watch;

use crate::admission::Owner;

/// An owner and what its client calls a request.
type Key = (Owner, String);

/// The conversation that a request has begun a turn of, once it has.
type BegunConversation = watch::Receiver<Option<ConversationId>>;

/// The keys of the requests that are being begun, or whose recordings are still there.
#[derive(Default)]
pub(super) struct IdempotencyKeys {
    keys: DashMap<Key, BegunConversation>,
}

/// A key that one request holds. Dropped, it is free again.
pub(crate) struct KeyClaim {
    keys: Arc<IdempotencyKeys>,
    key: Key,
    begun: watch::Sender<Option<ConversationId>>,
}

impl IdempotencyKeys {
    /// Claims a key, or gives the conversation of the request that holds it. Waits while that request is
    /// being begun.
    pub(super) async fn claim(
        self: &Arc<Self>,
        owner: &Owner,
        key: &str,
    ) -> Result<KeyClaim, ConversationId> {
        let key = (owner.clone(), key.to_owned());
        loop {
            // One step looks the key up and takes it, so that two requests cannot both find it free.
            let mut begun = match self.keys.entry(key.clone()) {
                Entry::Vacant(vacant) => {
                    let (sender, begun) = watch::channel(None);
                    vacant.insert(begun);
                    return Ok(KeyClaim {
                        keys: self.clone(),
                        key,
                        begun: sender,
                    });
                }
                Entry::Occupied(held) => held.get().clone(),
            };
            // Waiting fails when the other request was refused; then the key is free again.
            if let Ok(conversation) = begun.wait_for(Option::is_some).await
                && let Some(conversation) = conversation.clone()
            {
                return Err(conversation);
            }
        }
    }
}

impl KeyClaim {
    /// Lets those who wait for this key know which turn has begun.
    pub(super) fn begun(&self, conversation: ConversationId) {
        self.begun.send_replace(Some(conversation));
    }

    /// Whether it is this key.
    pub(super) fn is(&self, owner: &Owner, key: &str) -> bool {
        self.key.0 == *owner && self.key.1 == key
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        // The sender goes after this, so that those who wait for it find the key free.
        self.keys.keys.remove(&self.key);
    }
}
