//! Token ids: what the model reads and writes.
//!
//! **Invariant:** control tokens enter by id only. Text of users and passages is encoded as plain
//! text, whatever it spells, and ids are never decoded and encoded again to continue.

mod bytes;
pub(crate) mod chat_template;
mod control;
mod derived;
pub(crate) mod detokenise;
mod disguise;
mod encode;
mod jinja;
mod load;
pub(crate) mod marks;
pub(crate) mod onegen_config;
pub(crate) mod passage_block;
mod read_bound;
pub(crate) mod source;
pub(crate) mod splice;
mod template;
pub(crate) mod token_log;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tokenizers::Tokenizer;

use crate::error::TokensError;
use bytes::token_bytes;
use chat_template::ChatTemplate;
use control::ControlTokens;
use derived::DerivedTables;
use marks::LinkTokens;
use onegen_config::{LinkingConfig, OneGenConfig};
use passage_block::BlockMarks;
use read_bound::ReadBound;
use source::PlainTokenizer;

/// A model's tokenizer with its control tokens and templates.
#[derive(Debug)]
pub struct Tokens {
    /// The tokenizer with its control tokens, used for decoding.
    tokenizer: Tokenizer,
    /// The same tokenizer without control tokens, used for encoding.
    plain: PlainTokenizer,
    control: ControlTokens,
    onegen: OneGenConfig,
    chat: Option<ChatTemplate>,
    query: u32,
    passage: u32,
    /// The tokens around a spliced passage; `None` for a model that does not splice.
    splice: Option<(u32, u32)>,
    /// The tokens around a passage block, for a model with block attention.
    block: Option<BlockMarks>,
    /// The tokens around mentions, for a model that links them.
    linking: Option<Arc<LinkTokens>>,
    bos: Option<u32>,
    eos: BTreeSet<u32>,
    fingerprint: String,
    read_bound: ReadBound,
    /// Computed when it is first needed.
    bytes: OnceLock<Vec<Vec<u8>>>,
    derived: DerivedTables,
}

/// Bytes of a text that are counted at once.
const COUNTED_BYTES: usize = 64 << 10;

/// Cuts a text into pieces of at most `most` bytes, before white space where there is some.
fn pieces(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len();
        if end > most {
            let boundary = (0..=most).rev().find(|&at| rest.is_char_boundary(at));
            let within = &rest[..boundary.unwrap_or(most)];
            let space = within.rfind(char::is_whitespace).filter(|&at| at > 0);
            end = space.unwrap_or(within.len());
        }
        let (piece, later) = rest.split_at(end);
        rest = later;
        Some(piece)
    })
}

impl Tokens {
    /// The id of `[RQ]`, whose hidden state is the query embedding.
    pub fn query_id(&self) -> u32 {
        self.query
    }

    /// The id of `[RD]`, whose hidden state is the passage embedding.
    pub fn passage_id(&self) -> u32 {
        self.passage
    }

    /// The ids of the tokens before and after a spliced passage; `None` for a model that does not
    /// splice.
    pub fn splice_markers(&self) -> Option<(u32, u32)> {
        self.splice
    }

    /// The tokens that begin and end a passage block; `None` for a model whose passages see everything
    /// before them.
    pub(crate) fn block_marks(&self) -> Option<BlockMarks> {
        self.block
    }

    /// Whether the model links mentions of entities: it copies a text and marks them, and does nothing
    /// else.
    pub fn links_entities(&self) -> bool {
        self.linking.is_some()
    }

    /// The tokens and marks around mentions.
    ///
    /// # Errors
    /// [`TokensError::NoLinking`], which says what a linking model needs.
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
    /// [`TokensError::NoLinking`]: the model answers questions, as most models do.
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

    /// The table of this type that belongs to these tokens. `make` computes it at the first call, and must
    /// not ask for another table.
    pub(crate) fn derived<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.derived.get(make)
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

    /// How many tokens a text has. If the tokenizer fails, this is the number of bytes, which is an
    /// upper bound.
    ///
    /// A long text is counted in pieces that end where white space begins. Tokenizers cut texts there
    /// too, and need memory in proportion to what they are given.
    pub fn count(&self, text: &str) -> usize {
        let count = |piece: &str| {
            self.encode_plain(piece)
                .map_or(piece.len(), |ids| ids.len())
        };
        pieces(text, COUNTED_BYTES).map(count).sum()
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

    /// The id of a token by its spelling, a control token or one of the vocabulary.
    pub fn id_of(&self, spelling: &str) -> Option<u32> {
        self.tokenizer.token_to_id(spelling)
    }

    /// The ids that end a turn, the lowest first.
    pub fn eos_ids(&self) -> impl Iterator<Item = u32> {
        self.eos.iter().copied()
    }
}
