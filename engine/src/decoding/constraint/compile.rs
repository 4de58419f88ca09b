//! A thread of its own for every constraint that is compiled: with a stack for all that
//! [`super::bounds`] allows, and with a time limit.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use crate::error::ConstraintError;

/// Address space only: of a stack the system gives what is touched. A recursion of one level for each byte
/// that [`super::bounds::MOST_BYTES`] allows has 8 KiB a level.
const STACK: usize = 512 << 20;

/// How long a caller waits. Most constraints take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `work` on a thread with a large stack.
///
/// # Errors
/// What `work` returns; [`ConstraintError::TooSlow`] if it takes too long, in which case the thread ends when
/// the work does; [`ConstraintError::Compile`] if it panics or the system gives no thread.
pub(super) fn on_large_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConstraintError> + Send + 'static,
) -> Result<T, ConstraintError> {
    let (done, result) = sync_channel(1);
    let compile = move || {
        // Nobody listens any more after the time limit.
        let _ = done.send(work());
    };
    let thread = thread::Builder::new()
        .name("onegen-constraint".into())
        .stack_size(STACK);
    thread
        .spawn(compile)
        .map_err(|error| ConstraintError::Compile(error.to_string()))?;
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(ConstraintError::TooSlow {
            seconds: PATIENCE.as_secs(),
        }),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            Err(ConstraintError::Compile("the compiler failed".into()))
        }
    }
}
