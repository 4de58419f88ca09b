//! Conversations outlive the engine, and KV-caches come back from the disk instead of being computed again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::*;
use onegen_engine::{
    Completion, ConversationError, CopySource, Engine, EngineError, EngineOptions, Model,
    PassageAttention, PassageCacheOptions, Request, StartError, StoreOptions,
};

const KV_LIMIT: u64 = 1 << 30;

/// Passages are not kept, so that all that comes back is the conversations' own.
fn without_store() -> EngineOptions {
    EngineOptions {
        passages: PassageCacheOptions {
            bytes: 0,
            disk: None,
        },
        ..EngineOptions::default()
    }
}

fn options(dir: &Path) -> EngineOptions {
    EngineOptions {
        store: Some(StoreOptions {
            dir: dir.to_owned(),
            kv_bytes: KV_LIMIT,
        }),
        ..without_store()
    }
}

fn start(model: &Arc<Model>, options: &EngineOptions) -> Engine {
    let retriever = Shelf::new(vec![peru()]);
    Engine::start(model.clone(), Some(retriever), options.clone()).unwrap()
}

/// A turn with a retrieval and another turn, in an engine that is never restarted.
fn undisturbed(model: &Arc<Model>) -> (Completion, Completion) {
    let engine = start(model, &without_store());
    let first = run(&engine, retrieving(model, "a", 12, 1));
    (first, ask_on(&engine, "a", "And its currency?"))
}

fn file(dir: &Path, extension: &str) -> PathBuf {
    let mut paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .find(|path| path.extension().is_some_and(|one| one == extension))
        .unwrap()
}

#[test]
fn after_a_restart_a_conversation_goes_on_as_if_nothing_had_been() {
    for (name, model) in models() {
        let dir = tempfile::tempdir().unwrap();
        let (_, wanted) = undisturbed(&model);
        run(
            &start(&model, &options(dir.path())),
            retrieving(&model, "a", 12, 1),
        );

        let engine = start(&model, &options(dir.path()));
        let next = ask_on(&engine, "a", "And its currency?");
        assert_eq!(next.text, wanted.text, "{name}");
        // Its own tokens and the last one of the turn before, as without a restart.
        assert_eq!(next.summary.forwarded, wanted.summary.forwarded, "{name}");
        assert_eq!(next.summary.usage, wanted.summary.usage, "{name}");
        assert_eq!(engine.counters().stats().kv_restored, 1, "{name}");
        // And once more, from what two turns have written.
        let third = ask_on(&engine, "a", "Lima?");
        drop(engine);
        let engine = start(&model, &options(dir.path()));
        block_on(engine.rewind(&"a".into(), next.summary.log_len)).unwrap();
        drop(engine);
        let again = ask_on(&start(&model, &options(dir.path())), "a", "Lima?");
        assert_eq!(again.text, third.text, "{name}");
    }
}

#[test]
fn kv_that_memory_has_no_room_for_comes_back_from_the_disk() {
    for (name, model) in models() {
        let dir = tempfile::tempdir().unwrap();
        let (first, wanted) = undisturbed(&model);
        // An incomplete passage block needs memory of its own.
        let begun =
            usize::from(model.tokens().onegen().passage_attention == PassageAttention::Block);
        let cache = model.new_cache();
        let one = cache.bytes_for(wanted.summary.log_len) + begun * cache.bytes_for(1);
        let options = EngineOptions {
            kv_bytes: one,
            ..options(dir.path())
        };
        let engine = start(&model, &options);
        for conversation in ["a", "b", "c"] {
            run(&engine, retrieving(&model, conversation, 12, 1));
        }
        for conversation in ["b", "a", "c"] {
            let next = ask_on(&engine, conversation, "And its currency?");
            assert_eq!(next.text, wanted.text, "{name}");
            // The last of the three was still in memory; prompts that start alike shared nothing here.
            let cached = next.summary.usage.cached_tokens;
            assert_eq!(cached, first.summary.log_len - 1, "{name}");
        }
        let stats = engine.counters().stats();
        assert!(stats.kv_restored >= 2, "{name}: {stats:?}");
        assert!(stats.kv_bytes <= one as u64, "{name}");
    }
}

