//! Encodes messages, passages and texts as ids.

use tokenizers::Tokenizer;

use super::Tokens;
use super::chat_template::{ChatMessage, Role};
use super::source::TextPosition;
use super::splice::{Passage, SpliceIds};
use super::template::{Piece, fill};
use crate::error::TokensError;

impl Tokens {
    /// The ids of a text. None of them is a control token, even if the text contains the spelling
    /// of one.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        self.encode_at(TextPosition::First, text)
    }

    fn encode_at(&self, position: TextPosition, text: &str) -> Result<Vec<u32>, TokensError> {
        let plain = self.plain.at(position);
        let ids = encode_with(plain, text)?;
        if !ids.iter().any(|&id| self.control.holds(id)) {
            return Ok(ids);
        }
        // The plain vocabulary can spell a control token, too. The text is cut inside that
        // spelling, so no piece spells it any more.
        let mut ids = Vec::new();
        for piece in self.control.cut_apart(text) {
            ids.extend(encode_with(plain, piece)?);
        }
        ids.retain(|&id| !self.control.holds(id));
        Ok(ids)
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
            (None, Some(chat)) => self.encode_pieces(&chat.render(messages)?.pieces())?,
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
        self.read_bound.check(0, text)?;
        let mut ids = self.encode_plain(text)?;
        self.begin(&mut ids);
        Ok(ids)
    }

    /// The ids of a text by the model's makers, such as its training data. Spellings of control tokens become
    /// control tokens.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn encode_with_control(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        self.encode_pieces(&[Piece::Template(text)])
    }

    /// Puts the token that begins a log before these ids, if the model needs one.
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
                let rendered = chat.render_after(messages, last_assistant)?;
                self.encode_continuing(&rendered.pieces())?
            }
            (None, None) => return Err(TokensError::NoChatTemplate),
        };
        if ended && ids.first().is_some_and(|&id| self.is_eos(id)) {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The ids of a user's question and `[RQ]` after it, for embedding a question on its own. A linking
    /// model encodes the text as a mention of itself.
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
    /// The tokenizer failed, or the model cannot splice passages.
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

    /// The ids of pieces at the beginning of a text.
    fn encode_pieces(&self, pieces: &[Piece<'_>]) -> Result<Vec<u32>, TokensError> {
        self.encode_parts(pieces, TextPosition::First)
    }

    /// The ids of pieces that go on within a text.
    fn encode_continuing(&self, pieces: &[Piece<'_>]) -> Result<Vec<u32>, TokensError> {
        self.encode_parts(pieces, TextPosition::Within)
    }

    fn encode_parts(
        &self,
        pieces: &[Piece<'_>],
        mut position: TextPosition,
    ) -> Result<Vec<u32>, TokensError> {
        let mut ids = Vec::new();
        let mut text = String::new();
        let mut takes_space = false;
        let push = |text: &mut String, more: &str, takes_space: &mut bool| {
            let more = if *takes_space {
                more.trim_start()
            } else {
                more
            };
            *takes_space &= more.is_empty();
            text.push_str(more);
        };
        for piece in pieces {
            let mut rest = match *piece {
                Piece::Content(content) => {
                    push(&mut text, content, &mut takes_space);
                    continue;
                }
                Piece::Template(written) => written,
            };
            while let Some((before, token, after)) = self.control.split_first(rest) {
                push(&mut text, before, &mut takes_space);
                let before = if token.lstrip {
                    text.trim_end()
                } else {
                    text.as_str()
                };
                self.encode_behind(before, position, &mut ids)?;
                text.clear();
                position = TextPosition::BehindControl;
                takes_space = token.rstrip;
                ids.push(token.id);
                rest = after;
            }
            push(&mut text, rest, &mut takes_space);
        }
        self.encode_behind(&text, position, &mut ids)?;
        Ok(ids)
    }

    fn encode_behind(
        &self,
        text: &str,
        position: TextPosition,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokensError> {
        self.read_bound.check(ids.len(), text)?;
        ids.extend(self.encode_at(position, text)?);
        Ok(())
    }
}

fn encode_with(plain: &Tokenizer, text: &str) -> Result<Vec<u32>, TokensError> {
    plain
        .encode_fast(text, false)
        .map(|encoding| encoding.get_ids().to_vec())
        .map_err(|error| TokensError::Tokenizer(error.to_string()))
}

fn fill_passage<'a>(template: &'a str, title: &'a str, text: &'a str) -> Vec<Piece<'a>> {
    fill(template, &[("{title}", title), ("{text}", text)])
}
