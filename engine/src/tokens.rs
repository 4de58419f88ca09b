//! Token ids: what the model reads and writes.
//!
//! **Invariant:** control tokens enter by id only. Text of users and passages is encoded as plain
//! text, whatever it spells, and ids are never decoded and encoded again to continue.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::chat_template::{ChatMessage, ChatTemplate, Role, TokenizerConfig};
use crate::config::{ModelConfig, OneOrMany};
use crate::constraint::GrammarCompiler;
use crate::control_tokens::ControlTokens;
use crate::error::{ConstraintError, LoadError, TokensError};
use crate::files::{first_with, read_json_if_there};
use crate::linking::{LinkTokens, Mark};
use crate::onegen_config::{LinkingConfig, OneGenConfig};
use crate::passage_block::BlockMarks;
use crate::retrieval::Passage;
use crate::template::{Piece, fill};
use crate::token_bytes::token_bytes;
use crate::tokenizer_file::{TokenizerSource, plain_tokenizer, tokenizer};

/// The ids that a passage adds to a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpliceIds {
    /// The control token before the passage.
    pub open: u32,
    /// The passage as plain text.
    pub passage: Vec<u32>,
    /// `[RD]`, which ends a passage block; only with block attention.
    pub end: Option<u32>,
    /// The control token after it.
    pub close: u32,
}

impl SpliceIds {
    /// How many ids there are, markers included.
    #[allow(clippy::len_without_is_empty)] // There are always two markers.
    pub fn len(&self) -> usize {
        self.passage.len() + 2 + usize::from(self.end.is_some())
    }

    /// All ids in order.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.len());
        ids.push(self.open);
        ids.extend_from_slice(&self.passage);
        ids.extend(self.end);
        ids.push(self.close);
        ids
    }
}

/// A model's tokenizer with its control tokens and templates.
#[derive(Debug)]
pub struct Tokens {
    /// Knows the control tokens; decodes.
    tokenizer: Tokenizer,
    /// Takes every control token for plain text; encodes.
    plain: Tokenizer,
    control: ControlTokens,
    onegen: OneGenConfig,
    chat: Option<ChatTemplate>,
    query: u32,
    passage: u32,
    /// Around a spliced passage; none of a model that splices nothing.
    splice: Option<(u32, u32)>,
    /// Around a passage block, of a model with block attention.
    block: Option<BlockMarks>,
    /// Around mentions, of a model that links them.
    linking: Option<Arc<LinkTokens>>,
    bos: Option<u32>,
    eos: BTreeSet<u32>,
    fingerprint: String,
    /// Made when first asked for.
    bytes: OnceLock<Vec<Vec<u8>>>,
    /// Made when first asked for.
    grammars: OnceLock<Result<Arc<GrammarCompiler>, ConstraintError>>,
}

#[derive(Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMany>,
}

impl Tokens {
    /// Reads `tokenizer.json` in `dir`, and `tokenizer_config.json`, `chat_template.jinja`,
    /// `generation_config.json` and `onegen.json` where they are there.
    ///
    /// # Errors
    /// A file is damaged, or the tokenizer lacks a control token that the others name.
    pub fn load(dir: &Path, model: &ModelConfig) -> Result<Self, LoadError> {
        let config = TokenizerConfig::load(dir)?;
        let source = TokenizerSource::read(dir.join("tokenizer.json"), config)?;
        Self::of(source, &[dir], model)
    }

