//! Reads the files that describe how a model's texts become tokens.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;

use super::Tokens;
use super::chat_template::{ChatMessage, ChatTemplate, Role, TokenizerConfig};
use super::control::ControlTokens;
use super::derived::DerivedTables;
use super::marks::{LinkTokens, Mark};
use super::onegen_config::OneGenConfig;
use super::passage_block::BlockMarks;
use super::read_bound::ReadBound;
use super::source::{PlainTokenizer, TextPosition, TokenizerSource, tokenizer};
use super::template::Piece;
use crate::config::{ModelConfig, OneOrMany};
use crate::error::LoadError;
use crate::files::{first_with, read_json_if_there};

#[derive(Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMany>,
}

impl Tokens {
    /// Reads `tokenizer.json` in `dir`, and `tokenizer_config.json`, `chat_template.jinja`,
    /// `generation_config.json` and `onegen.json` if they exist.
    ///
    /// # Errors
    /// A file is damaged, or the tokenizer lacks a control token that the others name.
    pub fn load(dir: &Path, model: &ModelConfig) -> Result<Self, LoadError> {
        let config = TokenizerConfig::load(dir)?;
        let source = TokenizerSource::read(dir.join("tokenizer.json"), config)?;
        Self::from_source(source, &[dir], model)
    }

    /// A tokenizer with the settings of the other files. Each file is read from the first of `dirs` that
    /// has it.
    pub(crate) fn from_source(
        source: TokenizerSource,
        dirs: &[&Path],
        model: &ModelConfig,
    ) -> Result<Self, LoadError> {
        let TokenizerSource {
            path,
            json,
            fingerprint,
            config,
        } = source;
        let tokenizer = tokenizer(&json, &path)?;
        let has_token = |token: &str| tokenizer.token_to_id(token).is_some();
        let onegen = OneGenConfig::load(first_with(dirs, "onegen.json"), has_token)?;
        let mut named = onegen.named_tokens();
        let framing = [config.bos_token(), config.eos_token()].into_iter();
        named.extend(framing.flatten().map(str::to_owned));
        let control = ControlTokens::new(&tokenizer, &named);
        let plain = PlainTokenizer::new(&json, &path, &named)?;
        let generation = "generation_config.json";
        let generation = first_with(dirs, generation).join(generation);
        let generation: GenerationConfig = read_json_if_there(&generation)?.unwrap_or_default();

        let find = |token: &str, role| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| LoadError::MissingToken {
                    path: path.clone(),
                    token: token.to_owned(),
                    role,
                })
        };
        let bos = match (config.bos_token(), model.bos_token_id) {
            (Some(token), _) => Some(find(token, "beginning of a text")?),
            (None, id) => id,
        };
        if onegen.add_bos && bos.is_none() {
            return Err(LoadError::MissingToken {
                path,
                token: "bos_token".into(),
                role: "beginning of a text",
            });
        }
        let mut eos: BTreeSet<u32> = match generation.eos_token_id {
            Some(ids) => ids.into_vec().into_iter().collect(),
            None => model.eos_token_ids.iter().copied().collect(),
        };
        if let Some(token) = config.eos_token() {
            eos.insert(find(token, "end of a turn")?);
        }
        // A configuration may name ids of the family that the tokenizer does not have.
        eos.retain(|id| tokenizer.id_to_token(*id).is_some());
        if eos.is_empty() {
            return Err(LoadError::MissingToken {
                path,
                token: "eos_token".into(),
                role: "end of a turn",
            });
        }
        let query = find(&onegen.query_token, "query token")?;
        let (splice, linking) = match &onegen.linking {
            None => {
                let open = find(&onegen.passage_open, "opening of a passage")?;
                let close = find(&onegen.passage_close, "closing of a passage")?;
                (Some((open, close)), None)
            }
            Some(marks) => {
                // In the published checkpoints the marks are plain text.
                let mark = |spelling: &str, role| match find(spelling, role) {
                    Ok(id) => Ok(Mark::Token(id)),
                    Err(missing) if spelling.is_empty() => Err(missing),
                    Err(_) => Ok(Mark::Text(spelling.as_bytes().into())),
                };
                let open = mark(&marks.mention_open, "opening of a mention")?;
                let close = mark(&marks.mention_close, "closing of a mention")?;
                let go_on = find(&marks.continue_token, "continue token")?;
                (
                    None,
                    Some(LinkTokens::new(open, close, query, go_on).into()),
                )
            }
        };
        let passage = find(&onegen.passage_token, "passage token")?;
        let control_id = |token: &str| {
            let id = tokenizer.token_to_id(token);
            id.filter(|id| control.holds(*id))
        };
        let inconsistent = |reason| LoadError::Inconsistent {
            path: first_with(dirs, "onegen.json").join("onegen.json"),
            reason,
        };
        let block = BlockMarks::from_config(&onegen, control_id).map_err(inconsistent)?;
        let mut tokens = Self {
            query,
            passage,
            splice,
            block,
            linking,
            chat: ChatTemplate::from_config(&config, control.letters())?,
            fingerprint,
            read_bound: ReadBound::new(
                plain.at(TextPosition::First),
                model.max_position_embeddings,
            ),
            tokenizer,
            plain,
            control,
            onegen,
            bos,
            eos,
            bytes: OnceLock::new(),
            derived: DerivedTables::default(),
        };
        tokens.eos.extend(tokens.end_in_template());
        if let Some(marks) = tokens.block {
            let ids = tokens.passage_ids("", "");
            let whole = ids.map_err(|error| error.to_string());
            whole.and_then(|ids| marks.check(&ids)).map_err(|reason| {
                inconsistent(format!(
                    "embed_template spells a mark of passages: {reason}"
                ))
            })?;
        }
        let linking = tokens.linking.as_ref();
        if let Some(unspelt) = linking.and_then(|linking| linking.unspelt(&tokens)) {
            return Err(LoadError::MissingToken {
                path,
                token: unspelt.to_string(),
                role: "spelling of a part of a mark",
            });
        }
        Ok(tokens)
    }

    /// The control token that the chat template writes behind an assistant's message, if it writes one there. It
    /// ends a turn, whatever the files call the end of a text.
    fn end_in_template(&self) -> Option<u32> {
        let chat = self.chat.as_ref()?;
        let messages = [Role::User, Role::Assistant, Role::User];
        let messages = messages.map(|role| ChatMessage::new(role, "?"));
        // A template that refuses such a chat is asked again when a client sends one.
        let rendered = chat.render_after(&messages, 1).ok()?;
        let pieces = rendered.pieces();
        let Piece::Template(written) = pieces.first()? else {
            return None;
        };
        let (before, token, _) = self.control.split_first(written)?;
        (before.trim().is_empty() && Some(token.id) != self.bos).then_some(token.id)
    }
}
