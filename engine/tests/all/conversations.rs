//! Conversations between their turns: forking, rewinding, and sharing the cache of others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::*;
use onegen_engine::{ConversationError, Model, Request};

#[test]
fn a_fork_goes_on_as_its_source_does_and_neither_knows_of_the_other() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let first = run(&engine, retrieving(&model, "a", 12, 1));
        let (from, to) = ("a".into(), "b".into());
        block_on(engine.fork(&from, &to, None)).unwrap();
        assert_eq!(log_ids(&engine, "b"), log_ids(&engine, "a"), "{name}");

        let of_fork = ask_on(&engine, "b", "And its currency?");
        let untouched = block_on(engine.conversation(&from)).unwrap();
        assert_eq!(untouched.log.len(), first.summary.log_len, "{name}");
        let of_source = ask_on(&engine, "a", "And its currency?");
        assert_eq!(of_fork.text, of_source.text, "{name}");
        assert_eq!(log_ids(&engine, "b"), log_ids(&engine, "a"), "{name}");
        // All but the last generated token of the first turn was in the KV-cache.
        assert_eq!(
            of_fork.summary.usage.cached_tokens,
            first.summary.log_len - 1,
            "{name}"
        );
    }
}

#[test]
fn a_rewound_conversation_gives_the_same_answer_again() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let first = run(&engine, retrieving(&model, "a", 12, 1));
        let second = ask_on(&engine, "a", "And its currency?");
        let log = log_ids(&engine, "a");
        block_on(engine.rewind(&"a".into(), first.summary.log_len)).unwrap();
        assert_eq!(
            log_ids(&engine, "a"),
            log[..first.summary.log_len],
            "{name}"
        );
        let again = ask_on(&engine, "a", "And its currency?");
        assert_eq!(again.text, second.text, "{name}");
        assert_eq!(log_ids(&engine, "a"), log, "{name}");
    }
}

#[test]
fn what_cannot_be_forked_or_rewound_is_said() {
    let model = Family::Llama.model();
    let engine = engine(&model, Some(Shelf::new(vec![peru()])));
    let done = run(&engine, retrieving(&model, "a", 12, 1));
    let (a, b) = ("a".into(), "b".into());
    let fork = |from, to, len| block_on(engine.fork(from, to, len)).unwrap_err();
    assert_eq!(fork(&b, &a, None), ConversationError::Unknown(b.clone()));
    assert_eq!(fork(&a, &a, None), ConversationError::Exists(a.clone()));
    let log_len = done.summary.log_len;
    let beyond = ConversationError::Cut {
        len: log_len + 1,
        log_len,
    };
    assert_eq!(fork(&a, &b, Some(log_len + 1)), beyond);
    // Cutting right after [RQ] is refused, because its passage would be missing.
    let asked = question(&model, "What is the capital of Peru?").len();
    let len = asked + done.summary.retrievals[0].at_token + 1;
    let torn = ConversationError::Cut { len, log_len };
    assert_eq!(block_on(engine.rewind(&a, len)).unwrap_err(), torn);
    assert!(block_on(engine.conversation(&b)).is_none());
}

#[test]
fn an_imported_conversation_goes_on_as_where_it_comes_from() {
    for (name, model) in models() {
        let (here, there) = (
            engine(&model, Some(Shelf::new(vec![peru()]))),
            engine(&model, Some(Shelf::new(vec![peru()]))),
        );
        let id = "a".into();
        run(&here, retrieving(&model, "a", 12, 1));
        let log = block_on(here.export(&id)).unwrap().unwrap();
        block_on(there.import(&id, &log)).unwrap();
        assert_eq!(log_ids(&there, "a"), log_ids(&here, "a"), "{name}");
        let of_source = ask_on(&here, "a", "And its currency?");
        let of_import = ask_on(&there, "a", "And its currency?");
        assert_eq!(of_import.text, of_source.text, "{name}");
        assert_eq!(of_import.summary.usage.cached_tokens, 0, "{name}");
        assert_eq!(log_ids(&there, "a"), log_ids(&here, "a"), "{name}");

        // What both hold already is not forwarded again.
        let known = log_ids(&here, "a").len();
        let third = ask_on(&there, "a", "Lima?");
        let log = block_on(there.export(&id)).unwrap().unwrap();
        block_on(here.import(&id, &log)).unwrap();
        let info = block_on(here.conversation(&id)).unwrap();
        assert_eq!(info.log.len(), third.summary.log_len, "{name}");
        assert_eq!(info.cached_tokens, known - 1, "{name}");
        let ours = ask_on(&here, "a", "Peru?");
        assert_eq!(ours.text, ask_on(&there, "a", "Peru?").text, "{name}");
    }
}

#[test]
fn an_import_that_fits_nothing_is_refused_and_nothing_is_lost() {
    let model = Family::Llama.model();
    let engine = engine(&model, Some(Shelf::new(vec![peru()])));
    run(&engine, retrieving(&model, "a", 12, 1));
    let (a, b) = ("a".into(), "b".into());
    let log = block_on(engine.export(&a)).unwrap().unwrap();
    let before = log_ids(&engine, "a");
    let mut damaged = log.clone();
    damaged[20] ^= 4;
    for (id, bytes, reason) in [
        (&a, &damaged, "damaged"),
        (&b, &log, "it is the conversation a"),
    ] {
        let refused = block_on(engine.import(id, bytes)).unwrap_err();
        let ConversationError::Import(why) = &refused else {
            panic!("{refused}");
        };
        assert!(why.contains(reason), "{why}");
    }
    assert_eq!(log_ids(&engine, "a"), before);
    assert_eq!(block_on(engine.export(&b)).unwrap(), None);
}

/// A long system prompt and a short question.
fn instructed(model: &Model, conversation: &str, text: &str) -> Request {
    let instructions = "Lima is the capital of Peru, a country on the coast. ".repeat(40);
    let mut prompt = model.tokens().encode_plain(&instructions).unwrap();
    prompt.truncate(300);
    prompt.extend(question(model, text));
    let mut instructed = request(model, conversation, text, 12);
    instructed.prompt = prompt;
    instructed
}

#[test]
fn a_prompt_that_starts_like_another_is_not_forwarded_again() {
    for (name, model) in models() {
        let shared = engine(&model, None);
        run(
            &shared,
            instructed(&model, "a", "What is the capital of Peru?"),
        );
        let second = instructed(&model, "b", "Lima?");
        let fresh = run(&engine(&model, None), second.clone());
        let reused = run(&shared, second);
        assert_eq!(reused.text, fresh.text, "{name}");
        let saved = fresh.summary.forwarded.total() - reused.summary.forwarded.total();
        assert_eq!(
            (reused.summary.usage.cached_tokens, saved),
            (256, 256),
            "{name}"
        );
        // A conversation that continues writes to blocks of its own.
        let before = log_ids(&shared, "a");
        run(&shared, instructed(&model, "c", "Lima?"));
        assert_eq!(log_ids(&shared, "a"), before, "{name}");
    }
}
