//! Which conversation a request continues.
//!
//! The engine keeps a conversation's tokens, passages and KV-cache under its id. Beside them stands
//! here what its client has seen of it: the visible messages. A client either names the
//! conversation, or sends back what it has seen; then the conversation whose *whole* visible
//! transcript these messages begin with is continued. Messages that end before a conversation's
//! head (an edited question, an answer asked for again) match nothing and begin a new one.
//!
//! A conversation that its client has named is not recognised by its messages any more: two clients
//! may well have seen the same transcript, and the one that goes by names must not find the other's
//! turns in its conversation.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use onegen_engine::{ChatMessage, ConversationId, Role};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::access::Owner;
use crate::app::unix_seconds;
use crate::past_retrievals::PastRetrieval;
use crate::stored_responses::StoredResponse;
use crate::transcript_files::TranscriptFiles;

/// A chain over roles and contents: one digest stands for a message and all before it.
type Digest = blake3::Hash;

/// Told of each conversation that is forgotten to make room.
type OnEvicted = Box<dyn Fn(ConversationId) + Send + Sync>;

/// The id of a new conversation. Nobody can guess it.
pub(crate) fn new_id() -> ConversationId {
    format!("conv_{}", Uuid::new_v4().simple()).into()
}

/// What is known of a conversation between its turns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transcript {
    /// The visible messages. The last is the assistant's, but where messages were put in without a turn.
    pub(crate) messages: Vec<ChatMessage>,
    /// The ends of the turns that the engine's log holds, in order; none if it holds nothing. Messages
    /// behind the last of them were put in without a turn, and are encoded with the next one's.
    pub(crate) turns: Vec<TurnEnd>,
    /// Who may read and continue it.
    pub(crate) owner: Owner,
    /// Whether the client goes by the conversation's id.
    pub(crate) named: bool,
    /// What it has read, in order.
    pub(crate) retrievals: Vec<PastRetrieval>,
}

/// Where a turn ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TurnEnd {
    /// Messages up to there, the answer included.
    pub(crate) messages: usize,
    /// Tokens of the engine's log up to there.
    pub(crate) log_len: usize,
}

impl Transcript {
    /// How far the engine's log goes; nowhere if it holds nothing.
    pub(crate) fn log_end(&self) -> TurnEnd {
        self.turns.last().copied().unwrap_or_default()
    }

    /// Nothing of it is in the engine: the next turn begins again from the visible messages.
    pub(crate) fn begin_again(&mut self) {
        self.turns.clear();
        for retrieval in &mut self.retrievals {
            retrieval.held = false;
        }
    }

    /// What it was when it held so many messages.
    pub(crate) fn cut(&mut self, messages: usize) {
        self.messages.truncate(messages);
        self.turns.retain(|turn| turn.messages <= messages);
        self.retrievals.retain(|read| read.message < messages);
    }
}

/// What does not change from turn to turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// When the conversation was begun, in seconds since 1970.
    pub(crate) created: u64,
    /// What the client wants to remember of it.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl About {
    /// Of a conversation that begins now.
    pub(crate) fn now(metadata: BTreeMap<String, String>) -> Self {
        let created = unix_seconds();
        Self { created, metadata }
    }
}

/// All that is kept of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) transcript: Transcript,
    pub(crate) about: About,
    /// Those that their client may ask for again, the first first.
    pub(crate) responses: Vec<StoredResponse>,
}

/// The visible side of all conversations; the one owner of it.
pub(crate) struct Conversations {
    /// So that digests tell nobody anything.
    salt: [u8; 32],
    capacity: usize,
    files: TranscriptFiles,
    /// Held while a conversation is looked at, changed and written, so that no change is lost.
    changing: Mutex<()>,
    on_evicted: OnEvicted,
    state: Mutex<State>,
}

/// **Invariant:** `by_head` holds exactly the ids of entries that are not named, under their heads.
#[derive(Default)]
struct State {
    entries: HashMap<ConversationId, Entry>,
    by_head: HashMap<Digest, Vec<ConversationId>>,
    clock: u64,
}

struct Entry {
    kept: Kept,
    /// None of one without messages.
    head: Option<Digest>,
    /// Orders by last use.
    used: u64,
}

