//! Puts vectors into an index while two threads search it and merges run, and prints one JSON object.
//!
//! ```text
//! live CORPUS VECTORS DIR [scan] [SECONDS]
//! ```
//!
//! CORPUS is `clustered`, `equal` (a tenth of each cluster is one vector) or `topics` (clusters one after the
//! other). With `scan` the delta has no graph. Vectors have 896 dimensions and come in batches of 1,000, one
//! after the other or one in so many SECONDS. Recall@10 is measured against an exact search between
//! batches, while the searching threads and the merge go on.
//!
//! Where clusters come one after the other, most queries have nothing near them at first, and such a query
//! takes longer in any index. So searches whose cluster was there are told from those whose cluster was not,
//! and the merged index is searched for vectors of other clusters, too.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use onegen_index::{
    BuildOptions, Change, DeltaOptions, Fingerprints, Index, IndexBuilder, Passage, SearchOptions,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

const DIMENSION: usize = 896;
const BATCH: usize = 1_000;
const CENTRES: usize = 100;
const QUERIES: usize = 200;

fn main() -> Result<()> {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [corpus, vectors, dir, ref options @ ..] = arguments[..] else {
        println!("usage: live clustered|equal|topics VECTORS DIR [scan] [SECONDS]");
        return Ok(());
    };
    let (vectors, dir, scan) = (vectors.parse()?, Path::new(dir), options.contains(&"scan"));
    let seconds = options.iter().find(|option| **option != "scan");
    let pace = Duration::from_secs_f64(seconds.unwrap_or(&"0").parse()?);
    let corpus = Corpus::new(corpus, vectors)?;
    let fingerprints = Fingerprints {
        name: "random".into(),
        model: "m".into(),
        tokenizer: "t".into(),
        template: "p".into(),
    };
    IndexBuilder::create(dir, BuildOptions::new(DIMENSION, fingerprints))?.finish()?;
    let delta = DeltaOptions {
        graph_from: if scan {
            usize::MAX
        } else {
            DeltaOptions::default().graph_from
        },
        ..DeltaOptions::default()
    };
    let index = Index::open_for_changes_with_delta(dir, delta)?;
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|n| corpus.query(n)).collect();

    let (mut batches, mut recalls, mut in_log) = (Vec::new(), Vec::new(), 0);
    let start = Instant::now();
    let is_near = |query: usize, passages: usize| corpus.has_near(query, passages);
    let live = while_searching(&index, &queries, is_near, || {
        for batch in 0..vectors / BATCH {
            let changes = (batch * BATCH..(batch + 1) * BATCH).map(|n| corpus.upsert(n));
            let changes: Vec<Change> = changes.collect();
            let begun = Instant::now();
            index.apply(changes)?;
            batches.push(begun.elapsed().as_secs_f64());
            thread::sleep(pace.saturating_sub(begun.elapsed()));
            in_log = index.stats().in_log.max(in_log);
            if batch % 4 == 3 {
                let some = queries.iter().skip(batch % QUERIES).take(10);
                recalls.push(recall(&index, some)?);
            }
        }
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    index.settle()?;
    index.compact()?;
    let five_seconds = || {
        thread::sleep(Duration::from_secs(5));
        Ok(())
    };
    let merged = while_searching(&index, &queries, |_, _| true, five_seconds)?;
    let far: Vec<Vec<f32>> = (0..QUERIES).map(|n| corpus.far_query(n)).collect();
    let merged_far = while_searching(&index, &far, |_, _| false, five_seconds)?;
    let ends = 5.min(batches.len());
    let (first, last) = (
        median(&batches[..ends]),
        median(&batches[batches.len() - ends..]),
    );
    let [live_p95, merged_p95] = [&live, &merged].map(|all| quantile(&all.clock, 0.95));
    let [near_p95, far_p95] = [&live.near, &live.far].map(|some| quantile(some, 0.95));
    let merged_far_p95 = quantile(&merged_far.far, 0.95);
    let [live_processor, merged_processor] =
        [&live, &merged].map(|all| quantile(&all.processor, 0.95));
    println!(
        "{}",
        json!({
            "seconds": seconds,
            "most_in_delta": in_log,
            "first_batch": batches[0],
            "first_batches_median": first,
            "last_batches_median": last,
            "last_over_first": last / first,
            "slowest_batch": batches.iter().copied().fold(0.0, f64::max),
            "searches": live.clock.len(),
            "search_p50": quantile(&live.clock, 0.5),
            "search_p95": live_p95,
            "merged_p50": quantile(&merged.clock, 0.5),
            "merged_p95": merged_p95,
            "p95_over_merged": live_p95 / merged_p95,
            "merged_far_p95": merged_far_p95,
            "near_searches": live.near.len(),
            "near_p95": near_p95,
            "near_p95_over_merged": near_p95 / merged_p95,
            "far_searches": live.far.len(),
            "far_p95": far_p95,
            "far_p95_over_merged": far_p95 / merged_far_p95,
            "search_processor_p95": live_processor,
            "merged_processor_p95": merged_processor,
            "processor_p95_over_merged": live_processor / merged_processor,
            "recall_mean": recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
            "recall_least": recalls.iter().copied().fold(1.0, f64::min),
            "recall_merged": recall(&index, queries.iter())?,
            "recall_merged_far": recall(&index, far.iter())?,
        })
    );
    Ok(())
}

/// Vectors around centres, out of their numbers.
struct Corpus {
    centres: Vec<Vec<f32>>,
    equal: bool,
    topics: bool,
    vectors: usize,
}

impl Corpus {
    fn new(kind: &str, vectors: usize) -> Result<Self> {
        if !["clustered", "equal", "topics"].contains(&kind) {
            bail!("{kind:?} is none of clustered, equal and topics");
        }
        Ok(Self {
            centres: (0..CENTRES).map(|n| noise(n as u64, 1.0)).collect(),
            equal: kind == "equal",
            topics: kind == "topics",
            vectors,
        })
    }

    fn near(&self, centre: usize, seed: u64) -> Vec<f32> {
        let noise = noise(seed, 0.6);
        let centre = &self.centres[centre % CENTRES];
        noise.iter().zip(centre).map(|(x, c)| x + c).collect()
    }

    fn query(&self, number: usize) -> Vec<f32> {
        self.near(number, u64::MAX - number as u64)
    }

    /// Whether vectors of a query's cluster are among the first `passages`.
    fn has_near(&self, number: usize, passages: usize) -> bool {
        !self.topics || number % CENTRES * self.vectors / CENTRES < passages
    }

    /// One that has nothing near it.
    fn far_query(&self, number: usize) -> Vec<f32> {
        noise(u64::MAX / 2 - number as u64, 1.0)
    }

    fn upsert(&self, number: usize) -> Change {
        // One in ten of each cluster, so that no query is left without near vectors.
        let is_equal = self.equal && (number + number / CENTRES).is_multiple_of(10);
        let vector = if is_equal {
            self.near(0, 1 << 40)
        } else if self.topics {
            self.near(number * CENTRES / self.vectors, (1 << 32) + number as u64)
        } else {
            self.near(number, (1 << 32) + number as u64)
        };
        Change::Upsert {
            passage: Passage {
                id: number.to_string(),
                title: String::new(),
                text: format!("The text of number {number}."),
                url: None,
                metadata: None,
                part: None,
            },
            vectors: vec![vector],
        }
    }
}

fn noise(seed: u64, spread: f32) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..DIMENSION)
        .map(|_| rng.random_range(-spread..spread))
        .collect()
}

