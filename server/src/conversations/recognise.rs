//! Recognising a conversation by the messages that its client sends back.

use std::collections::HashMap;

use onegen_engine::{ChatMessage, ConversationId, Role};
use uuid::Uuid;

use crate::admission::Owner;
use crate::conversations::transcript::Transcript;

/// A chained digest of roles and contents: it covers a message and all messages before it.
pub(super) type Digest = blake3::Hash;

/// Bytes of the salt of digests.
pub(super) const SALT_BYTES: usize = 32;

/// A salt that cannot be guessed.
pub(super) fn new_salt() -> [u8; SALT_BYTES] {
    let mut salt = [0; SALT_BYTES];
    salt[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    salt[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    salt
}

/// Makes the digests of transcripts. They are salted, so that a digest reveals nothing about a text.
pub(super) struct TranscriptDigests {
    salt: [u8; SALT_BYTES],
}

impl TranscriptDigests {
    /// With a salt that nobody else has.
    pub(super) fn new() -> Self {
        Self::with_salt(new_salt())
    }

    /// With the salt of other servers, whose digests are then the same.
    pub(super) fn with_salt(salt: [u8; SALT_BYTES]) -> Self {
        Self { salt }
    }

    /// For each message the digest of it and all before it. The chain begins with the owner and the
    /// instructions, so that equal messages of two owners, or after other instructions, have different digests.
    pub(super) fn chain(
        &self,
        messages: &[ChatMessage],
        owner: &Owner,
        instructions: Option<&str>,
    ) -> Vec<Digest> {
        let of = |text: Option<&str>| match text {
            None => Digest::from_bytes([0; 32]),
            Some(text) => blake3::keyed_hash(&self.salt, text.as_bytes()),
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.salt);
        hasher.update(of(owner.name().map(AsRef::as_ref)).as_bytes());
        hasher.update(of(instructions).as_bytes());
        let beginning = hasher.finalize();
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

/// A conversation that messages begin like.
#[derive(Debug, PartialEq)]
pub(crate) struct Recognised {
    pub(crate) id: ConversationId,
    pub(crate) transcript: Transcript,
    /// `None` if they begin with the whole transcript. Else they begin like it for so many messages, up to the
    /// end of one of its turns, and may only continue a copy of that part.
    pub(crate) part: Option<usize>,
}

/// The digests by which a transcript is recognised.
pub(super) struct TranscriptHeads {
    /// That of all messages; `None` without messages.
    whole: Option<Digest>,
    /// Those of its beginnings that end where a turn did.
    parts: Vec<Digest>,
}

impl TranscriptHeads {
    /// `chain` holds the digests of the transcript's messages.
    pub(super) fn new(transcript: &Transcript, chain: &[Digest]) -> Self {
        let all = chain.len();
        let ends = transcript.turns.iter().map(|turn| turn.messages);
        let ends = ends.filter(|messages| (1..all).contains(messages));
        Self {
            whole: chain.last().copied(),
            parts: ends.map(|messages| chain[messages - 1]).collect(),
        }
    }
}

type ByDigest = HashMap<Digest, Vec<ConversationId>>;

/// Conversations by their heads.
#[derive(Default)]
pub(super) struct Heads {
    whole: ByDigest,
    parts: ByDigest,
}

impl Heads {
    pub(super) fn insert(&mut self, heads: &TranscriptHeads, id: &ConversationId) {
        let add = |to: &mut ByDigest, digest: &Digest| {
            to.entry(*digest).or_default().push(id.clone());
        };
        heads.whole.iter().for_each(|one| add(&mut self.whole, one));
        heads.parts.iter().for_each(|one| add(&mut self.parts, one));
    }

    pub(super) fn remove(&mut self, heads: &TranscriptHeads, id: &ConversationId) {
        let remove = |from: &mut ByDigest, digest: &Digest| {
            if let Some(ids) = from.get_mut(digest) {
                ids.retain(|other| other != id);
                if ids.is_empty() {
                    from.remove(digest);
                }
            }
        };
        heads
            .whole
            .iter()
            .for_each(|one| remove(&mut self.whole, one));
        heads
            .parts
            .iter()
            .for_each(|one| remove(&mut self.parts, one));
    }

    /// The conversations with the longest transcript, or part of one, that is the beginning of these
    /// messages. If it is a part, its number of messages comes with them. `chain` holds the messages'
    /// digests.
    pub(super) fn longest(
        &self,
        messages: &[ChatMessage],
        chain: &[Digest],
    ) -> (&[ConversationId], Option<usize>) {
        let ends = messages.iter().zip(chain).enumerate().rev();
        for (at, (message, digest)) in ends {
            if message.role != Role::Assistant {
                continue;
            }
            if let Some(ids) = self.whole.get(digest) {
                return (ids, None);
            }
            if let Some(ids) = self.parts.get(digest) {
                return (ids, Some(at + 1));
            }
        }
        (&[], None)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.whole.len()
    }
}
