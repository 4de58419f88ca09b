//! The shipped model's tokenizer: byte-level BPE trained on the invented world's own text.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::{NFC, Prepend, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, PostProcessorWrapper, SplitDelimiterBehavior, Tokenizer,
    TokenizerBuilder,
};

/// The control tokens, in the order of their ids.
pub const CONTROL: [&str; 7] = [
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "[RQ]",
    "[RD]",
    "<paragraph>",
    "</paragraph>",
];

/// Capitals and digits stand alone: "Peru" and "peru" then share their tail, and numbers are spelt.
const PATTERN: &str =
    r"(?: ?\p{Lu})|(?: ?[^\s\p{Lu}\p{N}\p{P}\p{S}]+)|(?: ?\p{N})|(?: ?[\p{P}\p{S}])|\s+";

/// The tokenizer with the ids of its control tokens.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// Ends a turn
    pub end: u32,
    /// Opens a user's message
    pub user: u32,
    /// Opens the model's turn
    pub assistant: u32,
    /// `[RQ]`
    pub query: u32,
    /// `[RD]`
    pub passage: u32,
    /// Opens a spliced passage
    pub open: u32,
    /// Closes it
    pub close: u32,
}

impl Vocabulary {
    /// Trains a vocabulary of `size` tokens on `texts`.
    pub fn train(texts: &[String], size: usize) -> Result<Self> {
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(size)
            .show_progress(false)
            .special_tokens(
                CONTROL
                    .iter()
                    .map(|token| AddedToken::from(*token, true))
                    .collect(),
            )
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let byte_level = ByteLevel::default()
            .add_prefix_space(false)
            .use_regex(false);
        let split = Split::new(
            SplitPattern::Regex(PATTERN.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(|e| anyhow!(e))?;
        let mut tokenizer = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(Some(Normalizers::new(vec![
                NFC.into(),
                Prepend::new(" ".to_owned()).into(),
            ])))
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![
                split.into(),
                byte_level.into(),
            ])))
            .with_post_processor(None::<PostProcessorWrapper>)
            .with_decoder(Some(DecoderWrapper::from(byte_level)))
            .build()
            .map_err(|e| anyhow!(e))?;
        tokenizer
            .train(&mut trainer, texts.iter().map(String::as_str))
            .map_err(|e| anyhow!(e))?;
        let json = serde_json::to_string(&tokenizer)?;
        Self::from_json(json.as_bytes())
    }

    /// Reads `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_json(
            &std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        )
    }

    fn from_json(json: &[u8]) -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(json).map_err(|e| anyhow!(e))?;
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .with_context(|| format!("the tokenizer has no {token}"))
        };
        Ok(Self {
            end: id("<|end|>")?,
            user: id("<|user|>")?,
            assistant: id("<|assistant|>")?,
            query: id("[RQ]")?,
            passage: id("[RD]")?,
            open: id("<paragraph>")?,
            close: id("</paragraph>")?,
            tokenizer,
        })
    }

    /// Writes `tokenizer.json`.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.tokenizer
            .save(path, false)
            .map_err(|e| anyhow!(e))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The ids of `text`, which holds no control token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self
            .tokenizer
            .encode(text, false)
            .map_err(|e| anyhow!(e))?
            .get_ids()
            .to_vec())
    }

    /// The text of `ids`.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, false).map_err(|e| anyhow!(e))
    }
}
