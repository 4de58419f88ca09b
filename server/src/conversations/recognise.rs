//! Recognising a conversation by the messages that its client sends back.

use std::collections::HashMap;

use onegen_engine::{ChatMessage, ConversationId, Role};
use uuid::Uuid;

use crate::admission::Owner;

/// A chained digest of roles and contents: it covers a message and all messages before it.
pub(super) type Digest = blake3::Hash;

/// Makes the digests of transcripts. They are salted, so that a digest reveals nothing about a text.
pub(super) struct TranscriptDigests {
    salt: [u8; 32],
}

impl TranscriptDigests {
    pub(super) fn new() -> Self {
        let mut salt = [0; 32];
        salt[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        salt[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Self { salt }
    }

    /// For each message the digest of it and all before it. The chain begins with the owner, so that
    /// equal messages of two owners have different digests.
    pub(super) fn chain(&self, messages: &[ChatMessage], owner: &Owner) -> Vec<Digest> {
        let beginning = match owner.name() {
            None => Digest::from_bytes([0; 32]),
            Some(name) => blake3::keyed_hash(&self.salt, name.as_bytes()),
        };
        messages
            .iter()
            .scan(beginning, |before, message| {
                // Clients trim messages before they show them and send them back.
                let content = message.content.trim();
                let role: &[u8] = match message.role {
                    Role::System => b"s",
                    Role::User => b"u",
                    Role::Assistant => b"a",
                };
                let mut hasher = blake3::Hasher::new_keyed(&self.salt);
                hasher.update(before.as_bytes());
                hasher.update(role);
                hasher.update(content.as_bytes());
                *before = hasher.finalize();
                Some(*before)
            })
            .collect()
    }
}

/// Conversations by their heads: the digests of their whole transcripts.
#[derive(Default)]
pub(super) struct Heads {
    conversations: HashMap<Digest, Vec<ConversationId>>,
}

impl Heads {
    pub(super) fn insert(&mut self, head: Digest, id: ConversationId) {
        self.conversations.entry(head).or_default().push(id);
    }

    pub(super) fn remove(&mut self, head: &Digest, id: &ConversationId) {
        if let Some(ids) = self.conversations.get_mut(head) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.conversations.remove(head);
            }
        }
    }

    /// The conversations with the longest whole transcript that is the beginning of these messages.
    /// `chain` holds the messages' digests.
    pub(super) fn longest(&self, messages: &[ChatMessage], chain: &[Digest]) -> &[ConversationId] {
        let ends = messages.iter().zip(chain).rev();
        let mut ends = ends.filter(|(message, _)| message.role == Role::Assistant);
        ends.find_map(|(_, digest)| self.conversations.get(digest))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.conversations.len()
    }
}
