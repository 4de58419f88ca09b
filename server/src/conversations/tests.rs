//! Tests of the store of conversations.

use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use onegen_engine::Role;

use super::*;
use crate::wire::errors::ApiError;

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
    let conversations = Conversations::open(dir.path(), capacity, None, |_| ()).unwrap();
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
        ..Transcript::new(Owner::default())
    }
}

fn follow_up(mut before: Vec<ChatMessage>) -> Vec<ChatMessage> {
    before.push(ChatMessage::new(Role::User, "And its currency?"));
    before
}

#[test]
fn a_transcript_is_recognised_whatever_its_outer_white_space() {
    let (_dir, conversations) = opened(8);
    conversations
        .remember("a".into(), transcript(peru(), 40))
        .unwrap();
    let mut sent = follow_up(peru());
    sent[1].content = "Lima.".into();
    let recognised = conversations.recognise(&sent, &Owner::default(), None);
    let whole = Recognised {
        id: "a".into(),
        transcript: transcript(peru(), 40),
        part: None,
    };
    assert_eq!(recognised, [whole]);
    sent[1].content = "Lima!".into();
    assert!(
        conversations
            .recognise(&sent, &Owner::default(), None)
            .is_empty()
    );
    assert!(
        conversations
            .recognise(&peru()[..1], &Owner::default(), None)
            .is_empty()
    );
}

#[test]
fn messages_that_leave_a_transcript_continue_a_copy_of_what_they_share_with_it() {
    let (_dir, conversations) = opened(8);
    let first = TurnEnd {
        messages: 2,
        log_len: 40,
    };
    let mut longer = follow_up(peru());
    longer.push(ChatMessage::new(Role::Assistant, "Sol."));
    let mut long = transcript(longer.clone(), 80);
    long.turns.insert(0, first);
    conversations.remember("a".into(), long.clone()).unwrap();
    let found = |messages: &[ChatMessage]| {
        let recognised = conversations.recognise(messages, &Owner::default(), None);
        Vec::from_iter(recognised.into_iter().map(|one| (one.id, one.part)))
    };
    // The second question again, and another in its place.
    assert_eq!(found(&longer[..3]), [("a".into(), Some(2))]);
    let mut edited = longer[..3].to_vec();
    edited[2].content = "And its language?".into();
    assert_eq!(found(&edited), [("a".into(), Some(2))]);
    assert_eq!(found(&follow_up(longer.clone())), [("a".into(), None)]);
    // A conversation of just this length is continued itself.
    conversations
        .remember("b".into(), transcript(peru(), 40))
        .unwrap();
    assert_eq!(found(&edited), [("b".into(), None)]);
    // A turn's end that the engine no longer holds is no place to copy from.
    conversations.forget(&"b".into()).unwrap();
    long.begin_again();
    conversations.remember("a".into(), long).unwrap();
    assert_eq!(found(&edited), []);
}

#[test]
fn a_conversation_is_held_by_one_at_a_time_and_never_evicted_then() {
    let dir = tempfile::tempdir().unwrap();
    let conversations = Arc::new(Conversations::open(dir.path(), 1, None, |_| ()).unwrap());
    conversations
        .remember("a".into(), transcript(peru(), 40))
        .unwrap();
    let owner = Owner::default();
    let (held, hold) = conversations.hold_here(&"a".into(), &owner).unwrap();
    assert_eq!(held, transcript(peru(), 40));
    let busy = conversations.hold_here(&"a".into(), &owner).err();
    assert!(
        matches!(busy, Some(ApiError::ConversationBusy(_))),
        "{busy:?}"
    );
    let other = conversations.hold_here(&"a".into(), &Owner::key("b")).err();
    assert!(
        matches!(other, Some(ApiError::ConversationNotFound(_))),
        "{other:?}"
    );
    conversations
        .remember("b".into(), transcript(peru(), 40))
        .unwrap();
    assert!(conversations.contains(&"a".into()));
    drop(hold);
    assert!(conversations.hold_here(&"a".into(), &owner).is_ok());
}

#[test]
fn what_nobody_continues_makes_room_before_what_somebody_does() {
    let (_dir, conversations) = opened(8);
    let of_turns = |turns: usize| {
        let end = TurnEnd {
            messages: 2,
            log_len: 40,
        };
        Transcript {
            turns: vec![end; turns],
            ..transcript(peru(), 40)
        }
    };
    for name in ["a", "b", "c", "d"] {
        conversations.remember(name.into(), of_turns(2)).unwrap();
    }
    for name in 0..20 {
        conversations
            .remember(format!("title{name}").into(), of_turns(1))
            .unwrap();
    }
    assert!(
        ["a", "b", "c", "d"]
            .iter()
            .all(|&name| conversations.contains(&name.into()))
    );
    // A quarter is left to those that have just begun, however many go on.
    for name in 0..20 {
        conversations
            .remember(format!("long{name}").into(), of_turns(2))
            .unwrap();
    }
    assert!(conversations.contains(&"title19".into()));
    assert!(!conversations.contains(&"title17".into()));
    assert!(!conversations.contains(&"a".into()));
}

