//! Tests of the cache without a model.

use super::*;

fn kv(seed: u32) -> PassageKv {
    let rows = |layer: u32| {
        (0..24)
            .flat_map(|n| ((seed * 100 + layer * 24 + n) as f32 / 7.0).to_le_bytes())
            .collect()
    };
    PassageKv::from_parts(vec![rows(0), rows(1)], 3, vec![0.6, 0.8])
}

fn block(seed: u32) -> BlockDigest {
    BlockDigest::of(&[1, seed, 2])
}

fn name(id: &str) -> PassageName {
    let text = blake3::hash(id.as_bytes());
    PassageName {
        id: id.to_owned(),
        text,
    }
}

/// A block of these takes so many bytes in memory.
const BYTES: usize = (2 * 24 + 2) * 4;

#[test]
fn what_was_used_longest_ago_goes_first_and_the_budget_is_kept() {
    let mut memory = Memory::new(2 * BYTES);
    let put = |memory: &mut Memory, seed: u32| {
        memory.insert(
            block(seed),
            name("a"),
            Arc::new(kv(seed)),
            PassageKvSource::Memory,
        );
    };
    put(&mut memory, 1);
    put(&mut memory, 2);
    assert!(memory.get(block(1)).is_some());
    put(&mut memory, 3);
    let held = [1, 2, 3].map(|seed| memory.contains(block(seed)));
    assert_eq!(held, [true, false, true]);
    assert_eq!((memory.bytes(), memory.evictions()), (2 * BYTES, 1));
    let mut small = Memory::new(BYTES - 1);
    put(&mut small, 1);
    assert_eq!(small.bytes(), 0);
}

#[test]
fn a_block_comes_back_from_the_disk_with_its_bits_and_only_for_the_model_that_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = |made_by: &str| PassageFiles::open(dir.path(), 1 << 20, made_by.to_owned()).unwrap();
    let mut files = open("a");
    files.write(block(1), name("peru"), &kv(1));
    assert!(files.bytes() > 0);
    let mut again = open("a");
    assert_eq!(again.read(block(1)), Some((name("peru"), kv(1))));
    assert_eq!(again.read(block(2)), None);
    // Another model's are deleted.
    assert_eq!(open("b").bytes(), 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_with_another_byte_is_deleted_and_gives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let open = || PassageFiles::open(dir.path(), 1 << 20, "a".to_owned()).unwrap();
    open().write(block(1), name("peru"), &kv(1));
    let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap();
    let path = path.unwrap().path();
    let written = std::fs::read(&path).unwrap();
    for at in 0..written.len() {
        let mut damaged = written.clone();
        damaged[at] ^= 4;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(open().read(block(1)), None, "byte {at}");
        assert!(!path.exists(), "byte {at}");
    }
}

#[test]
fn files_stay_under_their_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = PassageFiles::open(dir.path(), 1 << 20, "a".to_owned()).unwrap();
    files.write(block(1), name("a"), &kv(1));
    let one = files.bytes();
    let mut files = PassageFiles::open(dir.path(), 2 * one, "a".to_owned()).unwrap();
    files.write(block(2), name("b"), &kv(2));
    assert!(files.read(block(1)).is_some());
    files.write(block(3), name("c"), &kv(3));
    assert_eq!(files.bytes(), 2 * one);
    assert!(files.read(block(2)).is_none());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn changes_concern_the_passages_of_their_documents() {
    let mut changes = Changes::default();
    assert!(!changes.concern("peru", Moment(0)));
    changes.latest.push_back("peru".to_owned());
    changes.next = 1;
    for (passage, concerns) in [("peru", true), ("peru#2", true), ("peruvian", false)] {
        assert_eq!(changes.concern(passage, Moment(0)), concerns, "{passage}");
        assert!(!changes.concern(passage, Moment(1)));
    }
    // What is not remembered may have concerned anything.
    changes.latest.clear();
    assert!(changes.concern("chile", Moment(0)));
}
