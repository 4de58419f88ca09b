//! A full disk and a failing disk: refused changes are reported as errors, and nothing else is
//! lost.
//!
//! The full disk is a small tmpfs, which needs a user namespace or root. The failing disk is a
//! seccomp filter of the thread that does the work.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/failing.rs"]
mod failing;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::vectors::clustered;
use common::{
    all, assert_no_leftovers, assert_whole, build, graph_options, ingested, names, options, passage,
};
use failing::{RENAME, SYNC, WRITE, fail};
use onegen_index::{
    BuildOptions, Change, Index, IndexBuilder, IndexError, Manifest, Passage, SearchOptions,
};

const DIMENSION: usize = 8;

fn upsert(number: usize, text: &str) -> Change {
    Change::Upsert {
        passage: Passage {
            text: text.into(),
            ..passage(number)
        },
        vectors: vec![(0..DIMENSION).map(|n| (n + number) as f32 + 1.0).collect()],
    }
}

/// Runs `work` in a thread in which these system calls fail.
fn where_fail<T: Send>(calls: &[i64], work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            fail(calls);
            work()
        });
        thread.join().unwrap()
    })
}

/// Fails unless an error says which call failed on which file.
fn assert_says(error: &IndexError, wanted: &[&str]) {
    let text = error.to_string();
    assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_change_that_the_disk_refuses_is_not_applied_and_no_later_one_is() {
    for (calls, action) in [(SYNC, "cannot sync"), (WRITE, "cannot write")] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        build(&dir, options(DIMENSION), &clustered(1, 9, DIMENSION, 3));
        let index = Index::open_for_changes(&dir).unwrap();
        index.apply(vec![upsert(20, "acknowledged")]).unwrap();
        let before = all(&index).unwrap();
        let change = |index: &Index| index.apply(vec![upsert(21, "refused"), upsert(1, "refused")]);
        let error = where_fail(calls, || change(&index)).unwrap_err();
        assert!(matches!(error, IndexError::NotApplied(_)), "{error}");
        assert_says(
            &error,
            &["nothing was changed", action, ".log", "Input/output error"],
        );
        // The disk works again, but what it holds of the log is not known.
        for _ in 0..2 {
            let error = change(&index).unwrap_err();
            assert!(matches!(error, IndexError::NotApplied(_)), "{error}");
            assert_says(&error, &["close the index and open it again"]);
            assert!(index.compact().is_err());
        }
        assert_eq!(all(&index).unwrap(), before);
        assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), before);
        drop(index);
        let index = Index::open_for_changes(&dir).unwrap();
        assert_eq!(all(&index).unwrap(), before);
        assert_no_leftovers(&dir);
        change(&index).unwrap();
        index.compact().unwrap();
        assert_eq!(index.get("id-1").unwrap().unwrap().text, "refused");
        drop(index);
        assert_whole(&dir);
    }
}

#[test]
fn a_merge_that_the_disk_refuses_leaves_the_index_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(
        &dir,
        graph_options(DIMENSION),
        &clustered(1, 40, DIMENSION, 3),
    );
    for calls in [SYNC, WRITE, RENAME] {
        let index = Index::open_for_changes(&dir).unwrap();
        index.apply(vec![upsert(20, "again")]).unwrap();
        let (before, files) = (all(&index).unwrap(), names(&dir));
        let error = where_fail(calls, || index.compact()).unwrap_err();
        assert_says(&error, &["cannot", "Input/output error"]);
        assert_eq!(all(&index).unwrap(), before);
        assert_eq!(names(&dir), files, "nothing unfinished stays");
        assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), before);
        drop(index);
        assert_whole(&dir);
        Index::open_for_changes(&dir).unwrap().compact().unwrap();
        assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), before);
    }
}

#[test]
fn a_log_of_which_a_sync_failed_takes_no_more_whoever_synced_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(DIMENSION), &clustered(1, 9, DIMENSION, 3));
    let index = Index::open_for_changes(&dir).unwrap();
    index.apply(vec![upsert(20, "acknowledged")]).unwrap();
    // The old log is the first file that a merge syncs in this way.
    let error = where_fail(&[libc::SYS_fdatasync], || index.compact()).unwrap_err();
    assert_says(&error, &["cannot sync", "changes-000002.log"]);
    let error = index.apply(vec![upsert(21, "refused")]).unwrap_err();
    assert!(matches!(error, IndexError::NotApplied(_)), "{error}");
    assert_eq!(index.passages(), 10);
    drop(index);
    let index = Index::open_for_changes(&dir).unwrap();
    index.apply(vec![upsert(21, "taken")]).unwrap();
    assert_eq!(index.passages(), 11);
}

