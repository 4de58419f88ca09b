//! Encodes messages, passages and texts as ids.

use super::Tokens;
use super::chat_template::{ChatMessage, Role};
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
        let ids = self.encode_with_plain(text)?;
        if !ids.iter().any(|&id| self.control.holds(id)) {
            return Ok(ids);
        }
        // The plain vocabulary can spell a control token, too. The text is cut inside that
        // spelling, so no piece spells it any more.
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
                self.encode_behind(&text, &mut ids)?;
                text.clear();
                ids.push(id);
                rest = after;
            }
            text.push_str(rest);
        }
        self.encode_behind(&text, &mut ids)?;
        Ok(ids)
    }

    fn encode_behind(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokensError> {
        self.read_bound.check(ids.len(), text)?;
        ids.extend(self.encode_plain(text)?);
        Ok(())
    }
}

fn fill_passage<'a>(template: &'a str, title: &'a str, text: &'a str) -> Vec<Piece<'a>> {
    fill(template, &[("{title}", title), ("{text}", text)])
}
