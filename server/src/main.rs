//! `onegen-server`: loads a model and its collections, and serves them. `onegen-server chat` asks such a
//! server.

use std::fmt;
use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use onegen_server::{App, ChatConfig, Config, chat, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Serves a OneGen model: one pass that retrieves while it writes.
///
/// Without any flag it serves the model that comes with the source, over its almanac.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    serve: Config,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Chats with a running server in the terminal
    Chat(ChatConfig),
}

#[tokio::main]
async fn main() -> ExitCode {
    // Wrong usage ends here, with status 2.
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Chat(config)) => chat(config).await,
        None => run(arguments.serve).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but for those that it quotes itself.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.as_str() {
            "" => cause,
            said if said.contains(&cause) => told,
            said => format!("{said}: {cause}"),
        }
    })
}

async fn run(config: Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("--log {:?} is no level", config.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    // A port that is taken should not come as a surprise after the model is loaded.
    let address = SocketAddr::new(config.listen.host, config.listen.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another with --port"))?;
    let address = listener.local_addr()?;

    let started = Instant::now();
    say(format_args!(
        "loading the model {}",
        shown(&config.model.dir())
    ));
    let app = tokio::task::spawn_blocking(move || App::load(&config)).await??;
    for collection in app.collections().iter() {
        say(format_args!(
            "collection {}: {} passages in the index {}",
            collection.name(),
            collection.index().passages(),
            collection.index().dir().display(),
        ));
    }
    say(format_args!(
        "{} tokens of context, ready after {:.1} s",
        app.context_tokens(),
        started.elapsed().as_secs_f64(),
    ));
    say(format_args!(
        "serving on http://{address}; try\n\n{}\n",
        example(address, app.model_name())
    ));
    serve(listener, app, stop_signal()?).await?;
    say(format_args!("stopped"));
    Ok(())
}

/// Prints a line for who watches; a server goes on when nobody does any more.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(stdout(), "{line}");
}

/// A path as a person would write it.
fn shown(path: &Path) -> String {
    let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let here = std::env::current_dir().unwrap_or_default();
    whole
        .strip_prefix(here)
        .unwrap_or(&whole)
        .display()
        .to_string()
}

fn example(address: SocketAddr, model: &str) -> String {
    let body = serde_json::json!({
        "model": model, "stream": true,
        "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
    });
    format!(
        "curl -N http://{address}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '{body}'"
    )
}

/// Over at the first SIGTERM or ctrl-c.
fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        say(format_args!("stopping: answers under way are finished"));
    })
}
