//! What both commands are told, checked.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use reqwest::Url;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::client::Client;
use crate::drive::{DriveOptions, drive};
use crate::figures::ServiceLevel;
use crate::idle::{IdleConversations, IdleFigures};
use crate::plan::arrivals::Arrivals;
use crate::plan::dataset::Dataset;
use crate::plan::trace::Trace;
use crate::plan::{Plan, Shape};
use crate::record::Record;
use crate::report::{Load, Target};
use crate::view::View;

/// The load, and the server that it is for.
#[derive(Args)]
pub(super) struct LoadOptions {
    /// The server's address, without /v1
    #[arg(long, env = "ONEGEN_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,

    /// Allow another machine than this one. Ask whoever owns it first
    #[arg(long)]
    remote: bool,

    /// The model [default: the first that the server lists]
    #[arg(long)]
    model: Option<String>,

    /// The key that is sent as "Authorization: Bearer"
    #[arg(long, env = "ONEGEN_API_KEY", hide_env_values = true)]
    key: Option<String>,

    /// How conversations arrive
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: ArrivalKind,

    /// Times and lengths from a trace instead, see loadtest/traces/README.md
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// For how many seconds conversations begin
    #[arg(long, default_value = "30")]
    duration: f64,

    /// Turns of a conversation: a number, or a range like 1..5
    #[arg(long, default_value = "1", value_parser = turns)]
    turns: (usize, usize),

    /// Mean seconds between an answer and the next question, exponentially distributed
    #[arg(long, default_value = "2")]
    think: f64,

    /// A file with a system message. Given several times, conversations take them in turn
    #[arg(long, value_name = "FILE")]
    system: Vec<PathBuf>,

    /// Questions: a text a line, or a JSON object a line with question and perhaps history, prompt, text or messages;
    /// also with .gz [default: a few about countries and elements]
    #[arg(long, value_name = "FILE")]
    dataset: Option<PathBuf>,

    /// Tokens of an answer at most
    #[arg(long, default_value = "64")]
    max_tokens: usize,

    /// The share of turns whose client leaves after the first text
    #[arg(long, default_value = "0")]
    disconnects: f64,

    /// Fields that every request gets, such as '{"retrieval": {"forced": true}}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    body: Option<Map<String, Value>>,

    /// Requests that may be under way at once; what is due beyond that is dropped and counted
    #[arg(long, default_value = "1000")]
    in_flight: usize,

    /// Seconds after which an answer is given up
    #[arg(long, default_value = "60")]
    timeout: f64,

    /// Seconds for which the last answers are waited for
    #[arg(long, default_value = "60")]
    drain: f64,

    /// Milliseconds within which the first text of a good answer comes
    #[arg(long, default_value = "1000")]
    ttft: f64,

    /// Milliseconds between two pieces of text in a good answer, on average
    #[arg(long, default_value = "200")]
    itl: f64,

    /// The same seed gives the same load
    #[arg(long, default_value = "1")]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArrivalKind {
    /// Independently of each other
    Poisson,
    /// At equal distances
    Constant,
}

fn turns(text: &str) -> Result<(usize, usize), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (least.parse(), most.trim_start_matches('=').parse()) {
        (Ok(least), Ok(most)) if 1 <= least && least <= most => Ok((least, most)),
        _ => Err("wanted is a number from 1, or a range like 1..5".into()),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("wanted is a JSON object: {error}"))
}

/// A load that can be put on its server at any rate.
pub(super) struct Loader {
    pub(super) target: Target,
    pub(super) dataset: Dataset,
    dataset_name: String,
    trace: Option<(String, Trace)>,
    shape: Shape,
    kind: ArrivalKind,
    level: ServiceLevel,
    client: Client,
    drive: DriveOptions,
    extra: Map<String, Value>,
    timeout: f64,
}