#[test]
fn a_build_never_trusts_what_a_failed_sync_may_have_lost() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let resume = || IndexBuilder::resume(&dir, options(DIMENSION), "job").unwrap();
    let (mut builder, _) = resume();
    let vectors = clustered(1, 5, DIMENSION, 3);
    let add = |builder: &mut IndexBuilder, number: usize| {
        builder.add(&passage(number), &[&vectors[number]]).unwrap();
    };
    (0..3).for_each(|number| add(&mut builder, number));
    builder.save_progress(&ingested(3)).unwrap();
    (3..5).for_each(|number| add(&mut builder, number));
    let error = where_fail(SYNC, || builder.save_progress(&ingested(5))).unwrap_err();
    assert_says(&error, &["cannot sync", "Input/output error"]);
    assert!(builder.save_progress(&ingested(5)).is_err());
    assert!(builder.finish().is_err());
    assert!(!dir.exists());
    let (mut builder, from) = resume();
    assert_eq!(from.records, 3);
    (3..5).for_each(|number| add(&mut builder, number));
    builder.finish().unwrap();
    assert_eq!(Index::open(&dir).unwrap().passages(), 5);
}

#[test]
fn a_build_that_the_disk_refuses_leaves_the_old_index() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(1, 40, DIMENSION, 3);
    build(&dir, options(DIMENSION), &vectors[..4]);
    let before = all(&Index::open(&dir).unwrap()).unwrap();
    for calls in [SYNC, WRITE, RENAME] {
        let mut builder = IndexBuilder::create(&dir, graph_options(DIMENSION)).unwrap();
        for (number, vector) in vectors.iter().enumerate() {
            builder.add(&passage(number), &[vector]).unwrap();
        }
        let error = where_fail(calls, || builder.finish()).unwrap_err();
        assert_says(&error, &["cannot", "Input/output error"]);
        assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), before);
        assert_eq!(names(home.path()), ["index"]);
    }
    assert_whole(&dir);
}

/// Runs a test again with a tmpfs of `bytes` bytes mounted on a directory, if that is possible.
fn on_a_small_disk(test: &str, bytes: u64) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--"]);
    command.args([
        "sh",
        "-c",
        "mount -t tmpfs -o \"size=$1\" tmpfs \"$2\" || exit 77; shift 2; exec \"$@\"",
    ]);
    command.arg("sh").arg(bytes.to_string()).arg(home.path());
    command.arg(std::env::current_exe().unwrap());
    child::set(&mut command, test, home.path(), &[]);
    match command.output() {
        Ok(output) if output.status.success() => {
            println!("{}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(output) if output.status.code() == Some(101) => panic!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        other => {
            println!("skipped: no small disk can be mounted here: {other:?}");
        }
    }
}

/// Fills a disk; deleting the file frees it.
fn fill(ballast: &Path, leave: u64) {
    use std::io::Write;
    let mut file = fs::File::create(ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(leave)).unwrap();
}

fn assert_is_full(error: &IndexError) {
    assert_says(error, &["cannot", "No space left on device"]);
}

#[test]
fn an_open_index_takes_changes_again_as_soon_as_a_full_disk_has_room() {
    const TEST: &str = "an_open_index_takes_changes_again_as_soon_as_a_full_disk_has_room";
    let Some((home, _)) = child::task::<u64>() else {
        on_a_small_disk(TEST, 4 << 20);
        return;
    };
    let (dir, ballast) = (home.join("index"), home.join("ballast"));
    build(&dir, options(DIMENSION), &clustered(1, 100, DIMENSION, 3));
    let index = Index::open_for_changes_with(&dir, 1 << 30).unwrap();
    let text = "long ".repeat(400);
    let mut number = 1000;
    for leave in [0, 3000, 20_000] {
        fill(&ballast, leave);
        let error = loop {
            match index.apply(vec![upsert(number, &text)]) {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, IndexError::NotApplied(_)), "{error}");
        fs::remove_file(&ballast).unwrap();
        index.apply(vec![upsert(number, &text)]).unwrap();
        number += 1;
    }
    let before = all(&index).unwrap();
    assert_eq!(before.len(), number - 900);
    drop(index);
    let index = Index::open_for_changes_with(&dir, 1 << 30).unwrap();
    assert_eq!(all(&index).unwrap(), before);
}