    /// A tokenizer with what the other files say, each of which is read in the first of `dirs` that has it.
    pub(crate) fn of(
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
        let control = ControlTokens::of(&tokenizer);
        let plain = plain_tokenizer(&json, &path)?;
        let has_token = |token: &str| tokenizer.token_to_id(token).is_some();
        let onegen = OneGenConfig::load(first_with(dirs, "onegen.json"), has_token)?;
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
                // The published checkpoints spell the marks as text.
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
        let block = BlockMarks::of(&onegen, control_id).map_err(inconsistent)?;
        let tokens = Self {
            query,
            passage,
            splice,
            block,
            linking,
            chat: ChatTemplate::of(&config)?,
            fingerprint,
            tokenizer,
            plain,
            control,
            onegen,
            bos,
            eos,
            bytes: OnceLock::new(),
            grammars: OnceLock::new(),
        };
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

    /// The id of `[RQ]`, whose hidden state is the query embedding.
    pub fn query_id(&self) -> u32 {
        self.query
    }

    /// The id of `[RD]`, whose hidden state is the passage embedding.
    pub fn passage_id(&self) -> u32 {
        self.passage
    }

    /// The ids of the tokens before and after a spliced passage; none of a model that splices nothing.
    pub fn splice_markers(&self) -> Option<(u32, u32)> {
        self.splice
    }

    /// What passage blocks begin and end with; `None` for a model whose passages see everything before
    /// them.
    pub(crate) fn block_marks(&self) -> Option<BlockMarks> {
        self.block
    }

    /// Whether the model links mentions of entities: it copies a text and marks them, and does nothing
    /// else.
    pub fn links_entities(&self) -> bool {
        self.linking.is_some()
    }

    /// What the model marks mentions with.
    ///
    /// # Errors
    /// [`TokensError::NoLinking`] says what would be right.
    pub(crate) fn linking(&self) -> Result<&Arc<LinkTokens>, TokensError> {
        let linking = self.linking.as_ref();
        linking.ok_or_else(|| self.no_linking())
    }

    fn no_linking(&self) -> TokensError {
        let usual = ["[LK]", "[SE]", "[_CONTINUE_]"].into_iter();
        let lacks = |token: &&str| self.tokenizer.token_to_id(token).is_none();
        let lacking = usual.filter(lacks).collect();
        TokensError::NoLinking { lacking }
    }

    /// How the model links entities.
    ///
    /// # Errors
    /// [`TokensError::NoLinking`]: it answers, as most do.
    pub fn linking_config(&self) -> Result<&LinkingConfig, TokensError> {
        let linking = self.onegen.linking.as_ref();
        linking.ok_or_else(|| self.no_linking())
    }

    /// Whether `id` ends a turn.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// The token that ends a turn; where there are several, the one with the lowest id.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.eos.first().copied()
    }

    /// What `onegen.json` says.
    pub fn onegen(&self) -> &OneGenConfig {
        &self.onegen
    }

    /// How many ids the tokenizer knows, control tokens included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The highest id that the tokenizer knows.
    pub(crate) fn highest_id(&self) -> Option<u32> {
        self.tokenizer.get_vocab(true).into_values().max()
    }

    /// The spelling of an id, or `None` for an id that is not in the vocabulary.
    pub fn spelling(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The bytes that an id adds to a text, or `None` for a control token and an unknown id, which
    /// add none.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let bytes = self
            .bytes
            .get_or_init(|| token_bytes(&self.tokenizer, self.ids()));
        let bytes = bytes.get(id as usize).filter(|bytes| !bytes.is_empty());
        bytes.map(Vec::as_slice).filter(|_| !self.is_control(id))
    }

    /// What compiles constraints for this model.
    ///
    /// # Errors
    /// The tokens cannot be matched by a grammar.
    pub(crate) fn grammar_compiler(&self) -> Result<Arc<GrammarCompiler>, ConstraintError> {
        let new = || {
            let no_end = || ConstraintError::Tokens("no token ends a turn".into());
            let end_of_turn = self.end_of_turn().ok_or_else(no_end)?;
            GrammarCompiler::new(self, self.ids(), end_of_turn).map(Arc::new)
        };
        self.grammars.get_or_init(new).clone()
    }

    /// One more than the highest id.
    pub(crate) fn ids(&self) -> u32 {
        self.highest_id().map_or(0, |highest| highest + 1)
    }

