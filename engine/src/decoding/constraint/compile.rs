//! A thread of its own for every constraint that is compiled: with a stack for all that
//! [`super::bounds`] allows, and with a time limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::ConstraintError;

/// Address space only: of a stack the system gives what is touched. A recursion of one level for each byte
/// that [`super::bounds::MOST_BYTES`] allows has 8 KiB a level.
const STACK: usize = 512 << 20;

/// How long a caller waits. Most constraints take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a waiting caller looks whether the result is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Tells work on a constraint that nobody wants its result any more. It ends at its next step; a single step
/// of the compiler cannot be interrupted.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Ends the work.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`ConstraintError::Cancelled`].
    pub(super) fn check(&self) -> Result<(), ConstraintError> {
        if self.is_cancelled() {
            return Err(ConstraintError::Cancelled);
        }
        Ok(())
    }
}

/// Runs `work` on a thread with a large stack. `held` is dropped when that thread ends, which may be later than
/// this returns.
///
/// # Errors
/// What `work` returns; [`ConstraintError::TooSlow`] if it takes too long, which cancels it, and
/// [`ConstraintError::Cancelled`] if somebody else does: in both cases the thread ends at the work's next step;
/// [`ConstraintError::Compile`] if it panics or the system gives no thread.
pub(super) fn on_large_stack<T: Send + 'static>(
    cancellation: &Cancellation,
    held: impl Send + 'static,
    work: impl FnOnce() -> Result<T, ConstraintError> + Send + 'static,
) -> Result<T, ConstraintError> {
    let (done, result) = sync_channel(1);
    let compile = move || {
        let _held = held;
        // Nobody listens any more after the time limit.
        let _ = done.send(work());
    };
    let thread = thread::Builder::new()
        .name("onegen-constraint".into())
        .stack_size(STACK);
    thread
        .spawn(compile)
        .map_err(|error| ConstraintError::Compile(error.to_string()))?;
    let end = Instant::now() + PATIENCE;
    loop {
        cancellation.check()?;
        match result.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
            Err(RecvTimeoutError::Timeout) => {
                cancellation.cancel();
                return Err(ConstraintError::TooSlow {
                    seconds: PATIENCE.as_secs(),
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ConstraintError::Compile("the compiler failed".into()));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_cancels_does_not_wait_and_what_is_held_is_held_until_the_work_ends() {
        let cancellation = Cancellation::default();
        let held = Arc::new(());
        let (go_on, wait) = sync_channel(0);
        let canceller = cancellation.clone();
        let work = move || {
            canceller.cancel();
            wait.recv().unwrap();
            Ok(())
        };
        let result = on_large_stack(&cancellation, held.clone(), work);
        assert_eq!(result, Err(ConstraintError::Cancelled));
        assert_eq!(Arc::strong_count(&held), 2);
        go_on.send(()).unwrap();
        while Arc::strong_count(&held) > 1 {
            thread::yield_now();
        }
    }
}
