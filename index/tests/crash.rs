//! After a kill at any moment an index holds every acknowledged change, and no other change partly.
//!
//! `ONEGEN_CRASH_ROUNDS` sets the number of rounds, for more than CI does.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "common/child.rs"]
mod child;
mod common;
#[cfg(target_os = "linux")]
#[path = "common/failing.rs"]
mod failing;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use child::{Running, command, send, task, within};
use common::{Content, all, assert_no_leftovers, assert_whole, ingested, names, options, rounds};
use onegen_index::{BuildOptions, Change, Index, IndexBuilder, Part, Passage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, random};

const DIMENSION: usize = 8;
/// Few enough that merges run all the time.
const DELTA_VECTORS: usize = 6;
const WRITERS: u64 = 3;

fn small_options() -> BuildOptions {
    // Segments with a graph and segments without.
    BuildOptions {
        exact_scan_limit: 12,
        ..options(DIMENSION)
    }
}

fn passage(id: String, text: String, document: Option<String>) -> Passage {
    Passage {
        title: format!("Title of {id}"),
        id,
        text,
        url: None,
        metadata: None,
        part: document.map(|document| Part {
            document,
            start: 0,
            end: 1,
        }),
    }
}

fn vector(rng: &mut StdRng) -> Vec<f32> {
    (0..DIMENSION)
        .map(|_| rng.random_range(0.1f32..1.0))
        .collect()
}

/// The batch of a writer with a number, from 1. It is always the same.
fn batch(seed: u64, writer: u64, number: u64) -> Vec<Change> {
    let mut rng = StdRng::seed_from_u64(seed ^ (writer << 48) ^ number);
    let mut changes = Vec::new();
    for _ in 0..rng.random_range(1..5) {
        let id = format!("{writer}-{}", rng.random_range(0..12));
        let document = format!("{writer}-d{}", rng.random_range(0..4));
        changes.push(match rng.random_range(0..10) {
            0..7 => Change::Upsert {
                passage: passage(
                    id,
                    format!("{number} {}", "x".repeat(rng.random_range(0..3000))),
                    rng.random_bool(0.5).then_some(document),
                ),
                vectors: (0..rng.random_range(1..3))
                    .map(|_| vector(&mut rng))
                    .collect(),
            },
            7..9 => Change::Delete { id },
            _ => Change::DeleteDocument { id: document },
        });
    }
    // This passage records how far the writer came.
    changes.push(Change::Upsert {
        passage: passage(format!("{writer}-head"), number.to_string(), None),
        vectors: vec![vector(&mut rng)],
    });
    changes
}

/// The passages of a writer after its first batches, in the order in which they were added.
struct Model {
    writer: u64,
    batches: u64,
    content: Content,
}

fn models() -> Vec<Model> {
    let model = |writer| Model {
        writer,
        batches: 0,
        content: Vec::new(),
    };
    (0..WRITERS).map(model).collect()
}

impl Model {
    fn advance(&mut self, seed: u64, to: u64) {
        while self.batches < to {
            self.batches += 1;
            for change in batch(seed, self.writer, self.batches) {
                match change {
                    Change::Upsert { passage, vectors } => {
                        self.content.retain(|(p, _)| p.id != passage.id);
                        let unit = |vector: Vec<f32>| {
                            let squares = vector.iter().map(|&x| f64::from(x) * f64::from(x));
                            let norm = squares.sum::<f64>().sqrt();
                            let unit = vector.iter().map(|&x| (f64::from(x) / norm) as f32);
                            unit.collect()
                        };
                        let units = vectors.into_iter().map(unit).collect();
                        self.content.push((passage, units));
                    }
                    Change::Delete { id } => self.content.retain(|(p, _)| p.id != id),
                    Change::DeleteDocument { id } => self.content.retain(|(p, _)| {
                        p.id != id && p.part.as_ref().is_none_or(|part| part.document != id)
                    }),
                }
            }
        }
    }
}

