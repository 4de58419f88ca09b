//! `onegen-server`: loads a model and its collections, and serves them. `onegen-server chat` asks such a
//! server, `onegen-server pull` fetches what a model needs.

use std::fmt;
use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use onegen_pull::PullArguments;
use onegen_server::{
    App, ChatConfig, Config, ConfigError, Configuration, IndexingProgress, LogFormat, NewKey,
    Scope, chat, serve, while_loading,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The command line: without a command the server is started.
#[derive(Parser)]
#[command(version, about, long_about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[derive(Subcommand)]
enum Command {
    /// Chat with a running server in the terminal
    Chat(ChatConfig),
    /// Fetch the base that a model needs, once: `pull smol`, then `onegen-server --model smol`
    Pull(PullArguments),
    /// Make an API key: its entry for the file of --api-keys goes to the standard output, the key itself
    /// to the standard error, this once
    NewKey {
        /// What the log calls it; its conversations belong to this name
        name: String,
        /// What it may do
        #[arg(long, value_delimiter = ',', default_value = "chat")]
        scopes: Vec<Scope>,
        /// The only collections that it may search or change [default: all]
        #[arg(long, value_delimiter = ',', value_name = "NAME")]
        collections: Option<Vec<String>>,
    },
}

/// How long work that blocks, as a reload that builds an index, may go on when the server has stopped. What is cut
/// off goes on when it is begun again.
const LEFT_OVER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(begin());
    runtime.shutdown_timeout(LEFT_OVER);
    code
}

async fn begin() -> ExitCode {
    // The program ends here with status 2 if the usage is wrong.
    let (cli, chosen) = match read_configuration() {
        Ok(read) => read,
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match cli.command {
        None => run(cli.config, &chosen).await,
        Some(Command::Chat(config)) => chat(config).await,
        Some(Command::Pull(arguments)) => pull(&arguments, &cli.config.model.data_dir),
        Some(Command::NewKey {
            name,
            scopes,
            collections,
        }) => new_key(NewKey::new(name, scopes, collections)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The command line together with the variables and the configuration file, and a text that lists
/// the chosen settings.
fn read_configuration() -> Result<(Cli, String), ConfigError> {
    let Configuration { matches, chosen } =
        Configuration::read(Cli::command(), std::env::args_os())?;
    Ok((Cli::from_arg_matches(&matches)?, chosen))
}

fn new_key(new: NewKey) -> Result<()> {
    let key = new.key().to_owned();
    write!(stdout(), "{}", new.entry()?)?;
    eprintln!("the key, shown this once: {key}");
    Ok(())
}

fn pull(arguments: &PullArguments, data_dir: &Path) -> Result<()> {
    let pulled = arguments.run("onegen-server", data_dir)?;
    say(format_args!("{pulled}"));
    Ok(())
}

/// An error with its causes, except those that its own text already quotes.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |message, cause| {
        let cause = cause.to_string();
        match message.as_str() {
            "" => cause,
            before if before.contains(&cause) => message,
            before => format!("{before}: {cause}"),
        }
    })
}

async fn run(config: Config, chosen: &str) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("--log {:?} is no level", config.log))?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match config.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).boxed(),
        // An event has at most one span around it, its request's, so a list of spans would add
        // nothing.
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(log).init();
    if !chosen.is_empty() {
        say(format_args!(
            "configuration, beside defaults:\n{}",
            chosen.trim_end()
        ));
    }

    // The port is bound first, so that a port that is in use is reported before the model is
    // loaded.
    let address = SocketAddr::new(config.listen.host, config.listen.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another with --port"))?;
    let address = listener.local_addr()?;

    let drain_timeout = config.listen.drain_timeout;
    let scheme = match &config.listen.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    let url = format!("{scheme}://{address}");
    let started = Instant::now();
    say(format_args!(
        "loading the model {}",
        display_path(&config.model.dir())
    ));
    let mut signals = StopSignals::new()?;
    let name = config.model.served_model_name.clone();
    let listen = config.listen.clone();
    let progress = Arc::new(IndexingProgress::default());
    let shown = progress.clone();
    let loading = async {
        tokio::select! {
            app = tokio::task::spawn_blocking(move || App::load_with_progress(&config, &progress)) => app.map(Some),
            () = signals.next() => Ok(None),
        }
    };
    let (listener, app) = while_loading(listener, &listen, name, shown, loading).await?;
    let Some(app) = app?.transpose()? else {
        say(format_args!("stopped while it was loading"));
        return Ok(());
    };
    for collection in app.collections().iter() {
        say(format_args!(
            "collection {}: {} passages in {}",
            collection.name(),
            collection.store().passages(),
            collection.store().place(),
        ));
    }
    say(format_args!(
        "{} tokens of context, ready after {:.1} s",
        app.context_tokens(),
        started.elapsed().as_secs_f64(),
    ));
    if let Some(store) = app.conversation_store() {
        say(format_args!("conversations are shared in {store}"));
    }
    if let Some(traces) = app.traces() {
        say(format_args!("{traces}"));
    }
    say(format_args!(
        "serving on {url}; try\n\n{}\n",
        example(&url, &app)
    ));
    reload_on_hangup(app.clone())?;
    serve(listener, app, stop(signals), drain_timeout).await?;
    say(format_args!("stopped"));
    Ok(())
}

/// Prints a line. The server keeps running even if its output is closed.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(stdout(), "{line}");
}

/// A path in the form in which a person would write it.
fn display_path(path: &Path) -> String {
    let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let here = std::env::current_dir().unwrap_or_default();
    whole
        .strip_prefix(here)
        .unwrap_or(&whole)
        .display()
        .to_string()
}

/// A request that this model can answer.
fn example(url: &str, app: &App) -> String {
    let model = app.model_name();
    if app.links_entities() {
        let body = serde_json::json!({"model": model, "input": "Lima is the capital of Peru."});
        return format!(
            "curl {url}/v1/entities/link -H 'content-type: application/json' \\\n  -d '{body}'"
        );
    }
    let body = serde_json::json!({
        "model": model, "stream": true,
        "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
    });
    format!(
        "curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '{body}'"
    )
}

/// Reloads at each SIGHUP what may change while the server runs.
fn reload_on_hangup(app: Arc<App>) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let app = app.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || app.reload()).await {
                tracing::error!(%error, "reloading failed");
            }
        }
    });
    Ok(())
}

/// SIGTERM and ctrl-c. They are caught from the beginning, since the first process of a container ignores
/// those that it does not catch.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends at the first signal. A second one ends the process.
async fn stop(mut signals: StopSignals) {
    signals.next().await;
    say(format_args!(
        "stopping: answers under way are finished; another signal ends them"
    ));
    tokio::spawn(async move {
        signals.next().await;
        // Whatever was acknowledged is on the disk, as for any kill.
        std::process::exit(1);
    });
}