    /// Whether an id never becomes text.
    fn is_control(&self, id: u32) -> bool {
        let (open, close) = self.splice.unwrap_or((self.query, self.query));
        let markers = [self.query, self.passage, open, close];
        let marks_mention = |linking: &Arc<LinkTokens>| linking.holds(id);
        markers.contains(&id)
            || self.linking.as_ref().is_some_and(marks_mention)
            || self.is_eos(id)
            || self.control.is_special(id)
    }

    /// Whether encoding a text ever yields `id`.
    pub(crate) fn is_text(&self, id: u32) -> bool {
        self.bytes(id).is_some() && !self.control.holds(id)
    }

    /// blake3 of `tokenizer.json` or of a GGUF file's tokenizer, hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// blake3 of how a passage is framed for embedding, hexadecimal.
    pub fn template_fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.onegen.embed_template.as_bytes());
        hasher.update(&[0]);
        hasher.update(self.onegen.passage_token.as_bytes());
        if self.block.is_some() {
            hasher.update(&[0]);
            hasher.update(self.onegen.passage_open.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Which of the first `vocab_size` ids sampling never yields: every control token but `[RQ]`
    /// and those that end a turn, and every id without a spelling.
    pub(crate) fn never_sampled(&self, vocab_size: usize) -> Vec<bool> {
        (0..vocab_size as u32)
            .map(|id| {
                let allowed = id == self.query || self.is_eos(id);
                (self.is_control(id) && !allowed) || self.spelling(id).is_none()
            })
            .collect()
    }

    /// How many tokens a text is. One that the tokenizer fails at counts its bytes, of which a token
    /// takes at least one.
    pub fn count(&self, text: &str) -> usize {
        self.encode_plain(text).map_or(text.len(), |ids| ids.len())
    }

    /// The ids of a text, none of which is a control token, whatever the text spells.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let ids = self.encode_with_plain(text)?;
        if !ids.iter().any(|&id| self.control.holds(id)) {
            return Ok(ids);
        }
        // The vocabulary itself spells a control token. Cut apart, no piece spells it any more.
        let mut ids = Vec::new();
        for piece in self.control.cut_apart(text) {
            ids.extend(self.encode_with_plain(piece)?);
        }
        ids.retain(|&id| !self.control.holds(id));
        Ok(ids)
    }

    fn encode_with_plain(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        self.plain
            .encode_fast(text, false)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TokensError::Tokenizer(error.to_string()))
    }

    /// The text of `ids`, without control tokens.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokensError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| TokensError::Tokenizer(error.to_string()))
    }

    /// The ids of a new conversation: all messages and the start of the assistant's turn.
    ///
    /// A model with a raw prompt template reads the last user message only.
    ///
    /// # Errors
    /// There is no template, it refuses the messages, or the tokenizer failed.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TokensError> {
        let mut ids = match (&self.onegen.prompt_template, &self.chat) {
            (Some(prompt), _) => self.encode_prompt(prompt, messages)?,
            (None, Some(chat)) => self.encode_pieces(&chat.render(messages)?.pieces()?)?,
            (None, None) => return Err(TokensError::NoChatTemplate),
        };
        self.begin(&mut ids);
        Ok(ids)
    }

    /// The ids of a text that a token log begins with: plain text, without any template.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let mut ids = self.encode_plain(text)?;
        self.begin(&mut ids);
        Ok(ids)
    }

    /// The ids of a text of the model's makers, such as its training data: what spells a control token is one.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn encode_with_control(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        self.encode_pieces(&[Piece::Template(text)])
    }

    /// The id of a token by its spelling, a control token or one of the vocabulary.
    pub fn id_of(&self, spelling: &str) -> Option<u32> {
        self.tokenizer.token_to_id(spelling)
    }

    /// The ids that end a turn, the lowest first.
    pub fn eos_ids(&self) -> impl Iterator<Item = u32> {
        self.eos.iter().copied()
    }

    /// Puts the token that a log begins with before these, where the model wants one.
    pub fn begin(&self, ids: &mut Vec<u32>) {
        if let Some(bos) = self.bos.filter(|_| self.onegen.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
    }

    /// The ids to append to a token log that ends with the assistant's turn
    /// `messages[last_assistant]` and whose last id is `log_end`: the end of that turn, unless the
    /// log has it already, the messages after it, and the start of the assistant's next turn.
    ///
    /// # Errors
    /// There is no template, it refuses the messages or leaves out that turn, or the tokenizer
    /// failed.
    pub fn encode_turn(
        &self,
        messages: &[ChatMessage],
        last_assistant: usize,
        log_end: Option<u32>,
    ) -> Result<Vec<u32>, TokensError> {
        let ended = log_end.is_some_and(|id| self.is_eos(id));
        let mut ids = match (&self.onegen.prompt_template, &self.chat) {
            (Some(prompt), _) => {
                let new = messages.get(last_assistant + 1..).unwrap_or_default();
                let mut ids = self.encode_prompt(prompt, new)?;
                ids.splice(..0, self.end_of_turn());
                ids
            }
            (None, Some(chat)) => {
                self.encode_pieces(&chat.render(messages)?.pieces_after(last_assistant)?)?
            }
            (None, None) => return Err(TokensError::NoChatTemplate),
        };
        if ended && ids.first().is_some_and(|&id| self.is_eos(id)) {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The ids of a user's question and `[RQ]` after it, for embedding a question on its own. A linking
    /// model reads the text as a mention of itself.
    ///
    /// # Errors
    /// As [`Tokens::encode_chat`].
    pub fn encode_query(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let mut ids = self.encode_chat(&[ChatMessage::new(Role::User, text)])?;
        if let Some(linking) = &self.linking {
            ids.extend(linking.mention_of_itself(text.trim(), self)?);
            return Ok(ids);
        }
        ids.push(self.query);
        Ok(ids)
    }

    /// The ids that embed a passage; the last is `[RD]`. With block attention they are a passage block.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn passage_ids(&self, title: &str, text: &str) -> Result<Vec<u32>, TokensError> {
        let template = &self.onegen.embed_template;
        let mut ids = self.encode_pieces(&fill_passage(template, title, text))?;
        if let Some(marks) = self.block {
            ids.insert(0, marks.open);
        }
        ids.push(self.passage);
        Ok(ids)
    }

    /// The ids that a passage adds to a sequence after `[RQ]`.
    ///
    /// # Errors
    /// The tokenizer failed, or the model splices nothing.
    pub fn splice(&self, passage: &Passage) -> Result<SpliceIds, TokensError> {
        let (open, close) = self.splice.ok_or(TokensError::NoSplice)?;
        let template = &self.onegen.splice_template;
        let pieces = fill_passage(template, &passage.title, &passage.text);
        Ok(SpliceIds {
            open,
            passage: self.encode_pieces(&pieces)?,
            end: self.block.map(|marks| marks.end),
            close,
        })
    }

    fn encode_prompt(
        &self,
        template: &str,
        messages: &[ChatMessage],
    ) -> Result<Vec<u32>, TokensError> {
        let question = messages
            .iter()
            .rfind(|message| message.role == Role::User)
            .ok_or(TokensError::MissingMessage("user"))?;
        self.encode_pieces(&fill(template, &[("{input}", &question.content)]))
    }

    fn encode_pieces(&self, pieces: &[Piece<'_>]) -> Result<Vec<u32>, TokensError> {
        let mut ids = Vec::new();
        let mut text = String::new();
        for piece in pieces {
            let mut rest = match *piece {
                Piece::Content(content) => {
                    text.push_str(content);
                    continue;
                }
                Piece::Template(written) => written,
            };
            while let Some((before, id, after)) = self.control.split_first(rest) {
                text.push_str(before);
                ids.extend(self.encode_plain(&text)?);
                text.clear();
                ids.push(id);
                rest = after;
            }
            text.push_str(rest);
        }
        ids.extend(self.encode_plain(&text)?);
        Ok(ids)
    }
}

fn fill_passage<'a>(template: &'a str, title: &'a str, text: &'a str) -> Vec<Piece<'a>> {
    fill(template, &[("{title}", title), ("{text}", text)])
}
