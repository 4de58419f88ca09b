//! Configuration: every flag has an `ONEGEN_…` variable.

mod file;
mod model;
mod proxies;
mod traces;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;
use clap::{Args, Parser, ValueEnum};
use onegen_engine::{EngineOptions, PassageCacheOptions, StoreOptions};

use onegen_index::PostgresAddress;

pub use file::{ConfigError, Configuration};
pub(crate) use model::DEFAULT_COLLECTION;
pub use model::{CollectionPath, ModelConfig};
#[cfg(test)]
pub(crate) use proxies::network;
pub use proxies::{ForwardedHeader, ProxyConfig};
pub(crate) use traces::endpoint;
pub use traces::{TraceConfig, TraceConfigError};

/// Serves a OneGen model: one pass that retrieves while it writes.
///
/// Without any flag it serves the model that comes with the source, over its almanac.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Config {
    /// File of configuration: TOML with the names of flags as keys, as in port = 8080. Flags and variables
    /// go before it
    #[arg(long, env = "ONEGEN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is served.
    #[command(flatten)]
    pub model: ModelConfig,
    /// Where it is served.
    #[command(flatten)]
    pub listen: ListenConfig,
    /// Proxies before it.
    #[command(flatten)]
    pub proxies: ProxyConfig,
    /// Who may ask.
    #[command(flatten)]
    pub access: AccessConfig,
    /// How much one client may ask for.
    #[command(flatten)]
    pub limits: LimitsConfig,
    /// How answers are streamed.
    #[command(flatten)]
    pub streams: StreamConfig,
    /// How much memory it may take.
    #[command(flatten)]
    pub capacity: CapacityConfig,
    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceConfig,
    /// What is logged: a level (error, warn, info, debug, trace), or targets with levels
    #[arg(long, env = "ONEGEN_LOG", default_value = "info", value_name = "LEVEL")]
    pub log: String,
    /// How the log is written
    #[arg(
        long,
        env = "ONEGEN_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let whole = text.contains("://") && !text.ends_with('/');
    if !whole && !["*", "none"].contains(&text) {
        return Err("it is no origin, as https://example.org, nor * or none".to_owned());
    }
    HeaderValue::from_str(text).map_err(|error| error.to_string())
}

fn conversation_store(text: &str) -> Result<PostgresAddress, String> {
    PostgresAddress::with_table(text, CONVERSATIONS_TABLE)
}

/// The table of a conversation store whose address names none.
const CONVERSATIONS_TABLE: &str = "onegen_conversations";

/// The longest time that can be configured: clocks cannot count further than some centuries.
const MOST_SECONDS: f64 = 366.0 * 86_400.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if seconds > MOST_SECONDS {
        return Err(format!("it is more than a year ({MOST_SECONDS} seconds)"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Where it is served.
#[derive(Debug, Clone, Args)]
pub struct ListenConfig {
    /// Address to listen on
    #[arg(long, env = "ONEGEN_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "ONEGEN_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Seconds that answers under way may still take after SIGTERM; then they are cancelled
    #[arg(
        long,
        env = "ONEGEN_DRAIN_TIMEOUT",
        value_name = "SECONDS",
        value_parser = seconds,
        default_value = "30"
    )]
    pub drain_timeout: Duration,
    /// File of the certificate, with its chain, as PEM: the server speaks TLS; read again on SIGHUP
    #[arg(long, env = "ONEGEN_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// File of the certificate's private key, as PEM
    #[arg(long, env = "ONEGEN_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Origins (scheme and host) whose pages may ask from a browser; * for all, none for none. Where no keys are
    /// asked for, only pages of origins that are named may change documents
    #[arg(
        long,
        env = "ONEGEN_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        default_value = "*"
    )]
    pub cors_origins: Vec<HeaderValue>,
}

/// Who may ask.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessConfig {
    /// File of the API keys that are asked for, made of what the command new-key prints; read again on
    /// SIGHUP [default: anybody may ask]
    #[arg(long, env = "ONEGEN_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// Let /metrics be read without a key
    #[arg(long, env = "ONEGEN_OPEN_METRICS")]
    pub open_metrics: bool,
}

/// How much one client may ask for: a key, or an address where no keys are asked for.
#[derive(Debug, Clone, Default, Args)]
pub struct LimitsConfig {
    /// Requests of one client in a minute; all may come at once, and then one each 60/N seconds
    /// [default: any number]
    #[arg(long, env = "ONEGEN_REQUESTS_PER_MINUTE", value_name = "N")]
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests of one client that are being answered at once [default: any number]
    #[arg(long, env = "ONEGEN_MAX_CONCURRENT", value_name = "N")]
    pub max_concurrent: Option<NonZeroU32>,
    /// Tokens that one answer may have; a request that asks for more is refused [default: as the
    /// context allows]
    #[arg(long, env = "ONEGEN_MAX_TOKENS", value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Seconds that an answer may take from the request to its end [default: as long as it takes]
    #[arg(
        long,
        env = "ONEGEN_REQUEST_TIMEOUT",
        value_name = "SECONDS",
        value_parser = seconds
    )]
    pub request_timeout: Option<Duration>,
    /// KiB that the body of a request may hold
    #[arg(
        long,
        env = "ONEGEN_MAX_BODY_KB",
        value_name = "KB",
        default_value_t = 4096
    )]
    pub max_body_kb: usize,
    /// Seconds that the body of a request may take to arrive
    #[arg(
        long,
        env = "ONEGEN_BODY_TIMEOUT",
        value_name = "SECONDS",
        value_parser = seconds,
        default_value = "60"
    )]
    pub body_timeout: Duration,
}

