//! The metrics at `/metrics`. They have vLLM's names and buckets where vLLM has such a metric, with
//! the prefix `onegen_`.
//!
//! A metric's doc comment is its help text, and its field's name is its name.

mod observation;
mod responses;

use onegen_engine::Engine;
use onegen_index::RemoteStats;
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

pub(crate) use observation::Observation;
pub(crate) use responses::count;

const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const NEXT_TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// Buckets for searches and splices: from tens of microseconds to a long passage on a large model.
const RETRIEVAL_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0,
];

/// A kind of metric, and what it needs besides name and help text.
trait Metric: Collector + Clone + 'static {
    type Shape;
    fn make(opts: Opts, shape: Self::Shape) -> prometheus::Result<Self>;
}

impl Metric for IntCounter {
    type Shape = ();
    fn make(opts: Opts, (): ()) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Metric for Counter {
    type Shape = ();
    fn make(opts: Opts, (): ()) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Metric for IntGauge {
    type Shape = ();
    fn make(opts: Opts, (): ()) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Metric for Gauge {
    type Shape = ();
    fn make(opts: Opts, (): ()) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Metric for IntCounterVec {
    /// The labels.
    type Shape = &'static [&'static str];
    fn make(opts: Opts, labels: Self::Shape) -> prometheus::Result<Self> {
        Self::new(opts, labels)
    }
}

impl Metric for IntGaugeVec {
    /// The labels.
    type Shape = &'static [&'static str];
    fn make(opts: Opts, labels: Self::Shape) -> prometheus::Result<Self> {
        Self::new(opts, labels)
    }
}

impl Metric for CounterVec {
    /// The labels.
    type Shape = &'static [&'static str];
    fn make(opts: Opts, labels: Self::Shape) -> prometheus::Result<Self> {
        Self::new(opts, labels)
    }
}

impl Metric for Histogram {
    /// Upper bounds of the buckets.
    type Shape = &'static [f64];
    fn make(opts: Opts, buckets: &'static [f64]) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))
    }
}

fn register<M: Metric>(
    registry: &Registry,
    name: &str,
    help: &str,
    shape: M::Shape,
) -> prometheus::Result<M> {
    let metric = M::make(Opts::new(name, help.trim()).namespace("onegen"), shape)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

macro_rules! metrics {
    (
        $(#[$about:meta])*
        struct $name:ident {
            $(#[doc = $help:literal] $field:ident: $kind:ty = $shape:expr,)*
        }
    ) => {
        $(#[$about])*
        struct $name {
            $(#[doc = $help] $field: $kind,)*
        }

        impl $name {
            fn register(registry: &Registry) -> prometheus::Result<Self> {
                Ok(Self {
                    $($field: register::<$kind>(registry, stringify!($field), $help, $shape)?,)*
                })
            }
        }
    };
}

metrics! {
    /// Metrics of turns, recorded when turns end.
    struct TurnMetrics {
        /// Turns that ended, by reason: stop, length, abort (the client went away) or error.
        request_success_total: IntCounterVec = &["finished_reason"],
        /// Tokens of prompts, those of the conversation so far included, passages of the turn not.
        prompt_tokens_total: IntCounter = (),
        /// Tokens sampled, those of retrievals included.
        generation_tokens_total: IntCounter = (),
        /// Prompt tokens that were looked up in the conversation's KV-cache.
        prefix_cache_queries_total: IntCounter = (),
        /// Prompt tokens that were found there and not forwarded again.
        prefix_cache_hits_total: IntCounter = (),
        /// Seconds from the request to its first text.
        time_to_first_token_seconds: Histogram = FIRST_TOKEN_SECONDS,
        /// Seconds from one piece of text to the next, retrievals between them included.
        inter_token_latency_seconds: Histogram = NEXT_TOKEN_SECONDS,
        /// Seconds from the request to the end of its answer.
        e2e_request_latency_seconds: Histogram = REQUEST_SECONDS,
        /// Seconds from the request's acceptance to its first forward.
        request_queue_time_seconds: Histogram = REQUEST_SECONDS,
        /// Retrievals whose passage was spliced in.
        retrievals_total: IntCounter = (),
        /// Seconds from a query embedding to its passages.
        retrieval_seconds: Histogram = RETRIEVAL_SECONDS,
        /// Tokens spliced in, markers included.
        splice_tokens_total: IntCounter = (),
        /// Seconds from the passages to the splice's first logits.
        splice_seconds: Histogram = RETRIEVAL_SECONDS,
        /// Mentions of entities that were marked, by outcome: linked, or nil where nothing was near enough.
        mentions_total: IntCounterVec = &["outcome"],
        /// Query tokens that were forwarded once more for a retrieval.
        query_tokens_reencoded_total: IntCounter = (),
    }
}

metrics! {
    /// Metrics of HTTP responses, with or without a turn.
    struct HttpMetrics {
        /// HTTP responses, by the route's template (none where there is no such route), method and status.
        http_responses_total: IntCounterVec = &["route", "method", "status"],
        /// Requests that were refused or failed before their answer began, by the code that clients are told.
        request_errors_total: IntCounterVec = &["code"],
    }
}

metrics! {
    /// The engine's own counts, which are read at each request for metrics.
    struct EngineMetrics {
        /// Positions forwarded, by the kind of token that stood there.
        forwarded_tokens_total: IntCounterVec = &["kind"],
        /// Turns that hold a place in the batch.
        num_requests_running: IntGauge = (),
        /// Turns that wait for a place.
        num_requests_waiting: IntGauge = (),
        /// Turns parked until their passage comes.
        num_requests_retrieving: IntGauge = (),
        /// Share of the KV budget in use, 0 to 1.
        kv_cache_usage_perc: Gauge = (),
        /// KV-caches dropped to stay under the budget.
        kv_cache_dropped_total: IntCounter = (),
        /// KV-caches read back from the disk.
        kv_cache_restored_total: IntCounter = (),
        /// Bytes that KV-caches take on the disk.
        kv_cache_disk_bytes: IntGauge = (),
        /// Conversations that could not be written to the disk, read from it or deleted there.
        conversation_store_failures_total: IntCounter = (),
        /// Retrieved passages whose keys and values were kept, and not computed again.
        passage_cache_hits_total: IntCounter = (),
        /// Retrieved passages whose keys and values were computed, of a model whose passages can be kept.
        passage_cache_misses_total: IntCounter = (),
        /// Kept passages that others pushed out of memory.
        passage_cache_evictions_total: IntCounter = (),
        /// Bytes that kept passages take in memory.
        passage_cache_bytes: IntGauge = (),
        /// Bytes that kept passages take on the disk.
        passage_cache_disk_bytes: IntGauge = (),
        /// Conversations held.
        conversations: IntGauge = (),
        /// Steps done.
        engine_steps_total: IntCounter = (),
    }
}

metrics! {
    /// What the server itself reads at each request for metrics.
    struct ServerMetrics {
        /// Whether the disk takes conversations: 1, or 0 after one could not be written and until one can.
        conversations_writable: IntGauge = (),
        /// Positions forwarded to embed documents and queries outside of conversations.
        embedded_tokens_total: IntCounter = (),
    }
}

metrics! {
    /// Calls of the databases that hold collections, read at each request for metrics.
    struct RemoteMetrics {
        /// Calls of a collection's database, by outcome: answered, failed, or refused because it was known to be away.
        collection_calls_total: IntCounterVec = &["collection", "outcome"],
        /// Tries of such calls after the first.
        collection_retries_total: IntCounterVec = &["collection"],
        /// Seconds of all answered calls together.
        collection_call_seconds_total: CounterVec = &["collection"],
        /// Whether calls of a collection's database are being refused, because it was away: 1 or 0.
        collection_circuit_open: IntGaugeVec = &["collection"],
    }
}

metrics! {
    /// Calls of the store in which servers share conversations, read at each request for metrics.
    struct SharedStoreMetrics {
        /// Calls of the shared store, by outcome: answered, failed, or refused because it was known to be away.
        shared_store_calls_total: IntCounterVec = &["outcome"],
        /// Tries of such calls after the first.
        shared_store_retries_total: IntCounter = (),
        /// Seconds of all answered calls together.
        shared_store_call_seconds_total: Counter = (),
        /// Whether calls are being refused, because the store was away: 1 or 0.
        shared_store_circuit_open: IntGauge = (),
    }
}

impl SharedStoreMetrics {
    /// Reads nothing where conversations are not shared.
    fn read(stats: Option<RemoteStats>) -> prometheus::Result<Registry> {
        let registry = Registry::new();
        let Some(stats) = stats else {
            return Ok(registry);
        };
        let metrics = Self::register(&registry)?;
        for (outcome, count) in outcomes(&stats) {
            let counter = &metrics.shared_store_calls_total;
            counter.with_label_values(&[outcome]).inc_by(count);
        }
        metrics.shared_store_retries_total.inc_by(stats.retries);
        let answered = stats.answered_micros as f64 / 1e6;
        metrics.shared_store_call_seconds_total.inc_by(answered);
        metrics.shared_store_circuit_open.set(stats.is_open.into());
        Ok(registry)
    }
}

/// How many calls of a database had each outcome.
fn outcomes(stats: &RemoteStats) -> [(&'static str, u64); 3] {
    [
        ("answered", stats.answered),
        ("failed", stats.failed),
        ("refused", stats.refused),
    ]
}

impl RemoteMetrics {
    fn read(collections: &[(&str, RemoteStats)]) -> prometheus::Result<Registry> {
        let registry = Registry::new();
        let metrics = Self::register(&registry)?;
        for (name, stats) in collections {
            for (outcome, count) in outcomes(stats) {
                let counter = &metrics.collection_calls_total;
                counter.with_label_values(&[*name, outcome]).inc_by(count);
            }
            let retries = &metrics.collection_retries_total;
            retries.with_label_values(&[*name]).inc_by(stats.retries);
            let seconds = &metrics.collection_call_seconds_total;
            let answered = stats.answered_micros as f64 / 1e6;
            seconds.with_label_values(&[*name]).inc_by(answered);
            let open = &metrics.collection_circuit_open;
            open.with_label_values(&[*name]).set(stats.is_open.into());
        }
        Ok(registry)
    }
}

impl ServerMetrics {
    fn read(writable: bool, embedded: u64) -> prometheus::Result<Registry> {
        let registry = Registry::new();
        let metrics = Self::register(&registry)?;
        metrics.conversations_writable.set(writable.into());
        metrics.embedded_tokens_total.inc_by(embedded);
        Ok(registry)
    }
}

impl EngineMetrics {
    fn read(engine: &Engine) -> prometheus::Result<Registry> {
        let registry = Registry::new();
        let metrics = Self::register(&registry)?;
        for (kind, count) in engine.counters().forwarded().iter() {
            metrics
                .forwarded_tokens_total
                .with_label_values(&[kind.as_str()])
                .inc_by(count);
        }
        let stats = engine.counters().stats();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.num_requests_running.set(gauge(stats.running));
        metrics.num_requests_waiting.set(gauge(stats.waiting));
        metrics.num_requests_retrieving.set(gauge(stats.retrieving));
        metrics.conversations.set(gauge(stats.conversations));
        let budget_bytes = stats.kv_budget_bytes.max(1) as f64;
        let share = stats.kv_bytes as f64 / budget_bytes;
        metrics.kv_cache_usage_perc.set(share);
        metrics.kv_cache_dropped_total.inc_by(stats.kv_dropped);
        metrics.kv_cache_restored_total.inc_by(stats.kv_restored);
        metrics.kv_cache_disk_bytes.set(gauge(stats.kv_store_bytes));
        metrics
            .conversation_store_failures_total
            .inc_by(stats.store_failures);
        metrics.passage_cache_hits_total.inc_by(stats.passage_hits);
        metrics
            .passage_cache_misses_total
            .inc_by(stats.passage_misses);
        let evictions = &metrics.passage_cache_evictions_total;
        evictions.inc_by(stats.passage_evictions);
        metrics.passage_cache_bytes.set(gauge(stats.passage_bytes));
        let disk = gauge(stats.passage_disk_bytes);
        metrics.passage_cache_disk_bytes.set(disk);
        metrics.engine_steps_total.inc_by(stats.steps);
        Ok(registry)
    }
}

/// All metrics of the server.
pub(crate) struct Metrics {
    registry: Registry,
    turns: TurnMetrics,
    http: HttpMetrics,
}

impl Metrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let turns = TurnMetrics::register(&registry)?;
        // With this, every reason exists from the start, with the value 0.
        for reason in ["stop", "length", "abort", "error"] {
            turns.request_success_total.with_label_values(&[reason]);
        }
        for outcome in ["linked", "nil"] {
            turns.mentions_total.with_label_values(&[outcome]);
        }
        let http = HttpMetrics::register(&registry)?;
        // The codes that alerts ask for.
        for code in [
            "rate_limit_exceeded",
            "too_many_at_once",
            "overloaded",
            "not_stored",
        ] {
            http.request_errors_total.with_label_values(&[code]);
        }
        Ok(Self {
            registry,
            turns,
            http,
        })
    }

    /// Everything in Prometheus' text format. `writable` is whether the disk takes conversations, and `embedded` the
    /// positions that were forwarded for embeddings; `collections` are those in databases.
    pub(crate) fn render(
        &self,
        engine: &Engine,
        writable: bool,
        embedded: u64,
        collections: &[(&str, RemoteStats)],
        shared_store: Option<RemoteStats>,
    ) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(ServerMetrics::read(writable, embedded)?.gather());
        families.extend(RemoteMetrics::read(collections)?.gather());
        families.extend(SharedStoreMetrics::read(shared_store)?.gather());
        families.extend(EngineMetrics::read(engine)?.gather());
        TextEncoder::new().encode_to_string(&families)
    }
}