impl LoadOptions {
    /// Checks everything, reads the files and asks the server for its models.
    pub(super) async fn loader(self) -> Result<Loader> {
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .ok()
                .with_context(|| format!("--{name} wants a number of seconds, and {value} is none"))
        };
        let (duration, think) = (
            seconds("duration", self.duration)?,
            seconds("think", self.think)?,
        );
        let (timeout, drain) = (
            seconds("timeout", self.timeout)?,
            seconds("drain", self.drain)?,
        );
        ensure!(
            (0.0..=1.0).contains(&self.disconnects),
            "--disconnects wants a share from 0 to 1, and {} is none",
            self.disconnects
        );
        ensure!(
            self.max_tokens > 0 && self.in_flight > 0,
            "--max-tokens and --in-flight begin at 1"
        );
        check_host(&self.url, self.remote)?;
        let systems = self.system.iter().map(|path| {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read --system {}", path.display()))?;
            Ok(Arc::from(text.trim_end()))
        });
        let systems = systems.collect::<Result<_>>()?;
        let (dataset, dataset_name) = match &self.dataset {
            Some(path) => (Dataset::read(path)?, file_name(path)),
            None => (Dataset::built_in(), "built in".to_owned()),
        };
        let trace = self
            .trace
            .as_ref()
            .map(|path| Ok::<_, anyhow::Error>((file_name(path), Trace::read(path)?)));
        let trace = trace.transpose()?;
        let extra = self.body.unwrap_or_default();
        let url = self.url.to_string();
        let client = |model: String| {
            let key = self.key.as_deref();
            Client::new(self.url.clone(), model, key, extra.clone(), timeout)
        };
        let listed = client(String::new())?.models().await;
        let listed = listed.map_err(|reason| {
            anyhow::anyhow!("{url} cannot be measured: {reason}; is the server running there, and is --key right?")
        })?;
        let model = match self.model {
            Some(model) => model,
            None => listed
                .into_iter()
                .next()
                .context("the server lists no model; say --model")?,
        };
        let level = ServiceLevel {
            ttft_ms: self.ttft,
            itl_ms: self.itl,
        };
        Ok(Loader {
            client: client(model.clone())?,
            target: Target { url, model },
            dataset,
            dataset_name,
            trace,
            shape: Shape {
                // Each run says its rate.
                arrivals: Arrivals::Constant(1.0),
                duration,
                turns: self.turns,
                think,
                systems,
                max_tokens: self.max_tokens,
                disconnects: self.disconnects,
                seed: self.seed,
            },
            kind: self.arrivals,
            level,
            drive: DriveOptions {
                in_flight: self.in_flight,
                drain,
            },
            extra,
            timeout: self.timeout,
        })
    }
}

