//! Conversations between their turns: token log and KV-cache, kept under the limits.

pub(crate) mod portable;
pub(crate) mod store;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ids::ConversationId;
use crate::ids::SequenceId;
use crate::model::KvCache;
use crate::tokens::token_log::TokenLog;

/// The state of a conversation at one moment, which may be in the middle of a turn.
#[derive(Debug, Clone)]
pub struct ConversationInfo {
    /// Ids and kinds of all its tokens.
    pub log: TokenLog,
    /// How many of them are in the KV-cache.
    pub cached_tokens: usize,
    /// Bytes that the KV-cache holds.
    pub kv_bytes: usize,
    /// Whether a turn is under way.
    pub busy: bool,
}

/// A token log and the KV-cache of a prefix of it.
///
/// **Invariant:** `cache` holds the first `cache.len()` tokens of `log`, so it may be dropped at
/// any time and rebuilt by forwarding the log again.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) log: TokenLog,
    pub(crate) cache: KvCache,
    /// How many of the log's first tokens have their keys and values in the store.
    pub(crate) stored: usize,
    /// Set in a copy until its cache is read or it has a file of its own: whose file in the store holds the beginning
    /// that the cache lacks.
    pub(crate) kv_source: Option<KvSource>,
    /// The salt of the last turn: only prompts of the same salt may start with blocks of the cache. It is not
    /// stored on disk, because after a restart a cache is empty until a turn fills it.
    pub(crate) cache_salt: Option<Arc<str>>,
}

/// Keys and values that the store holds under another conversation's name.
#[derive(Debug, Clone)]
pub(crate) struct KvSource {
    pub(crate) conversation: ConversationId,
    pub(crate) positions: usize,
}

impl Conversation {
    /// A conversation of which nothing is in the store.
    pub(crate) fn new(log: TokenLog, cache: KvCache) -> Self {
        Self {
            log,
            cache,
            stored: 0,
            kv_source: None,
            cache_salt: None,
        }
    }

    /// A conversation `of` this name as far as its first `len` tokens go, with `cache` for what is in memory of
    /// them. What only the store holds is copied or read from there.
    pub(crate) fn copy(&self, of: &ConversationId, len: usize, cache: KvCache) -> Self {
        let positions = self.stored.min(len);
        let source = || KvSource {
            conversation: of.clone(),
            positions,
        };
        Self {
            kv_source: (positions > cache.len()).then(source),
            cache_salt: self.cache_salt.clone(),
            ..Self::new(self.log.prefix(len), cache)
        }
    }

    /// Cuts log, cache and stored part back to the log's first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.log.truncate(len);
        self.cache.truncate(len);
        self.stored = self.stored.min(len);
    }

    /// Replaces the log by one that another engine has continued. What both begin with keeps its keys and
    /// values; the rest is forwarded by the next turn.
    pub(crate) fn replace_log(&mut self, log: TokenLog) {
        let same = self.log.common_beginning(&log);
        // Between a retrieval and the end of its passage a log cannot be cut.
        let kept = (0..=same).rev().find(|len| log.can_be_cut(*len));
        self.truncate(kept.unwrap_or_default());
        self.log = log;
    }

    pub(crate) fn info(&self, busy: bool) -> ConversationInfo {
        ConversationInfo {
            log: self.log.clone(),
            cached_tokens: self.cache.len(),
            kv_bytes: self.cache.bytes(),
            busy,
        }
    }
}

enum Slot {
    /// Between turns. `used` is larger the later the conversation was used.
    Idle {
        conversation: Conversation,
        used: u64,
    },
    /// Moved into the sequence that runs its turn.
    Busy(SequenceId),
}

/// All conversations by name. A busy one is owned by its sequence and only its name is here.
///
/// **Invariant:** `idle_kv_bytes` is the sum over the caches of idle conversations.
#[derive(Default)]
pub(crate) struct Conversations {
    slots: HashMap<ConversationId, Slot>,
    idle_kv_bytes: usize,
    clock: u64,
}

/// Whether a turn of a conversation is under way.
pub(crate) enum ConversationState<'a> {
    /// Between turns.
    Idle(&'a Conversation),
    /// This sequence runs a turn of it.
    Busy(SequenceId),
}

