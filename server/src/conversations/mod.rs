//! Keeps the visible messages of conversations, and finds the conversation that a request
//! continues.
//!
//! The engine keeps a conversation's tokens, passages and KV-cache under its id. This module keeps
//! what its client has seen: the visible messages. A client either names the conversation, or sends
//! back the messages that it has seen. In the second case the request continues the conversation
//! whose *whole* visible transcript is the beginning of these messages. If they begin like a transcript
//! only as far as one of its earlier turns (a question that was edited or is asked again), the request
//! continues a copy of that beginning. Other messages begin a new conversation.
//!
//! Once its client has named a conversation, it is no longer recognised by its messages. Two
//! clients may have seen the same transcript, and one that uses ids must not find the other's turns
//! in its conversation.

mod error;
mod eviction;
mod files;
mod holds;
pub(crate) mod items;
mod locks;
pub(crate) mod past_retrievals;
mod recognise;
pub(crate) mod shared_store;
mod sharing;
pub(crate) mod stored_responses;
pub(crate) mod transcript;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use onegen_engine::{ChatMessage, ConversationId};
use parking_lot::Mutex;

use crate::admission::Owner;
pub(crate) use error::KeepError;
use eviction::{EvictionCandidate, one_too_many};
use files::TranscriptFiles;
pub(crate) use holds::ConversationHold;
use holds::HeldIds;
use locks::ConversationLocks;
use past_retrievals::PastRetrieval;
pub(crate) use recognise::Recognised;
use recognise::{Heads, TranscriptDigests, TranscriptHeads};
pub(crate) use sharing::Sharing;
use transcript::StoredConversation;
pub(crate) use transcript::{ConversationDetails, StoredResponse, Transcript, TurnEnd, new_id};

/// Called for each conversation that is evicted to make room.
type EvictionCallback = Box<dyn Fn(ConversationId) + Send + Sync>;

/// What a conversation is written after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    TurnEnd,
    /// It may be changed while a turn of it is under way.
    Change,
}

/// The transcripts of all conversations. Nothing else owns them.
///
/// **Invariant:** while `state` is locked, no file is accessed and no callback is called, because async
/// tasks wait for that lock.
pub(crate) struct Conversations {
    digests: TranscriptDigests,
    capacity: usize,
    files: TranscriptFiles,
    /// Held while a conversation is read, changed and written, so that no change is lost.
    changing: ConversationLocks,
    on_evicted: EvictionCallback,
    /// The table that holds them for other servers too.
    sharing: Option<Sharing>,
    state: Mutex<State>,
}

/// **Invariant:** `heads` holds exactly the ids of conversations that are not named. Since both maps
/// change together, one lock guards them.
#[derive(Default)]
struct State {
    conversations: HashMap<ConversationId, HeldConversation>,
    heads: Heads,
    held: HeldIds,
    clock: u64,
}

struct HeldConversation {
    stored: StoredConversation,
    /// The digests by which it is recognised.
    heads: TranscriptHeads,
    /// The clock at its last use.
    last_used: u64,
}

