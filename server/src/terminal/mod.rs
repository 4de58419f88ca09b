//! `onegen-server chat`: a chat with a running server in the terminal.
//!
//! It knows what any client knows: it speaks HTTP to a server that may be elsewhere.

mod client;
mod screen;

use std::io::{self, BufRead, IsTerminal, stdin};

use anyhow::{Result, bail};
use clap::Args;
use onegen_proto::{Content, Receipt, RequestMessage, Role};
use tokio::sync::mpsc;

use client::{Client, ClientError, Stream};
use screen::Screen;

/// Codes of a conversation that cannot go on as the server has it.
const GONE: [&str; 2] = [
    "conversation_not_found",
    "conversation_holds_deleted_document",
];

const HELP: &str = "\
/new      begins a new conversation
/sources  shows the passages that the last answer was read from
/quit     leaves, as does the end of input; ctrl-c stops an answer";

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
    /// Collection to search [default: the server's]
    #[arg(long, value_name = "NAME")]
    pub collection: Option<String>,
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
    let client = Client::new(&config.url, config.key)?;
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
        chat.ask(config.question.join(" ")).await?;
    } else {
        if watched {
            let (url, model) = (&config.url, &chat.model);
            let told = format!("{model} at {url}, over {} passages. /help", served.passages);
            chat.screen.aside(&told)?;
        }
        chat.converse(watched).await?;
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

/// What has been said, and the server's name for it: none before the first answer, and after one whose
/// end was not seen. The server may have come to that end; it is gone on from what was seen.
#[derive(Default)]
struct Conversation {
    id: Option<String>,
    messages: Vec<RequestMessage>,
}

impl Chat {
    async fn converse(&mut self, watched: bool) -> Result<()> {
        let mut lines = read_lines();
        loop {
            if watched {
                self.screen.prompt()?;
            }
            let line = tokio::select! {
                line = lines.recv() => line,
                interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None)?,
            };
            let Some(line) = line.transpose()? else {
                if watched {
                    self.screen.line("")?;
                }
                return Ok(());
            };
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/help" => self.screen.aside(HELP)?,
                "/new" => {
                    self.conversation = Conversation::default();
                    self.sources.clear();
                    self.screen.aside("a new conversation")?;
                }
                "/sources" => self.show_sources().await?,
                command if command.starts_with('/') => {
                    self.screen
                        .error(&format!("there is no {command}; /help tells what there is"))?;
                }
                question => self.ask(question.to_owned()).await?,
            }
        }
    }

    /// Asks and shows the answer. One that does not come is shown and counted.
    async fn ask(&mut self, question: String) -> io::Result<()> {
        let asked = message(Role::User, question);
        let answered = tokio::select! {
            answered = self.answer(&asked) => answered,
            // The stream is dropped, which cancels the turn.
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None).map_err(Failure::Screen),
        };
        match answered {
            Ok(Some(text)) => {
                self.conversation.messages.push(asked);
                let answer = message(Role::Assistant, text);
                self.conversation.messages.push(answer);
                Ok(())
            }
            Ok(None) => {
                self.screen.break_off()?;
                self.conversation.id = None;
                self.screen
                    .aside("stopped; the conversation goes on without this turn")
            }
            Err(Failure::Client(error)) => {
                self.failed += 1;
                if error.leaves_doubt() {
                    self.conversation.id = None;
                }
                self.screen.break_off()?;
                self.screen.error(&error.to_string())
            }
            Err(Failure::Screen(error)) => Err(error),
        }
    }

    /// Gives the whole text, which has been shown as it came.
    async fn answer(&mut self, asked: &RequestMessage) -> Result<Option<String>, Failure> {
        let mut stream = self.begin(asked).await?;
        self.sources.clear();
        let mut text = String::new();
        while let Some(chunk) = stream.next().await? {
            let extension = chunk.onegen.unwrap_or_default();
            if let Some(receipt) = extension.retrieval {
                self.sources.push(receipt);
                self.screen.retrieval(&self.sources)?;
            }
            if let Some(id) = extension.conversation {
                self.conversation.id = Some(id);
            }
            for choice in chunk.choices {
                let more = choice.delta.content.unwrap_or_default();
                self.screen.text(&more)?;
                text.push_str(&more);
            }
        }
        self.screen.footnotes(&self.sources)?;
        Ok(Some(text))
    }

    /// A conversation that the server has forgotten begins anew with what both sides have said.
    async fn begin(&mut self, asked: &RequestMessage) -> Result<Stream, Failure> {
        if let Some(id) = &self.conversation.id {
            let new = std::slice::from_ref(asked);
            let asked = self
                .client
                .ask(&self.model, self.collection.as_deref(), Some(id), new);
            match asked.await {
                Err(error) if GONE.iter().any(|code| error.is(code)) => {
                    self.conversation.id = None;
                    self.screen
                        .aside("the server cannot go on with this conversation as it was; it goes on from what was shown")?;
                }
                other => return Ok(other?),
            }
        }
        let messages: Vec<_> = self
            .conversation
            .messages
            .iter()
            .chain([asked])
            .cloned()
            .collect();
        let collection = self.collection.as_deref();
        let asked = self.client.ask(&self.model, collection, None, &messages);
        Ok(asked.await?)
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

/// Why an answer could not be shown.
enum Failure {
    Client(ClientError),
    Screen(io::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Screen(error)
    }
}

fn message(role: Role, text: String) -> RequestMessage {
    RequestMessage {
        role,
        content: Content::Text(text),
    }
}

/// The lines of the standard input, each read when the one before is taken. The thread that waits for
/// the next one ends with the process.
fn read_lines() -> mpsc::Receiver<io::Result<String>> {
    let (read, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            // Nobody waits any more after /quit.
            if read.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