#[test]
fn changes_and_merges_on_a_full_disk_are_refused_and_go_on_when_there_is_space() {
    const TEST: &str =
        "changes_and_merges_on_a_full_disk_are_refused_and_go_on_when_there_is_space";
    let Some((home, _)) = child::task::<u64>() else {
        on_a_small_disk(TEST, 4 << 20);
        return;
    };
    let (dir, ballast) = (home.join("index"), home.join("ballast"));
    let options = BuildOptions {
        exact_scan_limit: 50,
        ..options(DIMENSION)
    };
    build(&dir, options, &clustered(1, 100, DIMENSION, 3));
    let text = "long ".repeat(400);
    let (mut number, mut refused_merges) = (1000, 0);
    for leave in (0..60).map(|n| n * 2048) {
        let index = Index::open_for_changes_with(&dir, 1 << 30).unwrap();
        fill(&ballast, leave);
        let first = number;
        // A full disk refuses a merge, and what was acknowledged stays.
        if (leave / 2048) % 2 == 1 {
            index
                .apply(vec![upsert(number, &text)])
                .map(|_| number += 1)
                .ok();
            let before = all(&index).unwrap();
            if let Err(error) = index.compact() {
                refused_merges += 1;
                let text = error.to_string();
                assert!(
                    text.contains("No space left") || text.contains("earlier write"),
                    "{text}"
                );
            }
            assert_eq!(all(&index).unwrap(), before);
        }
        let error = loop {
            match index.apply(vec![upsert(number, &text)]) {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, IndexError::NotApplied(_)), "{error}");
        assert_says(&error, &["nothing was changed", "cannot write"]);
        let before = all(&index).unwrap();
        assert_eq!(before.len(), number - 900);
        assert!(index.get(&format!("id-{number}")).unwrap().is_none());
        let nearest = index
            .search(&[1.0; DIMENSION], &SearchOptions::new(3))
            .unwrap();
        assert_eq!(nearest.len(), 3);
        drop(index);
        // Full as it is, it can be read and opened for changes.
        assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), before);
        assert_whole(&dir);
        let index = Index::open_for_changes_with(&dir, 1 << 30).unwrap();
        assert_eq!(all(&index).unwrap(), before);
        assert_no_leftovers(&dir);
        fs::remove_file(&ballast).unwrap();
        index.apply(vec![upsert(number, &text)]).unwrap();
        assert_eq!(index.passages(), before.len() as u64 + 1);
        // Again as many as before, so that there is space for the next round.
        let delete = |n| Change::Delete {
            id: format!("id-{n}"),
        };
        index.apply((first..=number).map(delete).collect()).unwrap();
        index.compact().unwrap();
        number = first;
        assert_eq!(index.passages(), (first - 900) as u64);
        drop(index);
        assert_whole(&dir);
    }
    println!("{refused_merges} merges were refused");
    assert!(refused_merges > 5);
}

#[test]
fn a_build_on_a_full_disk_is_refused_leaves_the_old_index_and_goes_on_when_there_is_space() {
    const TEST: &str =
        "a_build_on_a_full_disk_is_refused_leaves_the_old_index_and_goes_on_when_there_is_space";
    let Some((home, _)) = child::task::<u64>() else {
        on_a_small_disk(TEST, 2 << 20);
        return;
    };
    let (dir, ballast) = (home.join("index"), home.join("ballast"));
    let vectors = clustered(1, 400, DIMENSION, 3);
    build(&dir, options(DIMENSION), &vectors[..20]);
    let before = all(&Index::open(&dir).unwrap()).unwrap();
    // Adds what is missing; `Err` with the first error.
    let go_on = |mut builder: IndexBuilder, from: u64| -> Result<Manifest, IndexError> {
        for (number, vector) in vectors.iter().enumerate().skip(from as usize) {
            builder.add(&passage(number), &[vector])?;
            if number % 50 == 49 {
                builder.save_progress(&ingested(number as u64 + 1))?;
            }
        }
        builder.finish()
    };
    let resume = || IndexBuilder::resume(&dir, graph_options(DIMENSION), "job");
    let mut reached = 0;
    for leave in (0..30).map(|n| n * 4096) {
        fill(&ballast, leave);
        let created = IndexBuilder::create(&home.join("other"), options(DIMENSION));
        if let Err(error) = created.and_then(|builder| go_on(builder, 0)) {
            assert_is_full(&error);
            assert!(!names(&home).contains(&".other.building".to_owned()));
        } else {
            fs::remove_dir_all(home.join("other")).unwrap();
        }
        match resume().and_then(|(builder, from)| {
            let from = from.records;
            assert!(from >= reached, "{from} after {reached}");
            reached = from;
            go_on(builder, from)
        }) {
            Err(error) => assert_is_full(&error),
            Ok(_) => break,
        }
        assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), before);
        assert_whole(&dir);
        fs::remove_file(&ballast).unwrap();
    }
    assert!(reached > 0, "no build was interrupted half way");
    fs::remove_file(&ballast).ok();
    if all(&Index::open(&dir).unwrap()).unwrap() == before {
        let (builder, from) = resume().unwrap();
        go_on(builder, from.records).unwrap();
    }
    let undisturbed = home.join("undisturbed");
    build(&undisturbed, graph_options(DIMENSION), &vectors);
    let wanted = all(&Index::open(&undisturbed).unwrap()).unwrap();
    assert_eq!(all(&Index::open(&dir).unwrap()).unwrap(), wanted);
    assert_whole(&dir);
    assert_eq!(names(&home), ["index", "undisturbed"]);
}