#[test]
fn kv_of_another_model_is_computed_again_from_the_log() {
    let (one, other) = (Family::Qwen3.write(7), Family::Qwen3.write(8));
    // Trained anew for each, but from the same text.
    let tokenizer = one.path().join("tokenizer.json");
    fs::copy(tokenizer, other.path().join("tokenizer.json")).unwrap();
    let (one, other) = (load(one.path()), load(other.path()));
    let dir = tempfile::tempdir().unwrap();
    let first = run(
        &start(&one, &options(dir.path())),
        retrieving(&one, "a", 12, 1),
    );

    // The same log without any KV.
    let bare = tempfile::tempdir().unwrap();
    let record = file(dir.path(), "conversation");
    fs::copy(&record, bare.path().join(record.file_name().unwrap())).unwrap();
    let goes_on = |dir: &Path| ask_on(&start(&other, &options(dir)), "a", "And its currency?");
    let wanted = goes_on(bare.path());
    let next = goes_on(dir.path());
    assert_eq!(next.text, wanted.text);
    assert_eq!(next.summary.usage.cached_tokens, 0);
    assert!(next.summary.forwarded.total() > first.summary.log_len as u64);
}

#[test]
fn a_damaged_kv_file_costs_a_forward_and_nothing_else() {
    let model = Family::Llama.model();
    let (_, wanted) = undisturbed(&model);
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("flipped", |bytes| bytes[100] ^= 1),
        ("cut short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("emptied", Vec::clear),
    ];
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        run(
            &start(&model, &options(dir.path())),
            retrieving(&model, "a", 12, 1),
        );
        let path = file(dir.path(), "kv");
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();

        let engine = start(&model, &options(dir.path()));
        let next = ask_on(&engine, "a", "And its currency?");
        assert_eq!(next.text, wanted.text, "{what}");
        assert_eq!(next.summary.usage.cached_tokens, 0, "{what}");
        drop(engine);
        // The file was repaired.
        let engine = start(&model, &options(dir.path()));
        let third = ask_on(&engine, "a", "Lima?");
        assert!(third.summary.usage.cached_tokens > 0, "{what}");
        assert_eq!(engine.counters().stats().store_failures, 0, "{what}");
    }
}

#[test]
fn a_damaged_record_leaves_out_its_conversation_alone() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, &options(dir.path()));
    run(&engine, retrieving(&model, "a", 12, 1));
    drop(engine);
    let path = file(dir.path(), "conversation");
    let bytes = fs::read(&path).unwrap();
    let engine = start(&model, &options(dir.path()));
    run(&engine, retrieving(&model, "b", 12, 1));
    drop(engine);
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(dir.path().join("left.tmp"), "behind").unwrap();

    let engine = start(&model, &options(dir.path()));
    assert!(block_on(engine.conversation(&"a".into())).is_none());
    assert!(block_on(engine.conversation(&"b".into())).is_some());
    assert!(!dir.path().join("left.tmp").exists());
}

#[test]
fn without_room_for_kv_on_the_disk_the_logs_are_kept() {
    let model = Family::Llama.model();
    let (first, wanted) = undisturbed(&model);
    let dir = tempfile::tempdir().unwrap();
    let unlimited = options(dir.path());
    run(&start(&model, &unlimited), retrieving(&model, "a", 12, 1));
    let kv_bytes = fs::metadata(file(dir.path(), "kv")).unwrap().len();

    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    // Room for one conversation's, which may grow a little.
    options.store.as_mut().unwrap().kv_bytes = kv_bytes * 3 / 2;
    let engine = start(&model, &options);
    for conversation in ["a", "b"] {
        run(&engine, retrieving(&model, conversation, 12, 1));
    }
    drop(engine);
    let engine = start(&model, &options);
    let cached = ["a", "b"].map(|conversation| {
        let next = ask_on(&engine, conversation, "And its currency?");
        assert_eq!(next.text, wanted.text);
        next.summary.usage.cached_tokens
    });
    assert_eq!(cached, [0, first.summary.log_len - 1]);
}

#[test]
fn what_is_forked_rewound_or_deleted_is_so_after_a_restart() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, &options(dir.path()));
    let first = run(&engine, retrieving(&model, "a", 12, 1));
    ask_on(&engine, "a", "And its currency?");
    block_on(engine.fork(&"a".into(), &"b".into(), None)).unwrap();
    block_on(engine.fork(&"a".into(), &"c".into(), None)).unwrap();
    block_on(engine.rewind(&"a".into(), first.summary.log_len)).unwrap();
    block_on(engine.delete(&"c".into())).unwrap();
    let logs = ["a", "b"].map(|name| log_ids(&engine, name));
    drop(engine);

    let engine = start(&model, &options(dir.path()));
    assert_eq!(["a", "b"].map(|name| log_ids(&engine, name)), logs);
    assert!(block_on(engine.conversation(&"c".into())).is_none());
    let third = ask_on(&engine, "b", "Lima?");
    assert_eq!(third.summary.usage.cached_tokens, logs[1].len() - 1);
}