#[test]
fn what_cannot_be_written_changes_nothing_and_can_be_written_again_later() {
    let (dir, conversations) = opened(8);
    let unwritable = conversations.files.unfinished(&"a".into());
    std::fs::create_dir(&unwritable).unwrap();
    assert!(conversations.is_writable());
    assert!(
        conversations
            .remember("a".into(), transcript(peru(), 40))
            .is_err()
    );
    assert!(!conversations.contains(&"a".into()));
    let probe = dir.path().join("probe.tmp");
    std::fs::create_dir(&probe).unwrap();
    assert!(!conversations.is_writable());
    std::fs::remove_dir(&probe).unwrap();
    assert!(conversations.is_writable());
    std::fs::remove_dir(&unwritable).unwrap();
    conversations
        .remember("a".into(), transcript(peru(), 40))
        .unwrap();
    std::fs::create_dir(&unwritable).unwrap();
    let changed = conversations.change(&"a".into(), &Owner::default(), |stored| {
        stored.transcript.named = true;
        true
    });
    assert!(changed.is_err());
    let kept = conversations.get(&"a".into(), &Owner::default());
    assert_eq!(kept, Some(transcript(peru(), 40)));
}

#[test]
fn a_named_conversation_is_found_by_its_name_only() {
    let (_dir, conversations) = opened(8);
    let named = Transcript {
        named: true,
        ..transcript(peru(), 40)
    };
    conversations.remember("a".into(), named).unwrap();
    assert!(
        conversations
            .recognise(&follow_up(peru()), &Owner::default(), None)
            .is_empty()
    );
    assert!(conversations.get(&"a".into(), &Owner::default()).is_some());
}

#[test]
fn equal_transcripts_are_all_recognised_the_latest_first() {
    let (_dir, conversations) = opened(8);
    for name in ["a", "b", "c"] {
        conversations
            .remember(name.into(), transcript(peru(), 40))
            .unwrap();
    }
    conversations.forget(&"b".into()).unwrap();
    let recognised = conversations.recognise(&follow_up(peru()), &Owner::default(), None);
    let ids: Vec<_> = recognised.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["c", "a"]);
}

#[test]
fn beyond_its_capacity_the_least_recently_continued_is_forgotten() {
    let (_dir, conversations) = opened(2);
    for name in ["a", "b", "a", "c"] {
        conversations
            .remember(name.into(), transcript(peru(), 40))
            .unwrap();
    }
    assert!(conversations.get(&"b".into(), &Owner::default()).is_none());
    assert_eq!(
        conversations
            .recognise(&follow_up(peru()), &Owner::default(), None)
            .len(),
        2
    );
    assert_eq!(conversations.state.lock().heads.len(), 1);
}

#[test]
fn who_has_most_makes_room_and_nobody_loses_a_fair_share() {
    let dir = tempfile::tempdir().unwrap();
    let (evicted, gone) = std::sync::mpsc::channel();
    let evicted = Mutex::new(evicted);
    let tell = move |id| evicted.lock().send(id).unwrap();
    let conversations = Conversations::open(dir.path(), 4, None, tell).unwrap();
    let begin = |id: &str, owner: &str| {
        let owner = Owner::key(owner);
        let begun = Transcript {
            owner,
            ..transcript(peru(), 40)
        };
        conversations.remember(id.into(), begun).unwrap();
    };
    for id in ["a1", "a2", "b1", "b2"] {
        begin(id, &id[..1]);
    }
    // However many conversations one owner begins, the others keep theirs.
    for n in 0..10 {
        begin(&format!("flood{n}"), "a");
    }
    let gone_now = || gone.try_iter().map(|id| id.to_string()).collect::<Vec<_>>();
    assert_eq!(gone_now()[..4], ["a1", "a2", "flood0", "flood1"]);
    assert!(conversations.get(&"b1".into(), &Owner::key("b")).is_some());
    // A new owner gets room. Of the owners with equally many conversations, the one with the least
    // recently continued conversation loses it.
    begin("c1", "c");
    assert_eq!(gone_now(), ["b1"]);
    begin("c2", "c");
    assert_eq!(gone_now(), ["flood8"]);
}