/// How answers are streamed.
#[derive(Debug, Clone, Args)]
pub struct StreamConfig {
    /// Seconds without an event after which a comment is sent, so that nothing between closes the
    /// stream; 0 sends none
    #[arg(
        long,
        env = "ONEGEN_HEARTBEAT",
        value_name = "SECONDS",
        value_parser = seconds,
        default_value = "15"
    )]
    pub heartbeat: Duration,
    /// Seconds after its end for which a resumable stream can still be read again
    #[arg(
        long,
        env = "ONEGEN_RETENTION",
        value_name = "SECONDS",
        value_parser = seconds,
        default_value = "60"
    )]
    pub retention: Duration,
}

/// How much memory it may take.
#[derive(Debug, Clone, Args)]
pub struct CapacityConfig {
    /// MiB that KV-caches may hold; beyond, idle ones are dropped, and read back from the disk or
    /// rebuilt when needed
    #[arg(
        long,
        env = "ONEGEN_KV_BUDGET_MB",
        value_name = "MB",
        default_value_t = 1024
    )]
    pub kv_budget_mb: usize,
    /// MiB that KV-caches may take on the disk, in the data directory; beyond, those of conversations
    /// that nobody has continued for longest are deleted
    #[arg(
        long,
        env = "ONEGEN_KV_DISK_BUDGET_MB",
        value_name = "MB",
        default_value_t = 4096
    )]
    pub kv_disk_budget_mb: u64,
    /// MiB that keys and values of passages may hold in memory, so that a passage that is read again is not
    /// forwarded again; 0 keeps none. For models whose passages can be kept ("passage_attention": "block")
    #[arg(
        long,
        env = "ONEGEN_PASSAGE_CACHE_MB",
        value_name = "MB",
        default_value_t = 256
    )]
    pub passage_cache_mb: usize,
    /// MiB that they may take on the disk, in the data directory; 0 keeps none there
    #[arg(
        long,
        env = "ONEGEN_PASSAGE_CACHE_DISK_MB",
        value_name = "MB",
        default_value_t = 1024
    )]
    pub passage_cache_disk_mb: u64,
    /// Conversations kept; beyond, who has most of them loses the least recently used
    #[arg(
        long,
        env = "ONEGEN_MAX_CONVERSATIONS",
        value_name = "N",
        default_value_t = 4096
    )]
    pub max_conversations: usize,
    /// Table of PostgreSQL that several servers keep their conversations in too, so that each goes on with any of
    /// them, as postgres://USER@HOST/DATABASE [default: none; ?table=NAME: onegen_conversations]
    #[arg(
        long,
        env = "ONEGEN_CONVERSATION_STORE",
        value_name = "ADDRESS",
        value_parser = conversation_store
    )]
    pub conversation_store: Option<PostgresAddress>,
    /// Turns that are generated at once; more wait
    #[arg(
        long,
        env = "ONEGEN_MAX_RUNNING",
        value_name = "N",
        default_value_t = 64
    )]
    pub max_running: usize,
    /// Turns that may wait, of all clients together; more are refused
    #[arg(
        long,
        env = "ONEGEN_MAX_WAITING",
        value_name = "N",
        default_value_t = 256
    )]
    pub max_waiting: usize,
}

impl CapacityConfig {
    /// The engine's options.
    pub(crate) fn engine_options(&self, conversations_dir: PathBuf) -> EngineOptions {
        // The server decides which conversation is evicted, because it knows their owners. The engine's own
        // limit is for conversations without a transcript, whose first turn has not ended yet.
        let turns = self.max_running.saturating_add(self.max_waiting);
        EngineOptions {
            kv_bytes: self.kv_budget_mb.saturating_mul(1 << 20),
            max_conversations: self.max_conversations.saturating_add(turns),
            max_sequences: self.max_running,
            max_waiting: self.max_waiting,
            passages: PassageCacheOptions {
                bytes: self.passage_cache_mb.saturating_mul(1 << 20),
                disk: Some((
                    conversations_dir.join("passages"),
                    self.passage_cache_disk_mb.saturating_mul(1 << 20),
                )),
            },
            store: Some(StoreOptions {
                dir: conversations_dir,
                kv_bytes: self.kv_disk_budget_mb.saturating_mul(1 << 20),
            }),
            ..EngineOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_has_a_variable_of_its_name() {
        let command = Config::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap_or_default();
            if ["help", "version"].contains(&flag) {
                continue;
            }
            let variable = format!("ONEGEN_{}", flag.replace('-', "_").to_uppercase());
            let of_flag = argument.get_env().map(|v| v.to_string_lossy().into_owned());
            assert_eq!(of_flag, Some(variable), "--{flag}");
        }
    }
}
