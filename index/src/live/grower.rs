//! A thread that works behind the writer, whenever the writer has published something.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::live::background::lower_priority;

/// The thread. It ends when this is dropped, after the step that it is in.
pub(crate) struct Grower {
    // Taken when it is dropped, which ends the thread's loop.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Grower {
    /// Starts a thread that calls `step`, whenever it is woken, until that says that nothing is left.
    /// `None` where the system gives no thread.
    pub(crate) fn start(step: impl Fn() -> bool + Send + 'static) -> Option<Self> {
        // One wake-up that waits stands for all that follow it.
        let (wake, woken) = sync_channel(1);
        let work = move || {
            lower_priority();
            while woken.recv().is_ok() {
                while step() {}
            }
        };
        let thread = thread::Builder::new().name("onegen-index-graph".into());
        match thread.spawn(work) {
            Ok(thread) => Some(Self {
                wake: Some(wake),
                thread: Some(thread),
            }),
            Err(error) => {
                tracing::warn!(%error, "no thread for the delta's graph: the delta is scanned");
                None
            }
        }
    }

    /// Has the thread look for work.
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // If a wake-up waits already, the thread will see this one's work too.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed; searches scan what it left out.
            let _ = thread.join();
        }
    }
}
