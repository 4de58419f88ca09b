//! What a terminal shows while a run goes on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::Outcome;
use crate::drive::Event;
use crate::figures::Percentiles;

/// First texts that the percentiles on the screen are of.
const RECENT: usize = 200;
/// How often the screen changes.
const EVERY: Duration = Duration::from_millis(100);

/// The live view. Where no terminal is, it shows nothing.
pub struct View {
    bar: ProgressBar,
    shown: Instant,
    began: Instant,
    under_way: usize,
    whole: usize,
    failed: usize,
    tokens: usize,
    recent: VecDeque<f64>,
}

impl View {
    /// A view of a run of so many requests.
    pub fn new(requests: usize) -> Self {
        let bar = ProgressBar::new(requests as u64);
        // The template is a constant that is right.
        if let Ok(style) = ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len}\n{msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self {
            bar,
            shown: now,
            began: now,
            under_way: 0,
            whole: 0,
            failed: 0,
            tokens: 0,
            recent: VecDeque::new(),
        }
    }

    /// Takes note of an event.
    pub fn see(&mut self, event: &Event) {
        match event {
            Event::Sent => self.under_way += 1,
            Event::Ended(record) => {
                if record.outcome != Outcome::Dropped {
                    self.under_way -= 1;
                }
                if record.outcome.is_failure() {
                    self.failed += 1;
                } else {
                    self.whole += 1;
                }
                self.tokens += record.completion_tokens;
                self.recent.extend(record.ttft_ms);
                if self.recent.len() > RECENT {
                    self.recent.pop_front();
                }
                self.bar.inc(1);
            }
        }
        if self.shown.elapsed() > EVERY {
            self.show();
        }
    }

    fn show(&mut self) {
        self.shown = Instant::now();
        let ttft = match Percentiles::from_milliseconds(self.recent.iter().copied()) {
            Some(ttft) => format!("first text p50 {:.0} ms, p95 {:.0} ms", ttft.p50, ttft.p95),
            None => "no text yet".to_owned(),
        };
        let tokens = self.tokens as f64 / self.began.elapsed().as_secs_f64();
        self.bar.set_message(format!(
            "{} under way, {} answered, {} failed; {ttft}; {tokens:.0} tokens/s",
            self.under_way, self.whole, self.failed
        ));
    }

    /// Takes the view off the screen.
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}
