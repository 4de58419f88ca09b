//! Records the metrics of one turn, from the request to the end of its answer.

use std::sync::Arc;
use std::time::Instant;

use onegen_engine::{RetrievalReceipt, TurnSummary};

use super::{Metrics, TurnMetrics};

/// A turn that is being observed. If it is dropped before its end, the turn counts as aborted.
pub(crate) struct Observation {
    metrics: Arc<Metrics>,
    received: Instant,
    last_text: Option<Instant>,
    ended: bool,
}

impl Observation {
    pub(crate) fn new(metrics: Arc<Metrics>, received: Instant) -> Self {
        Self {
            metrics,
            received,
            last_text: None,
            ended: false,
        }
    }

    fn turns(&self) -> &TurnMetrics {
        &self.metrics.turns
    }

    pub(crate) fn text(&mut self) {
        let now = Instant::now();
        match self.last_text.replace(now) {
            None => {
                let seconds = (now - self.received).as_secs_f64();
                self.turns().time_to_first_token_seconds.observe(seconds);
            }
            Some(last) => {
                let seconds = (now - last).as_secs_f64();
                self.turns().inter_token_latency_seconds.observe(seconds);
            }
        }
    }

    pub(crate) fn retrieval(&self, receipt: &RetrievalReceipt) {
        let turns = self.turns();
        turns.retrieval_seconds.observe(receipt.search_ms / 1e3);
        if receipt.passages.is_empty() {
            return;
        }
        turns.retrievals_total.inc();
        turns
            .splice_tokens_total
            .inc_by(receipt.splice_tokens as u64);
        turns.splice_seconds.observe(receipt.splice_ms / 1e3);
        turns
            .query_tokens_reencoded_total
            .inc_by(receipt.query_tokens_reencoded);
    }

    /// A mention that was marked and searched for.
    pub(crate) fn mention(&self, linked: bool, search_seconds: f64) {
        let outcome = if linked { "linked" } else { "nil" };
        let turns = self.turns();
        turns.mentions_total.with_label_values(&[outcome]).inc();
        turns.retrieval_seconds.observe(search_seconds);
    }

    pub(crate) fn finished(&mut self, summary: &TurnSummary) {
        let turns = self.turns();
        let usage = &summary.usage;
        let prompt_tokens = usage.prompt_tokens as u64;
        turns.prompt_tokens_total.inc_by(prompt_tokens);
        turns.prefix_cache_queries_total.inc_by(prompt_tokens);
        let cached_tokens = usage.cached_tokens as u64;
        turns.prefix_cache_hits_total.inc_by(cached_tokens);
        let completion_tokens = usage.completion_tokens as u64;
        turns.generation_tokens_total.inc_by(completion_tokens);
        turns
            .request_queue_time_seconds
            .observe(summary.queue_seconds);
        self.end(summary.finish_reason.as_str());
    }

    pub(crate) fn failed(&mut self) {
        self.end("error");
    }

    fn end(&mut self, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let turns = self.turns();
        turns
            .request_success_total
            .with_label_values(&[reason])
            .inc();
        let seconds = self.received.elapsed().as_secs_f64();
        turns.e2e_request_latency_seconds.observe(seconds);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.end("abort");
    }
}