impl Conversations {
    /// How many there are, busy ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes held by the KV-caches of idle conversations.
    pub(crate) fn idle_kv_bytes(&self) -> usize {
        self.idle_kv_bytes
    }

    pub(crate) fn find(&self, id: &ConversationId) -> Option<ConversationState<'_>> {
        self.slots.get(id).map(|slot| match slot {
            Slot::Idle { conversation, .. } => ConversationState::Idle(conversation),
            Slot::Busy(sequence) => ConversationState::Busy(*sequence),
        })
    }

    /// Hands an idle conversation, if there is one, over to the sequence that runs its turn, and
    /// counts the name as busy from now on.
    pub(crate) fn take(
        &mut self,
        id: &ConversationId,
        sequence: SequenceId,
    ) -> Option<Conversation> {
        match self.slots.insert(id.clone(), Slot::Busy(sequence))? {
            Slot::Idle { conversation, .. } => {
                self.idle_kv_bytes -= conversation.cache.bytes();
                Some(conversation)
            }
            Slot::Busy(_) => None,
        }
    }

    /// Takes a conversation back after its turn.
    pub(crate) fn put_back(&mut self, id: ConversationId, conversation: Conversation) {
        self.clock += 1;
        self.idle_kv_bytes += conversation.cache.bytes();
        let slot = Slot::Idle {
            conversation,
            used: self.clock,
        };
        self.slots.insert(id, slot);
    }

    /// An idle conversation. The caller may change it, but not the memory that its KV-cache holds.
    pub(crate) fn idle_mut(&mut self, id: &ConversationId) -> Option<&mut Conversation> {
        match self.slots.get_mut(id) {
            Some(Slot::Idle { conversation, .. }) => Some(conversation),
            _ => None,
        }
    }

    /// The names of all, busy ones included.
    pub(crate) fn names(&self) -> impl Iterator<Item = &ConversationId> {
        self.slots.keys()
    }

    /// Every idle conversation.
    pub(crate) fn idle(&self) -> impl Iterator<Item = &Conversation> {
        self.slots.values().filter_map(|slot| match slot {
            Slot::Idle { conversation, .. } => Some(conversation),
            Slot::Busy(_) => None,
        })
    }

    /// Forgets a conversation.
    pub(crate) fn remove(&mut self, id: &ConversationId) {
        if let Some(Slot::Idle { conversation, .. }) = self.slots.remove(id) {
            self.idle_kv_bytes -= conversation.cache.bytes();
        }
    }

    /// The least recently used idle conversation, when there are more than `limit`.
    pub(crate) fn one_beyond(&self, limit: usize) -> Option<ConversationId> {
        if self.slots.len() <= limit {
            return None;
        }
        self.least_recent(|_| true)
    }

    /// Drops the KV-cache of an idle conversation; its log stays. The salt whose idle conversations hold
    /// the most bytes loses its least recently used cache, so that no owner loses a cache while another
    /// holds more. Returns false if there is none to drop.
    pub(crate) fn drop_least_recent_kv(&mut self) -> bool {
        let mut of_salt: HashMap<&Option<Arc<str>>, usize> = HashMap::new();
        for conversation in self.idle() {
            *of_salt.entry(&conversation.cache_salt).or_default() += conversation.cache.bytes();
        }
        let most = of_salt.values().copied().max().unwrap_or_default();
        let holds_kv = |conversation: &Conversation| {
            let bytes = conversation.cache.bytes();
            bytes > 0 && of_salt.get(&conversation.cache_salt) == Some(&most)
        };
        let Some(id) = self.least_recent(holds_kv) else {
            return false;
        };
        if let Some(Slot::Idle { conversation, .. }) = self.slots.get_mut(&id) {
            self.idle_kv_bytes -= conversation.cache.bytes();
            conversation.cache.clear();
        }
        true
    }

    fn least_recent(&self, wanted: impl Fn(&Conversation) -> bool) -> Option<ConversationId> {
        self.slots
            .iter()
            .filter_map(|(id, slot)| match slot {
                Slot::Idle { conversation, used } if wanted(conversation) => Some((used, id)),
                _ => None,
            })
            .min()
            .map(|(_, id)| id.clone())
    }
}
