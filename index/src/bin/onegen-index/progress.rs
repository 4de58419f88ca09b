//! The progress bar of a build: how much of the corpus, at which rate, and how long it will take.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use onegen_index::BuildEvent;

/// Draws on stderr, and only if that is a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    linking: bool,
}

impl Progress {
    /// A bar over the bytes of a corpus.
    pub(crate) fn new(corpus_bytes: u64) -> Self {
        let bar = ProgressBar::new(corpus_bytes);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}  {eta} left")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            started: Instant::now(),
            linking: false,
        }
    }

    pub(crate) fn on(&mut self, event: &BuildEvent<'_>) {
        match event {
            BuildEvent::BadLine(error) => self.bar.suspend(|| eprintln!("{error}")),
            BuildEvent::Embedded {
                passages,
                bytes_read,
            } => {
                let rate = f64::from(*passages) / self.seconds();
                self.bar
                    .set_message(format!("{passages} passages, {rate:.0}/s"));
                self.bar.set_position(*bytes_read);
            }
            BuildEvent::Linked { vectors, total } => {
                if !self.linking {
                    self.linking = true;
                    self.bar.set_length(u64::from(*total));
                    self.bar.reset();
                }
                self.bar
                    .set_message(format!("{vectors} of {total} vectors linked"));
                self.bar.set_position(u64::from(*vectors));
            }
        }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
