//! The progress bar of a build: how much of the corpus is done, at which rate, and how long the
//! rest will take.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use onegen_index::{IngestEvent, LeftOut};

/// The bar is drawn on stderr, and only if stderr is a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    linking: bool,
    // Passages that an earlier, interrupted run has embedded.
    resumed: u64,
    left_out: LeftOut,
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
            resumed: 0,
            left_out: LeftOut::default(),
        }
    }

    pub(crate) fn on(&mut self, event: &IngestEvent<'_>) {
        match event {
            IngestEvent::Resumed { passages, records } => {
                self.resumed = *passages;
                self.bar.suspend(|| {
                    eprintln!("going on after {records} records, {passages} passages");
                });
            }
            IngestEvent::BadRecord(error) => self.bar.suspend(|| eprintln!("{error}")),
            IngestEvent::Embedded {
                passages,
                bytes_read,
            } => {
                let rate = self.rate(*passages);
                self.bar
                    .set_message(format!("{passages} passages, {rate:.0}/s"));
                self.bar.set_position(*bytes_read);
            }
            IngestEvent::LeftOut(left_out) => self.left_out = (*left_out).clone(),
            IngestEvent::Linked { vectors, total } => {
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

    /// What of the corpus is in no document.
    pub(crate) fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Passages per second, counting only those that this run embedded.
    pub(crate) fn rate(&self, passages: u64) -> f64 {
        (passages - self.resumed) as f64 / self.seconds()
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
