//! Threads that compute the pieces of a step together.
//!
//! A decoded token of a small model takes some 120 products of 30 µs each. Between two of them a general pool's
//! threads fall asleep and are woken again, which takes as long as the product. These threads wait for the next
//! piece in a loop for a moment, and sleep only then. Everything that a forward does on several threads goes through
//! them, since two pools would wait on the same cores.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rayon::prelude::*;

/// How long a helper waits for the next work before it sleeps: longer than what a step does between products, and
/// short enough not to take a core from others.
const WAITS: Duration = Duration::from_micros(50);
/// Looks between two looks at the clock.
const LOOKS: usize = 64;

/// Calls `work` with each number below `pieces`, on several threads, and returns when all calls have.
///
/// The calling thread takes part. While another thread uses the helpers, rayon's pool is used instead.
pub(super) fn each(pieces: usize, work: impl Fn(usize) + Sync) {
    static CREW: OnceLock<Crew> = OnceLock::new();
    let crew = CREW.get_or_init(Crew::start);
    let leading = match crew.leading.try_lock() {
        Ok(leading) => Some(leading),
        // Nothing is left of a job that panicked.
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    if leading.is_some() && !crew.helpers.is_empty() {
        crew.lead(pieces, &work);
    } else {
        (0..pieces).into_par_iter().for_each(&work);
    }
}

/// Calls `work` with each of `items`, as [`each`] does.
pub(super) fn each_mut<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    struct Items<T>(*mut T);
    // SAFETY: every item is used by one thread only.
    unsafe impl<T: Send> Sync for Items<T> {}
    impl<T> Items<T> {
        fn at(&self, index: usize) -> *mut T {
            self.0.wrapping_add(index)
        }
    }
    let (count, items) = (items.len(), Items(items.as_mut_ptr()));
    // SAFETY: `each` gives every index below the length to one call only.
    each(count, |index| work(unsafe { &mut *items.at(index) }));
}

/// What is to be done.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    pieces: usize,
}

/// What the leader and its helpers share.
///
/// **Invariant:** `job` is written only while `round` is even and no helper is `active`, and read only by helpers that
/// became active and saw `round` odd after that. So a job is never read when its leader has returned.
struct Shared {
    /// Odd while there is a job; another number for each.
    round: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// The next piece that nobody has taken.
    next: AtomicUsize,
    /// Helpers that may read the job.
    active: AtomicUsize,
    panicked: AtomicBool,
}

// SAFETY: see the invariant; what `job` points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

struct Helper {
    thread: Thread,
    sleeps: &'static AtomicBool,
}

struct Crew {
    shared: &'static Shared,
    helpers: Vec<Helper>,
    /// Held by the thread whose job it is.
    leading: Mutex<()>,
}

impl Crew {
    /// Starts one helper less than rayon has threads. They live as long as the process, and fewer of them are no fault.
    fn start() -> Self {
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            round: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        }));
        let start = |number: usize| {
            let sleeps: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let thread = thread::Builder::new().name(format!("onegen-product-{number}"));
            let started = thread.spawn(move || help(shared, sleeps)).ok()?;
            let thread = started.thread().clone();
            Some(Helper { thread, sleeps })
        };
        Self {
            shared,
            helpers: (1..rayon::current_num_threads())
                .filter_map(start)
                .collect(),
            leading: Mutex::new(()),
        }
    }

    fn lead(&self, pieces: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared = self.shared;
        // SAFETY: no helper reads it now, see the invariant. The lifetime of `work` is forgotten; `Ends` waits until no
        // helper uses it, also when `work` panics.
        unsafe {
            let work =
                std::mem::transmute::<&(dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(work);
            *shared.job.get() = Some(Job { work, pieces });
        }
        shared.next.store(0, SeqCst);
        shared.round.fetch_add(1, SeqCst);
        let ends = Ends(shared);
        for helper in &self.helpers {
            if helper.sleeps.load(SeqCst) {
                helper.thread.unpark();
            }
        }
        take_pieces(shared, pieces, work);
        drop(ends);
        assert!(
            !shared.panicked.swap(false, SeqCst),
            "a thread panicked in a product"
        );
    }
}

/// Ends a job: afterwards no helper uses it.
struct Ends(&'static Shared);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.round.fetch_add(1, SeqCst);
        let mut looks = 0;
        while self.0.active.load(SeqCst) != 0 {
            looks += 1;
            // A helper may have lost its core.
            if looks % LOOKS == 0 {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

fn take_pieces(shared: &Shared, pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    loop {
        let piece = shared.next.fetch_add(1, SeqCst);
        if piece >= pieces {
            return;
        }
        work(piece);
    }
}

fn help(shared: &'static Shared, sleeps: &AtomicBool) {
    let mut done = 0;
    loop {
        let round = next_round(shared, sleeps, done);
        shared.active.fetch_add(1, SeqCst);
        if shared.round.load(SeqCst) == round {
            // SAFETY: this helper is active and the round is open, so the leader waits for it.
            let job = unsafe { *shared.job.get() };
            if let Some(Job { work, pieces }) = job {
                // SAFETY: as above.
                let work = unsafe { &*work };
                let run = AssertUnwindSafe(|| take_pieces(shared, pieces, work));
                if catch_unwind(run).is_err() {
                    shared.panicked.store(true, SeqCst);
                }
            }
        }
        shared.active.fetch_sub(1, SeqCst);
        done = round;
    }
}

/// Waits for a job after that of the round `done`.
fn next_round(shared: &Shared, sleeps: &AtomicBool, done: usize) -> usize {
    let new = || Some(shared.round.load(SeqCst)).filter(|round| round % 2 == 1 && *round != done);
    let since = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if let Some(round) = new() {
                return round;
            }
            std::hint::spin_loop();
        }
        if since.elapsed() > WAITS {
            break;
        }
    }
    // The leader looks at this after it has begun a round, so one of the two sees the other.
    sleeps.store(true, SeqCst);
    let round = loop {
        match new() {
            Some(round) => break round,
            None => thread::park(),
        }
    };
    sleeps.store(false, SeqCst);
    round
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_whoever_else_works_and_sleeps() {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..500 {
                        let counts: Vec<_> = (0..round % 20).map(|_| AtomicUsize::new(0)).collect();
                        each(counts.len(), |piece| {
                            counts[piece].fetch_add(1, SeqCst);
                        });
                        assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
                        if round % 50 == 0 {
                            thread::sleep(4 * WAITS);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_helpers_go_on() {
        for _ in 0..20 {
            let work = |piece: usize| assert!(piece != 7, "piece 7");
            let panicked = catch_unwind(AssertUnwindSafe(|| each(40, work)));
            assert!(panicked.is_err());
            let done = AtomicUsize::new(0);
            each(40, |_| {
                done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.load(SeqCst), 40);
        }
    }
}
