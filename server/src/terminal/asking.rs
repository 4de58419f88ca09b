//! Questions and answers: asked, stopped, asked again, forgotten.

use std::io;

use onegen_proto::{ChatCompletionRequest, Content, RequestMessage, RetrievalOptions, Role};

use super::Chat;
use super::client::ClientError;
use super::stream::Stream;

/// Codes of a conversation that cannot go on as the server has it.
const GONE: [&str; 2] = [
    "conversation_not_found",
    "conversation_holds_deleted_document",
];

/// Of another answer to the same question: without one the same would come again.
const RETRY_TEMPERATURE: f32 = 0.7;

/// What has been said, and the server's name for it: none before the first answer, and after one of
/// which nobody knows whether the server has kept it. Then it is gone on from what was seen.
#[derive(Default)]
pub(super) struct Conversation {
    id: Option<String>,
    messages: Vec<RequestMessage>,
    /// What the server calls the turn's conversation, while one is under way.
    under_way: Option<String>,
    /// All names that the server has had for it.
    ids: Vec<String>,
    /// What was asked last, and whether that is among the messages.
    last: Option<(String, bool)>,
}

impl Chat {
    /// Asks and shows the answer. One that does not come is shown and counted.
    pub(super) async fn ask(
        &mut self,
        question: String,
        temperature: Option<f32>,
    ) -> io::Result<()> {
        self.conversation.last = Some((question.clone(), false));
        let asked = message(Role::User, question);
        let answered = tokio::select! {
            answered = self.answer(&asked, temperature) => answered,
            interrupted = tokio::signal::ctrl_c() => match interrupted {
                Ok(()) => self.stop().await,
                Err(error) => Err(Failure::Screen(error)),
            },
        };
        match answered {
            Ok(Some(text)) => {
                let answer = message(Role::Assistant, text);
                self.conversation.messages.extend([asked, answer]);
                self.conversation
                    .last
                    .iter_mut()
                    .for_each(|last| last.1 = true);
                Ok(())
            }
            Ok(None) => self
                .screen
                .aside("stopped; the conversation goes on without this turn"),
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
    async fn answer(
        &mut self,
        asked: &RequestMessage,
        temperature: Option<f32>,
    ) -> Result<Option<String>, Failure> {
        self.conversation.under_way = None;
        let mut stream = self.begin(asked, temperature).await?;
        if let Some(id) = stream.conversation().map(str::to_owned) {
            self.conversation.under_way = Some(id.clone());
            if !self.conversation.ids.contains(&id) {
                self.conversation.ids.push(id);
            }
        }
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

    /// Ends the turn under way at the server. Gives its text if it had come to its end before.
    async fn stop(&mut self) -> Result<Option<String>, Failure> {
        self.screen.break_off()?;
        let Some(id) = self.conversation.under_way.take() else {
            // The request is dropped before the server has told anything.
            self.conversation.id = None;
            return Ok(None);
        };
        let kept = async {
            self.client.stop(&id).await?;
            self.client.last_message(&id).await
        };
        match kept.await {
            Ok(Some((messages, text))) if messages == self.conversation.messages.len() + 2 => {
                self.conversation.id = Some(id);
                self.screen.aside("it had ended already:")?;
                self.screen.text(&text)?;
                self.screen.footnotes(&self.sources)?;
                Ok(Some(text))
            }
            Ok(_) => Ok(None),
            Err(_) => {
                self.conversation.id = None;
                Ok(None)
            }
        }
    }

    /// A conversation that the server has forgotten begins anew with what both sides have said.
    async fn begin(
        &mut self,
        asked: &RequestMessage,
        temperature: Option<f32>,
    ) -> Result<Stream, Failure> {
        let request = |messages| ChatCompletionRequest {
            model: self.model.clone(),
            messages,
            temperature,
            retrieval: self.collection.clone().map(|name| RetrievalOptions {
                collection: Some(name),
                ..RetrievalOptions::default()
            }),
            ..ChatCompletionRequest::default()
        };
        if let Some(id) = &self.conversation.id {
            let new = request(vec![asked.clone()]);
            match self.client.ask(new, Some(id)).await {
                Err(error) if GONE.iter().any(|code| error.is(code)) => {
                    self.conversation.id = None;
                    self.screen
                        .aside("the server cannot go on with this conversation as it was; it goes on from what was shown")?;
                }
                other => return Ok(other?),
            }
        }
        let said = self.conversation.messages.iter();
        let all = request(said.chain([asked]).cloned().collect());
        Ok(self.client.ask(all, None).await?)
    }

    /// Asks the last question again. An answer that it has had is no part of the conversation then.
    pub(super) async fn retry(&mut self) -> io::Result<()> {
        match self.conversation.last.take() {
            None => self.screen.error("nothing was asked yet"),
            Some((question, false)) => self.ask(question, None).await,
            Some((question, true)) => {
                let messages = &mut self.conversation.messages;
                messages.truncate(messages.len().saturating_sub(2));
                self.conversation.id = None;
                self.ask(question, Some(RETRY_TEMPERATURE)).await
            }
        }
    }

    /// Has the server forget all that it has of the conversation.
    pub(super) async fn forget(&mut self) -> io::Result<()> {
        for id in std::mem::take(&mut self.conversation.ids) {
            if let Err(error) = self.client.forget(&id).await {
                self.conversation.ids.push(id);
                self.screen.error(&error.to_string())?;
            }
        }
        if !self.conversation.ids.is_empty() {
            return Ok(());
        }
        self.conversation = Conversation::default();
        self.sources.clear();
        self.screen.aside("forgotten; a new conversation")
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