impl Conversations {
    /// Opens the transcripts in a directory, which is created if necessary, and holds at most
    /// `capacity` conversations. Beyond that, the owner with the most conversations loses the least
    /// recently continued one, so that no owner loses any while another has more. `on_evicted` is
    /// called for each evicted conversation, because its engine state is no longer needed. With `sharing` other
    /// servers can go on with each, and what they have changed is taken over when it is needed.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub(crate) fn open(
        dir: &Path,
        capacity: usize,
        sharing: Option<Sharing>,
        on_evicted: impl Fn(ConversationId) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (files, stored) = TranscriptFiles::open(dir)?;
        let conversations = Self {
            digests: match &sharing {
                Some(sharing) => TranscriptDigests::with_salt(sharing.store.salt()),
                None => TranscriptDigests::new(),
            },
            capacity,
            files,
            changing: ConversationLocks::default(),
            on_evicted: Box::new(on_evicted),
            sharing,
            state: Mutex::default(),
        };
        for (id, stored) in stored {
            let evicted = conversations.insert(id, stored);
            conversations.forget_evicted(evicted);
        }
        Ok(conversations)
    }

    /// The transcript of a conversation by its id, if it belongs to the owner. Other callers get
    /// `None`, so they cannot learn that it exists.
    pub(crate) fn get(&self, id: &ConversationId, owner: &Owner) -> Option<Transcript> {
        let state = self.state.lock();
        let transcript = &state.conversations.get(id)?.stored.transcript;
        (transcript.owner == *owner).then(|| transcript.clone())
    }

    /// When a conversation was begun, and its client's metadata.
    pub(crate) fn details(&self, id: &ConversationId) -> Option<ConversationDetails> {
        let state = self.state.lock();
        let held = state.conversations.get(id);
        held.map(|held| held.stored.details.clone())
    }

    /// The owner's conversations with these instructions whose transcript these messages begin with: its whole, or all up to the
    /// end of one of its turns. The longest beginning counts, and a whole transcript before a part of equal
    /// length. Several conversations may have it, and the most recently used comes first. Clients cannot
    /// see any difference between these.
    pub(crate) fn recognise(
        &self,
        messages: &[ChatMessage],
        owner: &Owner,
        instructions: Option<&str>,
    ) -> Vec<Recognised> {
        let chain = self.digests.chain(messages, owner, instructions);
        let state = self.state.lock();
        let (ids, part) = state.heads.longest(messages, &chain);
        let mut found: Vec<_> = ids
            .iter()
            .filter_map(|id| Some((id, state.conversations.get(id)?)))
            .collect();
        found.sort_by_key(|(_, held)| std::cmp::Reverse(held.last_used));
        found
            .into_iter()
            .map(|(id, held)| Recognised {
                id: id.clone(),
                transcript: held.stored.transcript.clone(),
                part,
            })
            .collect()
    }

    /// Updates a conversation after a turn, before its client reads the turn's end. Writes a file.
    ///
    /// # Errors
    /// It cannot be written. The conversation is then as it was.
    pub(crate) fn remember(
        &self,
        id: ConversationId,
        transcript: Transcript,
    ) -> Result<(), KeepError> {
        let evicted = self.changing.alone(&id, || {
            let stored = match self.held(&id) {
                Some(before) => StoredConversation {
                    transcript,
                    ..before
                },
                None => StoredConversation {
                    transcript,
                    details: ConversationDetails::now(BTreeMap::new()),
                    responses: Vec::new(),
                    shared: None,
                },
            };
            self.put(&id, stored, Occasion::TurnEnd)
        });
        self.forget_evicted(evicted?);
        Ok(())
    }

    /// Begins a conversation without a turn. Writes a file.
    ///
    /// # Errors
    /// It cannot be written. There is no conversation then.
    pub(crate) fn begin(
        &self,
        id: ConversationId,
        transcript: Transcript,
        details: ConversationDetails,
    ) -> Result<(), KeepError> {
        let stored = StoredConversation {
            transcript,
            details,
            responses: Vec::new(),
            shared: None,
        };
        let evicted = self
            .changing
            .alone(&id, || self.put(&id, stored, Occasion::Change));
        self.forget_evicted(evicted?);
        Ok(())
    }

    /// Changes the owner's conversation. If `change` returns false, nothing is changed. Returns false
    /// in that case, and if there is no such conversation. Writes a file.
    ///
    /// # Errors
    /// It cannot be written. The conversation is then as it was.
    pub(crate) fn change(
        &self,
        id: &ConversationId,
        owner: &Owner,
        change: impl FnOnce(&mut StoredConversation) -> bool,
    ) -> Result<bool, KeepError> {
        let evicted = self.changing.alone(id, || {
            let stored = self.held(id);
            let mut stored = stored.filter(|stored| stored.transcript.owner == *owner)?;
            change(&mut stored).then(|| self.put(id, stored, Occasion::Change))
        });
        let Some(evicted) = evicted else {
            return Ok(false);
        };
        self.forget_evicted(evicted?);
        Ok(true)
    }

    /// A stored response of the owner's conversation, by its id.
    pub(crate) fn response(
        &self,
        id: &ConversationId,
        owner: &Owner,
        response: &str,
    ) -> Option<StoredResponse> {
        let state = self.state.lock();
        let stored = &state.conversations.get(id)?.stored;
        let mut responses = stored.responses.iter();
        let found = responses.find(|stored| stored.response.id == response)?;
        (stored.transcript.owner == *owner).then(|| found.clone())
    }

    /// The conversations of all owners whose engine log contains a passage for which `holds` is true,
    /// each with all its retrievals.
    pub(crate) fn holding(
        &self,
        holds: impl Fn(&PastRetrieval) -> bool,
    ) -> Vec<(ConversationId, Vec<PastRetrieval>)> {
        let state = self.state.lock();
        let all = state.conversations.iter();
        all.map(|(id, held)| (id, &held.stored.transcript.retrievals))
            .filter(|(_, retrievals)| retrievals.iter().any(|r| r.held && holds(r)))
            .map(|(id, retrievals)| (id.clone(), retrievals.clone()))
            .collect()
    }

    /// Forgets a conversation that the engine no longer holds, and so do all servers that share it. Deletes a file.
    ///
    /// # Errors
    /// It cannot be deleted. The conversation is then still there.
    pub(crate) fn forget(&self, id: &ConversationId) -> Result<(), KeepError> {
        self.changing.alone(id, || {
            if let Some(sharing) = &self.sharing {
                sharing.remove(id)?;
            }
            self.files.remove(id)?;
            self.state.lock().remove(id);
            Ok(())
        })
    }

    /// Whether there is a conversation of this name, whoever owns it.
    pub(crate) fn contains(&self, id: &ConversationId) -> bool {
        self.state.lock().conversations.contains_key(id)
    }

    /// Whether what is said can be kept. After a file could not be written this tries again, so that it
    /// is true as soon as the disk takes files again.
    pub(crate) fn is_writable(&self) -> bool {
        self.files.is_writable()
    }

    fn held(&self, id: &ConversationId) -> Option<StoredConversation> {
        let state = self.state.lock();
        state.conversations.get(id).map(|held| held.stored.clone())
    }

    /// Writes a conversation and holds it. Returns the conversation that must be evicted for it, if
    /// any.
    fn put(
        &self,
        id: &ConversationId,
        mut stored: StoredConversation,
        when: Occasion,
    ) -> Result<Option<ConversationId>, KeepError> {
        if let Some(sharing) = &self.sharing {
            let chain = self.chain(&stored.transcript);
            stored.shared = Some(sharing.write(id, &stored, chain.last().copied(), when)?);
            self.write_beside(id, &stored);
        } else {
            self.files.write(id, &stored).inspect_err(
                |error| tracing::error!(%error, conversation = %id, "a transcript cannot be written"),
            )?;
        }
        Ok(self.insert(id.clone(), stored))
    }

    /// The digests of a transcript's messages.
    fn chain(&self, transcript: &Transcript) -> Vec<recognise::Digest> {
        let instructions = transcript.instructions.as_deref();
        self.digests
            .chain(&transcript.messages, &transcript.owner, instructions)
    }

    fn insert(&self, id: ConversationId, stored: StoredConversation) -> Option<ConversationId> {
        let chain = self.chain(&stored.transcript);
        let heads = TranscriptHeads::new(&stored.transcript, &chain);
        let mut state = self.state.lock();
        state.insert(id, stored, heads);
        if state.conversations.len() <= self.capacity {
            return None;
        }
        // One that a turn or a deletion holds is in use.
        let candidates = state.conversations.iter();
        let candidates = candidates.filter(|(id, _)| !state.held.contains(id));
        let evicted = one_too_many(candidates.map(|(id, held)| {
            let transcript = &held.stored.transcript;
            EvictionCandidate {
                id,
                owner: &transcript.owner,
                last_used: held.last_used,
                goes_on: transcript.named || transcript.turns.len() > 1,
            }
        }))?;
        state.remove(&evicted);
        Some(evicted)
    }

    /// Deletes the file and the engine state of an evicted conversation, unless a concurrent change
    /// has put it back.
    fn forget_evicted(&self, evicted: Option<ConversationId>) {
        let Some(evicted) = evicted else { return };
        let gone = self.changing.alone(&evicted, || {
            let gone = !self.state.lock().conversations.contains_key(&evicted);
            if gone && let Err(error) = self.files.remove(&evicted) {
                tracing::warn!(%error, conversation = %evicted, "a transcript cannot be deleted");
            }
            gone
        });
        if gone {
            (self.on_evicted)(evicted);
        }
    }
}

impl State {
    fn insert(&mut self, id: ConversationId, stored: StoredConversation, heads: TranscriptHeads) {
        self.remove(&id);
        self.clock += 1;
        if !stored.transcript.named {
            self.heads.insert(&heads, &id);
        }
        let held = HeldConversation {
            stored,
            heads,
            last_used: self.clock,
        };
        self.conversations.insert(id, held);
    }

    fn remove(&mut self, id: &ConversationId) {
        if let Some(held) = self.conversations.remove(id) {
            self.heads.remove(&held.heads, id);
        }
    }
}

#[cfg(test)]
mod tests;