#[test]
fn transcripts_outlive_the_process() {
    let (dir, conversations) = opened(2);
    for name in ["a", "b", "a", "c"] {
        conversations
            .remember(name.into(), transcript(peru(), 40))
            .unwrap();
    }
    drop(conversations);
    std::fs::write(dir.path().join("cut.json"), "{\"conversation\":\"d").unwrap();
    let conversations = Conversations::open(dir.path(), 2, None, |_| ()).unwrap();
    let ids: Vec<_> = conversations
        .recognise(&follow_up(peru()), &Owner::default(), None)
        .iter()
        .map(|one| one.id.to_string())
        .collect();
    assert_eq!(ids, ["c", "a"]);
    let kept = conversations.get(&"a".into(), &Owner::default());
    assert_eq!(kept, Some(transcript(peru(), 40)));
    conversations.forget(&"a".into()).unwrap();
    drop(conversations);
    let conversations = Conversations::open(dir.path(), 2, None, |_| ()).unwrap();
    assert_eq!(conversations.get(&"a".into(), &Owner::default()), None);
}

#[test]
fn a_file_of_the_first_version_is_read_as_of_a_conversation_that_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = r#"{"conversation":"a","named":false,"log_len":40,"messages":[
        {"role":"user","content":"What is the capital of Peru?"},
        {"role":"assistant","content":"Lima. "}]}"#;
    std::fs::write(dir.path().join("first.json"), file).unwrap();
    let conversations = Conversations::open(dir.path(), 2, None, |_| ()).unwrap();
    let kept = conversations.get(&"a".into(), &Owner::default());
    // Its retrievals were not recorded, so its log must not be continued.
    assert_eq!(kept, Some(transcript(peru(), 0)));
    let about = conversations.details(&"a".into());
    assert_eq!(about, Some(ConversationDetails::default()));
    let other = Owner::key("somebody");
    assert_eq!(conversations.get(&"a".into(), &other), None);
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn others_read_while_what_was_evicted_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let opened: Arc<OnceLock<Arc<Conversations>>> = Arc::default();
    let (read, reads) = channel();
    let read = Mutex::new(read);
    let seen = opened.clone();
    let on_evicted = move |id: ConversationId| {
        let conversations = seen.get().unwrap().clone();
        let (done, waiting) = channel();
        thread::spawn(move || {
            let found = conversations.get(&"b".into(), &Owner::default());
            // Nobody listens any more only where the test has failed.
            let _ = done.send(found);
        });
        let held = waiting.recv_timeout(SOON);
        read.lock().send((id.to_string(), held.is_ok())).unwrap();
    };
    let conversations = Arc::new(Conversations::open(dir.path(), 1, None, on_evicted).unwrap());
    assert!(opened.set(conversations.clone()).is_ok());
    for name in ["a", "b"] {
        conversations
            .remember(name.into(), transcript(peru(), 40))
            .unwrap();
    }
    assert_eq!(reads.try_recv(), Ok(("a".to_owned(), true)));
}

#[test]
fn a_change_of_one_conversation_does_not_wait_for_that_of_another() {
    let (_dir, conversations) = opened(8);
    for name in ["a", "b"] {
        conversations
            .remember(name.into(), transcript(peru(), 40))
            .unwrap();
    }
    let conversations = Arc::new(conversations);
    let other = conversations.clone();
    let changed = conversations.change(&"a".into(), &Owner::default(), |_| {
        let (done, waiting) = channel();
        thread::spawn(move || {
            let changed = other.change(&"b".into(), &Owner::default(), |_| true);
            done.send(changed.unwrap())
        });
        waiting.recv_timeout(SOON).unwrap_or(false)
    });
    assert!(changed.unwrap());
}

#[test]
fn changes_of_one_conversation_come_one_after_another() {
    let (_dir, conversations) = opened(8);
    conversations
        .remember("a".into(), transcript(peru(), 40))
        .unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                conversations.change(&"a".into(), &Owner::default(), |stored| {
                    let message = ChatMessage::new(Role::User, "And?");
                    stored.transcript.messages.push(message);
                    true
                })
            });
        }
    });
    let transcript = conversations.get(&"a".into(), &Owner::default()).unwrap();
    assert_eq!(transcript.messages.len(), 2 + 8);
}

#[test]
fn a_transcript_with_another_byte_is_not_read() {
    let (dir, conversations) = opened(8);
    conversations
        .remember("a".into(), transcript(peru(), 40))
        .unwrap();
    let file = conversations
        .files
        .unfinished(&"a".into())
        .with_extension("json");
    let written = std::fs::read(&file).unwrap();
    for at in 0..written.len() {
        let mut damaged = written.clone();
        damaged[at] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let again = Conversations::open(dir.path(), 8, None, |_| ()).unwrap();
        let found = again.get(&"a".into(), &Owner::default());
        // The last byte only ends the line.
        let is_end = at + 1 == written.len();
        assert!(
            found.is_none() || (is_end && found == Some(transcript(peru(), 40))),
            "byte {at}"
        );
    }
    std::fs::write(
        &file,
        &written[..written.iter().position(|b| *b == b'\n').unwrap()],
    )
    .unwrap();
    let earlier = Conversations::open(dir.path(), 8, None, |_| ()).unwrap();
    assert!(earlier.get(&"a".into(), &Owner::default()).is_some());
}
