//! Chat templates: Jinja, rendered with a mark in place of each content.
//!
//! Contents never pass through the template as text. The rendered string is cut at the marks, so
//! that the parts that the template wrote are known.

use std::path::{Path, PathBuf};

use minijinja::context;
use serde::{Deserialize, Serialize};

use crate::error::{LoadError, TokensError};
use crate::files::{read_json_if_there, read_text_if_there};
use crate::tokens::jinja::{self, RenderError};
use crate::tokens::template::Piece;

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the model.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// One message of a chat: what a client sees of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
}

impl ChatMessage {
    /// A message of the given role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A Jinja template with the tokens that it may name. It is checked when the model is loaded.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    source: String,
    bos_token: String,
    eos_token: String,
    /// A private-use character that does not occur in the template.
    mark: char,
}

/// A rendered chat. Cut at the marks, it alternates template text and message numbers.
pub(crate) struct RenderedChat<'a> {
    text: String,
    mark: char,
    messages: &'a [ChatMessage],
}

/// The parts of `tokenizer_config.json` that matter here, and the chat template, which newer directories
/// keep in a file of its own.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TokenizerConfig {
    /// The file that holds the chat template.
    #[serde(skip)]
    path: PathBuf,
    chat_template: Option<ChatTemplates>,
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Many(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Plain(String),
    Full { content: String },
}

impl NamedToken {
    fn content(&self) -> &str {
        match self {
            NamedToken::Plain(content) | NamedToken::Full { content } => content,
        }
    }
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json` and `chat_template.jinja`, as far as they exist. The latter has
    /// priority.
    pub(crate) fn load(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("tokenizer_config.json");
        let read: Option<Self> = read_json_if_there(&path)?;
        let read = read.unwrap_or_default();
        let own_file = dir.join("chat_template.jinja");
        Ok(match read_text_if_there(&own_file)? {
            Some(source) => Self {
                path: own_file,
                chat_template: Some(ChatTemplates::One(source)),
                ..read
            },
            None => Self { path, ..read },
        })
    }

    /// The same settings from the file `path`, which has another format.
    pub(crate) fn new(
        path: &Path,
        chat_template: Option<String>,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            chat_template: chat_template.map(ChatTemplates::One),
            bos_token: bos_token.map(NamedToken::Plain),
            eos_token: eos_token.map(NamedToken::Plain),
        }
    }

    /// This configuration, with the values of `other` for those that it lacks.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            path: match self.chat_template {
                Some(_) => self.path,
                None => other.path,
            },
            chat_template: self.chat_template.or(other.chat_template),
            bos_token: self.bos_token.or(other.bos_token),
            eos_token: self.eos_token.or(other.eos_token),
        }
    }

    /// The chat template; of several named ones the `default`.
    pub(crate) fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            ChatTemplates::One(source) => Some(source),
            ChatTemplates::Many(all) => {
                let default = all.iter().find(|t| t.name == "default")?;
                Some(&default.template)
            }
        }
    }

    pub(crate) fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_ref().map(NamedToken::content)
    }

    pub(crate) fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_ref().map(NamedToken::content)
    }
}

impl ChatTemplate {
    /// The configuration's chat template, if it has one.
    ///
    /// # Errors
    /// It does not compile, or cannot render one message.
    pub(crate) fn from_config(config: &TokenizerConfig) -> Result<Option<Self>, LoadError> {
        let Some(source) = config.chat_template() else {
            return Ok(None);
        };
        let source = jinja::with_known_tags(source).into_owned();
        let mark = ('\u{F0000}'..)
            .find(|&c| !source.contains(c))
            .unwrap_or('\u{F0000}');
        let template = Self {
            source,
            bos_token: config.bos_token().unwrap_or_default().to_owned(),
            eos_token: config.eos_token().unwrap_or_default().to_owned(),
            mark,
        };
        let failed = |reason| LoadError::ChatTemplate {
            path: config.path.clone(),
            reason,
        };
        jinja::check(&template.source).map_err(failed)?;
        // A fault that only shows when it renders is the model's, so no client should meet it.
        let probe = [ChatMessage::new(Role::User, "?")];
        match template.rendered(&probe) {
            Ok(_) | Err(RenderError::Refused(_)) => Ok(Some(template)),
            Err(RenderError::Broken(reason)) => Err(failed(reason)),
        }
    }

    /// Renders `messages` and the start of the assistant's next turn.
    pub(crate) fn render<'a>(
        &self,
        messages: &'a [ChatMessage],
    ) -> Result<RenderedChat<'a>, TokensError> {
        match self.rendered(messages) {
            Ok(text) => Ok(RenderedChat {
                text,
                mark: self.mark,
                messages,
            }),
            Err(RenderError::Refused(reason)) => Err(TokensError::Template(reason)),
            Err(RenderError::Broken(reason)) => Err(TokensError::BrokenTemplate(reason)),
        }
    }

    fn rendered(&self, messages: &[ChatMessage]) -> Result<String, RenderError> {
        let marked: Vec<_> = messages
            .iter()
            .enumerate()
            .map(|(index, message)| {
                context! { role => message.role, content => self.marked(index, message) }
            })
            .collect();
        let context = context! {
            messages => marked,
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        };
        jinja::render(&self.source, messages.len(), context)
    }

    /// The text that the template gets in place of a message's content: the message's number between two
    /// marks, with the content's own white space around it. So a template that trims contents also trims this
    /// white space, and it sees nothing else of the content.
    ///
    /// The assistant's contents are marked without white space, and even when they are empty, so that the text
    /// after them can always be found.
    fn marked(&self, index: usize, message: &ChatMessage) -> String {
        let content = &message.content;
        let core = content.trim();
        let (before, after) = match message.role {
            Role::Assistant => ("", ""),
            Role::System | Role::User if core.is_empty() => return content.clone(),
            Role::System | Role::User => content.split_once(core).unwrap_or_default(),
        };
        format!("{before}{0}{index}{0}{after}", self.mark)
    }
}

impl RenderedChat<'_> {
    /// The whole chat.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece<'_>>, TokensError> {
        Ok(self.parts()?.into_iter().map(|(piece, _)| piece).collect())
    }

    /// The pieces after the content of message `index`.
    pub(crate) fn pieces_after(&self, index: usize) -> Result<Vec<Piece<'_>>, TokensError> {
        let parts = self.parts()?;
        let at = parts
            .iter()
            .rposition(|(_, message)| *message == Some(index))
            .ok_or(TokensError::MessageLeftOut(index))?;
        Ok(parts[at + 1..].iter().map(|(piece, _)| *piece).collect())
    }

    /// Each piece. If it is a content, the number of its message comes with it.
    fn parts(&self) -> Result<Vec<(Piece<'_>, Option<usize>)>, TokensError> {
        let cut = || TokensError::BrokenTemplate("it cuts a message's content apart".into());
        self.text
            .split(self.mark)
            .enumerate()
            .map(|(at, part)| {
                if at % 2 == 0 {
                    return Ok((Piece::Template(part), None));
                }
                let index: usize = part.parse().map_err(|_| cut())?;
                let message = self.messages.get(index).ok_or_else(cut)?;
                Ok((Piece::Content(message.content.trim()), Some(index)))
            })
            .collect()
    }
}