impl Conversations {
    /// Remembers what stands in a directory, which is made where it is not there, and at most
    /// `capacity` conversations. Beyond, the owner who has most of them loses the one that was least
    /// recently continued, so that nobody's go while others have more. `on_evicted` is told, since what
    /// is forgotten here is of no use to the engine.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub(crate) fn open(
        dir: &Path,
        capacity: usize,
        on_evicted: impl Fn(ConversationId) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut salt = [0; 32];
        salt[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        salt[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        let (files, found) = TranscriptFiles::open(dir)?;
        let conversations = Self {
            salt,
            capacity,
            files,
            changing: Mutex::default(),
            on_evicted: Box::new(on_evicted),
            state: Mutex::default(),
        };
        for (id, kept) in found {
            conversations.insert(id, kept);
        }
        Ok(conversations)
    }

    /// The transcript of a conversation by its id, if it is the owner's. To others there is none: they
    /// are not even told that somebody has it.
    pub(crate) fn get(&self, id: &ConversationId, owner: &Owner) -> Option<Transcript> {
        let state = self.lock();
        let transcript = &state.entries.get(id)?.kept.transcript;
        (transcript.owner == *owner).then(|| transcript.clone())
    }

    /// When a conversation was begun, and what its client wants to remember of it.
    pub(crate) fn about(&self, id: &ConversationId) -> Option<About> {
        let state = self.lock();
        state.entries.get(id).map(|entry| entry.kept.about.clone())
    }

    /// The owner's conversations whose whole transcript these messages begin with, the longest such
    /// transcript, the most recently used first. They are equal in all that a client can see.
    pub(crate) fn recognise(
        &self,
        messages: &[ChatMessage],
        owner: &Owner,
    ) -> Vec<(ConversationId, Transcript)> {
        let chain = self.chain(messages, owner);
        let state = self.lock();
        let mut assistants = (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant);
        let longest = assistants.rfind(|&last| state.by_head.contains_key(&chain[last]));
        let ids = longest.and_then(|last| state.by_head.get(&chain[last]));
        let ids = ids.into_iter().flatten();
        let mut recognised: Vec<_> = ids
            .filter_map(|id| Some((id, state.entries.get(id)?)))
            .collect();
        recognised.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.used));
        recognised
            .into_iter()
            .map(|(id, entry)| (id.clone(), entry.kept.transcript.clone()))
            .collect()
    }

    /// Moves a conversation's head on, after a turn that its client is about to have seen to the end.
    /// Writes a file.
    pub(crate) fn remember(&self, id: ConversationId, transcript: Transcript) {
        let _alone = self.change_one();
        let (about, responses) = match self.lock().entries.get(&id) {
            Some(Entry { kept, .. }) => (kept.about.clone(), kept.responses.clone()),
            None => (About::now(BTreeMap::new()), Vec::new()),
        };
        let kept = Kept {
            transcript,
            about,
            responses,
        };
        self.put(id, kept);
    }

    /// Begins a conversation without a turn. Writes a file.
    pub(crate) fn begin(&self, id: ConversationId, transcript: Transcript, about: About) {
        let _alone = self.change_one();
        let kept = Kept {
            transcript,
            about,
            responses: Vec::new(),
        };
        self.put(id, kept);
    }

    /// Has the owner's conversation changed, unless `change` gives false and changes nothing. False then,
    /// and where there is none. Writes a file.
    pub(crate) fn change(
        &self,
        id: &ConversationId,
        owner: &Owner,
        change: impl FnOnce(&mut Kept) -> bool,
    ) -> bool {
        let _alone = self.change_one();
        let kept = self.lock().entries.get(id).map(|entry| entry.kept.clone());
        let Some(mut kept) = kept.filter(|kept| kept.transcript.owner == *owner) else {
            return false;
        };
        let changed = change(&mut kept);
        if changed {
            self.put(id.clone(), kept);
        }
        changed
    }

    /// A stored response of the owner's conversation, by its id.
    pub(crate) fn response(
        &self,
        id: &ConversationId,
        owner: &Owner,
        response: &str,
    ) -> Option<StoredResponse> {
        let state = self.lock();
        let kept = &state.entries.get(id)?.kept;
        let mut stored = kept.responses.iter();
        let found = stored.find(|stored| stored.response.id == response)?;
        (kept.transcript.owner == *owner).then(|| found.clone())
    }

    /// The conversations, whosever they are, of which `holds` is true for a passage in the engine's log,
    /// with all that they have read.
    pub(crate) fn holding(
        &self,
        holds: impl Fn(&PastRetrieval) -> bool,
    ) -> Vec<(ConversationId, Vec<PastRetrieval>)> {
        let state = self.lock();
        let all = state
            .entries
            .iter()
            .map(|(id, e)| (id, &e.kept.transcript.retrievals));
        all.filter(|(_, retrievals)| retrievals.iter().any(|r| r.held && holds(r)))
            .map(|(id, retrievals)| (id.clone(), retrievals.clone()))
            .collect()
    }

    /// Forgets a conversation, which the engine does not hold any more. Deletes a file.
    pub(crate) fn forget(&self, id: &ConversationId) {
        let _alone = self.change_one();
        self.lock().remove(id);
        self.delete_file(id);
    }

    fn change_one(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, id: ConversationId, kept: Kept) {
        if let Err(error) = self.files.write(&id, &kept) {
            tracing::warn!(%error, conversation = %id, "a restart will not know what was changed last");
        }
        self.insert(id, kept);
    }

    fn insert(&self, id: ConversationId, kept: Kept) {
        let transcript = &kept.transcript;
        let chain = self.chain(&transcript.messages, &transcript.owner);
        let head = chain.last().copied();
        let mut state = self.lock();
        state.remove(&id);
        state.clock += 1;
        let used = state.clock;
        if let Some(head) = head.filter(|_| !transcript.named) {
            state.by_head.entry(head).or_default().push(id.clone());
        }
        state.entries.insert(id, Entry { kept, head, used });
        if state.entries.len() > self.capacity
            && let Some(evicted) = state.one_too_many()
        {
            state.remove(&evicted);
            self.delete_file(&evicted);
            (self.on_evicted)(evicted);
        }
    }

    fn delete_file(&self, id: &ConversationId) {
        if let Err(error) = self.files.remove(id) {
            tracing::warn!(%error, conversation = %id, "a transcript could not be deleted");
        }
    }

    /// For each message the digest of it and all before it. It begins with the owner, so that equal
    /// messages of two owners have nothing in common.
    fn chain(&self, messages: &[ChatMessage], owner: &Owner) -> Vec<Digest> {
        let beginning = match owner.name() {
            None => Digest::from_bytes([0; 32]),
            Some(name) => blake3::keyed_hash(&self.salt, name.as_bytes()),
        };
        messages
            .iter()
            .scan(beginning, |before, message| {
                // Clients trim what they show and send back.
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

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The least recently continued conversation of the owner who has most; of several such owners, the
    /// least recently continued of all theirs.
    fn one_too_many(&self) -> Option<ConversationId> {
        let mut of_owner: HashMap<&Owner, usize> = HashMap::new();
        for entry in self.entries.values() {
            *of_owner.entry(&entry.kept.transcript.owner).or_default() += 1;
        }
        let most = of_owner.values().copied().max()?;
        let has_most = |entry: &Entry| of_owner.get(&entry.kept.transcript.owner) == Some(&most);
        let candidates = self.entries.iter().filter(|(_, entry)| has_most(entry));
        let oldest = candidates.min_by_key(|(_, entry)| entry.used);
        oldest.map(|(id, _)| id.clone())
    }

    fn remove(&mut self, id: &ConversationId) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        let Some(head) = entry.head else {
            return;
        };
        if let Some(ids) = self.by_head.get_mut(&head) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.by_head.remove(&head);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn messages(texts: &[(Role, &str)]) -> Vec<ChatMessage> {
        texts
            .iter()
            .map(|&(role, text)| ChatMessage::new(role, text))
            .collect()
    }

    fn peru() -> Vec<ChatMessage> {
        messages(&[
            (Role::User, "What is the capital of Peru?"),
            (Role::Assistant, "Lima. "),
        ])
    }

    fn opened(capacity: usize) -> (tempfile::TempDir, Conversations) {
        let dir = tempfile::tempdir().unwrap();
        let conversations = Conversations::open(dir.path(), capacity, |_| ()).unwrap();
        (dir, conversations)
    }

    fn transcript(messages: Vec<ChatMessage>, log_len: usize) -> Transcript {
        let turn = TurnEnd {
            messages: messages.len(),
            log_len,
        };
        Transcript {
            messages,
            turns: Vec::from_iter((log_len > 0).then_some(turn)),
            owner: Owner::default(),
            named: false,
            retrievals: Vec::new(),
        }
    }

    fn follow_up(mut before: Vec<ChatMessage>) -> Vec<ChatMessage> {
        before.push(ChatMessage::new(Role::User, "And its currency?"));
        before
    }

    #[test]
    fn a_transcript_is_recognised_whatever_its_outer_white_space() {
        let (_dir, conversations) = opened(8);
        conversations.remember("a".into(), transcript(peru(), 40));
        let mut sent = follow_up(peru());
        sent[1].content = "Lima.".into();
        let recognised = conversations.recognise(&sent, &Owner::default());
        assert_eq!(recognised, [("a".into(), transcript(peru(), 40))]);
        sent[1].content = "Lima!".into();
        assert!(conversations.recognise(&sent, &Owner::default()).is_empty());
        assert!(
            conversations
                .recognise(&peru()[..1], &Owner::default())
                .is_empty()
        );
    }

    #[test]
    fn messages_that_end_before_the_head_match_nothing() {
        let (_dir, conversations) = opened(8);
        conversations.remember("a".into(), transcript(peru(), 40));
        let mut longer = follow_up(peru());
        longer.push(ChatMessage::new(Role::Assistant, "Sol."));
        conversations.remember("a".into(), transcript(longer.clone(), 80));
        assert!(
            conversations
                .recognise(&follow_up(peru()), &Owner::default())
                .is_empty()
        );
        assert_eq!(
            conversations.recognise(&follow_up(longer), &Owner::default())[0]
                .1
                .log_end()
                .log_len,
            80
        );
    }

    #[test]
    fn a_named_conversation_is_found_by_its_name_only() {
        let (_dir, conversations) = opened(8);
        let named = Transcript {
            named: true,
            ..transcript(peru(), 40)
        };
        conversations.remember("a".into(), named);
        assert!(
            conversations
                .recognise(&follow_up(peru()), &Owner::default())
                .is_empty()
        );
        assert!(conversations.get(&"a".into(), &Owner::default()).is_some());
    }

    #[test]
    fn equal_transcripts_are_all_recognised_the_latest_first() {
        let (_dir, conversations) = opened(8);
        for name in ["a", "b", "c"] {
            conversations.remember(name.into(), transcript(peru(), 40));
        }
        conversations.forget(&"b".into());
        let recognised = conversations.recognise(&follow_up(peru()), &Owner::default());
        let ids: Vec<_> = recognised.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["c", "a"]);
    }

    #[test]
    fn beyond_its_capacity_the_least_recently_continued_is_forgotten() {
        let (_dir, conversations) = opened(2);
        for name in ["a", "b", "a", "c"] {
            conversations.remember(name.into(), transcript(peru(), 40));
        }
        assert!(conversations.get(&"b".into(), &Owner::default()).is_none());
        assert_eq!(
            conversations
                .recognise(&follow_up(peru()), &Owner::default())
                .len(),
            2
        );
        assert_eq!(conversations.lock().by_head.len(), 1);
    }

    #[test]
    fn who_has_most_makes_room_and_nobody_loses_a_fair_share() {
        let dir = tempfile::tempdir().unwrap();
        let (evicted, gone) = std::sync::mpsc::channel();
        let evicted = Mutex::new(evicted);
        let tell = move |id| evicted.lock().unwrap().send(id).unwrap();
        let conversations = Conversations::open(dir.path(), 4, tell).unwrap();
        let begin = |id: &str, owner: &str| {
            let owner = Owner::key(owner);
            let begun = Transcript {
                owner,
                ..transcript(peru(), 40)
            };
            conversations.remember(id.into(), begun);
        };
        for id in ["a1", "a2", "b1", "b2"] {
            begin(id, &id[..1]);
        }
        // However many one owner begins, the others keep theirs.
        for n in 0..10 {
            begin(&format!("flood{n}"), "a");
        }
        let gone_now = || gone.try_iter().map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(gone_now()[..4], ["a1", "a2", "flood0", "flood1"]);
        assert!(conversations.get(&"b1".into(), &Owner::key("b")).is_some());
        // A newcomer gets room: of those who have as many, the one who has waited longest gives it.
        begin("c1", "c");
        assert_eq!(gone_now(), ["b1"]);
        begin("c2", "c");
        assert_eq!(gone_now(), ["flood8"]);
    }

    #[test]
    fn transcripts_outlive_the_process() {
        let (dir, conversations) = opened(2);
        for name in ["a", "b", "a", "c"] {
            conversations.remember(name.into(), transcript(peru(), 40));
        }
        drop(conversations);
        std::fs::write(dir.path().join("cut.json"), "{\"conversation\":\"d").unwrap();
        let conversations = Conversations::open(dir.path(), 2, |_| ()).unwrap();
        let ids: Vec<_> = conversations
            .recognise(&follow_up(peru()), &Owner::default())
            .iter()
            .map(|(id, _)| id.to_string())
            .collect();
        assert_eq!(ids, ["c", "a"]);
        let kept = conversations.get(&"a".into(), &Owner::default());
        assert_eq!(kept, Some(transcript(peru(), 40)));
        conversations.forget(&"a".into());
        drop(conversations);
        let conversations = Conversations::open(dir.path(), 2, |_| ()).unwrap();
        assert_eq!(conversations.get(&"a".into(), &Owner::default()), None);
    }

    #[test]
    fn a_file_of_the_first_version_is_read_as_of_a_conversation_that_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = r#"{"conversation":"a","named":false,"log_len":40,"messages":[
            {"role":"user","content":"What is the capital of Peru?"},
            {"role":"assistant","content":"Lima. "}]}"#;
        std::fs::write(dir.path().join("first.json"), file).unwrap();
        let conversations = Conversations::open(dir.path(), 2, |_| ()).unwrap();
        let kept = conversations.get(&"a".into(), &Owner::default());
        // What it has read was not noted, so its log is not to be gone on with.
        assert_eq!(kept, Some(transcript(peru(), 0)));
        let about = conversations.about(&"a".into());
        assert_eq!(about, Some(About::default()));
        let other = Owner::key("somebody");
        assert_eq!(conversations.get(&"a".into(), &other), None);
    }
}