/// Fails unless an index holds the passages of the models after the acknowledged batches, or after
/// one more batch of a writer. Advances the models to that state.
fn hold_against(index: &Index, seed: u64, models: &mut [Model], acknowledged: &[u64]) {
    let all = all(index).unwrap();
    for (model, &acknowledged) in models.iter_mut().zip(acknowledged) {
        let mine = format!("{}-", model.writer);
        let found: Vec<_> = all
            .iter()
            .filter(|(p, _)| p.id.starts_with(&mine))
            .collect();
        let head = index.get(&format!("{mine}head")).unwrap();
        let head = head.map_or(0, |passage| passage.text.parse::<u64>().unwrap());
        assert!(
            head == acknowledged || head == acknowledged + 1,
            "writer {mine} was told of {acknowledged} batches, the index holds {head}"
        );
        model.advance(seed, head);
        assert!(
            found.iter().copied().eq(&model.content),
            "writer {mine} after {head} batches: {found:#?} instead of {:#?}",
            model.content
        );
    }
    assert_eq!(index.passages(), all.len() as u64);
}

fn change_until_killed(dir: &Path, seed: u64, done: &[u64]) {
    let index = Index::open_for_changes_with(dir, DELTA_VECTORS).unwrap();
    send("open", &[]);
    thread::scope(|scope| {
        for (&done, writer) in done.iter().zip(0..) {
            let index = &index;
            scope.spawn(move || {
                for number in done + 1.. {
                    index.apply(batch(seed, writer, number)).unwrap();
                    send("applied", &[writer, number]);
                }
            });
        }
        // Compactions, between the merges that run by themselves.
        let mut rng = StdRng::seed_from_u64(seed ^ done.iter().sum::<u64>());
        loop {
            thread::sleep(Duration::from_millis(rng.random_range(0..20)));
            index.compact().unwrap();
        }
    });
}

#[test]
fn a_killed_writer_loses_no_acknowledged_change_and_leaves_no_half_of_another() {
    const TEST: &str = "a_killed_writer_loses_no_acknowledged_change_and_leaves_no_half_of_another";
    if let Some((dir, task)) = task::<u64>() {
        return change_until_killed(&dir, task[0], &task[1..]);
    }
    let seed: u64 = random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let builder = IndexBuilder::create(&dir, small_options()).unwrap();
    builder.finish().unwrap();
    let mut models = models();
    let began = Instant::now();
    let rounds = rounds("ONEGEN_CRASH_ROUNDS", 150);
    let (mut merged, mut left) = (0, 0);
    for _ in 0..rounds {
        let mut acknowledged: Vec<u64> = models.iter().map(|model| model.batches).collect();
        let segments = segments(&dir);
        let arguments: Vec<u64> = [&[seed][..], &acknowledged].concat();
        let child = Running::start(command(TEST, &dir, &arguments));
        let mut hear = |(what, numbers): child::Message| {
            if let ("applied", &[writer, number]) = (&what[..], &numbers[..]) {
                acknowledged[writer as usize] = number;
            }
        };
        // At any time, also while it opens; or shortly after something was acknowledged.
        let mut kill = within(&mut rng, 60_000);
        let mut after = rng.random_bool(0.6).then(|| rng.random_range(1..60));
        if after.is_some() {
            kill += Duration::from_secs(10);
        }
        while let Ok(told) = child.next_until(kill) {
            hear(told);
            after = after.map(|left: u32| left.saturating_sub(1));
            if after == Some(0) {
                after = None;
                kill = within(&mut rng, 5_000);
            }
        }
        let (told, ended) = child.kill();
        told.into_iter().for_each(&mut hear);
        assert!(!ended, "the child never ends by itself");

        hold_against(
            &Index::open(&dir).unwrap(),
            seed,
            &mut models,
            &acknowledged,
        );
        let reached: Vec<u64> = models.iter().map(|model| model.batches).collect();
        assert_whole(&dir);
        let before = names(&dir).len();
        let index = Index::open_for_changes_with(&dir, usize::MAX).unwrap();
        hold_against(&index, seed, &mut models, &reached);
        assert_eq!(
            reached,
            models.iter().map(|m| m.batches).collect::<Vec<_>>()
        );
        assert_no_leftovers(&dir);
        left += usize::from(names(&dir).len() < before);
        merged += usize::from(segments != self::segments(&dir));
    }
    let changes: u64 = models.iter().map(|model| model.batches).sum();
    println!(
        "{rounds} kills in {:.1?}: {changes} batches, {merged} times among merges, {left} times files were left",
        began.elapsed()
    );
    assert!(changes > rounds as u64 && merged > rounds / 10 && left > 0);
}