/// Load belongs on machines of one's own.
pub(super) fn check_host(url: &Url, remote: bool) -> Result<()> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
    ensure!(
        url.scheme().starts_with("http"),
        "--url wants http:// or https://, and {url} is neither"
    );
    if !here && !remote {
        bail!("{host} is another machine; say --remote if it may be put under load");
    }
    Ok(())
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Loader {
    /// Whether the load's times come from a trace.
    pub(super) fn is_trace(&self) -> bool {
        self.trace.is_some()
    }

    /// For how many seconds conversations begin.
    pub(super) fn duration(&self) -> f64 {
        self.shape.duration.as_secs_f64()
    }

    /// The service level's time to the first text, in milliseconds.
    pub(super) fn ttft_ms(&self) -> f64 {
        self.level.ttft_ms
    }

    /// The seed that was asked for.
    pub(super) fn seed(&self) -> u64 {
        self.shape.seed
    }

    fn plan(&self, rate: f64, seed: u64) -> Plan {
        let arrivals = match self.kind {
            ArrivalKind::Poisson => Arrivals::Poisson(rate),
            ArrivalKind::Constant => Arrivals::Constant(rate),
        };
        let shape = Shape {
            arrivals,
            seed,
            ..self.shape.clone()
        };
        match &self.trace {
            Some((_, trace)) => Plan::from_trace(trace, &shape, &self.dataset),
            None => Plan::from_shape(&shape, &self.dataset),
        }
    }

    /// Begins conversations that will be idle; none where `count` is 0.
    pub(super) async fn begin_idle(&self, count: usize) -> Option<IdleConversations> {
        if count == 0 {
            return None;
        }
        let max_tokens = self.shape.max_tokens;
        let begin = IdleConversations::begin(&self.client, &self.dataset, count, max_tokens);
        Some(begin.await)
    }

    /// Lets some of the idle conversations go on.
    pub(super) async fn resume_idle(&self, idle: IdleConversations, count: usize) -> IdleFigures {
        idle.resume(&self.client, &self.dataset, count, self.shape.max_tokens)
            .await
    }

    /// Puts the load on the server. The records are those until `stop`. Loads with different seeds ask other
    /// questions, so that a server which remembers prompts has not read them before.
    pub(super) async fn put(
        &self,
        rate: f64,
        seed: u64,
        stop: watch::Receiver<bool>,
    ) -> Result<(Load, Vec<Record>)> {
        ensure!(
            rate > 0.0 && rate.is_finite(),
            "a rate is above 0, and {rate} is not"
        );
        let plan = self.plan(rate, seed);
        ensure!(
            !plan.conversations.is_empty(),
            "no conversation begins within {} seconds; a longer --duration or a higher rate is needed",
            self.duration()
        );
        let mut view = View::new(plan.turns());
        let client = self.client.clone();
        let records = drive(&plan, client, self.drive, stop, |event| view.see(event)).await;
        view.end();
        Ok((self.load(rate, &plan), records))
    }

    fn load(&self, rate: f64, plan: &Plan) -> Load {
        let trace = self.trace.as_ref().map(|(name, _)| name.clone());
        let arrivals = match (&trace, self.kind) {
            (Some(_), _) => "trace",
            (None, ArrivalKind::Poisson) => "poisson",
            (None, ArrivalKind::Constant) => "constant",
        };
        Load {
            arrivals: arrivals.to_owned(),
            rate: trace.is_none().then_some(rate),
            duration: self.duration(),
            turns: self.shape.turns,
            think: self.shape.think.as_secs_f64(),
            systems: self.shape.systems.len(),
            max_tokens: self.shape.max_tokens,
            disconnects: self.shape.disconnects,
            seed: self.shape.seed,
            dataset: self.dataset_name.clone(),
            trace,
            in_flight: self.drive.in_flight,
            timeout: self.timeout,
            idle: 0,
            extra: self.extra.clone(),
            level: self.level,
            planned: (plan.conversations.len(), plan.turns()),
        }
    }
}

/// A switch that ctrl-c turns.
pub(super) fn stop_on_ctrl_c() -> watch::Receiver<bool> {
    let (switch, stop) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = switch.send(true);
        }
        // Without a signal handler the switch is never turned, and must not go away either.
        switch.closed().await;
    });
    stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_a_number_or_a_range() {
        assert_eq!(turns("3"), Ok((3, 3)));
        assert_eq!(turns("1..5"), Ok((1, 5)));
        assert_eq!(turns("1..=5"), Ok((1, 5)));
        for wrong in ["0", "5..1", "x", "1..", "-1"] {
            assert!(turns(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_machines_are_put_under_load_only_where_that_is_said() {
        let allowed = |url: &str, remote| {
            let url = Url::parse(url);
            url.is_ok_and(|url| check_host(&url, remote).is_ok())
        };
        for here in ["http://127.0.0.1:1", "http://localhost", "https://[::1]:2"] {
            assert!(allowed(here, false), "{here}");
        }
        for there in ["http://example.com", "http://10.0.0.1:80"] {
            assert!(!allowed(there, false) && allowed(there, true), "{there}");
        }
        assert!(!allowed("ftp://localhost", true));
    }
}