/// A turn in a copy of the first `len` tokens of `source`, or of all of them.
fn in_copy_of(
    engine: &Engine,
    source: &str,
    len: Option<usize>,
    name: &str,
    kept: bool,
) -> Request {
    let len = len.unwrap_or_else(|| log_ids(engine, source).len());
    Request {
        conversation: name.into(),
        kept,
        copy_of: Some(CopySource {
            conversation: source.into(),
            len,
        }),
        ..next_turn(engine, source, "And its currency?")
    }
}

/// A turn in a copy of "a" as far as it goes.
fn in_copy(engine: &Engine, name: &str, kept: bool) -> Request {
    in_copy_of(engine, "a", None, name, kept)
}

/// An engine that was started again after the turn of "a" and one in its copy "b". Of memory nothing is left, and the
/// file of "b" holds both turns as one piece.
fn restarted_with_copy(model: &Arc<Model>, dir: &Path) -> Engine {
    let engine = start(model, &options(dir));
    run(&engine, retrieving(model, "a", 12, 1));
    run(&engine, in_copy(&engine, "b", true));
    drop(engine);
    start(model, &options(dir))
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_copy_begins_with_what_only_the_store_holds_of_its_source() {
    for (name, model) in models() {
        let dir = tempfile::tempdir().unwrap();
        let (first, wanted) = undisturbed(&model);
        run(
            &start(&model, &options(dir.path())),
            retrieving(&model, "a", 12, 1),
        );
        let engine = start(&model, &options(dir.path()));
        block_on(engine.fork(&"a".into(), &"fork".into(), None)).unwrap();
        let of_fork = ask_on(&engine, "fork", "And its currency?");
        let of_copy = run(&engine, in_copy(&engine, "b", true));
        for next in [of_fork, of_copy] {
            assert_eq!(next.text, wanted.text, "{name}");
            let cached = next.summary.usage.cached_tokens;
            assert_eq!(cached, first.summary.log_len - 1, "{name}");
        }
        // The copy's own files hold all of it.
        let log = log_ids(&engine, "b");
        block_on(engine.delete(&"a".into())).unwrap();
        drop(engine);
        let engine = start(&model, &options(dir.path()));
        let third = ask_on(&engine, "b", "Lima?");
        assert_eq!(third.summary.usage.cached_tokens, log.len() - 1, "{name}");
    }
}

#[test]
fn a_copy_that_nobody_has_continued_has_a_kv_file_of_its_own() {
    for (name, model) in models() {
        let dir = tempfile::tempdir().unwrap();
        let (first, wanted) = undisturbed(&model);
        let engine = restarted_with_copy(&model, dir.path());
        let len = first.summary.log_len;
        block_on(engine.fork(&"a".into(), &"whole".into(), None)).unwrap();
        block_on(engine.fork(&"b".into(), &"part".into(), Some(len))).unwrap();
        block_on(engine.delete(&"a".into())).unwrap();
        block_on(engine.delete(&"b".into())).unwrap();
        // Another conversation of the same name has other keys and values.
        let river = "Which river flows through Lima, and how long is it? ".repeat(4);
        run(&engine, request(&model, "a", &river, 12));
        block_on(engine.fork(&"whole".into(), &"now".into(), None)).unwrap();
        let now = ask_on(&engine, "now", "And its currency?");
        assert_eq!(now.text, wanted.text, "{name}");
        drop(engine);
        let engine = start(&model, &options(dir.path()));
        for (copy, cached) in [("whole", len - 1), ("part", len)] {
            let next = ask_on(&engine, copy, "And its currency?");
            assert_eq!(next.text, wanted.text, "{name}, {copy}");
            assert_eq!(next.summary.usage.cached_tokens, cached, "{name}, {copy}");
        }
        assert_eq!(engine.counters().stats().store_failures, 0, "{name}");
    }
}

#[test]
fn a_copy_may_end_inside_a_piece_of_its_sources_file() {
    for (name, model) in models() {
        let dir = tempfile::tempdir().unwrap();
        let (first, wanted) = undisturbed(&model);
        let engine = restarted_with_copy(&model, dir.path());
        let len = first.summary.log_len;
        let next = run(&engine, in_copy_of(&engine, "b", Some(len), "c", true));
        assert_eq!(next.text, wanted.text, "{name}");
        // The copy has forwarded the last one too, which its source had not.
        assert_eq!(next.summary.usage.cached_tokens, len, "{name}");
    }
}

/// A link whose target is gone is left out with a warning, and the other conversations are there.
#[cfg(unix)]
#[test]
fn a_record_that_cannot_be_read_keeps_no_other_from_being_read() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    run(
        &start(&model, &options(dir.path())),
        retrieving(&model, "a", 12, 1),
    );
    let nowhere = dir.path().join("nowhere");
    std::os::unix::fs::symlink(nowhere, dir.path().join("dangling.conversation")).unwrap();
    let engine = start(&model, &options(dir.path()));
    assert_eq!(block_on(engine.conversations()), ["a".into()]);
}

