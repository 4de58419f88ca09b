//! The priority of work that nobody waits for.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

// A thread with it gets a third of what one without gets, where both want the same core.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Lets the threads that searches and changes run on go before the calling one, where the system knows
/// priorities of threads (Linux).
pub(crate) fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "work in the background keeps the priority of the rest");
    }
}

/// A pool of threads with a lower priority, one for each core.
///
/// # Errors
/// The system gives no threads.
pub(crate) fn background_pool() -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .thread_name(|number| format!("onegen-index-merge-{number}"))
        .start_handler(|_| lower_priority())
        .build()
}