/// The seconds of each search: of the clock, and of the processor that it took itself. Where more threads
/// are busy than there are cores, the difference is what it waited for others.
#[derive(Default)]
struct Seconds {
    clock: Vec<f64>,
    processor: Vec<f64>,
    /// Those of the clock whose query had vectors of its cluster to find, and the others.
    near: Vec<f64>,
    far: Vec<f64>,
}

/// Seconds of the processor that this thread has taken; 0 where the system does not say.
fn processor_seconds() -> f64 {
    #[cfg(target_os = "linux")]
    {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the reference is to a timespec that the call fills.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(target_os = "linux"))]
    0.0
}

/// Two threads search while `work` runs. `is_near` says whether a query, by its number, has vectors of its
/// cluster among so many passages.
fn while_searching(
    index: &Index,
    queries: &[Vec<f32>],
    is_near: impl Fn(usize, usize) -> bool + Sync,
    work: impl FnOnce() -> Result<()>,
) -> Result<Seconds> {
    let (done, all) = (AtomicBool::new(false), Mutex::new(Seconds::default()));
    let worked = thread::scope(|scope| {
        for thread in 0..2 {
            let (done, all, is_near) = (&done, &all, &is_near);
            scope.spawn(move || -> Result<()> {
                let mut seconds = Seconds::default();
                for number in (0..queries.len()).cycle().skip(thread * QUERIES / 2) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let passages = index.passages() as usize;
                    if passages == 0 {
                        thread::yield_now();
                        continue;
                    }
                    let (begun, taken) = (Instant::now(), processor_seconds());
                    index.search(&queries[number], &SearchOptions::new(10))?;
                    let elapsed = begun.elapsed().as_secs_f64();
                    seconds.clock.push(elapsed);
                    if is_near(number, passages) {
                        seconds.near.push(elapsed);
                    } else {
                        seconds.far.push(elapsed);
                    }
                    seconds.processor.push(processor_seconds() - taken);
                }
                if let Ok(mut all) = all.lock() {
                    all.clock.extend(seconds.clock);
                    all.processor.extend(seconds.processor);
                    all.near.extend(seconds.near);
                    all.far.extend(seconds.far);
                }
                Ok(())
            });
        }
        let worked = work();
        done.store(true, Ordering::Relaxed);
        worked
    });
    worked?;
    Ok(all.into_inner().unwrap_or_default())
}

/// Share of the ten best that a search finds; of equal scores any is as good.
fn recall<'q>(index: &Index, queries: impl Iterator<Item = &'q Vec<f32>>) -> Result<f64> {
    let exact = SearchOptions {
        exact: true,
        ..SearchOptions::new(10)
    };
    let (mut found, mut wanted) = (0, 0);
    for query in queries {
        let truth = index.search(query, &exact)?;
        let least = truth.last().map_or(f32::MAX, |hit| hit.score);
        let hits = index.search(query, &SearchOptions::new(10))?;
        found += hits.iter().filter(|hit| hit.score >= least).count();
        wanted += truth.len();
    }
    Ok(found as f64 / wanted.max(1) as f64)
}

fn median(numbers: &[f64]) -> f64 {
    quantile(numbers, 0.5)
}

fn quantile(numbers: &[f64], share: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(at).copied().unwrap_or_default()
}
