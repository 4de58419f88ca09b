//! `onegen-server chat`: a chat with a running server in the terminal.
//!
//! It knows what any client knows: it speaks HTTP to a server that may be elsewhere.

mod asking;
mod client;
mod lines;
mod screen;
mod stream;

use std::io::{IsTerminal, stdin};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use onegen_proto::Receipt;

use asking::Conversation;
use client::Client;
use lines::Lines;
use screen::Screen;

const HELP: &str = "\
/new      begins a new conversation
/retry    asks the last question again, for another answer
/sources  shows the passages that the last answer was read from
/forget   has the server forget this conversation, and begins a new one
/quit     leaves, as does ctrl-d; ctrl-c stops an answer or empties the line";

/// Where the chat's server is and what is asked of it.
#[derive(Debug, Clone, Args)]
pub struct ChatConfig {
    /// Where the server is
    #[arg(
        long,
        env = "ONEGEN_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub url: String,
    /// API key, where the server asks for one
    #[arg(long, env = "ONEGEN_KEY", value_name = "KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Certificates in PEM to trust, where a private authority has signed the server's
    #[arg(long, env = "ONEGEN_CACERT", value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Collection to search [default: the server's]
    #[arg(long, value_name = "NAME")]
    pub collection: Option<String>,
    /// Keeps no file of what was typed on a terminal; without this the next chat can call it up too
    #[arg(long)]
    pub no_history: bool,
    /// Asks this and ends; without it questions are read from the standard input, one a line
    #[arg(value_name = "QUESTION")]
    pub question: Vec<String>,
}

/// Chats until the end of input or `/quit`.
///
/// # Errors
/// No server answers, or the standard input or output fails. Where nobody watches (a question is given
/// or the input is no terminal) an answer that does not come is an error too, after the other
/// questions have been asked.
pub async fn chat(config: ChatConfig) -> Result<()> {
    let client = Client::new(&config.url, config.key, config.cacert.as_deref())?;
    let served = client.readiness().await?;
    let mut chat = Chat {
        model: served.model,
        collection: config.collection,
        client,
        screen: Screen::new(),
        conversation: Conversation::default(),
        sources: Vec::new(),
        failed: 0,
    };
    let watched = config.question.is_empty() && stdin().is_terminal();
    if !config.question.is_empty() {
        chat.ask(config.question.join(" "), None).await?;
    } else {
        if watched {
            let (url, model) = (&config.url, &chat.model);
            let told = format!("{model} at {url}, over {} passages. /help", served.passages);
            chat.screen.aside(&told)?;
        }
        chat.converse(watched, !config.no_history).await?;
    }
    match chat.failed {
        0 => Ok(()),
        _ if watched => Ok(()),
        1 => bail!("a question got no answer"),
        failed => bail!("{failed} questions got no answer"),
    }
}

struct Chat {
    client: Client,
    model: String,
    collection: Option<String>,
    screen: Screen,
    conversation: Conversation,
    /// What was read for the last answer.
    sources: Vec<Receipt>,
    /// Questions without an answer.
    failed: usize,
}

impl Chat {
    async fn converse(&mut self, watched: bool, keeps_history: bool) -> Result<()> {
        let mut lines = Lines::new(&mut self.screen, watched, keeps_history)?;
        while let Some(line) = lines.next(&mut self.screen).await? {
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/help" => self.screen.aside(HELP)?,
                "/new" => {
                    self.conversation = Conversation::default();
                    self.sources.clear();
                    self.screen.aside("a new conversation")?;
                }
                "/retry" => self.retry().await?,
                "/sources" => self.show_sources().await?,
                "/forget" => self.forget().await?,
                command if command.starts_with('/') => {
                    self.screen
                        .error(&format!("there is no {command}; /help tells what there is"))?;
                }
                question => self.ask(question.to_owned(), None).await?,
            }
        }
        Ok(())
    }

    async fn show_sources(&mut self) -> Result<()> {
        if self.sources.is_empty() {
            self.screen.aside("nothing was read for the last answer")?;
        }
        for (at, receipt) in self.sources.iter().enumerate() {
            if let Some(passage) = receipt.passages.first() {
                let text = self.client.passage_text(&passage.id, &receipt.collection);
                self.screen.source(at + 1, passage, text.await.as_deref())?;
            }
        }
        Ok(())
    }
}