/// Changes and compacts an index while the disk begins to fail. No acknowledged change is lost, and
/// no refused change is visible.
#[cfg(target_os = "linux")]
fn change_until_the_disk_fails(
    dir: &Path,
    seed: u64,
    microseconds: u64,
    calls: &[i64],
    done: &[u64],
) {
    let index = Index::open_for_changes_with(dir, DELTA_VECTORS).unwrap();
    let began = Instant::now();
    // Failing renames disturb merges only.
    let is_over = || began.elapsed() > Duration::from_micros(2 * microseconds);
    thread::scope(|scope| {
        for (&done, writer) in done.iter().zip(0..) {
            let index = &index;
            scope.spawn(move || {
                for number in done + 1.. {
                    match index.apply(batch(seed, writer, number)) {
                        Ok(_) => send("applied", &[writer, number]),
                        Err(error) => {
                            let text = error.to_string();
                            assert!(text.starts_with("nothing was changed: cannot"), "{text}");
                            send("refused", &[]);
                            assert!(index.apply(batch(seed, writer, number)).is_err());
                            break;
                        }
                    }
                    if is_over() {
                        break;
                    }
                }
            });
        }
        scope.spawn(|| while index.compact().is_ok() && !is_over() {});
        thread::sleep(Duration::from_micros(microseconds));
        failing::fail_everywhere(calls);
    });
    // Searches go on.
    assert_eq!(all(&index).unwrap().len() as u64, index.passages());
    send("failing", &[u64::from(index.compact().is_err())]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_begins_to_fail_at_any_moment_loses_no_acknowledged_change() {
    const TEST: &str = "a_disk_that_begins_to_fail_at_any_moment_loses_no_acknowledged_change";
    let kinds = [failing::SYNC, failing::WRITE, failing::RENAME];
    if let Some((dir, task)) = task::<u64>() {
        let calls = kinds[task[2] as usize];
        return change_until_the_disk_fails(&dir, task[0], task[1], calls, &task[3..]);
    }
    let seed: u64 = random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let builder = IndexBuilder::create(&dir, small_options()).unwrap();
    builder.finish().unwrap();
    let mut models = models();
    let began = Instant::now();
    let rounds = rounds("ONEGEN_CRASH_ROUNDS", 90);
    let (mut refused, mut unmerged) = (0, 0);
    for round in 0..rounds {
        let kind = round % kinds.len();
        let mut acknowledged: Vec<u64> = models.iter().map(|model| model.batches).collect();
        let task = [seed, rng.random_range(0..40_000), kind as u64];
        let child = Running::start(command(TEST, &dir, &[&task[..], &acknowledged].concat()));
        let (told, ended) = child.wait();
        assert!(ended);
        for (what, numbers) in told {
            match (&what[..], &numbers[..]) {
                ("applied", &[writer, number]) => acknowledged[writer as usize] = number,
                ("refused", []) => refused += 1,
                ("failing", &[failing]) => unmerged += failing,
                _ => (),
            }
        }
        for index in [
            Index::open(&dir).unwrap(),
            Index::open_for_changes_with(&dir, usize::MAX).unwrap(),
        ] {
            hold_against(&index, seed, &mut models, &acknowledged);
            // The process was not killed, so it has also removed what it refused.
            let reached: Vec<u64> = models.iter().map(|model| model.batches).collect();
            assert_eq!(reached, acknowledged);
        }
        assert_whole(&dir);
        assert_no_leftovers(&dir);
    }
    println!(
        "{rounds} failures in {:.1?}: {refused} changes and {unmerged} merges were refused",
        began.elapsed()
    );
    assert!(refused > rounds / 2 && unmerged as usize == rounds);
}

/// Numbers of the segments.
fn segments(dir: &Path) -> Vec<u64> {
    let manifest = onegen_index::Manifest::read(dir).unwrap();
    manifest.segments.iter().map(|s| s.number).collect()
}

/// Passages of a build, always the same ones.
fn corpus(generation: u64) -> Content {
    let mut rng = StdRng::seed_from_u64(generation);
    (0..80)
        .map(|number| {
            let text = format!("{generation} {}", "y".repeat(rng.random_range(0..2000)));
            let vectors = (0..rng.random_range(1..3))
                .map(|_| vector(&mut rng))
                .collect();
            (passage(format!("b-{number}"), text, None), vectors)
        })
        .collect()
}

/// Builds an index of a generation. Work of an interrupted build is not done again.
fn build(dir: &Path, generation: u64, resumes: bool) {
    let (mut builder, from) = if resumes {
        IndexBuilder::resume(dir, small_options(), &generation.to_string()).unwrap()
    } else {
        let builder = IndexBuilder::create(dir, small_options()).unwrap();
        (builder, ingested(0))
    };
    let from = from.records;
    send("from", &[from]);
    for (number, (passage, vectors)) in corpus(generation).iter().enumerate().skip(from as usize) {
        builder.add(passage, vectors).unwrap();
        let added = number as u64 + 1;
        if added.is_multiple_of(9) {
            builder.save_progress(&ingested(added)).unwrap();
            send("saved", &[added]);
        }
    }
    send("finishing", &[]);
    builder.finish().unwrap();
    send("finished", &[]);
}

#[test]
fn a_killed_build_goes_on_and_the_old_index_stands_whole_until_then() {
    const TEST: &str = "a_killed_build_goes_on_and_the_old_index_stands_whole_until_then";
    if let Some((dir, task)) = task::<u64>() {
        return build(&dir, task[0], task[1] == 1);
    }
    let seed: u64 = random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let undisturbed = |generation: u64| {
        let dir = home.path().join("undisturbed");
        build(&dir, generation, false);
        all(&Index::open(&dir).unwrap()).unwrap()
    };
    let dir = home.path().join("index");
    build(&dir, 0, false);
    let mut old = undisturbed(0);
    let rounds = rounds("ONEGEN_CRASH_ROUNDS", 200);
    let began = Instant::now();
    let (mut generation, mut resumed, mut kills) = (1, 0, 0);
    while kills < rounds {
        let new = undisturbed(generation);
        let mut saved = 0;
        loop {
            let resumes = rng.random_bool(0.8);
            let child = Running::start(command(TEST, &dir, &[generation, resumes.into()]));
            // While it adds passages, or while it finishes.
            let mut kill = within(&mut rng, 30_000);
            let until_finish = rng.random_bool(0.6);
            if until_finish || kills >= rounds {
                kill += Duration::from_secs(60);
            }
            let mut heard = Vec::new();
            while let Ok(told) = child.next_until(kill) {
                if until_finish && kills < rounds && told.0 == "finishing" {
                    kill = within(&mut rng, 15_000);
                }
                heard.push(told);
            }
            let (told, ended) = child.kill();
            heard.extend(told);
            let mut unfinished = true;
            let mut published = false;
            for (what, numbers) in heard {
                match (&what[..], &numbers[..]) {
                    ("from", &[from]) => {
                        // A build without progress may be one that was about to be published.
                        assert!(!resumes || from >= saved || from == 0, "{from} of {saved}");
                        resumed += usize::from(from > 0);
                        saved = from;
                    }
                    ("saved", &[added]) => saved = added,
                    ("finished", []) => unfinished = false,
                    _ => (),
                }
            }
            kills += usize::from(!ended);
            let index = Index::open(&dir).unwrap();
            let found = all(&index).unwrap();
            if found != old || !unfinished {
                assert!(found == new, "neither the old nor the new index");
                published = true;
            }
            assert_whole(&dir);
            if published {
                break;
            }
        }
        let index = Index::open_for_changes(&dir).unwrap();
        assert!(all(&index).unwrap() == new);
        assert_no_leftovers(&dir);
        drop(index);
        old = new;
        generation += 1;
    }
    println!(
        "{kills} kills in {:.1?}, {resumed} times a build went on, {generation} indexes",
        began.elapsed()
    );
    assert!(resumed > rounds / 10);
    build(&dir, generation, false);
    assert_eq!(names(home.path()), ["index", "undisturbed"]);
}
