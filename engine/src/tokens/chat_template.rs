//! Chat templates: Jinja, rendered with contents in disguise.
//!
//! A template can look into contents, as transformers lets it, and what it wrote itself is still known
//! ([`super::disguise`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::context;
use serde::{Deserialize, Serialize};

use crate::error::{LoadError, TokensError};
use crate::files::{read_json_if_there, read_text_if_there};
use crate::tokens::disguise::{Disguise, Revealed, private_letters};
use crate::tokens::jinja::{self, Contents, RenderError};
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
    /// The letters of all control tokens' spellings.
    letters: BTreeSet<char>,
    /// Private-use characters of the template itself.
    private: BTreeSet<char>,
}

/// A rendered chat, in parts that the template wrote and parts of contents.
#[derive(Debug)]
pub(crate) struct RenderedChat(Revealed);

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
    /// The configuration's chat template, if it has one, for a tokenizer whose control tokens are spelled with
    /// these letters.
    ///
    /// # Errors
    /// It does not compile, or cannot render one message.
    pub(crate) fn from_config(
        config: &TokenizerConfig,
        letters: BTreeSet<char>,
    ) -> Result<Option<Self>, LoadError> {
        let Some(source) = config.chat_template() else {
            return Ok(None);
        };
        let template = Self {
            private: private_letters(source).collect(),
            source: jinja::prepared(source),
            bos_token: config.bos_token().unwrap_or_default().to_owned(),
            eos_token: config.eos_token().unwrap_or_default().to_owned(),
            letters,
        };
        let failed = |reason| LoadError::ChatTemplate {
            path: config.path.clone(),
            reason,
        };
        jinja::check(&template.source).map_err(failed)?;
        // A fault that only shows when it renders is the model's, so no client should meet it.
        let probe = [ChatMessage::new(Role::User, "?")];
        match template.rendered(&probe, None) {
            Ok(_) | Err(RenderError::Refused(_)) => Ok(Some(template)),
            Err(RenderError::Broken(reason)) => Err(failed(reason)),
        }
    }

    /// Renders `messages` and the start of the assistant's next turn.
    ///
    /// # Errors
    /// The template refuses the messages or is broken.
    pub(crate) fn render(&self, messages: &[ChatMessage]) -> Result<RenderedChat, TokensError> {
        let (text, disguise) = self.rendered(messages, None).map_err(tokens_error)?;
        Ok(RenderedChat(disguise.parts(&text)))
    }

    /// Renders `messages` and the start of the assistant's next turn, and leaves out everything up to the end of
    /// the assistant's message `index`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], or the template leaves that message out.
    pub(crate) fn render_after(
        &self,
        messages: &[ChatMessage],
        index: usize,
    ) -> Result<RenderedChat, TokensError> {
        let (text, disguise) = self.rendered(messages, Some(index)).map_err(tokens_error)?;
        let (_, after) = text
            .rsplit_once(disguise.mark())
            .ok_or(TokensError::MessageLeftOut(index))?;
        Ok(RenderedChat(disguise.parts(after)))
    }

    /// The rendered text and what its contents are disguised with. The message `marked` has the mark at its end,
    /// and no white space there, which a template might cut off with the mark.
    fn rendered(
        &self,
        messages: &[ChatMessage],
        marked: Option<usize>,
    ) -> Result<(String, Arc<Disguise>), RenderError> {
        let contents = messages.iter().map(|message| message.content.as_str());
        let mut taken = self.private.clone();
        contents
            .clone()
            .for_each(|content| taken.extend(private_letters(content)));
        let disguise = Disguise::new(&self.letters, &taken).ok_or_else(|| {
            RenderError::Refused("they hold too many different private-use characters".into())
        })?;
        let content = |(index, message): (usize, &ChatMessage)| {
            let content = match marked {
                Some(marked) if marked == index => {
                    let mut content = disguise.hide(message.content.trim());
                    content.push(disguise.mark());
                    content
                }
                _ => disguise.hide(&message.content),
            };
            context! { role => message.role, content => content }
        };
        let hidden: Vec<_> = messages.iter().enumerate().map(content).collect();
        // transformers passes `tools` and `documents` also where there are none.
        let context = context! {
            messages => hidden,
            tools => (),
            documents => (),
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        };
        let disguise = Arc::new(disguise);
        let contents = Contents {
            messages: messages.len(),
            bytes: contents.map(str::len).sum(),
            disguise: disguise.clone(),
        };
        Ok((jinja::render(&self.source, &contents, context)?, disguise))
    }
}

fn tokens_error(error: RenderError) -> TokensError {
    match error {
        RenderError::Refused(reason) => TokensError::Template(reason),
        RenderError::Broken(reason) => TokensError::BrokenTemplate(reason),
    }
}

impl RenderedChat {
    /// The parts, in order.
    pub(crate) fn pieces(&self) -> Vec<Piece<'_>> {
        let parts = self.0.parts.iter();
        let piece = |(range, hidden): &(std::ops::Range<usize>, bool)| {
            let text = &self.0.text[range.clone()];
            if *hidden {
                Piece::Content(text)
            } else {
                Piece::Template(text)
            }
        };
        parts.map(piece).collect()
    }
}