#[test]
fn a_turn_that_is_not_kept_leaves_nothing_however_it_ends() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, &options(dir.path()));
    run(&engine, retrieving(&model, "a", 12, 1));
    let before = files(dir.path());
    let done = run(&engine, in_copy(&engine, "b", false));
    assert!(done.summary.log_len > 0);
    let alone = Request {
        kept: false,
        ..retrieving(&model, "c", 12, 1)
    };
    run(&engine, alone.clone());
    for request in [in_copy(&engine, "b", false), alone] {
        drop(block_on(engine.submit(request)).unwrap());
    }
    // The turns that were dropped are cancelled in order, before this is answered.
    assert_eq!(block_on(engine.conversations()), ["a".into()]);
    drop(engine);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn the_files_of_a_conversation_are_gone_when_its_deletion_is_answered() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, &options(dir.path()));
    let empty = files(dir.path());
    for _ in 0..20 {
        run(&engine, retrieving(&model, "a", 4, 1));
        block_on(engine.delete(&"a".into())).unwrap();
        assert_eq!(files(dir.path()), empty);
    }
}

#[test]
fn a_turn_whose_end_cannot_be_stored_fails_and_the_next_one_works_again() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, &options(dir.path()));
    let fails = |request| {
        let turn = block_on(engine.submit(request)).unwrap();
        let error = block_on(turn.collect()).unwrap_err();
        assert!(matches!(error, EngineError::NotStored(_)), "{error}");
    };
    let name = "a".into();
    run(&engine, retrieving(&model, "a", 12, 1));
    // A directory in place of the unfinished record lets nothing be written, like a full disk.
    let unwritable = file(dir.path(), "conversation").with_extension("tmp");
    block_on(engine.delete(&name)).unwrap();
    fs::create_dir(&unwritable).unwrap();
    fails(retrieving(&model, "a", 12, 1));
    assert!(block_on(engine.conversation(&name)).is_none());

    fs::remove_dir(&unwritable).unwrap();
    run(&engine, retrieving(&model, "a", 12, 1));
    let log = log_ids(&engine, "a");
    fs::create_dir(&unwritable).unwrap();
    fails(next_turn(&engine, "a", "And its currency?"));
    assert_eq!(log_ids(&engine, "a"), log);

    fs::remove_dir(&unwritable).unwrap();
    let next = ask_on(&engine, "a", "And its currency?");
    assert_eq!(next.text, undisturbed(&model).1.text);
    assert_eq!(engine.counters().stats().store_failures, 2);
    let log = log_ids(&engine, "a");
    drop(engine);
    let engine = start(&model, &options(dir.path()));
    assert_eq!(log_ids(&engine, "a"), log);
}

#[test]
fn a_copy_that_cannot_be_stored_is_not_there() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, &options(dir.path()));
    let (name, copy) = ("a".into(), "copy".into());
    run(&engine, retrieving(&model, "copy", 12, 1));
    let unwritable = file(dir.path(), "conversation").with_extension("tmp");
    block_on(engine.delete(&copy)).unwrap();
    run(&engine, retrieving(&model, "a", 12, 1));
    fs::create_dir(&unwritable).unwrap();
    let refused = block_on(engine.fork(&name, &copy, None));
    assert!(matches!(refused, Err(ConversationError::Store(_))));
    assert!(block_on(engine.conversation(&copy)).is_none());
    fs::remove_dir(&unwritable).unwrap();
    block_on(engine.fork(&name, &copy, None)).unwrap();
    assert_eq!(log_ids(&engine, "copy"), log_ids(&engine, "a"));
}

#[test]
fn two_engines_do_not_share_a_directory() {
    let model = Family::Llama.model();
    let dir = tempfile::tempdir().unwrap();
    let first = start(&model, &options(dir.path()));
    let second = Engine::start(model.clone(), None, options(dir.path()));
    assert!(matches!(second, Err(StartError::StoreInUse { .. })));
    drop(first);
    start(&model, &options(dir.path()));
}
